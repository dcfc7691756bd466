"""Work list: chunks of selected slots of all rows and streams, end to end.

A loop over the list costs time in proportion to the slots that were selected,
whatever the capacity and however unequal the rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax.models import rotary
from vrex_jax.typing import Array, Bitmap, Bool, Float, Int

__all__ = [
  "CHUNK",
  "SCORE_BYTES",
  "Items",
  "KeyRotation",
  "WorkList",
  "build",
  "gather",
  "group_size",
  "items_of",
]

CHUNK = 256
"""Slots one item of the work list gathers."""
GROUP = 8
"""Items of the work list handled in one step, at most."""
SCORE_BYTES = 2**21
"""Scores one step on a CPU computes at most, in bytes: what its cache holds."""


class KeyRotation(NamedTuple):
  """Dynamic. Where gathered keys are moved before they are scored.

  Attributes:
    stored: positions the keys were rotated by.
    frequencies: radians per position of every pair.
    target: position all keys of a stream move to; None moves each key to its
      rank in its set (0 for the oldest selected slot).
  """

  stored: Int  # [B, S] or [L, B, K, S]
  frequencies: Array  # f32 [H / 2]
  target: Int | None  # [B] or None


class WorkList(NamedTuple):
  """Chunks of selected slots of all rows, laid end to end.

  Row r owns items first[r] … last[r] - 1; item i holds its ranks
  (i - first[r]) · CHUNK onwards.

    row     0       0       1       2       2       2
    item    0       1       2       3       4       5        total 6
    ranks   0-255   256-400 0-17    0-255   256-511 512-600
  """

  words: Bitmap  # [R, W]
  ends: Int  # [R, W]
  sizes: Int  # [R]
  first: Int  # [R]
  last: Int  # [R]
  total: Int  # []


def build(slots: Bitmap) -> WorkList:
  """The work list of one set of slots per row, u32[B, A, S / 32]; R = B · A."""
  batch, rows, num_words = slots.shape
  words = slots.reshape(batch * rows, num_words)
  bits = jax.lax.population_count(words).astype(jnp.int32)
  ends = jnp.cumsum(bits, axis=-1)
  sizes = ends[:, -1]
  items = (sizes + CHUNK - 1) // CHUNK
  last = jnp.cumsum(items)
  return WorkList(words, ends, sizes, last - items, last, last[-1])


def group_size(rank: int) -> int:
  """Items a step handles when every row has `rank` queries."""
  return max(1, min(GROUP, SCORE_BYTES // (4 * rank * CHUNK)))


class Items(NamedTuple):
  """A group of work items: which row, which slots, which cache rows."""

  row: Int  # [g]
  live: Bool  # [g, c]
  rank: Int  # [g, c]
  source: Int  # [g, c] row of keys.reshape(-1, H)
  shift: Int | None  # [g, c] positions to rotate the keys by


def items_of(
  work: WorkList,
  step: Int,
  shape: tuple[int, ...],
  num_rows: int,
  layer: int,
  rotation: KeyRotation | None,
  group: int,
) -> Items:
  """The items step, step + 1, … step + group - 1."""
  _, batch, kv_heads, slots, _ = shape
  item = step + jnp.arange(group)
  row = jnp.sum(work.last[None, :] <= item[:, None], axis=-1)
  row = jnp.minimum(row, work.last.shape[0] - 1)
  offset = (item - work.first[row]) * CHUNK
  rank = offset[:, None] + jnp.arange(CHUNK)[None]
  live = (rank < work.sizes[row][:, None]) & (item < work.total)[:, None]
  rank = jnp.where(live, rank, 0)
  owner = jnp.broadcast_to(row[:, None], rank.shape)
  slot = bitmap.select_ranked(work.words, work.ends, owner, rank)
  stream, head = row // num_rows, row % num_rows * kv_heads // num_rows
  plane = (layer * batch + stream) * kv_heads + head
  source = plane[:, None] * slots + slot
  shift = None
  if rotation is not None:
    if rotation.stored.ndim == 4:
      stored = rotation.stored.reshape(-1)[source]
    else:
      stored = rotation.stored.reshape(-1)[stream[:, None] * slots + slot]
    if rotation.target is None:
      shift = rank - stored
    else:
      shift = rotation.target[stream][:, None] - stored
  return Items(row, live, rank, source, shift)


def gather(
  keys: Float,
  values: Float,
  items: Items,
  rotation: KeyRotation | None,
  dtype: jnp.dtype,
) -> tuple[Float, Float]:
  """Keys (moved to their new position) and values of a group: f[g, c, H]."""
  width = keys.shape[-1]
  key = keys.reshape(-1, width)[items.source].astype(dtype)
  value = values.reshape(-1, width)[items.source].astype(dtype)
  if rotation is not None and items.shift is not None:
    key = rotary.rotate(key, rotary.angles(items.shift, rotation.frequencies))
  return key, value
