"""Attention of a chunk to the past, over as many slots as were selected.

Past attention costs time in proportion to the slots it reads, not to the
capacity: `prefix_attention` runs over the used prefix of the cache,
`work_list_attention` over packed sets of slots.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax.models import partial as partial_lib
from vrex_jax.models import rotary
from vrex_jax.models import work_list
from vrex_jax.typing import Bitmap, Bool, Float, Int

__all__ = ["prefix_attention", "slot_mass", "work_list_attention"]

PREFIX_CHUNK = 512
"""Slots one step of `prefix_attention` reads; divides every cache's S."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def prefix_attention(
  query: Float,
  keys: Float,
  values: Float,
  valid: Bool,
  cursor: Int,
  layer: int,
) -> partial_lib.Partial:
  """Attention to every valid slot below the cursor, without a gather.

  Args:
    query: f[B, K, M, H], rotated; M = T · G rows of one KV head.
    keys: f[L, B, K, S, H], the cache's keys, rotated.
    values: f[L, B, K, S, H].
    valid: b[B, S].
    cursor: i32[], slots in use.
    layer: l.

  Returns:
    Partial with A = K. Reads ceil(cursor / 512) chunks whatever S is.

  Example:
    >>> cache = jnp.ones((1, 1, 2, 512, 4))
    >>> part = prefix_attention(jnp.ones((1, 2, 3, 4)), cache, cache,
    ...                         jnp.ones((1, 512), bool), jnp.int32(7), 0)
    >>> part.out.shape
    (1, 2, 3, 4)
  """
  batch, kv_heads, rank, width = query.shape
  slots = keys.shape[3]
  chex.assert_shape([keys, values], (None, batch, kv_heads, slots, width))
  chex.assert_is_divisible(slots, PREFIX_CHUNK)
  scaled = (query * width**-0.5).astype(query.dtype)
  cache = _Prefix(keys, values, valid, cursor, layer)
  at_once = lambda rows: _sweep(cache, rows, 0, 0)
  if 4 * batch * kv_heads * rank * PREFIX_CHUNK <= work_list.SCORE_BYTES:
    return at_once(scaled)
  return jax.lax.platform_dependent(
    scaled, cpu=lambda rows: _head_by_head(cache, rows), default=at_once
  )


class _Prefix(NamedTuple):
  """The used part of one layer of the cache."""

  keys: Float  # [L, B, K, S, H]
  values: Float  # [L, B, K, S, H]
  valid: Bool  # [B, S]
  cursor: Int  # []
  layer: int


def _head_by_head(cache: _Prefix, query: Float) -> partial_lib.Partial:
  """`_sweep` of every stream and KV head in turn."""
  batch, kv_heads = query.shape[:2]

  def body(index, whole):
    stream, head = index // kv_heads, index % kv_heads
    rows = jax.lax.dynamic_slice(
      query, (stream, head, 0, 0), (1, 1, *query.shape[2:])
    )
    part = _sweep(cache, rows, stream, head)
    put = lambda old, new: jax.lax.dynamic_update_slice(
      old, new, (stream, head, *[0] * (new.ndim - 2))
    )
    return jax.tree.map(put, whole, part)

  nothing = partial_lib.finish(partial_lib.start(query), query.shape)
  return jax.lax.fori_loop(0, batch * kv_heads, body, nothing)


def _sweep(
  cache: _Prefix, query: Float, stream: Int | int, head: Int | int
) -> partial_lib.Partial:
  """Online softmax over the prefix, chunk by chunk.

  Args:
    cache: keys and values.
    query: f[b, k, M, H], scaled; of b streams from `stream` on, and of their
      k KV heads from `head` on.
    stream: first stream.
    head: first KV head.
  """
  batch, kv_heads, _, width = query.shape

  def body(carry):
    step, running = carry
    start = step * PREFIX_CHUNK
    at = (cache.layer, stream, head, start, 0)
    size = (1, batch, kv_heads, PREFIX_CHUNK, width)
    key = jax.lax.dynamic_slice(cache.keys, at, size)[0].astype(query.dtype)
    value = jax.lax.dynamic_slice(cache.values, at, size)[0].astype(query.dtype)
    live = jax.lax.dynamic_slice(
      cache.valid, (stream, start), (batch, PREFIX_CHUNK)
    )
    live = live & (start + jnp.arange(PREFIX_CHUNK) < cache.cursor)[None]
    scores = jnp.einsum(
      "bkmh,bksh->bkms", query, key, preferred_element_type=jnp.float32
    )
    scores = jnp.where(live[:, None, None], scores, -jnp.inf)
    top = jnp.maximum(running.top, jnp.max(scores, axis=-1))
    weights = jnp.exp(scores - top[..., None])
    decay = jnp.exp(running.top - top)
    out = jnp.einsum(
      "bkms,bksh->bkmh",
      weights.astype(query.dtype),
      value,
      preferred_element_type=jnp.float32,
    )
    return step + 1, partial_lib.Running(
      top,
      running.total * decay + jnp.sum(weights, axis=-1),
      running.out * decay[..., None] + out,
    )

  start = partial_lib.start(query)
  _, running = jax.lax.while_loop(
    lambda carry: carry[0] * PREFIX_CHUNK < cache.cursor, body, (0, start)
  )
  return partial_lib.finish(running, query.shape)


def _forward(
  query, keys, values, slots, rotation, layer
) -> partial_lib.Partial:
  query, keys, values, slots, rotation = jax.tree.map(
    jnp.asarray, (query, keys, values, slots, rotation)
  )
  batch, rows, rank, width = query.shape
  num_slots = keys.shape[3]
  chex.assert_shape([keys, values], (None, batch, None, num_slots, width))
  chex.assert_shape(slots, (batch, rows, num_slots // bitmap.WORD_BITS))
  work = work_list.build(slots)
  group = work_list.group_size(rank)
  scaled = (query * width**-0.5).reshape(batch * rows, rank, width)
  scaled = scaled.astype(query.dtype)

  def body(carry):
    step, running = carry
    items = work_list.items_of(
      work, step, keys.shape, rows, layer, rotation, group
    )
    key, value = work_list.gather(keys, values, items, rotation, query.dtype)
    live = items.live[:, None, :]
    scores = jnp.einsum(
      "gmh,gch->gmc",
      scaled[items.row],
      key,
      preferred_element_type=jnp.float32,
    )
    scores = jnp.where(live, scores, partial_lib.LOWEST)
    top = running.top.at[items.row].max(jnp.max(scores, axis=-1))
    weights = jnp.exp(scores - top[items.row][..., None])
    weights = jnp.where(live, weights, 0.0)
    decay = jnp.exp(running.top - top)
    out = jnp.einsum(
      "gmc,gch->gmh",
      weights.astype(query.dtype),
      value,
      preferred_element_type=jnp.float32,
    )
    total = (running.total * decay).at[items.row].add(weights.sum(-1))
    summed = (running.out * decay[..., None]).at[items.row].add(out)
    return step + group, partial_lib.Running(top, total, summed)

  _, running = jax.lax.while_loop(
    lambda carry: carry[0] < work.total,
    body,
    (jnp.int32(0), partial_lib.start(scaled)),
  )
  return partial_lib.finish(running, query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def work_list_attention(
  query: Float,
  keys: Float,
  values: Float,
  slots: Bitmap,
  rotation: work_list.KeyRotation | None,
  layer: int,
) -> partial_lib.Partial:
  """Attention to a set of slots per row, in time proportional to the sets.

  The selected slots of all rows and streams are cut into chunks of 256 and put
  in one list; a loop takes eight chunks at a time, gathers their keys and
  values from the cache and keeps an online softmax. Rows that select little
  cost little, whatever their neighbours select. Differentiable in `query`,
  `keys` and `values` (the selection is held constant).

  Args:
    query: f[B, A, M, H], rotated. A is K or N; row a reads KV head
      a · K // A; its M rows share one set.
    keys: f[L, B, K, S, H], the cache's keys, rotated.
    values: f[L, B, K, S, H].
    slots: u32[B, A, S / 32], one set per row.
    rotation: moves gathered keys to other positions; None scores them as
      stored.
    layer: l.

  Returns:
    Partial over the selected slots; out 0 and lse -inf for an empty set.

  Example:
    >>> cache = jnp.ones((1, 1, 2, 512, 4))
    >>> slots = bitmap.pack(jnp.arange(512) < 5)
    >>> part = work_list_attention(
    ...     jnp.zeros((1, 2, 3, 4)), cache, cache,
    ...     jnp.broadcast_to(slots, (1, 2, 16)), None, 0)
    >>> [round(x, 3) for x in part.lse[0, 0].tolist()]  # log 5
    [1.609, 1.609, 1.609]
  """
  return _forward(query, keys, values, slots, rotation, layer)


def _forward_rule(query, keys, values, slots, rotation, layer):
  partial = _forward(query, keys, values, slots, rotation, layer)
  inputs = (query, keys, values, slots, rotation)
  return partial, (*jax.tree.map(jnp.asarray, inputs), partial)


def _backward(layer, residuals, cotangent):
  """Gradients by a second pass over the same work list.

  With p = exp(s - lse):  ds = p (do · v - do · out + dlse),
  dq = ds k / sqrt(H),  dk = dsᵀ q / sqrt(H),  dv = pᵀ do.
  Source: Dao et al., arXiv 2205.14135, Algorithm 4; the lse term because the
  normaliser is an output here.
  """
  query, keys, values, slots, rotation, partial = residuals
  batch, rows, rank, width = query.shape
  work = work_list.build(slots)
  group = work_list.group_size(rank)
  flat = lambda array: array.reshape(batch * rows, *array.shape[2:])
  scale = width**-0.5
  q, d_out = flat(query), flat(cotangent.out)
  lse = flat(jnp.where(jnp.isfinite(partial.lse), partial.lse, 0.0))
  offset = flat(cotangent.lse) - jnp.sum(d_out * flat(partial.out), axis=-1)

  def body(carry):
    step, d_query, d_keys, d_values = carry
    items = work_list.items_of(
      work, step, keys.shape, rows, layer, rotation, group
    )
    key, value = work_list.gather(keys, values, items, rotation, query.dtype)
    row = items.row
    scores = jnp.einsum("gmh,gch->gmc", q[row], key) * scale
    weights = jnp.exp(scores - lse[row][..., None])
    weights = jnp.where(items.live[:, None, :], weights, 0.0)
    d_weights = jnp.einsum("gmh,gch->gmc", d_out[row], value)
    d_scores = weights * (d_weights + offset[row][..., None]) * scale
    d_query = d_query.at[row].add(jnp.einsum("gmc,gch->gmh", d_scores, key))
    d_key = jnp.einsum("gmc,gmh->gch", d_scores, q[row])
    if rotation is not None and items.shift is not None:
      back = rotary.angles(-items.shift, rotation.frequencies)
      d_key = rotary.rotate(d_key, back)
    d_keys = d_keys.at[items.source].add(d_key)
    d_value = jnp.einsum("gmc,gmh->gch", weights, d_out[row])
    d_values = d_values.at[items.source].add(d_value)
    return step + group, d_query, d_keys, d_values

  zeros = jnp.zeros((keys.size // width, width), jnp.float32)
  start = (
    jnp.int32(0),
    jnp.zeros((batch * rows, rank, width), jnp.float32),
    zeros,
    zeros,
  )
  _, d_query, d_keys, d_values = jax.lax.while_loop(
    lambda carry: carry[0] < work.total, body, start
  )
  return (
    d_query.reshape(query.shape).astype(query.dtype),
    d_keys.reshape(keys.shape).astype(keys.dtype),
    d_values.reshape(values.shape).astype(values.dtype),
    None,
    None,
  )


work_list_attention.defvjp(_forward_rule, _backward)


def _prefix_forward_rule(query, keys, values, valid, cursor, layer):
  partial = prefix_attention(query, keys, values, valid, cursor, layer)
  batch, rows = query.shape[:2]
  live = valid & (jnp.arange(valid.shape[-1]) < cursor)[None]
  words = bitmap.pack(live)[:, None]
  slots = jnp.broadcast_to(words, (batch, rows, words.shape[-1]))
  inputs = (query, keys, values, slots, None)
  return partial, (*jax.tree.map(jnp.asarray, inputs), partial)


prefix_attention.defvjp(_prefix_forward_rule, _backward)


def slot_mass(
  query: Float,
  keys: Float,
  slots: Bitmap,
  rotation: work_list.KeyRotation | None,
  layer: int,
  lse: Float,
  valid: Bool,
) -> Float:
  """Attention mass every selected slot received from a chunk.

  mass_s = Σ_rows exp(q · k_s / sqrt(H) - lse), summed over the M rows.

  Args:
    query: f[B, A, M, H].
    keys: f[L, B, K, S, H].
    slots: u32[B, A, S / 32].
    rotation: as in `work_list_attention`.
    layer: l.
    lse: f32[B, A, M], log-normaliser of the whole attention (past and chunk).
    valid: b[B, A, M], rows that count (no padding).

  Returns:
    f32[B, A, S], 0 for slots not selected. Not differentiable.

  Source: the accumulated scores of H2O, arXiv 2306.14048.
  """
  query, keys, slots, rotation = jax.tree.map(
    jnp.asarray, (query, keys, slots, rotation)
  )
  batch, rows, rank, width = query.shape
  num_slots = keys.shape[3]
  work = work_list.build(slots)
  group = work_list.group_size(rank)
  flat = lambda array: array.reshape(batch * rows, *array.shape[2:])
  q = flat(query * width**-0.5)
  shift = flat(jnp.where(valid, lse, jnp.inf))

  def body(carry):
    step, mass = carry
    items = work_list.items_of(
      work, step, keys.shape, rows, layer, rotation, group
    )
    key, _ = work_list.gather(keys, keys, items, rotation, query.dtype)
    scores = jnp.einsum("gmh,gch->gmc", q[items.row], key)
    weights = jnp.exp(scores - shift[items.row][..., None])
    received = jnp.where(items.live, jnp.sum(weights, axis=1), 0.0)
    slot = items.row[:, None] * num_slots + items.source % num_slots
    return step + group, mass.at[slot].add(received)

  _, mass = jax.lax.while_loop(
    lambda carry: carry[0] < work.total,
    body,
    (jnp.int32(0), jnp.zeros((batch * rows * num_slots,), jnp.float32)),
  )
  return mass.reshape(batch, rows, num_slots)
