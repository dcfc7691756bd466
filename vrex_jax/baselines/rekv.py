"""ReKV (Di et al., arXiv 2503.00540, ICLR 2025): frames for a question.

frame     window of recent tokens + prompt        write: mean unrotated key
question  mean query ─► score of every frame ─► the best frames, re-indexed
answer    the question's frames
"""

import flax.struct
import jax.numpy as jnp

from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.typing import Bool, Float, Int

__all__ = ["State", "rekv"]

_PROMPT, _FRAME, _QUESTION = map(
  policy_lib.STAGES.index, ("prompt", "frame", "question")
)


class State(flax.struct.PyTreeNode):
  """Dynamic. Frames of the stream and the question at hand.

  Attributes:
    frames: a question reads.
    window_tokens: recent tokens while encoding.
    key: sum of each frame's unrotated keys.
    tokens: valid tokens of each frame.
    query: sum of the question's unrotated queries so far.
    asked: how many.
    begin: position of the question's first token.
    chosen: frames read.
  """

  frames: arguments.Budget
  window_tokens: Int  # []
  key: Float  # f32 [L, K, F, H]
  tokens: Int  # [F]
  query: Float  # f32 [L, N, H]
  asked: Int  # [L]
  begin: Int  # [L]
  chosen: Bool  # [L, F]


def rekv(
  *,
  frames: int | float = arguments.Published(64),
  window_tokens: int = 15000,
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """A window while encoding, whole frames when asked.

  Frame b is scored for a question by (all heads of a layer side by side)

    u = mean over the question of unrotated q      R_b = mean of unrotated k
    s_b = u · R_b                                    in float32

  and the prompt, the best `frames` frames and the question are attended at
  consecutive positions from 0. While encoding, the last `window_tokens`
  tokens are attended at their own distances and, once the window has left the
  prompt, the prompt at position 0 from a query at window_tokens - 1; both are
  merged by log-sum-exp. Until then encoding is full attention.

  Adapted: a question of several chunks is scored by the mean of its tokens so
  far (`first` starts a new mean), so that an early chunk may read other frames
  than the last one; the answer uses the last choice. Blocks are frames; the
  published code's chunks of several blocks (`chunk_size` > 1), its external
  (SigLIP) retrieval and its GPU cache of 128 blocks are left out. Text of
  earlier questions is not retrieved.

  Args:
    frames: frames a question reads (code: 64), or share of all; two knobs.
    window_tokens: recent tokens while encoding (code: 15000). A knob.
    stages: "published" and "all" are all stages; the window belongs to the
      method. ("question", "answer") encodes densely.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> rekv(frames=8).name
    'rekv(frames=8)'

  Source: Secs. 3.2-3.3 and the published code.
  """
  given = dict(locals())
  arguments.check_budget("rekv", frames, name="frames")
  arguments.check_sizes("rekv", {"window_tokens": (window_tokens, 1)})
  retrieving = arguments.stages_of("rekv", stages, arguments.ALL_STAGES)
  arguments.check_answers("rekv", retrieving)

  def select(state, view, layer, queries, stage):
    start = jnp.min(queries.position)
    if stage == "frame":
      parts = _window(state, view, start)
      counts = policy_lib.zero_counts((view.num_kv_heads,))
      return policy_lib.Selection(parts), state, counts
    if stage == "question":
      state = _ask(state, layer, queries, start)
    slots = view.slots
    own = (slots.position >= state.begin[layer]) & (slots.kind >= _QUESTION)
    old = (slots.kind == _FRAME) & state.chosen[layer][slots.frame]
    chosen = (slots.kind == _PROMPT) | old | own
    selection, counts = choosing.one_part(
      view,
      choosing.set_of(chosen, view.num_kv_heads),
      key_rule="rank",
      query_rule="rank",
    )
    held = jnp.sum(state.tokens > 0, dtype=jnp.int32)
    wide = jnp.broadcast_to(held, (view.num_kv_heads,))
    scored = wide if stage == "question" else jnp.zeros_like(wide)
    return (
      selection,
      state,
      counts._replace(groups_live=wide, groups_scored=scored),
    )

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(rekv, given),
    needs=policy_lib.Needs(stages=retrieving, reindexes=True),
    knobs={
      **arguments.budget_knobs(frames, "frames"),
      "window_tokens": window_tokens,
    },
    init=_init,
    select=select,
    write=_write,
  )


def _init(spec, params, knobs, sample) -> State:
  del params, sample
  decoder = spec.decoder
  layers, room = decoder.num_layers, spec.capacity
  return State(
    frames=arguments.read_budget("rekv", knobs, spec, "frames"),
    window_tokens=jnp.asarray(knobs["window_tokens"], jnp.int32),
    key=jnp.zeros((layers, decoder.num_kv_heads, room, decoder.head_dim)),
    tokens=jnp.zeros((room,), jnp.int32),
    query=jnp.zeros((layers, decoder.num_heads, decoder.head_dim)),
    asked=jnp.zeros((layers,), jnp.int32),
    begin=jnp.zeros((layers,), jnp.int32),
    chosen=jnp.zeros((layers, room), bool),
  )


def _window(
  state: State, view: policy_lib.View, start: Int
) -> tuple[policy_lib.Part, policy_lib.Part]:
  """What a frame attends to."""
  slots = view.slots
  prompt = slots.kind == _PROMPT
  near = slots.position >= start - state.window_tokens
  return (
    policy_lib.Part(choosing.set_of(near, view.num_kv_heads)),
    policy_lib.Part(
      choosing.set_of(prompt & ~near, view.num_kv_heads),
      key_rule="fixed",
      key_position=jnp.int32(0),
      query_rule="fixed",
      query_position=state.window_tokens - 1,
    ),
  )


def _ask(
  state: State, layer: int, queries: policy_lib.Queries, start: Int
) -> State:
  """Adds a chunk to the question and chooses its frames anew."""
  valid = queries.valid[None, :, None]
  unrotated = queries.unrotated.astype(jnp.float32)
  total = jnp.sum(jnp.where(valid, unrotated, 0.0), axis=1)
  fresh = lambda old: jnp.where(queries.first, jnp.zeros_like(old), old)
  query = fresh(state.query[layer]) + total
  asked = fresh(state.asked[layer]) + jnp.sum(queries.valid, dtype=jnp.int32)
  begin = jnp.where(queries.first, start, state.begin[layer])
  size = jnp.maximum(state.tokens, 1).astype(jnp.float32)
  mean_key = state.key[layer] / size[None, :, None]
  kv_heads = mean_key.shape[0]
  mean = query / jnp.maximum(asked, 1).astype(jnp.float32)
  mean = mean.reshape(kv_heads, -1, mean.shape[-1])
  score = jnp.einsum("kgh,kfh->f", mean, mean_key)
  held = state.tokens > 0
  number = state.frames.of(jnp.sum(held))
  chosen = choosing.highest(jnp.where(held, score, -jnp.inf), number)
  return state.replace(
    query=state.query.at[layer].set(query),
    asked=state.asked.at[layer].set(asked),
    begin=state.begin.at[layer].set(begin),
    chosen=state.chosen.at[layer].set(chosen),
  )


def _write(state, view, chunk, stage) -> tuple[State, None, policy_lib.Counts]:
  del view
  counts = policy_lib.zero_counts(chunk.k_raw.shape[:2])
  if stage != "frame":
    return state, None, counts
  keys = chunk.k_raw.astype(jnp.float32)
  total = jnp.sum(
    jnp.where(chunk.valid[None, None, :, None], keys, 0.0), axis=2
  )
  frame = chunk.frame[0]
  number = jnp.sum(chunk.valid, dtype=jnp.int32)
  state = state.replace(
    key=state.key.at[:, :, frame].add(total),
    tokens=state.tokens.at[frame].add(number),
  )
  return state, None, counts
