"""A policy run again on recorded queries and keys, without the model.

  recording ─► for each chunk:  select ─► slots, counts, what they miss
                                write  ─► the policy's state

What a policy chooses depends on queries and keys only, so a recorded stream
(`--record`) answers "what would it have chosen with another threshold?" at a
small part of the cost, and the same recording serves every choice. The hidden
states stay those of the recorded run: a choice here does not change what the
next layer sees.
"""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import attend as attend_lib
from vrex_jax import bitmap
from vrex_jax import layer_step as layer_lib
from vrex_jax import policy as policy_lib
from vrex_jax import recording as recording_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Bitmap, Bool, Float, Int, PyTree

__all__ = ["Replayed", "replay"]


class Replayed(NamedTuple):
  """Static. What the policy chose; axes [X, …], after a sweep [X, Z, …].

  Attributes:
    chunks: the X events.
    slots: attended past slots, recent ones included.
    counts: the policy's and the driver's counts.
    mass: share of the past's attention that the slots hold, mean over queries;
      nan without a past.
    error: of the attention output, ‖with the slots - with all‖ / ‖with all‖
      over the chunk.
    state: the stream's state at the end.
    choosing_ms: CPU time of choosing for the last frame, milliseconds: `select`
      of every layer and `write`, without projections and attention; nan unless
      asked for.
  """

  chunks: list[recording_lib.Chunk]
  slots: np.ndarray  # u32 [X, L, A, S / 32]
  counts: policy_lib.Counts  # i32 [X, L, K]
  mass: np.ndarray  # f32 [X, L, N]
  error: np.ndarray  # f32 [X, L, N]
  state: stream_state.StreamState
  choosing_ms: float = float("nan")


class _Inputs(NamedTuple):
  """Dynamic. One chunk, padded to the longest of its stage."""

  query: Float  # [L, 1, N, T, H]
  query_next: Float  # [L, 1, N, T, H]
  key: Float  # [L, 1, K, T, H]
  value: Float  # [L, 1, K, T, H]
  position: Int  # [1, T]
  frame: Int  # [1, T]
  kind: Int  # i8 [1, T]
  valid: Bool  # [1, T]


def replay(
  policy: policy_lib.KVPolicy,
  recording: recording_lib.Recording,
  *,
  knobs: PyTree = None,
  sweep: bool = False,
  recent_tokens: int | None = None,
  lookahead: int = 0,
  lookahead_query: str = "own",
  measure: bool = True,
  timed: bool = False,
) -> Replayed:
  """Runs a policy over a recording.

  Args:
    policy: recalls (does not evict), needs no attention mass.
    recording: the stream.
    knobs: swept values; the policy's defaults when None.
    sweep: every leaf of `knobs` has a leading axis Z; all are run side by side
      by `vmap`, one compilation a stage.
    recent_tokens: always attended; one frame when None.
    lookahead: 0, or 1: layer l + 1 chooses at layer l, and layer 0 takes all.
    lookahead_query: whose query then chooses, layer l's "own" or the "next".
    measure: also compute `mass` and `error`, at the cost of full attention.
    timed: also time the choice for the last frame, in a program that does
      nothing else.

  Returns:
    Replayed. Undone questions are taken back here too.

  Raises:
    ValueError: the policy evicts or wants attention mass.
  """
  if policy.needs.evicts or policy.needs.mass:
    raise ValueError(
      f"policy {policy.name} evicts or reads attention mass; a recording has"
      " neither: run the stream itself"
    )
  chunks = recording_lib.chunks_of(recording)
  longest = _longest(chunks)
  config = dataclasses.replace(
    _config(recording, chunks, longest),
    lookahead=lookahead,
    lookahead_query=lookahead_query,
  )
  knobs = policy.knobs if knobs is None else knobs
  start = lambda knobs_: stream_state.init(
    config, policy, {}, knobs=knobs_, recent_tokens=recent_tokens
  )
  state = (jax.vmap(start) if sweep else start)(knobs)
  programs = {
    stage: _program(config, policy, recording, stage, sweep, measure)
    for stage in longest
  }
  last_frame = max(
    (i for i, chunk in enumerate(chunks) if chunk.stage == "frame"), default=-1
  )
  branches = recording_lib.branches_of(recording, chunks)
  piece = lambda index: (chunks[index].stage, branches[index])
  found, saved, last_step = [], None, None
  for index, chunk in enumerate(chunks):
    leaves = index > 0 and branches[index] != branches[index - 1]
    if leaves and saved is not None:
      state, saved = saved, None
    if chunk.undone and saved is None:
      saved = jax.tree.map(jnp.copy, state)
    begins = index == 0 or piece(index - 1) != piece(index)
    ends = index + 1 == len(chunks) or piece(index + 1) != piece(index)
    inputs = _padded(recording, chunk, longest[chunk.stage])
    if timed and index == last_frame:
      last_step = (state, inputs, False, False)
    first = chunk.stage != "frame" and begins
    last = chunk.stage in ("prompt", "question") and ends
    state, result = programs[chunk.stage](state, inputs, first, last)
    found.append(jax.device_get(result))
  slots, counts, mass, error = jax.tree.map(
    lambda *leaves: np.stack(leaves), *found
  )
  state = state if saved is None else saved
  choosing_ms = float("nan")
  if last_step is not None:
    alone = _program(config, policy, recording, "frame", sweep, False)
    choosing_ms = _cpu_ms(alone, *last_step)
  return Replayed(chunks, slots, counts, mass, error, state, choosing_ms)


def _cpu_ms(program, *arguments, repeats: int = 5) -> float:
  """CPU time of a program, milliseconds: the least of some runs."""
  jax.block_until_ready(program(*arguments))
  times = []
  for _ in range(repeats):
    begun = time.process_time()
    jax.block_until_ready(program(*arguments))
    times.append(time.process_time() - begun)
  return 1e3 * min(times)


def _longest(chunks: list[recording_lib.Chunk]) -> dict[str, int]:
  """Tokens of the longest chunk of every stage."""
  return {
    stage: max(
      (c.last - c.first for c in chunks if c.stage == stage), default=1
    )
    for stage in policy_lib.STAGES
  }


def _config(
  recording: recording_lib.Recording,
  chunks: list[recording_lib.Chunk],
  longest: dict[str, int],
) -> stream_state.StreamConfig:
  layers, heads, _, width = recording.query.shape
  stored = sum(longest[c.stage] for c in chunks if not c.undone)
  undone = sum(longest[c.stage] for c in chunks if c.undone)
  return stream_state.StreamConfig(
    decoder=config_lib.DecoderConfig(
      vocab_size=1,
      hidden_size=heads * width,
      intermediate_size=1,
      num_layers=layers,
      num_heads=heads,
      num_kv_heads=recording.key.shape[1],
      head_dim=width,
    ),
    capacity=stored + undone,
    frame_tokens=longest["frame"],
    question_chunk=max(longest["prompt"], longest["question"]),
  )


def _padded(
  recording: recording_lib.Recording, chunk: recording_lib.Chunk, length: int
) -> _Inputs:
  """A chunk as arrays of its stage's length."""
  span = slice(chunk.first, chunk.last)
  missing = length - (chunk.last - chunk.first)
  heads = lambda array: np.pad(
    array[:, :, span], ((0, 0), (0, 0), (0, missing), (0, 0))
  )[:, None]
  tokens = lambda array: np.pad(array[span], (0, missing))[None]
  per_head = ("query", "query_next", "key", "value")
  return _Inputs(
    **{
      name: jnp.asarray(
        (heads if name in per_head else tokens)(getattr(recording, name))
      )
      for name in _Inputs._fields
    }
  )


def _program(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  recording: recording_lib.Recording,
  stage: str,
  sweep: bool,
  measure: bool,
):
  frequencies = jnp.asarray(recording.frequencies)

  def step(state, inputs, first, last):
    return _step(
      config, policy, state, inputs, frequencies, first, last, stage, measure
    )

  if sweep:
    step = jax.vmap(step, in_axes=(0, None, None, None))
  return jax.jit(step)


def _step(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  state: stream_state.StreamState,
  inputs: _Inputs,
  frequencies: Float,
  first: Bool,
  last: Bool,
  stage: str,
  measure: bool,
) -> tuple[stream_state.StreamState, tuple[Bitmap, Any, Float, Float]]:
  """One chunk: what `stream.prefill_chunk` does, projections being given."""
  context, used, _ = layer_lib.chunk_context(
    config, state, inputs.valid, first, last
  )
  angle = rotary.angles(inputs.position, frequencies)[:, None]
  turn = rotary.turn_once(angle)
  back = rotary.Turn(turn.cosine, -turn.sine)
  cache, policy_state = state.cache, state.policy
  rows = policy_lib.rows_of(policy.needs, config.decoder)
  outputs, found = [], []
  for layer in range(config.decoder.num_layers):
    query, key, value = (
      jnp.asarray(array[layer], jnp.float32)
      for array in (inputs.query, inputs.key, inputs.value)
    )
    query_raw = rotary.rotate_by(query, back)
    chooser = query
    if config.lookahead and layer:
      own = config.lookahead_query == "own"
      ahead = inputs.query if own else inputs.query_next
      chooser = jnp.asarray(ahead[layer - 1], jnp.float32)
    key_raw = rotary.rotate_by(key, back)
    cache = cache_lib.append(cache, layer, key, value, context.start)
    selection = policy_lib.attend_all()
    counts = policy_lib.zero_counts((1, config.decoder.num_kv_heads))
    if policy_lib.retrieves(policy.needs, stage, layer, config.lookahead):
      selection, policy_state, counts = layer_lib.select_slots(
        policy, policy_state, cache, layer, chooser,
        rotary.rotate_by(chooser, back), context, state.seen, stage,
      )  # fmt: skip
    slots = attend_lib.attended_slots(selection, context.sets.at(layer), rows)
    counts = counts.plus(
      attend_lib.driver_counts(
        slots,
        context.sets.at(layer),
        context.valid,
        state.seen,
        config.decoder.num_kv_heads,
      )
    )
    whole = functools.reduce(jnp.bitwise_or, slots)
    nothing = jnp.zeros((config.decoder.num_heads,))
    kept = (nothing, nothing)
    if measure:
      live = context.sets.at(layer).live[0, 0]
      kept = _measured(cache, layer, query, key, value, context, whole[0], live)
    outputs.append(
      layer_lib.LayerOutput(
        query, query_raw, key, key_raw, value, counts, jnp.ones((1,), bool)
      )
    )
    found.append((whole[0], jax.tree.map(lambda leaf: leaf[0], counts), *kept))
  cache = cache_lib.commit(
    cache,
    start=context.start,
    advance=used,
    valid=inputs.valid,
    position=context.position,
    frame=inputs.frame,
    kind=inputs.kind,
  )
  new = jnp.sum(inputs.valid, axis=-1, dtype=jnp.int32)
  state = state.replace(
    cache=cache,
    policy=policy_state,
    next_position=state.next_position + new,
    seen=state.seen + new,
    frame=jnp.max(inputs.frame, axis=-1) + 1,
  )
  state, written = stream.write_chunk(
    policy, state, outputs, context, inputs.frame, inputs.kind, inputs.valid,
    stage,
  )  # fmt: skip
  slots, counts, mass, error = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *found
  )
  counts = counts.plus(jax.tree.map(lambda leaf: leaf[:, 0], written))
  return state, (slots, counts, mass, error)


def _measured(
  cache: cache_lib.KVCache,
  layer: int,
  query: Float,
  key: Float,
  value: Float,
  context: layer_lib.ChunkContext,
  slots: Bitmap,
  live: Bitmap,
) -> tuple[Float, Float]:
  """Attention mass that slots hold, and the error without the others: f32[N].

  Args:
    cache: one stream.
    layer: l.
    query: f[1, N, T, H].
    key: f[1, K, T, H], of the chunk.
    value: f[1, K, T, H].
    context: of the chunk.
    slots: u32[A, S / 32].
    live: u32[S / 32].
  """
  _, heads, length, width = query.shape
  kv_heads = key.shape[1]
  grouped = query[0].reshape(kv_heads, -1, length, width) * width**-0.5
  past = jnp.einsum("kgth,ksh->kgts", grouped, cache.key[layer, 0])
  own = jnp.einsum("kgth,ksh->kgts", grouped, key[0])
  causal = jnp.tril(jnp.ones((length, length), bool)) & context.valid
  own = jnp.where(causal[None, None], own, -jnp.inf)
  past = jnp.where(bitmap.unpack(live)[None, None, None], past, -jnp.inf)
  chosen = bitmap.unpack(slots).reshape(kv_heads, -1, 1, past.shape[-1])
  values = jnp.concatenate([cache.value[layer, 0], value[0]], axis=1)

  def attended(past_scores):
    scores = jnp.concatenate([past_scores, own], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("kgts,ksh->kgth", weights, values)
    return weights[..., : past.shape[-1]], out

  weights, out = attended(past)
  _, less = attended(jnp.where(chosen, past, -jnp.inf))
  there = context.valid[0].astype(jnp.float32)[None, None, :]
  held = jnp.sum(jnp.where(chosen, weights, 0.0), axis=-1)
  total = jnp.sum(weights, axis=-1)
  share = jnp.where(total > 0, held / total, jnp.nan)
  mass = jnp.sum(jnp.where(there > 0, share, 0.0), -1) / jnp.sum(there)
  size = lambda one: jnp.sqrt(
    jnp.sum(one * one * there[..., None], axis=(-1, -2))
  )
  return mass.reshape(heads), (size(less - out) / size(out)).reshape(heads)
