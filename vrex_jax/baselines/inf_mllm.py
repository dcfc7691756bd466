"""Inf-MLLM (arXiv 2409.09086): recent tokens and attention saddles.

Reconstructed: the preprint's exact equations and code were not available.
"""

import flax.struct
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import keeping
from vrex_jax.baselines import window as window_lib
from vrex_jax.typing import Float, Int

__all__ = ["State", "inf_mllm"]

AGES = ("share", "tokens")


class State(flax.struct.PyTreeNode):
  """Dynamic. The window, and two knobs.

  Attributes:
    relevant: older tokens kept.
    slope: of the attention bias.
    window: the latest queries.
  """

  relevant: Int  # []
  slope: Float  # f32 []
  window: window_lib.Window


def inf_mllm(
  *,
  relevant_tokens: int = arguments.Published(1024),
  window_tokens: int = 1024,
  slope: float = 0.01,
  age: str = "share",
) -> policy_lib.KVPolicy:
  """Keeps the latest tokens and those that they attend to.

    S_j  = mean over the latest W queries of softmax(q K / √H)_j
    S'_j = S_j - slope · age_j
    keep   the latest W tokens and the r highest S' of the older ones

  for every layer, after every chunk, for good. The kept set is attended at
  positions inside the cache: key i at i, the chunk right after.

  Reconstructed. Which normalisation the score has, whether heads choose for
  themselves, the scale of age, the split of the cache of 2048 into r and W, and
  that positions are re-indexed as in StreamingLLM are not known: here W
  queries are averaged over all heads of a layer, which keep one set; age is a
  share of the stream (1 for its first token) or counts tokens, as `age` says;
  r = W. The window's weights are recomputed from a ring of queries.

  Args:
    relevant_tokens: r, older tokens kept. A knob.
    window_tokens: W, latest tokens kept, whose queries score.
    slope: how much a token loses with its age; the preprint sees answers far
      back fail with slopes unfit for the distance. A knob.
    age: "share" or "tokens".

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> inf_mllm(relevant_tokens=256, window_tokens=256).needs.reindexes
    True

  Source: Secs. 3-4 of the preprint, in outline.
  """
  given = dict(locals())
  sizes = {"relevant_tokens": (relevant_tokens, 0)}
  sizes |= {"window_tokens": (window_tokens, 1)}
  arguments.check_sizes("inf_mllm", sizes)
  arguments.check_number("inf_mllm", "slope", slope, 0.0, 1e9, "0.01")
  arguments.check_word("inf_mllm", "age", age, AGES)

  def init(spec, params, knobs, sample):
    del params, sample
    relevant = arguments.fitting(
      "inf_mllm", "relevant_tokens", knobs["relevant_tokens"], spec
    )
    return State(
      relevant=jnp.asarray(relevant, jnp.int32),
      slope=jnp.asarray(knobs["slope"], jnp.float32),
      window=window_lib.create(spec, window_tokens),
    )

  def select(state, view, layer, queries, stage):
    del queries, stage
    selection, counts = choosing.one_part(
      view, view.live_in(layer), key_rule="rank", query_rule="rank"
    )
    return selection, state, counts

  def write(state, view, chunk, stage):
    del stage
    window = window_lib.push(state.window, chunk)
    live = bitmap.unpack(view.live)
    weight = window_lib.attention(window, view, live)
    # All heads hold the same tokens: the first one's slots stand for all.
    weight = jnp.mean(weight, axis=1)
    member, position = live[:, 0], view.slots.position[:, 0]
    end = keeping.end_of(chunk)
    newest = member & (position >= end - window_tokens)
    old = (end - 1 - position).astype(jnp.float32)
    if age == "share":
      old = old / jnp.maximum(end, 1).astype(jnp.float32)
    score = weight - state.slope * old
    score = jnp.where(member & ~newest, score, -jnp.inf)
    kept = newest | choosing.highest(score, state.relevant)
    keep = jnp.broadcast_to(kept[:, None], live.shape)
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    return state.replace(window=window), keep, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(inf_mllm, given),
    needs=policy_lib.Needs(evicts=True, all_keys=True, reindexes=True),
    knobs={"relevant_tokens": relevant_tokens, "slope": slope},
    init=init,
    select=select,
    write=write,
    move=lambda state, source: state,
  )
