"""Attention of a chunk to the past, over as many slots as were selected.

Each function returns a `Partial`: softmax attention over *its* keys and the
log of its normaliser. Partials over disjoint keys merge exactly:

  out = Σ_i exp(lse_i - lse) out_i,    lse = log Σ_i exp(lse_i)

Rows: a selection row (A of them: one per KV head, or one per query head) has M
query rows, M = T · N / A, that share one selected set of slots.

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
from vrex_jax.models import rotary
from vrex_jax.typing import Array, Bitmap, Bool, Float, Int

__all__ = [
  "KeyRotation",
  "Partial",
  "chunk_attention",
  "chunk_mass",
  "extra_attention",
  "group_queries",
  "merge",
  "prefix_attention",
  "slot_mass",
  "ungroup_queries",
  "work_list_attention",
]

PREFIX_CHUNK = 512
"""Slots one step of `prefix_attention` reads; divides every cache's S."""
LIST_CHUNK = 256
"""Slots one item of the work list gathers."""
LIST_GROUP = 8
"""Items of the work list handled in one step, at most."""
SCORE_BYTES = 2**21
"""Scores one step on a CPU computes at most, in bytes: what its cache holds."""


class Partial(NamedTuple):
  """Dynamic. Attention over one set of keys, ready to be merged.

  Attributes:
    out: softmax(scores) values over these keys; 0 where there are none.
    lse: log of the sum of exponentials; -inf where there are no keys.
  """

  out: Float  # f32 [B, A, M, H]
  lse: Float  # f32 [B, A, M]


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


def group_queries(query: Float, rows: int) -> Float:
  """f[B, N, T, H] -> f[B, A, M, H]: query heads folded into selection rows."""
  batch, heads, length, width = query.shape
  return query.reshape(batch, rows, heads // rows * length, width)


def ungroup_queries(out: Float, heads: int) -> Float:
  """f[B, A, M, H] -> f[B, N, T, H]."""
  batch, rows, rank, width = out.shape
  return out.reshape(batch, heads, rows * rank // heads, width)


def merge(partials: tuple[Partial, ...]) -> Partial:
  """Attention over the union of disjoint key sets.

  At least one partial must have a key for every row (the chunk itself does).
  """
  logs = jnp.stack([partial.lse for partial in partials])
  lse = jax.nn.logsumexp(logs, axis=0)
  weights = jnp.exp(logs - lse[None])[..., None]
  out = jnp.zeros_like(partials[0].out)
  for weight, partial in zip(weights, partials, strict=True):
    out = out + weight * partial.out
  return Partial(out, lse)


def chunk_attention(
  query: Float, key: Float, value: Float, valid: Bool
) -> Partial:
  """Causal attention inside the current chunk.

  Args:
    query: f[B, N, T, H], rotated.
    key: f[B, K, T, H], rotated.
    value: f[B, K, T, H].
    valid: b[B, T]; padding is not attended, except by itself.

  Returns:
    Partial with A = N, M = T.

  Example:
    >>> ones = jnp.ones((1, 1, 3, 4))
    >>> chunk_attention(ones, ones, ones, jnp.ones((1, 3), bool)).out.shape
    (1, 1, 3, 4)
  """
  batch, heads, length, width = query.shape
  chex.assert_equal_shape([key, value])
  scores = _chunk_scores(query, key, valid)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - top[..., None])
  total = jnp.sum(weights, axis=-1)
  out = jnp.einsum(
    "bkgts,bksh->bkgth",
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  )
  return Partial(
    (out / total[..., None]).reshape(batch, heads, length, width),
    (top + jnp.log(total)).reshape(batch, heads, length),
  )


def _chunk_scores(query: Float, key: Float, valid: Bool) -> Float:
  """Masked scores inside the chunk: f32[B, K, G, T, T]."""
  batch, heads, length, width = query.shape
  kv_heads = key.shape[1]
  grouped = query.reshape(batch, kv_heads, heads // kv_heads, length, width)
  scores = jnp.einsum(
    "bkgth,bksh->bkgts", grouped, key, preferred_element_type=jnp.float32
  ) * (width**-0.5)
  causal = jnp.tril(jnp.ones((length, length), bool))[None]
  mask = (causal & valid[:, None, :]) | jnp.eye(length, dtype=bool)[None]
  return jnp.where(mask[:, None, None], scores, -jnp.inf)


def chunk_mass(query: Float, key: Float, valid: Bool, lse: Float) -> Float:
  """Attention mass each token of the chunk received from the chunk.

  Args:
    query: f[B, N, T, H], rotated.
    key: f[B, K, T, H], rotated.
    valid: b[B, T]; rows and columns of padding count nothing.
    lse: f32[B, N, T], log-normaliser of the whole attention.

  Returns:
    f32[B, N, T], summed over the T query rows of each head.
  """
  scores = _chunk_scores(query, key, valid)
  weights = jnp.exp(scores - lse.reshape(scores.shape[:-1])[..., None])
  both = valid[:, :, None] & valid[:, None, :]
  weights = jnp.where(both[:, None, None], weights, 0.0)
  return jnp.sum(weights, axis=-2).reshape(lse.shape)


def extra_attention(
  query: Float, key: Float, value: Float, log_weight: Float
) -> Partial:
  """Attention to rows that stand for several tokens each.

  Row e counts as exp(log_weight_e) copies of itself: its score is
  q · k_e / sqrt(H) + log_weight_e. A weight of -inf switches a row off.

  Args:
    query: f[B, A, M, H].
    key: f[B, A, E, H].
    value: f[B, A, E, H].
    log_weight: f[B, A, E].

  Returns:
    Partial over the E rows.

  Source: estimation zone of RetroInfer, arXiv 2505.02922.
  """
  chex.assert_equal_shape([key, value])
  scores = jnp.einsum(
    "bamh,baeh->bame", query, key, preferred_element_type=jnp.float32
  ) * (query.shape[-1] ** -0.5)
  scores = scores + log_weight[:, :, None, :].astype(jnp.float32)
  # Not logsumexp: where every row is off, its derivative is 0 / 0.
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  top = jnp.maximum(top, _LOWEST)
  weights = jnp.exp(scores - top[..., None])
  out = jnp.einsum(
    "bame,baeh->bamh", weights, value, preferred_element_type=jnp.float32
  )
  return _finish(_Running(top, jnp.sum(weights, axis=-1), out), out.shape)


class _Running(NamedTuple):
  """Online softmax of every row: maximum, sum of exponentials, weighted sum."""

  top: Float  # f32 [R, M]
  total: Float  # f32 [R, M]
  out: Float  # f32 [R, M, H]


# Finite, so that top - top is 0 rather than nan in rows without keys.
_LOWEST = -1e30


def _start(rows: int, rank: int, width: int) -> _Running:
  return _Running(
    jnp.full((rows, rank), _LOWEST, jnp.float32),
    jnp.zeros((rows, rank), jnp.float32),
    jnp.zeros((rows, rank, width), jnp.float32),
  )


def _finish(running: _Running, shape: tuple[int, ...]) -> Partial:
  seen = running.total > 0
  total = jnp.where(seen, running.total, 1.0)
  out = running.out / total[..., None]
  lse = jnp.where(seen, running.top + jnp.log(total), -jnp.inf)
  return Partial(out.reshape(shape), lse.reshape(shape[:-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def prefix_attention(
  query: Float,
  keys: Float,
  values: Float,
  valid: Bool,
  cursor: Int,
  layer: int,
) -> Partial:
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
  if 4 * batch * kv_heads * rank * PREFIX_CHUNK <= SCORE_BYTES:
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


def _head_by_head(cache: _Prefix, query: Float) -> Partial:
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

  nothing = Partial(
    jnp.zeros(query.shape, jnp.float32),
    jnp.zeros(query.shape[:-1], jnp.float32),
  )
  return jax.lax.fori_loop(0, batch * kv_heads, body, nothing)


def _sweep(
  cache: _Prefix, query: Float, stream: Int | int, head: Int | int
) -> Partial:
  """Online softmax over the prefix, chunk by chunk.

  Args:
    cache: keys and values.
    query: f[b, k, M, H], scaled; of b streams from `stream` on, and of their
      k KV heads from `head` on.
    stream: first stream.
    head: first KV head.
  """
  batch, kv_heads, rank, width = query.shape

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
    return step + 1, _Running(
      top,
      running.total * decay + jnp.sum(weights, axis=-1),
      running.out * decay[..., None] + out,
    )

  shape = (batch, kv_heads, rank)
  start = _Running(
    jnp.full(shape, _LOWEST, jnp.float32),
    jnp.zeros(shape, jnp.float32),
    jnp.zeros((*shape, width), jnp.float32),
  )
  _, running = jax.lax.while_loop(
    lambda carry: carry[0] * PREFIX_CHUNK < cache.cursor, body, (0, start)
  )
  return _finish(running, query.shape)


class _WorkList(NamedTuple):
  """Chunks of selected slots of all rows, laid end to end.

  Row r owns items first[r] … last[r] - 1; item i holds its ranks
  (i - first[r]) · LIST_CHUNK onwards.

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


def _work_list(slots: Bitmap) -> _WorkList:
  batch, rows, num_words = slots.shape
  words = slots.reshape(batch * rows, num_words)
  bits = jax.lax.population_count(words).astype(jnp.int32)
  ends = jnp.cumsum(bits, axis=-1)
  sizes = ends[:, -1]
  items = (sizes + LIST_CHUNK - 1) // LIST_CHUNK
  last = jnp.cumsum(items)
  return _WorkList(words, ends, sizes, last - items, last, last[-1])


def _group_size(rank: int) -> int:
  """Items a step handles when every row has `rank` queries."""
  return max(1, min(LIST_GROUP, SCORE_BYTES // (4 * rank * LIST_CHUNK)))


class _Items(NamedTuple):
  """A group of work items: which row, which slots, which cache rows."""

  row: Int  # [g]
  live: Bool  # [g, c]
  rank: Int  # [g, c]
  source: Int  # [g, c] row of keys.reshape(-1, H)
  shift: Int | None  # [g, c] positions to rotate the keys by


def _items(
  work: _WorkList,
  step: Int,
  shape: tuple[int, ...],
  num_rows: int,
  layer: int,
  rotation: KeyRotation | None,
  group: int,
) -> _Items:
  """The items step, step + 1, … step + group - 1."""
  _, batch, kv_heads, slots, _ = shape
  item = step + jnp.arange(group)
  row = jnp.sum(work.last[None, :] <= item[:, None], axis=-1)
  row = jnp.minimum(row, work.last.shape[0] - 1)
  offset = (item - work.first[row]) * LIST_CHUNK
  rank = offset[:, None] + jnp.arange(LIST_CHUNK)[None]
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
  return _Items(row, live, rank, source, shift)


def _gather(
  keys: Float,
  values: Float,
  items: _Items,
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


def _forward(query, keys, values, slots, rotation, layer) -> Partial:
  query, keys, values, slots, rotation = jax.tree.map(
    jnp.asarray, (query, keys, values, slots, rotation)
  )
  batch, rows, rank, width = query.shape
  num_slots = keys.shape[3]
  chex.assert_shape([keys, values], (None, batch, None, num_slots, width))
  chex.assert_shape(slots, (batch, rows, num_slots // bitmap.WORD_BITS))
  work = _work_list(slots)
  group = _group_size(rank)
  scaled = (query * width**-0.5).reshape(batch * rows, rank, width)
  scaled = scaled.astype(query.dtype)

  def body(carry):
    step, running = carry
    items = _items(work, step, keys.shape, rows, layer, rotation, group)
    key, value = _gather(keys, values, items, rotation, query.dtype)
    live = items.live[:, None, :]
    scores = jnp.einsum(
      "gmh,gch->gmc",
      scaled[items.row],
      key,
      preferred_element_type=jnp.float32,
    )
    scores = jnp.where(live, scores, _LOWEST)
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
    return step + group, _Running(top, total, summed)

  _, running = jax.lax.while_loop(
    lambda carry: carry[0] < work.total,
    body,
    (jnp.int32(0), _start(batch * rows, rank, width)),
  )
  return _finish(running, query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def work_list_attention(
  query: Float,
  keys: Float,
  values: Float,
  slots: Bitmap,
  rotation: KeyRotation | None,
  layer: int,
) -> Partial:
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
  work = _work_list(slots)
  group = _group_size(rank)
  flat = lambda array: array.reshape(batch * rows, *array.shape[2:])
  scale = width**-0.5
  q, d_out = flat(query), flat(cotangent.out)
  lse = flat(jnp.where(jnp.isfinite(partial.lse), partial.lse, 0.0))
  offset = flat(cotangent.lse) - jnp.sum(d_out * flat(partial.out), axis=-1)

  def body(carry):
    step, d_query, d_keys, d_values = carry
    items = _items(work, step, keys.shape, rows, layer, rotation, group)
    key, value = _gather(keys, values, items, rotation, query.dtype)
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
  rotation: KeyRotation | None,
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
  work = _work_list(slots)
  group = _group_size(rank)
  flat = lambda array: array.reshape(batch * rows, *array.shape[2:])
  q = flat(query * width**-0.5)
  shift = flat(jnp.where(valid, lse, jnp.inf))

  def body(carry):
    step, mass = carry
    items = _items(work, step, keys.shape, rows, layer, rotation, group)
    key, _ = _gather(keys, keys, items, rotation, query.dtype)
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
