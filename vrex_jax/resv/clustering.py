"""The hash-cluster table: which tokens belong together, layer by layer.

The rule, token by token:

  t joins the nearest cluster whose code differs from its own in fewer than
  Th_hd bits, the oldest of equally near ones; if there is none, t opens a
  cluster, whose code is its own.

`insert_chunk` does this for a whole chunk at once and gives the same codes,
members and counts, as long as a code stays what it was when its cluster opened.
`insert_tokens` is the rule itself, and can let codes follow the mean.

One table holds, per layer (L) and table (R: one per KV head, or one for all),
C clusters:

  index     0      1      2     …    num-1 |  free
  code      0b01…  0b11…  0b00…            |    0         u32[L, R, W, C]
  count     3      41     1                |    0         i32[L, R, C]
  key_sum   Σ k    Σ k    Σ k              |    0         f32[L, R, C, width]

  slot      0  1  2  3  …
  member    0  1  0  2  …  -1 (in no cluster)             i32[L, R, S]

Source: V-Rex (arXiv 2512.12284), Sec. IV.A-B, Figs. 8 and 10. The paper leaves
open who wins among several matches, and what a grown cluster's code is.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.resv import blocks
from vrex_jax.resv import hashing
from vrex_jax.typing import Array, Bool, Float, Int

__all__ = [
  "Table",
  "Tokens",
  "create",
  "insert_chunk",
  "insert_tokens",
  "table_bytes",
]

_INDEX_BITS = 22
"""Of a packed (distance, index): up to 4 M clusters and 511 bits."""
_NOWHERE = np.int32(2**31 - 1)


class Table(flax.struct.PyTreeNode):
  """Dynamic. Clusters of one stream, all layers.

  Attributes:
    code: hash code of every cluster.
    count: member tokens.
    key_sum: sum of the members' keys; over `count` it is the paper's
      Key_cluster.
    num: clusters in use.
    member: cluster of every slot; -1 for none.
    capacity: static; clusters that may be opened, at most C.
  """

  code: Array  # u32 [L, R, W, C]
  count: Int  # [L, R, C]
  key_sum: Float  # f32 [L, R, C, width]
  num: Int  # [L, R]
  member: Int  # [L, R, S]
  capacity: int = flax.struct.field(pytree_node=False)

  @property
  def block(self) -> int:
    """Clusters handled at once."""
    return blocks.padded(self.capacity)[1]


class Tokens(NamedTuple):
  """Dynamic. One chunk as the table sees it.

  Attributes:
    code: hash codes.
    key: what is summed.
    valid: False for padding, which joins nothing.
    start: slot of the first token.
  """

  code: Array  # u32 [L, R, T, W]
  key: Float  # f[L, R, T, width]
  valid: Bool  # [T]
  start: Int  # []


class Inserted(NamedTuple):
  """Dynamic. What an insertion did.

  Attributes:
    comparisons: pairs of codes that were compared.
    full: some token found no cluster and no room for one.
  """

  comparisons: Int  # [L, R]
  full: Bool  # [L, R]


def create(
  *,
  num_layers: int,
  num_tables: int,
  capacity: int,
  num_slots: int,
  width: int,
  bits: int,
) -> Table:
  """An empty table.

  Args:
    num_layers: L.
    num_tables: R.
    capacity: clusters that may be opened.
    num_slots: S.
    width: H, or K · H.
    bits: P.

  Example:
    >>> table = create(num_layers=2, num_tables=4, capacity=100, num_slots=512,
    ...                width=64, bits=32)
    >>> table.key_sum.shape
    (2, 4, 128, 64)
  """
  size, _ = blocks.padded(capacity)
  lead = (num_layers, num_tables)
  words = -(-bits // hashing.WORD_BITS)
  return Table(
    code=jnp.zeros((*lead, words, size), jnp.uint32),
    count=jnp.zeros((*lead, size), jnp.int32),
    key_sum=jnp.zeros((*lead, size, width), jnp.float32),
    num=jnp.zeros(lead, jnp.int32),
    member=jnp.full((*lead, num_slots), -1, jnp.int32),
    capacity=capacity,
  )


def table_bytes(table: Table) -> Int:
  """Bytes that the clusters in use and their members take: i32[L, R].

  Code, count and key sum of every cluster, and one index a member token; room
  that is allocated and free does not count.
  """
  words, width = table.code.shape[2], table.key_sum.shape[3]
  members = jnp.sum(table.count, axis=-1, dtype=jnp.int32)
  return table.num * 4 * (words + 1 + width) + 4 * members


def insert_chunk(
  table: Table,
  tokens: Tokens,
  threshold: Int,
  min_cosine: float | None = None,
) -> tuple[Table, Inserted]:
  """Puts a chunk into the table, all tokens at once.

  1. Every token looks for the nearest cluster of the table.
  2. Tokens that found none open clusters, unless an earlier opener of the
     chunk is near. Who opens depends on who opened before, so this is repeated
     until nothing changes; a token is right once all earlier ones are.
  3. Every token joins the nearest of both.

  Args:
    table: before the chunk; donate it.
    tokens: the chunk.
    threshold: i32[], Th_hd: a distance strictly below it is near.
    min_cosine: also ask that the cosine of key and mean key of the cluster (as
      of the chunk's beginning; of a cluster opened in the chunk, its first key)
      is at least this.

  Returns:
    The table and what was done. A token that finds neither a cluster nor room
    for one is in no cluster.
  """
  return _insert(table, tokens, _assign(table, tokens, threshold, min_cosine))


class _Assignment(NamedTuple):
  """Where a chunk goes."""

  cluster: Int  # [L, R, T]; -1 for none
  opens: Bool  # [L, R, T]
  comparisons: Int  # [L, R]


def _pack(distance: Int, index: Int, near: Bool) -> Int:
  """Orders pairs by distance, then by age; _NOWHERE where not near."""
  return jnp.where(near, (distance << _INDEX_BITS) | index, _NOWHERE)


def _cosine_above(
  key: Float, other: Float, min_cosine: float | None
) -> Bool | bool:
  """b[L, R, T, C]; f[L, R, T, width] and f[L, R, C, width]."""
  if min_cosine is None:
    return True
  # At the scale of its largest entry the square of no key overflows.
  largest = lambda one: jnp.max(jnp.abs(one), axis=-1, keepdims=True)
  scaled = lambda one: one / jnp.where(largest(one) > 0, largest(one), 1.0)
  key, other = (scaled(one.astype(jnp.float32)) for one in (key, other))
  dot = jnp.einsum("lrth,lrch->lrtc", key, other)
  norm = lambda one: jnp.sqrt(jnp.sum(one * one, axis=-1))
  return dot >= min_cosine * norm(key)[..., None] * norm(other)[:, :, None]


def _nearest_in_table(
  table: Table, tokens: Tokens, threshold: Int, min_cosine: float | None
) -> Int:
  """The best (distance, index) in the table: i32[L, R, T]."""
  layers, num_tables, length, _ = tokens.code.shape
  block = table.block

  def body(first, best):
    code = jax.lax.dynamic_slice_in_dim(table.code, first, block, axis=3)
    distance = hashing.hamming_distance(tokens.code, code)
    index = (first + jnp.arange(block, dtype=jnp.int32)).reshape(1, 1, 1, -1)
    near = (distance < threshold) & (index < table.num[..., None, None])
    if min_cosine is not None:
      mean = jax.lax.dynamic_slice_in_dim(table.key_sum, first, block, axis=2)
      near = near & _cosine_above(tokens.key, mean, min_cosine)
    return jnp.minimum(best, jnp.min(_pack(distance, index, near), axis=-1))

  start = jnp.full((layers, num_tables, length), _NOWHERE)
  return blocks.fold(jnp.max(table.num), block, body, start)


def _assign(
  table: Table, tokens: Tokens, threshold: Int, min_cosine: float | None
) -> _Assignment:
  length = tokens.code.shape[2]
  valid = tokens.valid[None, None]
  in_table = _nearest_in_table(table, tokens, threshold, min_cosine)
  distance = hashing.hamming_distance(
    tokens.code, jnp.swapaxes(tokens.code, -1, -2)
  )
  earlier = jnp.tril(jnp.ones((length, length), bool), k=-1)[None, None]
  near = (distance < threshold) & earlier
  near = near & _cosine_above(tokens.key, tokens.key, min_cosine)
  free = (in_table == _NOWHERE) & valid

  def body(carry):
    _, opens = carry
    taken = jnp.any(near & opens[:, :, None, :], axis=-1)
    following = free & ~taken
    return jnp.any(following != opens), following

  _, opens = jax.lax.while_loop(
    lambda carry: carry[0], body, (jnp.asarray(True), free)
  )
  rank = table.num[..., None] + jnp.cumsum(opens, -1, dtype=jnp.int32) - 1
  fits = opens & (rank < table.capacity)
  own = jnp.eye(length, dtype=bool)[None, None]
  candidates = fits[:, :, None, :] & (near | own)
  in_chunk = jnp.min(_pack(distance, rank[:, :, None, :], candidates), axis=-1)
  best = jnp.minimum(in_table, in_chunk)
  found = (best != _NOWHERE) & valid
  many = jnp.sum(tokens.valid, dtype=jnp.int32)
  return _Assignment(
    cluster=jnp.where(found, best & ((1 << _INDEX_BITS) - 1), -1),
    opens=fits,
    comparisons=many * table.num + many * (many - 1) // 2,
  )


def _insert(
  table: Table, tokens: Tokens, assignment: _Assignment
) -> tuple[Table, Inserted]:
  layers, num_tables, _, words = tokens.code.shape
  size, width = table.key_sum.shape[2:]
  cluster = assignment.cluster
  row = jnp.arange(layers * num_tables, dtype=jnp.int32)
  row = row.reshape(layers, num_tables, 1)
  outside = layers * num_tables * size
  place = jnp.where(cluster >= 0, row * size + cluster, outside)
  flat = place.reshape(-1)
  count = table.count.reshape(-1).at[flat].add(1, mode="drop")
  key_sum = (
    table.key_sum.reshape(-1, width)
    .at[flat]
    .add(tokens.key.astype(jnp.float32).reshape(-1, width), mode="drop")
  )
  code = table.code.reshape(-1)
  for word in range(words):
    at = (row * words + word) * size + cluster
    at = jnp.where(assignment.opens, at, words * outside)
    code = code.at[at.reshape(-1)].set(
      tokens.code[..., word].reshape(-1), mode="drop"
    )
  member = jax.lax.dynamic_update_slice_in_dim(
    table.member, cluster, tokens.start, axis=2
  )
  opened = jnp.sum(assignment.opens, axis=-1, dtype=jnp.int32)
  after = table.replace(
    code=code.reshape(table.code.shape),
    count=count.reshape(table.count.shape),
    key_sum=key_sum.reshape(table.key_sum.shape),
    num=table.num + opened,
    member=member,
  )
  left_out = (cluster < 0) & tokens.valid[None, None]
  full = jnp.any(left_out, axis=-1)
  return after, Inserted(assignment.comparisons, full)


def insert_tokens(
  table: Table,
  tokens: Tokens,
  threshold: Int,
  min_cosine: float | None = None,
  planes: Array | np.ndarray | None = None,
  center: Float | None = None,
) -> tuple[Table, Inserted]:
  """Puts a chunk into the table, one token after the other: the rule itself.

  Args:
    table: before the chunk.
    tokens: the chunk.
    threshold: i32[], Th_hd.
    min_cosine: see `insert_chunk`; the mean key is the one at the time.
    planes: f32[width, 32 W]; when given, the code of a cluster follows its
      mean key: it is hashed anew whenever a token joins.
    center: f32[L, R, width], what is taken off a mean before it is hashed.

  Returns:
    The table and what was done.
  """
  length = tokens.code.shape[2]

  def body(index, carry):
    table_, comparisons, full = carry
    one = Tokens(
      code=jax.lax.dynamic_slice_in_dim(tokens.code, index, 1, axis=2),
      key=jax.lax.dynamic_slice_in_dim(tokens.key, index, 1, axis=2),
      valid=jax.lax.dynamic_slice_in_dim(tokens.valid, index, 1),
      start=tokens.start + index,
    )
    table_, done = insert_chunk(table_, one, threshold, min_cosine)
    if planes is not None:
      table_ = _rehash(table_, one, planes, center)
    return table_, comparisons + done.comparisons, full | done.full

  start = (table, jnp.zeros_like(table.num), jnp.zeros(table.num.shape, bool))
  table, comparisons, full = jax.lax.fori_loop(0, length, body, start)
  return table, Inserted(comparisons, full)


def _rehash(
  table: Table,
  one: Tokens,
  planes: Array | np.ndarray,
  center: Float | None,
) -> Table:
  """The codes of the clusters that one token joined, from their mean keys."""
  cluster = jax.lax.dynamic_slice_in_dim(table.member, one.start, 1, axis=2)
  size = table.code.shape[3]
  held = jnp.maximum(cluster, 0)
  total = jnp.take_along_axis(table.key_sum, held[..., None], axis=2)
  if center is not None:
    count = jnp.take_along_axis(table.count, held, axis=2)
    total = total - count[..., None].astype(jnp.float32) * center[:, :, None]
  # The sign of a projection does not depend on the length of the mean.
  code = hashing.hash_codes(total, planes)  # [L, R, 1, W]
  index = jnp.arange(size, dtype=jnp.int32).reshape(1, 1, size)
  here = (index == cluster)[:, :, None]
  return table.replace(
    code=jnp.where(here, jnp.swapaxes(code, 2, 3), table.code)
  )
