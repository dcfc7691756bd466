"""From a selection to attention and counts: the driver's half of a layer.

Past slots come as sets (`bitmap`). The driver intersects what a policy
selected with the live slots, adds the recent ones, merges every part with the
chunk's own attention, and counts what was read.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import order
from vrex_jax import policy as policy_lib
from vrex_jax.models import attention
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import partial as partial_lib
from vrex_jax.models import past_attention
from vrex_jax.models import rotary
from vrex_jax.models import work_list
from vrex_jax.typing import Array, Bitmap, Bool, Float, Int

__all__ = [
  "Attended",
  "ChunkInputs",
  "SlotSets",
  "attend",
  "attended_slots",
  "driver_counts",
  "slot_sets",
]


class SlotSets(NamedTuple):
  """Dynamic. Sets of past slots, the same during one chunk.

  Axes [B, 1, S / 32] when all layers and heads hold the same tokens, else
  [L, B, K, S / 32].

  Attributes:
    live: valid, below the cursor.
    recent: live and among the last `recent_tokens` of the stream.
    resident: live and among the last `resident_tokens`.
  """

  live: Bitmap
  recent: Bitmap
  resident: Bitmap

  def at(self, layer: int) -> "SlotSets":
    """The sets of one layer: u32[B, 1 or K, S / 32]."""
    if self.live.ndim == 3:
      return self
    return SlotSets(*(sets[layer] for sets in self))


class ChunkInputs(NamedTuple):
  """Dynamic. One chunk at one layer, projected and rotated.

  Attributes:
    query: rotated.
    query_raw: before rotation.
    key: rotated.
    value: values.
    position: position of every token.
    valid: False for padding.
    offset: tokens of the chunk before this one (0 … T - 1).
    start: first slot of the chunk.
  """

  query: Float  # [B, N, T, H]
  query_raw: Float  # [B, N, T, H]
  key: Float  # [B, K, T, H]
  value: Float  # [B, K, T, H]
  position: Int  # [B, T]
  valid: Bool  # [B, T]
  offset: Int  # [B, T]
  start: Int  # []


class Attended(NamedTuple):
  """Dynamic. Result of one layer's attention.

  Attributes:
    out: attention output per query head.
    counts: the driver's counts; the policy's are zero.
    past: slots read, by any part.
    mass: attention mass per slot, the chunk's own slots included; None unless
      asked for.
  """

  out: Float  # f32 [B, N, T, H]
  counts: policy_lib.Counts  # [B, K]
  past: Bitmap  # [B, A, S / 32]
  mass: Float | None  # f32 [B, A, S]


def slot_sets(
  cache: cache_lib.KVCache,
  *,
  next_position: Int,
  recent_tokens: Int,
  resident_tokens: Int,
) -> SlotSets:
  """Live, recent and resident slots before a chunk.

  Args:
    cache: the cache.
    next_position: i32[B], position of the chunk's first token; a token is
      among the last n when its position is at least next_position - n.
    recent_tokens: i32[], n of the always attended window.
    resident_tokens: i32[], n of the window on the device.
  """
  slots = cache.slots
  index = jnp.arange(slots.valid.shape[-1])
  below = (index < cache.cursor).reshape((1,) * (slots.valid.ndim - 1) + (-1,))
  if cache.per_head:
    now = next_position[None, :, None, None]
    expand = bitmap.pack
  else:
    now = next_position[:, None]
    expand = lambda mask: bitmap.pack(mask)[:, None]
  live = slots.valid & below
  age = now - slots.position
  return SlotSets(
    live=expand(live),
    recent=expand(live & (age <= recent_tokens)),
    resident=expand(live & (age <= resident_tokens)),
  )


def attended_slots(
  selection: policy_lib.Selection, sets: SlotSets, rows: int
) -> list[Bitmap]:
  """Every part's set, u32[B, A, S / 32]; recent slots join the first part.

  Args:
    selection: batched over B.
    sets: of the layer.
    rows: A.
  """
  parts = selection.parts
  per_row = lambda sets_: jnp.repeat(sets_, rows // sets_.shape[1], axis=1)
  live, recent = per_row(sets.live), per_row(sets.recent)
  for part in parts:
    if part.slots is not None:
      chex.assert_shape(part.slots, live.shape)
  slots = [live if part.slots is None else part.slots & live for part in parts]
  held_elsewhere = jnp.zeros_like(live)
  for other in slots[1:]:
    held_elsewhere = held_elsewhere | other
  slots[0] = slots[0] | (recent & ~held_elsewhere)
  return slots


def _part_query(
  part: policy_lib.Part,
  slots: Bitmap,
  chunk: ChunkInputs,
  frequencies: Array,
) -> Float:
  """The chunk's queries at the positions a part asks for: f[B, A, M, H]."""
  rows = slots.shape[1]
  if part.query_rule == "original":
    return attention.group_queries(chunk.query, rows)
  batch, heads, length, _ = chunk.query_raw.shape
  if part.query_rule == "rank":
    first = bitmap.count(slots)  # [B, A]
    position = first[:, :, None] + chunk.offset[:, None, :]
  elif part.query_rule == "fixed" and part.query_position is not None:
    position = jnp.broadcast_to(
      part.query_position[:, None, None], (batch, rows, length)
    )
  else:
    raise ValueError(
      f"query_rule is {part.query_rule!r}; it must be original, rank or"
      " fixed with a query_position: fix the policy's selection"
    )
  angle = rotary.angles(position, frequencies)  # [B, A, T, H/2]
  angle = jnp.repeat(angle, heads // rows, axis=1)  # [B, N, T, H/2]
  return attention.group_queries(rotary.rotate(chunk.query_raw, angle), rows)


def _part_rotation(
  part: policy_lib.Part, cache: cache_lib.KVCache, frequencies: Array
) -> work_list.KeyRotation | None:
  if part.key_rule == "original":
    return None
  if part.key_rule not in ("rank", "fixed"):
    raise ValueError(
      f"key_rule is {part.key_rule!r}; it must be original, rank or fixed:"
      " fix the policy's selection"
    )
  target = None
  if part.key_rule == "fixed":
    target = part.key_position
    if target is None:
      raise ValueError(
        "key_rule is fixed without a key_position; it says where all keys"
        " move to: fix the policy's selection"
      )
  return work_list.KeyRotation(cache.slots.position, frequencies, target)


def driver_counts(
  slots: list[Bitmap],
  sets: SlotSets,
  valid: Bool,
  seen: Int,
  kv_heads: int,
  prefetched: Bitmap | None = None,
) -> policy_lib.Counts:
  """The driver's counts of one layer: i32[B, K] each.

  Args:
    slots: from `attended_slots`.
    sets: of the layer.
    valid: b[B, T], tokens of the chunk.
    seen: i32[B], tokens before it.
    kv_heads: K.
    prefetched: u32[B, A, S / 32], asked for by the previous step.
  """
  batch, rows, _ = slots[0].shape
  group = lambda rows_: rows_.reshape(batch, kv_heads, rows // kv_heads, -1)

  def union(rows_):
    grouped = group(rows_)
    merged = grouped[:, :, 0]
    for row in range(1, grouped.shape[2]):
      merged = merged | grouped[:, :, row]
    return merged

  attended = sum((bitmap.count(part) for part in slots), jnp.int32(0))
  loaded = union(functools.reduce(jnp.bitwise_or, slots))
  fetched = loaded & ~sets.resident
  exposed = fetched
  if prefetched is not None:
    exposed = fetched & ~union(prefetched)
  wide = lambda per_stream: jnp.broadcast_to(
    per_stream[:, None], (batch, kv_heads)
  )
  held = jnp.broadcast_to(bitmap.count(sets.live), (batch, kv_heads))
  return policy_lib.zero_counts((batch, kv_heads))._replace(
    chunk_tokens=wide(jnp.sum(valid, axis=-1, dtype=jnp.int32)),
    past_seen=wide(seen),
    past_held=held,
    past_attended=jnp.sum(group(attended[..., None]), axis=(-1, -2)),
    past_loaded=bitmap.count(loaded),
    past_fetched=bitmap.count(fetched),
    past_exposed=bitmap.count(exposed),
    fetch_runs=bitmap.count_runs(fetched),
  )


def _mass(
  parts: list[tuple[Float, Bitmap, work_list.KeyRotation | None]],
  cache: cache_lib.KVCache,
  layer: int,
  chunk: ChunkInputs,
  lse: Float,
) -> Float:
  """Mass per slot, past and chunk: f32[B, A, S]; lse f32[B, A, M]."""
  batch, rows, rank = lse.shape
  heads, length = chunk.query.shape[1:3]
  valid = jnp.broadcast_to(chunk.valid[:, None], (batch, heads, length))
  valid = valid.reshape(batch, rows, rank)
  mass = sum(
    (
      past_attention.slot_mass(
        query, cache.key, slots, rotation, layer, lse, valid
      )
      for query, slots, rotation in parts
    ),
    jnp.float32(0.0),
  )
  own = attention.chunk_mass(
    chunk.query, chunk.key, chunk.valid, lse.reshape(batch, heads, length)
  )
  own = own.reshape(batch, rows, heads // rows, length).sum(axis=2)
  return jax.lax.dynamic_update_slice(mass, own, (0, 0, chunk.start))


def _attend_whole(
  query: Float, cache: cache_lib.KVCache, layer: int
) -> partial_lib.Partial:
  """Every live slot without a gather; the rows of a KV head read it once."""
  batch, _, _, width = query.shape
  out, lse = past_attention.prefix_attention(
    query.reshape(batch, cache.key.shape[2], -1, width),
    cache.key,
    cache.value,
    cache.slots.valid,
    cache.cursor,
    layer,
  )
  return partial_lib.Partial(
    out.reshape(query.shape), lse.reshape(query.shape[:-1])
  )


def attend(
  selection: policy_lib.Selection,
  *,
  layer: int,
  cache: cache_lib.KVCache,
  chunk: ChunkInputs,
  sets: SlotSets,
  rows: int,
  seen: Int,
  frequencies: Array,
  prefetched: Bitmap | None = None,
  want_mass: bool = False,
) -> Attended:
  """One layer's attention: selected past, recent past and the chunk itself.

  Args:
    selection: batched over B.
    layer: l.
    cache: the chunk's keys and values already appended.
    chunk: projected inputs.
    sets: slot sets of the chunk (all layers).
    rows: A.
    seen: i32[B], tokens before the chunk.
    frequencies: f32[H / 2], radians per position.
    prefetched: u32[B, A, S / 32], slots asked for by the previous step.
    want_mass: also return attention mass.

  Returns:
    Attended.
  """
  here = sets.at(layer)
  heads, kv_heads = chunk.query.shape[1], chunk.key.shape[1]
  slots = attended_slots(selection, here, rows)
  own = attention.chunk_attention(
    chunk.query, chunk.key, chunk.value, chunk.valid
  )
  partials = [
    partial_lib.Partial(
      attention.group_queries(own.out, rows),
      attention.group_queries(own.lse[..., None], rows)[..., 0],
    )
  ]
  scored = []
  for part, part_slots in zip(selection.parts, slots, strict=True):
    query = _part_query(part, part_slots, chunk, frequencies)
    rotation = _part_rotation(part, cache, frequencies)
    scored.append((query, part_slots, rotation))
    whole = part.slots is None and not cache.per_head
    if whole and rotation is None:
      partials.append(_attend_whole(query, cache, layer))
    else:
      partials.append(
        past_attention.work_list_attention(
          query, cache.key, cache.value, part_slots, rotation, layer
        )
      )
    if part.extra is not None:
      partials.append(attention.extra_attention(query, *part.extra))
  out, lse = partial_lib.merge(tuple(partials))
  mass = None
  if want_mass:
    mass = _mass(scored, cache, layer, chunk, lse)
    # Before the next layer writes to the cache, which it would else copy.
    out = order.after(mass, out)
  counts = driver_counts(slots, here, chunk.valid, seen, kv_heads, prefetched)
  if any(part.extra is not None for part in selection.parts):
    # What is stored waits for the counts, and so for all reads of a policy's
    # state; extra rows are read by attention, which no count depends on.
    counts = jax.tree.map(lambda leaf: order.after(out, leaf), counts)
  return Attended(
    out=attention.ungroup_queries(out, heads),
    counts=counts,
    past=functools.reduce(jnp.bitwise_or, slots),
    mass=mass,
  )
