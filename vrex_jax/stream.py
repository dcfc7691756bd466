"""The stream: pure functions that prefill chunks into the cache and answer.

  frames ──scan──►  embed ─► layer_step 0 … L-1 ─► write ─► state, event
  question ───────►          layer_step 0 … L-1 ─► write ─► head ─► logits
  answer ─while──►  sample ─► embed ─► layers ─► write ─► head ─► …

Every function takes a state and returns the next one; nothing is kept
elsewhere. Callers jit them with the state donated (`driver.py` does), so the
cache is updated in place.

Stages ("prompt", "frame", "question", "answer") are static: one compilation
per stage and chunk size. A shorter chunk is padded and masked by `valid`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import attend as attend_lib
from vrex_jax import policy as policy_lib
from vrex_jax import trace as trace_lib
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Array, Bitmap, Bool, Float, Int, Parameters, Tokens

__all__ = [
    "UNLIMITED",
    "Answer",
    "EmbedFrame",
    "Record",
    "Snapshot",
    "StreamConfig",
    "StreamState",
    "answer",
    "compact",
    "init",
    "layer_step",
    "prefill_chunk",
    "prefill_frame",
    "prefill_frames",
    "prefill_tokens",
    "restore",
    "retrieving_layers",
    "snapshot",
    "spec_of",
]

UNLIMITED = 2**30
"""A window of tokens that covers every stream."""

EmbedFrame = Callable[[Parameters, Array, Bool], tuple[Float, Bool]]
"""(params, frame [B, ...], first b[B]) -> hidden f[B, T, D], valid b[B, T]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
  """Static. Shapes and rules of one stream.

  Attributes:
    decoder: language model.
    batch: B, streams side by side.
    capacity: cache slots per stream.
    frame_tokens: T of a frame, separator included.
    question_chunk: T of a prompt or question chunk.
    dtype: dtype of activations (float32 on CPU, where bfloat16 is slower).
    cache_dtype: storage dtype of keys and values.
    lookahead: 0, or 1 to select for layer l + 1 while layer l runs; layer 0
      then attends to everything.
    lookahead_query: "own" (layer l's query) or "next" (layer l + 1's query
      projection on layer l's input).
    record: return queries and keys of every chunk.
    grid: token grid (height, width) of a frame, for policies that use it.
  """

  decoder: config_lib.DecoderConfig
  batch: int = 1
  capacity: int = 4096
  frame_tokens: int = 16
  question_chunk: int = 64
  dtype: Any = jnp.float32
  cache_dtype: Any = jnp.float32
  lookahead: int = 0
  lookahead_query: str = "own"
  record: bool = False
  grid: tuple[int, int] | None = None

  def __post_init__(self):
    if self.lookahead not in (0, 1):
      raise ValueError(
          f"lookahead is {self.lookahead}; it must be 0 or 1: selections can"
          " be made at most one layer ahead"
      )
    if self.lookahead_query not in ("own", "next"):
      raise ValueError(
          f"lookahead_query is {self.lookahead_query!r}; it must be own or"
          " next: see the stream's design page"
      )

  @property
  def largest_chunk(self) -> int:
    """Tokens of the longest chunk."""
    return max(self.frame_tokens, self.question_chunk)

  @property
  def num_slots(self) -> int:
    """S."""
    return cache_lib.num_slots(self.capacity, self.largest_chunk)


@flax.struct.dataclass
class StreamState:
  """Dynamic. Everything a stream carries from chunk to chunk.

  Attributes:
    cache: keys, values, slot metadata.
    policy: the policy's state, leading axis B on every leaf.
    next_position: position of the next token.
    seen: tokens so far, evicted ones included.
    frame: index of the next frame.
    prefetched: slots the last step asked for; None unless the policy does.
    recent_tokens: window that is always attended.
    resident_tokens: window on the device.
  """

  cache: cache_lib.KVCache
  policy: Any
  next_position: Int  # [B]
  seen: Int  # [B]
  frame: Int  # [B]
  prefetched: Bitmap | None  # u32 [L, B, A, S / 32]
  recent_tokens: Int  # []
  resident_tokens: Int  # []


class Snapshot(NamedTuple):
  """Dynamic. What a question changes, apart from K/V beyond the cursor."""

  slots: cache_lib.SlotTable
  cursor: Int
  policy: Any
  next_position: Int
  seen: Int
  frame: Int
  prefetched: Bitmap | None


class Record(NamedTuple):
  """Dynamic. Queries and keys of one chunk, for replays."""

  query: Float  # [L, B, N, T, H], rotated
  key: Float  # [L, B, K, T, H], rotated
  position: Int  # [B, T]
  frame: Int  # [B, T]
  kind: Int  # i8 [B, T]
  valid: Bool  # [B, T]


class Answer(NamedTuple):
  """Dynamic. A decoded answer of every stream.

  Attributes:
    tokens: generated ids; positions past `length` hold 0.
    length: tokens generated, the stop token not counted.
    steps: decoder steps taken (the longest answer).
    stopped: ended by a stop id, not by the limit.
    events: one event per step, leading axis X = max_tokens; steps are valid.
  """

  tokens: Tokens  # [B, max_tokens]
  length: Int  # [B]
  steps: Int  # []
  stopped: Bool  # [B]
  events: trace_lib.Event


class _ChunkContext(NamedTuple):
  """Dynamic. What all layers of one chunk share."""

  position: Int  # [B, T]
  offset: Int  # [B, T]
  valid: Bool  # [B, T]
  angle: Float  # [B, 1, T, H / 2]
  start: Int  # []
  first: Bool  # []
  last: Bool  # []
  sets: attend_lib.SlotSets


class LayerOutput(NamedTuple):
  """Dynamic. What a layer leaves for `write`, the record and the trace."""

  query: Float  # [B, N, T, H], rotated
  query_raw: Float  # [B, N, T, H]
  key: Float  # [B, K, T, H], rotated
  key_raw: Float  # [B, K, T, H]
  value: Float  # [B, K, T, H]
  counts: policy_lib.Counts  # [B, K]
  finite: Bool  # [B]


def spec_of(config: StreamConfig) -> policy_lib.Spec:
  """The shapes a policy allocates for."""
  return policy_lib.Spec(
      decoder=config.decoder,
      num_slots=config.num_slots,
      capacity=config.capacity,
      chunk_tokens=(
          ("prompt", config.question_chunk),
          ("frame", config.frame_tokens),
          ("question", config.question_chunk),
          ("answer", 1),
      ),
      grid=config.grid,
  )


def retrieving_layers(
    config: StreamConfig, policy: policy_lib.KVPolicy
) -> list[list[bool]]:
  """b[STAGES, L]: the layer takes part in retrieval at that stage."""
  first = config.lookahead
  return [
      [
          stage in policy.needs.stages and layer >= first
          for layer in range(config.decoder.num_layers)
      ]
      for stage in policy_lib.STAGES
  ]


def init(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    params: Parameters,
    *,
    knobs: Any = None,
    sample: Any = None,
    recent_tokens: int | None = None,
    resident_tokens: int | None = None,
) -> StreamState:
  """An empty stream.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters (policies that fold weights read them).
    knobs: swept values; the policy's defaults when None.
    sample: recorded queries and keys for policies that prepare offline.
    recent_tokens: window that is always attended; one frame when None.
    resident_tokens: window on the device; everything when None.

  Returns:
    StreamState with nothing in it. Allocates the cache; call outside jit.
  """
  decoder = config.decoder
  knobs = policy.knobs if knobs is None else knobs
  one = policy.init(spec_of(config), params, knobs, sample)
  batched = jax.tree.map(
      lambda leaf: jnp.array(
          jnp.broadcast_to(leaf[None], (config.batch, *jnp.shape(leaf)))
      ),
      jax.tree.map(jnp.asarray, one),
  )
  if recent_tokens is None:
    recent_tokens = config.frame_tokens
  if policy.needs.resident is not None:
    resident_tokens = policy.needs.resident
  if resident_tokens is None:
    resident_tokens = UNLIMITED
  prefetched = None
  if policy.needs.prefetches:
    rows = policy_lib.rows_of(policy.needs, decoder)
    shape = (decoder.num_layers, config.batch, rows, config.num_slots // 32)
    prefetched = jnp.zeros(shape, jnp.uint32)
  zeros = lambda: jnp.zeros((config.batch,), jnp.int32)
  return StreamState(
      cache=cache_lib.create(
          num_layers=decoder.num_layers,
          batch=config.batch,
          num_kv_heads=decoder.num_kv_heads,
          capacity=config.capacity,
          largest_chunk=config.largest_chunk,
          head_dim=decoder.head_dim,
          dtype=config.cache_dtype,
          per_head=policy.needs.evicts,
      ),
      policy=batched,
      next_position=zeros(),
      seen=zeros(),
      frame=zeros(),
      prefetched=prefetched,
      recent_tokens=jnp.int32(recent_tokens),
      resident_tokens=jnp.int32(resident_tokens),
  )


def _view(
    cache: cache_lib.KVCache, live: Bitmap, seen: Int
) -> tuple[policy_lib.View, policy_lib.View]:
  """The batched view of the cache and the batch axis of each of its leaves."""
  axis = 1 if cache.per_head else 0
  view = policy_lib.View(
      slots=cache.slots,
      live=live if cache.per_head else live[:, 0],
      cursor=cache.cursor,
      seen=seen,
      key=cache.key,
      value=cache.value,
  )
  axes = policy_lib.View(
      slots=cache_lib.SlotTable(axis, axis, axis, axis),  # type: ignore
      live=axis,  # type: ignore
      cursor=None,  # type: ignore
      seen=0,  # type: ignore
      key=1,  # type: ignore
      value=1,  # type: ignore
  )
  return view, axes


def _select(
    policy: policy_lib.KVPolicy,
    state: Any,
    cache: cache_lib.KVCache,
    layer: int,
    rotated: Float,
    unrotated: Float,
    context: _ChunkContext,
    seen: Int,
    stage: str,
) -> tuple[policy_lib.Selection, Any, policy_lib.Counts]:
  """`policy.select` of every stream."""
  view, view_axes = _view(cache, context.sets.live, seen)
  kind = jnp.full(
      context.valid.shape, policy_lib.STAGES.index(stage), jnp.int8
  )
  queries = policy_lib.Queries(
      rotated, unrotated, context.position, kind, context.valid,
      context.first, context.last,
  )
  query_axes = policy_lib.Queries(0, 0, 0, 0, 0, None, None)  # type: ignore
  return jax.vmap(
      lambda state_, view_, queries_: policy.select(
          state_, view_, layer, queries_, stage
      ),
      in_axes=(0, view_axes, query_axes),
  )(state, view, queries)


def layer_step(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    layer: int,
    params: Parameters,
    hidden: Float,
    state: StreamState,
    pending: tuple[policy_lib.Selection, policy_lib.Counts] | None,
    context: _ChunkContext,
    stage: str,
) -> tuple[
    Float,
    StreamState,
    tuple[policy_lib.Selection, policy_lib.Counts] | None,
    LayerOutput,
]:
  """One decoder layer on one chunk.

  project, rotate, append K/V, select, attend, finish.

  Args:
    config: shapes.
    policy: the policy.
    layer: l, static.
    params: the decoder's parameters.
    hidden: f[B, T, D], the layer's input.
    state: the stream; its cache and policy state change.
    pending: selection made one layer ahead (lookahead 1), else None.
    context: what the layers of the chunk share.
    stage: static.

  Returns:
    f[B, T, D], the state, the selection pending for layer l + 1, and what the
    layer leaves for `write` and the trace.
  """
  module = decoder_lib.DecoderLayer(config.decoder, config.dtype)
  own = {"params": params[f"layers_{layer}"]}
  query_raw, key_raw, value = module.apply(own, hidden, method="project")
  query = rotary.rotate(query_raw, context.angle)
  key = rotary.rotate(key_raw, context.angle)
  cache = cache_lib.append(state.cache, layer, key, value, context.start)

  retrieves = stage in policy.needs.stages
  policy_state = state.policy
  counts = policy_lib.zero_counts((config.batch, config.decoder.num_kv_heads))
  selection = policy_lib.attend_all()
  if retrieves and config.lookahead == 0:
    selection, policy_state, counts = _select(
        policy, policy_state, cache, layer, query, query_raw, context,
        state.seen, stage,
    )
  elif retrieves and pending is not None:
    selection, counts = pending
  upcoming = None
  ahead = layer + 1
  if retrieves and config.lookahead and ahead < config.decoder.num_layers:
    ahead_raw = query_raw
    if config.lookahead_query == "next":
      following = {"params": params[f"layers_{ahead}"]}
      ahead_raw = module.apply(following, hidden, method="project_query")
    ahead_query = rotary.rotate(ahead_raw, context.angle)
    chosen, policy_state, ahead_counts = _select(
        policy, policy_state, cache, ahead, ahead_query, ahead_raw, context,
        state.seen, stage,
    )
    upcoming = (chosen, ahead_counts)

  prefetched = state.prefetched
  attended = attend_lib.attend(
      selection,
      layer=layer,
      cache=cache,
      chunk=attend_lib.ChunkInputs(
          query=query,
          query_raw=query_raw,
          key=key,
          value=value,
          position=context.position,
          valid=context.valid,
          offset=context.offset,
          start=context.start,
      ),
      sets=context.sets,
      rows=policy_lib.rows_of(policy.needs, config.decoder),
      seen=state.seen,
      frequencies=rotary.inverse_frequencies(
          config.decoder.rope, config.decoder.head_dim
      ),
      prefetched=None if prefetched is None else prefetched[layer],
      want_mass=policy.needs.mass,
  )
  if policy.needs.mass:
    policy_state = jax.vmap(
        lambda state_, mass: policy.feedback(state_, layer, mass, stage)
    )(policy_state, attended.mass)
  if prefetched is not None and selection.prefetch is not None:
    prefetched = prefetched.at[layer].set(selection.prefetch)
  out = module.apply(
      own, hidden, attended.out.astype(hidden.dtype), method="finish"
  )
  live = context.valid[:, :, None]
  output = LayerOutput(
      query, query_raw, key, key_raw, value,
      counts=counts.plus(attended.counts),
      finite=jnp.all(jnp.isfinite(out) | ~live, axis=(1, 2)),
  )
  state = state.replace(
      cache=cache, policy=policy_state, prefetched=prefetched
  )
  return out, state, upcoming, output


def _context(
    config: StreamConfig,
    state: StreamState,
    valid: Bool,
    first: Bool,
    last: Bool,
) -> tuple[_ChunkContext, Int, Bool]:
  """Positions, slots and sets of a chunk; slots it uses; whether it fits."""
  length = valid.shape[1]
  ordinal = jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
  offset = jnp.maximum(ordinal, 0)
  position = state.next_position[:, None] + offset
  index = jnp.arange(1, length + 1, dtype=jnp.int32)
  used = jnp.max(jnp.where(valid, index[None], 0))
  cache = state.cache
  fits = cache.cursor + used <= cache.capacity
  frequencies = rotary.inverse_frequencies(
      config.decoder.rope, config.decoder.head_dim
  )
  context = _ChunkContext(
      position=position,
      offset=offset,
      valid=valid,
      angle=rotary.angles(position, frequencies)[:, None],
      start=jnp.where(fits, cache.cursor, cache.capacity),
      first=jnp.asarray(first, bool),
      last=jnp.asarray(last, bool),
      sets=attend_lib.slot_sets(
          cache,
          next_position=state.next_position,
          recent_tokens=state.recent_tokens,
          resident_tokens=state.resident_tokens,
      ),
  )
  return context, used, fits


def _write(
    policy: policy_lib.KVPolicy,
    state: StreamState,
    outputs: list[LayerOutput],
    context: _ChunkContext,
    frame: Int,
    kind: Int,
    stored: Bool,
    stage: str,
) -> tuple[StreamState, policy_lib.Counts]:
  """`policy.write` of every stream; counts i32[L, B, K]."""
  stack = lambda pick: jnp.stack([pick(output) for output in outputs], axis=1)
  chunk = policy_lib.Chunk(
      k_rotated=stack(lambda output: output.key),
      k_raw=stack(lambda output: output.key_raw),
      v=stack(lambda output: output.value),
      queries=stack(lambda output: output.query_raw),
      position=context.position,
      frame=frame,
      kind=kind,
      valid=stored,
      start=context.start,
      first=context.first,
      last=context.last,
  )
  axes = policy_lib.Chunk(
      0, 0, 0, 0, 0, 0, 0, 0, None, None, None  # type: ignore
  )
  live = attend_lib.slot_sets(
      state.cache,
      next_position=state.next_position,
      recent_tokens=state.recent_tokens,
      resident_tokens=state.resident_tokens,
  ).live
  view, view_axes = _view(state.cache, live, state.seen)
  policy_state, keep, counts = jax.vmap(
      lambda state_, view_, chunk_: policy.write(state_, view_, chunk_, stage),
      in_axes=(0, view_axes, axes),
  )(state.policy, view, chunk)
  cache = state.cache
  if keep is not None:
    if not policy.needs.evicts:
      raise ValueError(
          f"policy {policy.name} returned keep but needs.evicts is False; a"
          " policy that drops tokens must say so: set evicts in its needs"
      )
    valid = cache.slots.valid & keep.transpose(1, 0, 2, 3)
    cache = cache.replace(slots=cache.slots.replace(valid=valid))
  counts = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), counts)
  return state.replace(cache=cache, policy=policy_state), counts


def _held_most(sets: attend_lib.SlotSets) -> Int:
  """Most slots any head of a stream holds: i32[B]."""
  held = attend_lib.bitmap.count(sets.live)
  return jnp.max(held, axis=-1 if held.ndim == 2 else (0, 2))


def prefill_chunk(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    params: Parameters,
    state: StreamState,
    hidden: Float,
    valid: Bool,
    *,
    stage: str,
    first: Bool | bool,
    last: Bool | bool,
) -> tuple[StreamState, Float, trace_lib.Event, Record | None]:
  """Prefills one chunk of embedded tokens through all layers.

  Args:
    config: shapes.
    policy: the policy.
    params: the decoder's parameters.
    state: the stream before the chunk.
    hidden: f[B, T, D], embedded tokens.
    valid: b[B, T], False for padding.
    stage: static.
    first: b[], first chunk of its stage.
    last: b[], last chunk of its stage.

  Returns:
    The state after it, the last layer's output f[B, T, D], the event, and the
    record (None unless config.record). When the chunk does not fit, nothing is
    stored and the event carries `Overflow.CACHE_FULL`.
  """
  decoder = config.decoder
  chex.assert_shape(hidden, (config.batch, None, decoder.hidden_size))
  chex.assert_shape(valid, hidden.shape[:2])
  context, used, fits = _context(config, state, valid, first, last)
  pending = None
  outputs = []
  for layer in range(decoder.num_layers):
    hidden, state, pending, output = layer_step(
        config, policy, layer, params, hidden, state, pending, context, stage
    )
    outputs.append(output)

  is_frame = int(stage == "frame")
  owner = state.frame - 1 + is_frame
  frame = jnp.broadcast_to(owner[:, None], valid.shape)
  kind = jnp.full(valid.shape, policy_lib.STAGES.index(stage), jnp.int8)
  stored = valid & fits
  new_tokens = jnp.sum(stored, axis=-1, dtype=jnp.int32)
  cache = cache_lib.commit(
      state.cache,
      start=context.start,
      advance=jnp.where(fits, used, 0),
      valid=stored,
      position=context.position,
      frame=frame,
      kind=kind,
  )
  last_position = state.next_position + new_tokens
  if policy.needs.reindexes:
    last_position = _held_most(context.sets) + new_tokens
  state = state.replace(
      cache=cache,
      next_position=state.next_position + new_tokens,
      seen=state.seen + new_tokens,
      frame=state.frame + is_frame,
  )
  state, written = _write(
      policy, state, outputs, context, frame, kind, stored, stage
  )
  counts = jax.tree.map(
      lambda *leaves: jnp.stack(leaves), *[output.counts for output in outputs]
  ).plus(written)
  finite = jnp.stack([output.finite for output in outputs])
  bits = trace_lib.Overflow
  overflow = jnp.where(finite, 0, int(bits.NON_FINITE)).astype(jnp.uint32)
  overflow |= jnp.where(fits, 0, int(bits.CACHE_FULL)).astype(jnp.uint32)
  beyond = last_position > decoder.max_position_embeddings
  overflow |= jnp.where(beyond, int(bits.POSITION), 0).astype(jnp.uint32)[None]
  event = trace_lib.Event(
      stage=jnp.int32(policy_lib.STAGES.index(stage)),
      frame=owner,
      counts=counts,
      overflow=overflow,
  )
  record = None
  if config.record:
    record = Record(
        query=jnp.stack([output.query for output in outputs]),
        key=jnp.stack([output.key for output in outputs]),
        position=context.position,
        frame=frame,
        kind=kind,
        valid=stored,
    )
  return state, hidden, event, record


def prefill_frame(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    embed_frame: EmbedFrame,
    params: Parameters,
    state: StreamState,
    frame: Array,
) -> tuple[StreamState, trace_lib.Event, Record | None]:
  """Embeds and prefills one frame of every stream.

  Args:
    config: shapes.
    policy: the policy.
    embed_frame: vision tower and connector.
    params: model parameters, decoder under "decoder".
    state: the stream before the frame.
    frame: [B, ...], whatever `embed_frame` takes.

  Returns:
    The state after it, the event, the record or None.
  """
  hidden, valid = embed_frame(params, frame, state.frame == 0)
  state, _, event, record = prefill_chunk(
      config,
      policy,
      params["decoder"],
      state,
      hidden.astype(config.dtype),
      valid,
      stage="frame",
      first=jnp.all(state.frame == 0),
      last=False,
  )
  return state, event, record


def prefill_frames(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    embed_frame: EmbedFrame,
    params: Parameters,
    state: StreamState,
    frames: Array,
    live: Bool,
) -> tuple[StreamState, trace_lib.Event, Record | None]:
  """One scan over a block of frames.

  Args:
    config: shapes.
    policy: the policy.
    embed_frame: vision tower and connector.
    params: model parameters.
    state: the stream before the block; donate it.
    frames: [F, B, ...].
    live: b[F]; frames past the end of a short block are skipped, not computed.

  Returns:
    The state after the block; events and records with leading axis F (zeros
    where not live).
  """
  chex.assert_equal_shape_prefix([frames, live], 1)
  step = lambda state_, frame: prefill_frame(
      config, policy, embed_frame, params, state_, frame
  )
  one = jax.tree.map(
      lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), frames
  )
  _, event_shape, record_shape = jax.eval_shape(step, state, one)
  blank = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      (event_shape, record_shape),
  )

  def run(state_, frame):
    state_, event, record = step(state_, frame)
    return state_, (event, record)

  def body(state_, inputs):
    frame, is_live = inputs
    return jax.lax.cond(
        is_live, run, lambda kept, _: (kept, blank), state_, frame
    )

  state, (events, records) = jax.lax.scan(body, state, (frames, live))
  return state, events, records


def prefill_tokens(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    params: Parameters,
    state: StreamState,
    tokens: Tokens,
    valid: Bool,
    *,
    stage: str,
    first: Bool | bool,
    last: Bool | bool,
) -> tuple[StreamState, Float, trace_lib.Event, Record | None]:
  """Prefills one chunk of text; also returns logits after its last token.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters.
    state: the stream before the chunk; donate it.
    tokens: i32[B, T].
    valid: b[B, T], False for padding (at the end).
    stage: "prompt", "question" or "answer"; static.
    first: b[], first chunk of its stage.
    last: b[], last chunk of its stage.

  Returns:
    The state after it, logits f32[B, vocabulary] of the token that follows the
    last valid one, the event, the record or None.
  """
  module = decoder_lib.Decoder(config.decoder, config.dtype)
  variables = {"params": params["decoder"]}
  hidden = module.apply(variables, tokens, method="embed")
  state, hidden, event, record = prefill_chunk(
      config, policy, params["decoder"], state, hidden, valid,
      stage=stage, first=first, last=last,
  )
  length = valid.shape[1]
  index = jnp.arange(length)[None]
  final = jnp.max(jnp.where(valid, index, 0), axis=1)
  hidden = jnp.take_along_axis(hidden, final[:, None, None], axis=1)
  logits = module.apply(variables, hidden, method="head")[:, 0]
  return state, logits, event, record


def _sample(logits: Float, key: Array, temperature: Float) -> Tokens:
  """Greedy at temperature 0, else softmax(logits / temperature): i32[B]."""
  greedy = jnp.argmax(logits, axis=-1)
  heat = jnp.where(temperature > 0, temperature, 1.0)
  drawn = jax.random.categorical(key, logits / heat, axis=-1)
  return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)


def answer(
    config: StreamConfig,
    policy: policy_lib.KVPolicy,
    params: Parameters,
    state: StreamState,
    logits: Float,
    *,
    max_tokens: int,
    stop_ids: tuple[int, ...],
    temperature: Float | float = 0.0,
    key: Array | None = None,
) -> tuple[StreamState, Answer, Record | None]:
  """Generates until every stream has met a stop id or `max_tokens`.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters.
    state: the stream after the question; donate it.
    logits: f32[B, vocabulary] after the question.
    max_tokens: static limit of generated tokens.
    stop_ids: static; any of them ends an answer and is not stored.
    temperature: f32[], 0 for greedy decoding; traced.
    key: random key for sampling; may be None at temperature 0.

  Returns:
    The state with the answers in the cache, the answers, and None or the
    records with leading axis max_tokens.
  """
  key = jax.random.key(0) if key is None else key
  temperature = jnp.asarray(temperature, jnp.float32)
  stops = jnp.asarray(stop_ids, jnp.int32)

  def step(state_, tokens, valid, first):
    return prefill_tokens(
        config, policy, params, state_, tokens[:, None], valid[:, None],
        stage="answer", first=first, last=False,
    )

  shapes = jax.eval_shape(
      step, state, jnp.zeros((config.batch,), jnp.int32),
      jnp.ones((config.batch,), bool), jnp.asarray(True),
  )
  buffers = jax.tree.map(
      lambda leaf: jnp.zeros((max_tokens, *leaf.shape), leaf.dtype), shapes[2:]
  )
  put = lambda index: lambda buffer, leaf: (
      jax.lax.dynamic_update_index_in_dim(
          buffer, leaf.astype(buffer.dtype), index, 0
      )
  )

  def propose(index, logits_, done):
    token = _sample(logits_, jax.random.fold_in(key, index), temperature)
    done = done | jnp.any(token[:, None] == stops[None], axis=-1)
    return token, done

  def body(carry):
    index, state_, token, done, tokens, length, buffers_ = carry
    live = ~done
    state_, logits_, event, record = step(state_, token, live, index == 0)
    tokens = tokens.at[:, index].set(jnp.where(live, token, 0))
    buffers_ = jax.tree.map(put(index), buffers_, (event, record))
    following, done = propose(index + 1, logits_, done)
    length = length + live.astype(jnp.int32)
    return index + 1, state_, following, done, tokens, length, buffers_

  token, done = propose(0, logits, jnp.zeros((config.batch,), bool))
  start = (
      jnp.int32(0),
      state,
      token,
      done,
      jnp.zeros((config.batch, max_tokens), jnp.int32),
      jnp.zeros((config.batch,), jnp.int32),
      buffers,
  )
  steps, state, _, done, tokens, length, (events, records) = (
      jax.lax.while_loop(
          lambda carry: (carry[0] < max_tokens) & ~jnp.all(carry[3]),
          body,
          start,
      )
  )
  return state, Answer(tokens, length, steps, done, events), records


def snapshot(state: StreamState) -> Snapshot:
  """Copies what a question changes; K/V below the cursor stay as they are.

  Between `snapshot` and `restore` nothing may be compacted. Jit it without
  donation, so that the copies outlive the donated state.
  """
  return jax.tree.map(
      jnp.copy,
      Snapshot(
          slots=state.cache.slots,
          cursor=state.cache.cursor,
          policy=state.policy,
          next_position=state.next_position,
          seen=state.seen,
          frame=state.frame,
          prefetched=state.prefetched,
      ),
  )


def restore(state: StreamState, saved: Snapshot) -> StreamState:
  """The stream as it was at `snapshot`; later K/V are left beyond the cursor."""
  cache = state.cache.replace(slots=saved.slots, cursor=saved.cursor)
  return state.replace(
      cache=cache,
      policy=saved.policy,
      next_position=saved.next_position,
      seen=saved.seen,
      frame=saved.frame,
      prefetched=saved.prefetched,
  )


def compact(
    policy: policy_lib.KVPolicy, state: StreamState
) -> StreamState:
  """Reuses the slots of evicted tokens; evicting policies only.

  Args:
    policy: the policy; its `move` is told where every slot went.
    state: the stream between chunks; donate it.

  Returns:
    The same stream with kept tokens at the front of the cache.
  """
  cache, source = cache_lib.compact(state.cache)
  policy_state = state.policy
  if policy.move is not None:
    policy_state = jax.vmap(policy.move, in_axes=(0, 1))(policy_state, source)
  return state.replace(cache=cache, policy=policy_state)
