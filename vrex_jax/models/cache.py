"""The KV cache: fixed-capacity arrays, a cursor, and what each slot holds.

Keys are stored rotated, in time order, all layers in one array:

  key, value   [L, B, K, S, H]

            0                    cursor                 capacity        S
            ├── past, in time order ─┼── free slots ───────┼─ scratch ────┤
                                     ▲ the next chunk is written here

A chunk that does not fit is written to the scratch region instead and the
cursor stays: nothing is overwritten, and the caller sets the overflow bit.

Slot metadata is `[B, S]` when every layer and head holds the same tokens, and
`[L, B, K, S]` when a policy evicts tokens per layer and head.
"""

import math

import chex
import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax.typing import Bool, Float, Int

__all__ = [
  "SLOT_MULTIPLE",
  "KVCache",
  "SlotTable",
  "append",
  "commit",
  "compact",
  "create",
  "kv_bytes_per_slot",
  "num_slots",
]

SLOT_MULTIPLE = 512
"""S is a multiple of this: whole attention chunks and whole bitmap words."""


class SlotTable(flax.struct.PyTreeNode):
  """Dynamic. What each slot holds; axes [B, S] or [L, B, K, S].

  Attributes:
    valid: the slot holds a token that may be attended.
    position: position the key was rotated by.
    frame: index of the frame the token belongs to or followed; -1 for the
      prompt.
    kind: stage the token came in (`policy.STAGES`).
  """

  valid: Bool  # [B, S] or [L, B, K, S]
  position: Int  # [B, S] or [L, B, K, S]
  frame: Int  # [B, S] or [L, B, K, S]
  kind: Int  # i8 [B, S] or [L, B, K, S]


class KVCache(flax.struct.PyTreeNode):
  """Dynamic. Keys, values and slot metadata of a batch of streams.

  Attributes:
    key: rotated keys.
    value: values.
    slots: metadata of every slot.
    cursor: slots used so far; shared by all streams, layers and heads.
    capacity: static; slots that tokens may occupy. The rest is scratch.
  """

  key: Float  # [L, B, K, S, H]
  value: Float  # [L, B, K, S, H]
  slots: SlotTable
  cursor: Int  # []
  capacity: int = flax.struct.field(pytree_node=False)

  @property
  def per_head(self) -> bool:
    """Metadata is kept per layer and KV head."""
    return self.slots.valid.ndim == 4


def num_slots(capacity: int, largest_chunk: int) -> int:
  """S: capacity plus scratch for one chunk, rounded up to SLOT_MULTIPLE.

  Example:
    >>> num_slots(1000, 64)
    1536
  """
  wanted = capacity + largest_chunk
  return SLOT_MULTIPLE * math.ceil(wanted / SLOT_MULTIPLE)


def kv_bytes_per_slot(
  num_layers: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> int:
  """Bytes of keys and values one token of one stream occupies.

  Example:
    >>> kv_bytes_per_slot(32, 8, 128, jnp.bfloat16)
    131072
  """
  width = jnp.dtype(dtype).itemsize
  return 2 * num_layers * num_kv_heads * head_dim * width


def create(
  *,
  num_layers: int,
  batch: int,
  num_kv_heads: int,
  capacity: int,
  largest_chunk: int,
  head_dim: int,
  dtype: jnp.dtype,
  per_head: bool,
) -> KVCache:
  """An empty cache.

  Args:
    num_layers: L.
    batch: B.
    num_kv_heads: K.
    capacity: slots that tokens may occupy.
    largest_chunk: tokens of the longest chunk ever appended.
    head_dim: H.
    dtype: storage dtype of keys and values.
    per_head: metadata per layer and head (for policies that evict).

  Returns:
    KVCache with S = num_slots(capacity, largest_chunk).

  Example:
    >>> cache = create(num_layers=1, batch=1, num_kv_heads=2, capacity=100,
    ...                largest_chunk=8, head_dim=4, dtype=jnp.float32,
    ...                per_head=False)
    >>> cache.key.shape
    (1, 1, 2, 512, 4)
  """
  slots = num_slots(capacity, largest_chunk)
  shape = (num_layers, batch, num_kv_heads, slots, head_dim)
  meta = shape[:-1] if per_head else (batch, slots)
  return KVCache(
    key=jnp.zeros(shape, dtype),
    value=jnp.zeros(shape, dtype),
    slots=SlotTable(
      valid=jnp.zeros(meta, bool),
      position=jnp.zeros(meta, jnp.int32),
      frame=jnp.full(meta, -1, jnp.int32),
      kind=jnp.zeros(meta, jnp.int8),
    ),
    cursor=jnp.zeros((), jnp.int32),
    capacity=capacity,
  )


def append(
  cache: KVCache, layer: int, key: Float, value: Float, start: Int
) -> KVCache:
  """Writes one layer's chunk of keys and values; metadata is not touched.

  Must run before the layer reads the cache: written after, XLA keeps a copy
  of the whole cache alive.

  Args:
    cache: the cache.
    layer: l.
    key: f[B, K, T, H], rotated.
    value: f[B, K, T, H].
    start: i32[], first slot: the cursor, or `capacity` (scratch) when the
      chunk does not fit.

  Returns:
    The cache with slots start … start + T - 1 of layer l replaced.
  """
  chex.assert_equal_shape([key, value])
  at = (layer, 0, 0, start, 0)
  dtype = cache.key.dtype
  return cache.replace(
    key=jax.lax.dynamic_update_slice(cache.key, key[None].astype(dtype), at),
    value=jax.lax.dynamic_update_slice(
      cache.value, value[None].astype(dtype), at
    ),
  )


def commit(
  cache: KVCache,
  *,
  start: Int,
  advance: Int,
  valid: Bool,
  position: Int,
  frame: Int,
  kind: Int,
) -> KVCache:
  """Makes an appended chunk part of the past.

  Args:
    cache: the cache, chunk appended in every layer.
    start: i32[], first slot the chunk was written to.
    advance: i32[], slots to move the cursor by; 0 when it did not fit.
    valid: b[B, T]; all False when it did not fit.
    position: i32[B, T].
    frame: i32[B, T].
    kind: i8[B, T].

  Returns:
    The cache with metadata written and the cursor moved.
  """
  slots = cache.slots

  def write(old, new):
    at: tuple[Int | int, ...] = (0, start)
    if cache.per_head:
      layers, batch, heads, _ = old.shape
      wide = (layers, batch, heads, new.shape[-1])
      new = jnp.broadcast_to(new[None, :, None, :], wide)
      at = (0, 0, 0, start)
    return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), at)

  return cache.replace(
    slots=SlotTable(
      valid=write(slots.valid, valid),
      position=write(slots.position, position),
      frame=write(slots.frame, frame),
      kind=write(slots.kind, kind),
    ),
    cursor=cache.cursor + advance,
  )


def compact(cache: KVCache) -> tuple[KVCache, Int]:
  """Moves kept slots of every layer and head to the front, in time order.

  One head of one layer at a time, so the temporary memory is one head's keys:

    before   a . b . . c | cursor 6        valid 1 0 1 0 0 1
    after    a b c       | cursor 3        valid 1 1 1 (0 0 …)

  Heads that keep fewer tokens than the fullest one are padded with invalid
  slots. Only for caches with metadata per head.

  Args:
    cache: per-head cache.

  Returns:
    The compacted cache and source i32[L, B, K, S]: new slot s holds what was
    in slot source[..., s] (meaningful where the new slot is valid).
  """
  chex.assert_rank(cache.slots.valid, 4)
  layers, batch, heads, slots = cache.slots.valid.shape
  used = jnp.arange(slots) < cache.cursor
  kept = cache.slots.valid & used.reshape(1, 1, 1, -1)
  # A stable sort by "not kept" lists kept slots first, in time order.
  source = jnp.argsort(~kept, axis=-1, stable=True).astype(jnp.int32)
  sizes = jnp.sum(kept, axis=-1)

  # Indexed by layer, stream and head: XLA copies the array if it is reshaped.
  def move(row, array):
    index = (row // (batch * heads), row // heads % batch, row % heads)
    order = jax.lax.dynamic_slice(source, (*index, 0), (1, 1, 1, slots))
    at, size = (*index, 0, 0), (1, 1, 1, *array.shape[3:])
    head = jax.lax.dynamic_slice(array, at, size)[0, 0, 0, order[0, 0, 0]]
    return jax.lax.dynamic_update_slice(array, head[None, None, None], at)

  rows = layers * batch * heads
  key = jax.lax.fori_loop(0, rows, move, cache.key)
  value = jax.lax.fori_loop(0, rows, move, cache.value)
  take = lambda array: jnp.take_along_axis(array, source, axis=-1)
  live = jnp.arange(slots).reshape(1, 1, 1, -1) < sizes[..., None]
  compacted = cache.replace(
    key=key,
    value=value,
    slots=SlotTable(
      valid=live,
      position=take(cache.slots.position),
      frame=take(cache.slots.frame),
      kind=take(cache.slots.kind),
    ),
    cursor=jnp.max(sizes).astype(jnp.int32),
  )
  return compacted, source
