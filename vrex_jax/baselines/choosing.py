"""Choosing slots: the best ones of every row, and who asks.

A row is one query head or one KV head. Scores are float32, larger is better,
-inf is never chosen.
"""

import chex
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.typing import Bitmap, Bool, Float, Int, PyTree

__all__ = [
  "CHUNK_RULES",
  "HEAD_RULES",
  "asking_rows",
  "chunk_slots",
  "count_groups",
  "highest",
  "keep_all",
  "one_part",
  "products",
  "set_of",
  "to_rows",
]

CHUNK_RULES = ("mean", "max")
"""How a chunk of several tokens asks: by its mean query, or every token does
and a slot has the best of the scores. For one token, as in decoding, both are
the published rule."""
HEAD_RULES = ("query", "kv")
"""Whose sets: of each query head, or their union in each KV head."""


def asking_rows(
  queries: policy_lib.Queries, kv_heads: int, chunk: str
) -> tuple[Float, Bool]:
  """Rotated queries that score the past, by KV head.

  Args:
    queries: of the chunk.
    kv_heads: K.
    chunk: one of `CHUNK_RULES`.

  Returns:
    f32[K, G, M, H] and b[M], which of them count: M is 1 for "mean", T for
    "max".
  """
  heads, length, width = queries.rotated.shape
  query = queries.rotated.astype(jnp.float32)
  valid = queries.valid
  if chunk == "mean":
    live = valid.astype(jnp.float32)[None, :, None]
    number = jnp.maximum(jnp.sum(valid), 1).astype(jnp.float32)
    query = jnp.sum(query * live, axis=1, keepdims=True) / number
    valid = jnp.any(valid)[None]
    length = 1
  return query.reshape(kv_heads, heads // kv_heads, length, width), valid


def products(query: Float, table: Float) -> Float:
  """q · r of every asking row and every row r of its head's table.

  One product a head: XLA for CPUs turns a whole table round in memory before a
  product over several heads.

  Args:
    query: f32[K, G, M, H], as of `asking_rows`.
    table: f32[K, P, H].

  Returns:
    f32[K, G, M, P].
  """
  heads, group, length, width = query.shape
  rows = query.reshape(heads, group * length, width)
  each = [
    jnp.einsum("mh,ph->mp", rows[head], table[head]) for head in range(heads)
  ]
  return jnp.stack(each).reshape(heads, group, length, table.shape[1])


@jax.jit
def highest(score: Float, number: Int) -> Bool:
  """The `number` best of every row; of equal ones the first.

  The threshold is found bit by bit in an order-preserving integer image of the
  scores, so that `number` may be traced and no row is sorted.

  Args:
    score: f32[..., S], -inf where there is nothing to choose.
    number: i32[] or i32[...], at least 0.

  Returns:
    b[..., S], min(number, scores above -inf) set in each row.

  Example:
    >>> highest(jnp.array([1.0, 3.0, 3.0, 2.0]), jnp.int32(2)).tolist()
    [False, True, True, False]
  """
  number = jnp.broadcast_to(number, score.shape[:-1])
  image = _ordered(score.astype(jnp.float32))
  reach = lambda threshold: jnp.sum(
    image >= threshold[..., None], axis=-1, dtype=jnp.int32
  )

  def body(step, threshold):
    bit = jnp.uint32(1) << (jnp.uint32(31) - step.astype(jnp.uint32))
    raised = threshold | bit
    return jnp.where(reach(raised) >= number, raised, threshold)

  # The largest threshold that still lets `number` scores pass.
  threshold = jax.lax.fori_loop(
    jnp.int32(0), jnp.int32(32), body, jnp.zeros(number.shape, jnp.uint32)
  )[..., None]
  above = image > threshold
  equal = image == threshold
  room = number - jnp.sum(above, axis=-1, dtype=jnp.int32)
  first = jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= room[..., None]
  return (above | (equal & first)) & (score > -jnp.inf)


def _ordered(score: Float) -> Int:
  """u32 that compares as the floats do; -0.0 and 0.0 are one."""
  one_zero = jnp.where(score == 0.0, 0.0, score)
  bits = jax.lax.bitcast_convert_type(one_zero, jnp.uint32)
  negative = bits >> jnp.uint32(31) == 1
  return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def to_rows(chosen: Bool, heads: str) -> Bitmap:
  """Choices of query heads as sets of a policy's rows.

  Args:
    chosen: b[K, G, S].
    heads: one of `HEAD_RULES`.

  Returns:
    u32[N, S / 32], or the union over each group, u32[K, S / 32].
  """
  chex.assert_rank(chosen, 3)
  if heads == "kv":
    return bitmap.pack(jnp.any(chosen, axis=1))
  return bitmap.pack(chosen.reshape(-1, chosen.shape[-1]))


def set_of(mask: Bool, rows: int) -> Bitmap:
  """One set for all rows: b[S] -> u32[rows, S / 32]."""
  packed = bitmap.pack(mask)
  return jnp.broadcast_to(packed[None], (rows, packed.shape[-1]))


def one_part(
  view: policy_lib.View, slots: Bitmap, **rules
) -> tuple[policy_lib.Selection, policy_lib.Counts]:
  """A selection of one part, and counts of zero."""
  part = policy_lib.Part(slots=slots, **rules)
  counts = policy_lib.zero_counts((view.num_kv_heads,))
  return policy_lib.Selection(parts=(part,)), counts


def count_groups(
  counts: policy_lib.Counts, live: Int, query: Float, asks: Bool
) -> policy_lib.Counts:
  """Counts of groups (clusters, pages) that all asking rows have scored.

  Args:
    counts: of one part.
    live: i32[K], groups.
    query: f32[K, G, M, H], as of `asking_rows`.
    asks: b[M], likewise.
  """
  rows = query.shape[1] * jnp.sum(asks, dtype=jnp.int32)
  return counts._replace(groups_live=live, groups_scored=live * rows)


def chunk_slots(chunk: policy_lib.Chunk, num_slots: int) -> Bool:
  """Slots that hold the chunk's valid tokens: b[S]."""
  length = chunk.valid.shape[0]
  offset = jnp.arange(num_slots) - chunk.start
  inside = (offset >= 0) & (offset < length)
  return inside & chunk.valid[jnp.clip(offset, 0, length - 1)]


def keep_all(
  state: PyTree, view: policy_lib.View, chunk: policy_lib.Chunk, stage: str
) -> tuple[PyTree, None, policy_lib.Counts]:
  """`write` of a policy that keeps no table and evicts nothing."""
  del view, stage
  return state, None, policy_lib.zero_counts(chunk.k_rotated.shape[:2])
