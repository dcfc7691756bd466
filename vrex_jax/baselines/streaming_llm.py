"""StreamingLLM (Xiao et al., arXiv 2309.17453, ICLR 2024): sinks and recency.

The first tokens of the stream and the most recent ones are kept; positions are
those inside the kept set, so the stream may outgrow the model's context.
"""

import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.errors import check_whole_number

__all__ = ["streaming_llm"]


def streaming_llm(
  *, sink_tokens: int = 4, window_tokens: int = 2000
) -> policy_lib.KVPolicy:
  """Attention sinks and a recent window, re-indexed positions.

  Before a chunk of n tokens the past is cut to

    sinks:  position < sink_tokens
    recent: position ≥ next position + n - window_tokens

  so that past and chunk together hold at most sink_tokens + window_tokens.
  Key i of the kept set is scored at position i, the chunk right after.

  Args:
    sink_tokens: first tokens kept for good (paper: 4). A knob.
    window_tokens: recent tokens, the chunk included (published demo: 2000). A
      knob.

  Raises:
    InputError: a size is below 0, or the window below 1.

  Example:
    >>> streaming_llm(window_tokens=256).name
    'streaming_llm(sink_tokens=4, window_tokens=256)'

  Source: Sec. 3.2 of the paper; the order "evict, then append" and the sizes
  are those of the published code.
  """
  sizes = {"sink_tokens": (sink_tokens, 0), "window_tokens": (window_tokens, 1)}
  for name, (value, least) in sizes.items():
    check_whole_number(
      f"streaming_llm: {name}",
      value,
      least=least,
      hint="streaming_llm(sink_tokens=4, window_tokens=2000)",
    )

  def init(spec, params, knobs, sample):
    del spec, params, sample
    return {name: jnp.asarray(knobs[name], jnp.int32) for name in sorted(sizes)}

  def kept(state, position, end):
    recent = position >= end - state["window_tokens"]
    return (position < state["sink_tokens"]) | recent

  def end_of(chunk):
    """Position after the chunk; it may hold no valid token at all."""
    return jnp.min(chunk.position) + jnp.sum(chunk.valid, dtype=jnp.int32)

  def select(state, view, layer, queries, stage):
    del stage
    end = end_of(queries)
    slots = bitmap.pack(kept(state, view.slots.position[layer], end))
    part = policy_lib.Part(slots=slots, key_rule="rank", query_rule="rank")
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    return policy_lib.Selection(parts=(part,)), state, counts

  def write(state, view, chunk, stage):
    del stage
    end = end_of(chunk)
    keep = kept(state, view.slots.position, end)
    return state, keep, policy_lib.zero_counts(chunk.k_rotated.shape[:2])

  return policy_lib.KVPolicy(
    name=(
      f"streaming_llm(sink_tokens={sink_tokens}, window_tokens={window_tokens})"
    ),
    needs=policy_lib.Needs(evicts=True, reindexes=True),
    knobs={"sink_tokens": sink_tokens, "window_tokens": window_tokens},
    init=init,
    select=select,
    write=write,
    move=lambda state, source: state,
  )
