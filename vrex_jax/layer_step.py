"""One decoder layer on one chunk, with the cache and a policy plugged in.

  project, rotate, append K/V, select, attend, (feedback,) finish

Pure: `stream.py` composes the layers inside a scan; a host that fetches keys
between layers can call `layer_step` one jitted layer at a time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax import attend as attend_lib
from vrex_jax import disturbing
from vrex_jax import policy as policy_lib
from vrex_jax import stream_state
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Bitmap, Bool, Float, Int, Parameters

__all__ = [
  "ChunkContext",
  "LayerOutput",
  "batched_view",
  "chunk_context",
  "layer_step",
  "select_slots",
]


class ChunkContext(NamedTuple):
  """Dynamic. What all layers of one chunk share."""

  position: Int  # [B, T]
  offset: Int  # [B, T]
  valid: Bool  # [B, T]
  turn: rotary.Turn  # [B, 1, T, H / 2]
  start: Int  # []
  first: Bool  # []
  last: Bool  # []
  sets: attend_lib.SlotSets


class LayerOutput(NamedTuple):
  """Dynamic. What a layer leaves for `write`, observers and the trace.

  Outputs of a layer that ran hold `past`, the slots read, and `attended`, what
  attention gave before the output projection; those that an observer sees
  `query_next`; see `observing.Record`.
  """

  query: Float  # [B, N, T, H], rotated
  query_raw: Float  # [B, N, T, H]
  key: Float  # [B, K, T, H], rotated
  key_raw: Float  # [B, K, T, H]
  value: Float  # [B, K, T, H]
  counts: policy_lib.Counts  # [B, K]
  finite: Bool  # [B]
  query_next: Float | None = None  # [B, N, T, H], rotated
  past: Bitmap | None = None  # [B, A, S / 32]
  attended: Float | None = None  # f32 [B, N, T, H]


def chunk_context(
  config: stream_state.StreamConfig,
  state: stream_state.StreamState,
  valid: Bool,
  first: Bool,
  last: Bool,
) -> tuple[ChunkContext, Int, Bool]:
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
  context = ChunkContext(
    position=position,
    offset=offset,
    valid=valid,
    turn=rotary.turn_once(rotary.angles(position, frequencies)[:, None]),
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


def batched_view(
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


def select_slots(
  policy: policy_lib.KVPolicy,
  state: Any,
  cache: cache_lib.KVCache,
  layer: int,
  rotated: Float,
  unrotated: Float,
  context: ChunkContext,
  seen: Int,
  stage: str,
) -> tuple[policy_lib.Selection, Any, policy_lib.Counts]:
  """`policy.select` of every stream."""
  view, view_axes = batched_view(cache, context.sets.live, seen)
  kind = jnp.full(context.valid.shape, policy_lib.STAGES.index(stage), jnp.int8)
  queries = policy_lib.Queries(
    rotated,
    unrotated,
    context.position,
    kind,
    context.valid,
    context.first,
    context.last,
  )
  query_axes = policy_lib.Queries(0, 0, 0, 0, 0, None, None)  # type: ignore
  return jax.vmap(
    lambda state_, view_, queries_: policy.select(
      state_, view_, layer, queries_, stage
    ),
    in_axes=(0, view_axes, query_axes),
  )(state, view, queries)


def layer_step(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  layer: int,
  params: Parameters,
  hidden: Float,
  state: stream_state.StreamState,
  pending: tuple[policy_lib.Selection, policy_lib.Counts] | None,
  context: ChunkContext,
  stage: str,
) -> tuple[
  Float,
  stream_state.StreamState,
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
  query = rotary.rotate_by(query_raw, context.turn)
  key = rotary.rotate_by(key_raw, context.turn)
  heads = disturbing.Heads(query, key, value)
  if config.disturb is not None:
    (query, key, value), query_raw, key_raw = disturbing.apply(
      config.disturb, layer, heads, context.position, context.turn
    )
  cache = cache_lib.append(state.cache, layer, key, value, context.start)

  retrieves = lambda one: policy_lib.retrieves(
    policy.needs, stage, one, config.lookahead
  )
  policy_state = state.policy
  counts = policy_lib.zero_counts((config.batch, config.decoder.num_kv_heads))
  selection = policy_lib.attend_all()
  if retrieves(layer) and config.lookahead == 0:
    selection, policy_state, counts = select_slots(
      policy,
      policy_state,
      cache,
      layer,
      query,
      query_raw,
      context,
      state.seen,
      stage,
    )
  elif pending is not None:
    selection, counts = pending
  upcoming = None
  ahead = layer + 1
  speculates = bool(
    config.lookahead and ahead < config.decoder.num_layers and retrieves(ahead)
  )
  next_raw, query_next = query_raw, query
  observed = config.observe is not None
  if observed or (speculates and config.lookahead_query == "next"):
    following = params[f"layers_{min(ahead, config.decoder.num_layers - 1)}"]
    next_raw = module.apply(
      {"params": following}, hidden, method="project_query"
    )
    query_next = rotary.rotate_by(next_raw, context.turn)
    if config.disturb is not None:
      (query_next, *_), next_raw, _ = disturbing.apply(
        config.disturb,
        min(ahead, config.decoder.num_layers - 1),
        heads._replace(query=query_next),
        context.position,
        context.turn,
      )
  if speculates:
    guess = (query_next, next_raw)
    if config.lookahead_query == "own":
      guess = (query, query_raw)
    chosen, policy_state, ahead_counts = select_slots(
      policy,
      policy_state,
      cache,
      ahead,
      *guess,
      context,
      state.seen,
      stage,
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
    frequencies=jnp.asarray(
      rotary.inverse_frequencies(config.decoder.rope, config.decoder.head_dim)
    ),
    prefetched=None if prefetched is None else prefetched[layer],
    want_mass=policy.needs.mass,
  )
  feedback = policy.feedback
  if policy.needs.mass and feedback is not None:
    policy_state = jax.vmap(
      lambda state_, mass: feedback(state_, layer, mass, stage)
    )(policy_state, attended.mass)
  if prefetched is not None and selection.prefetch is not None:
    prefetched = prefetched.at[layer].set(selection.prefetch)
  out = module.apply(
    own, hidden, attended.out.astype(hidden.dtype), method="finish"
  )
  live = context.valid[:, :, None]
  output = LayerOutput(
    query,
    query_raw,
    key,
    key_raw,
    value,
    counts=counts.plus(attended.counts),
    finite=jnp.all(jnp.isfinite(out) | ~live, axis=(1, 2)),
    query_next=query_next if observed else None,
    past=attended.past,
    attended=attended.out,
  )
  state = state.replace(cache=cache, policy=policy_state, prefetched=prefetched)
  return out, state, upcoming, output
