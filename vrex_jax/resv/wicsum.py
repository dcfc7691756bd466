"""WiCSum: how many clusters a query row keeps (weighted cumulative sum).

A row i scores every cluster j, and TC_j tokens stand behind cluster j:

  Sum_i    = Σ_j Score[i, j] · TC_j                                     (1)
  Th_i     = Sum_i · ratio                                              (2)
  σ        = clusters in the order of falling score
  Acc_i(t) = Σ_{u ≤ t} Score[i, σ(u)] · TC_σ(u)                         (3)

The row keeps σ(0) … σ(t) for the smallest t with Acc_i(t) > Th_i: the cluster
that crosses the threshold is kept. As a set that is

  { j : Score[i, j] ≥ τ_i },   τ_i the largest score with Acc(≥ τ_i) > Th_i,

and Acc(≥ τ) falls as τ rises. So nothing is sorted: τ is found by bisection,
with one weighted sum over the scores a step (equal scores are all kept).

The hardware (WTU) asks less: the range of a row's scores is cut into equal
buckets, whole buckets are taken from the top until the sum passes. Both forms
begin with the bucket; the exact one goes on inside it. The buckets and scores
that the hardware would visit are reported whichever form chooses.

  scores   low ├────┬────┬ … ┬────┬────┤ top
  bucket        n-1                0        visited from the right

Source: V-Rex (arXiv 2512.12284), Sec. IV.C, Eqs. 1-3, Fig. 9; Sec. V.B,
Fig. 11. Left open by the paper: negative scores (`TREATMENTS`); here a row
without a positive score keeps its best cluster, and a ratio of 1 or more keeps
everything.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vrex_jax.resv import blocks
from vrex_jax.typing import Array, Bool, Float, Int

__all__ = [
  "BUCKETS",
  "TREATMENTS",
  "Rows",
  "kept_clusters",
  "row_thresholds",
  "wicsum",
]

BUCKETS = 20
"""Buckets of the WTU (V-Rex, Fig. 11: the top bucket is labelled #20)."""

TREATMENTS = ("clamped", "raw", "shift_min", "exp")
"""What becomes of scores before they are weighed.

* clamped: max(score, 0);
* raw: Sum_i is signed, the rest as clamped. A row's partial sums rise while
  scores are positive, so the first crossing is found there;
* shift_min: score - lowest score of the row;
* exp: exp(score / √H - its maximum), the softmax without its denominator.
"""

_PLAIN_STEPS = 12
_LINEAR_STEPS = 24


class Rows(NamedTuple):
  """Dynamic. What each row asks for.

  Attributes:
    threshold: τ; clusters that score at least this are kept.
    buckets: buckets the WTU would visit.
    visited: scores in these buckets.
  """

  threshold: Float  # f32 [M]
  buckets: Int  # [M]
  visited: Int  # [M]


def wicsum(
  scores: Float,
  counts: Int,
  ratio: Float | float,
  *,
  treatment: str = "clamped",
  form: str = "exact",
  buckets: int = BUCKETS,
) -> tuple[Bool, Rows]:
  """The clusters that every row keeps.

  Args:
    scores: f32[M, C], query rows times mean keys.
    counts: i32[C], tokens of each cluster; clusters with none are not there.
    ratio: f32[] or f32[M], share of the weighted sum to pass (Th_r-wics).
    treatment: one of TREATMENTS. "exp" takes scores that are divided by √H.
    form: "exact", or "buckets" for whole buckets as the WTU takes them.
    buckets: n.

  Returns:
    b[M, C], and the thresholds.

  Example:
    >>> scores = jnp.array([[9.0, 8, 7, 2, 1, 1, 1, 1]])
    >>> keep, _ = wicsum(scores, jnp.array([4, 3, 3, 2, 3, 2, 2, 3]), 0.8)
    >>> keep[0].tolist()  # Fig. 9: 95 · 0.8 = 76 < 36 + 24 + 21
    [True, True, True, False, False, False, False, False]
  """
  rank, clusters = scores.shape
  chex.assert_shape(counts, (clusters,))
  size, _ = blocks.padded(clusters)
  padding = size - clusters
  live = jnp.pad(counts > 0, (0, padding))
  scores = jnp.pad(scores.astype(jnp.float32), ((0, 0), (0, padding)))
  scores = jnp.where(live[None], scores, -jnp.inf)
  weights = jnp.pad(counts, (0, padding)).astype(jnp.float32)
  treated = treat(scores, treatment)
  rows = row_thresholds(
    treated,
    weights,
    jnp.int32(clusters),
    jnp.broadcast_to(jnp.asarray(ratio, jnp.float32), (rank,)),
    jnp.ones((rank,), bool),
    signed=treatment == "raw",
    form=form,
    buckets=buckets,
  )
  keep = (treated >= rows.threshold[:, None]) & (treated > -jnp.inf)
  return keep[:, :clusters], rows


def treat(scores: Float, treatment: str) -> Float:
  """Scores as they are compared; -inf marks what is not there, and stays.

  Args:
    scores: f32[M, C].
    treatment: one of TREATMENTS.

  Raises:
    ValueError: another treatment.
  """
  if treatment in ("clamped", "raw"):
    return scores
  live = scores > -jnp.inf
  if treatment == "shift_min":
    low = jnp.min(jnp.where(live, scores, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(live, scores - low, -jnp.inf)
  if treatment == "exp":
    top = jnp.max(scores, axis=-1, keepdims=True)
    top = jnp.where(top > -jnp.inf, top, 0.0)
    return jnp.where(live, jnp.exp(scores - top), -jnp.inf)
  raise ValueError(
    f"treatment is {treatment!r}; it must be one of {', '.join(TREATMENTS)}"
  )


class _Sums(NamedTuple):
  """Facts of every row, in one reading of its scores."""

  positive: Float  # f32 [M], Σ max(score, 0) · count
  signed: Float  # f32 [M], Σ score · count
  top: Float  # f32 [M]
  low: Float  # f32 [M]
  number: Int  # [M], scores that are there


def _block_of(scores: Float, weights: Float, first: Int, size: int):
  score = jax.lax.dynamic_slice(scores, (0, first), (scores.shape[0], size))
  weight = jax.lax.dynamic_slice(weights, (first,), (size,))
  return score, weight[None]


def _sums(scores: Float, weights: Float, filled: Int, signed: bool) -> _Sums:
  _, block = blocks.padded(scores.shape[1])

  def body(first, sums):
    score, weight = _block_of(scores, weights, first, block)
    live = score > -jnp.inf
    total = sums.signed
    if signed:
      plain = jnp.where(live, score, 0.0)
      total = total + blocks.lane_sum(plain * weight)
    return _Sums(
      sums.positive + blocks.lane_sum(jnp.maximum(score, 0.0) * weight),
      total,
      jnp.maximum(sums.top, jnp.max(score, axis=-1)),
      jnp.minimum(sums.low, jnp.min(jnp.where(live, score, jnp.inf), axis=-1)),
      sums.number + blocks.lane_sum(live.astype(jnp.int32)),
    )

  zero = jnp.zeros(scores.shape[:1], jnp.float32)
  none = jnp.zeros(zero.shape, jnp.int32)
  start = _Sums(zero, zero, zero - jnp.inf, zero + jnp.inf, none)
  sums = blocks.fold(filled, block, body, start)
  return sums if signed else sums._replace(signed=sums.positive)


def _above(scores: Float, weights: Float, filled: Int, least: Float) -> Float:
  """Acc(≥ least): f32[M], Σ of max(score, 0) · count where score ≥ least."""
  _, block = blocks.padded(scores.shape[1])

  def body(first, total):
    score, weight = _block_of(scores, weights, first, block)
    value = jnp.maximum(score, 0.0) * weight
    taken = jnp.where(score >= least[:, None], value, 0.0)
    return total + blocks.lane_sum(taken)

  zero = jnp.zeros(least.shape, jnp.float32)
  return blocks.fold(filled, block, body, zero)


def _how_many(scores: Float, filled: Int, least: Float) -> Int:
  """Scores at or above `least`: i32[M]."""
  _, block = blocks.padded(scores.shape[1])

  def body(first, total):
    score = jax.lax.dynamic_slice(scores, (0, first), (scores.shape[0], block))
    taken = (score >= least[:, None]) & (score > -jnp.inf)
    return total + blocks.lane_sum(taken.astype(jnp.int32))

  zero = jnp.zeros(least.shape, jnp.int32)
  return blocks.fold(filled, block, body, zero)


def _image(value: Float) -> Array:
  """Bits of a float32 ≥ 0: u32, in the same order."""
  return jax.lax.bitcast_convert_type(value, jnp.uint32)


def _value(image: Array) -> Float:
  return jax.lax.bitcast_convert_type(image, jnp.float32)


def _bucket_edge(sums: _Sums, index: Int, buckets: int) -> Float:
  """Lower edge of a bucket, 0 being the top one: f32[M]."""
  step = (sums.top - sums.low) / buckets
  edge = sums.top - (index + 1).astype(jnp.float32) * step
  return jnp.where(index >= buckets - 1, sums.low, jnp.maximum(edge, sums.low))


def row_thresholds(
  scores: Float,
  weights: Float,
  filled: Int,
  ratio: Float,
  valid: Bool,
  *,
  signed: bool = False,
  form: str = "exact",
  buckets: int = BUCKETS,
) -> Rows:
  """τ of every row, over the filled part of a table.

  Args:
    scores: f32[M, C], treated; -inf for clusters that are not there. C is a
      size of `blocks.padded`.
    weights: f32[C], TC.
    filled: i32[], clusters in use; what lies behind is not read beyond its
      block, and must be -inf there.
    ratio: f32[M].
    valid: b[M]; other rows get a threshold without meaning and count nothing.
    signed: Sum_i is the signed sum ("raw").
    form: "exact" or "buckets".
    buckets: n.

  Returns:
    Rows.

  Raises:
    ValueError: another form.
  """
  if form not in ("exact", "buckets"):
    raise ValueError(f"form is {form!r}; it must be exact or buckets")
  sums = _sums(scores, weights, filled, signed)
  limit = jnp.maximum(ratio * sums.signed, 0.0)
  above = lambda least: _above(scores, weights, filled, least)

  # The first bucket from the top at which the sum has passed.
  def halve(_, span):
    inside, outside = span  # buckets: passed at `outside`, not yet at `inside`
    middle = (inside + outside) // 2
    passed = above(_bucket_edge(sums, middle, buckets)) > limit
    narrow = outside - inside > 1
    return (
      jnp.where(narrow & ~passed, middle, inside),
      jnp.where(narrow & passed, middle, outside),
    )

  nothing = jnp.full(limit.shape, -1, jnp.int32)
  steps = max(1, (buckets).bit_length())
  _, bucket = jax.lax.fori_loop(0, steps, halve, (nothing, nothing + buckets))
  bucket = jnp.minimum(bucket, buckets - 1)
  edge = _bucket_edge(sums, bucket, buckets)
  visited = _how_many(scores, filled, edge)

  threshold = edge
  if form == "exact":
    over = _bucket_edge(sums, bucket - 1, buckets)
    over = jnp.where(bucket == 0, jnp.inf, over)
    threshold = _bisect(scores, filled, above, limit, edge, over, sums, valid)
  best_only = sums.top <= 0
  threshold = jnp.where(best_only, sums.top, threshold)
  threshold = jnp.where(ratio >= 1, -jnp.inf, threshold)
  visited = jnp.where(ratio >= 1, sums.number, visited)
  count = jnp.where(ratio >= 1, buckets, bucket + 1)
  there = valid & (sums.top > -jnp.inf)
  return Rows(
    threshold,
    jnp.where(there, count, 0),
    jnp.where(there, visited, 0),
  )


def _bisect(
  scores: Float,
  filled: Int,
  above,
  limit: Float,
  edge: Float,
  over: Float,
  sums: _Sums,
  valid: Bool,
) -> Float:
  """τ inside a bucket: Acc(≥ low) > limit ≥ Acc(≥ high) all the way.

  Scores lie evenly in a bucket, so values are halved at first. Then the span
  is also drawn in to scores that exist, until one value is left in [low, high):

    low ├──·───·──·──┤ high    ─►    ·───·──·    ─►    · = τ
  """
  low = jnp.maximum(edge, 0.0)
  high = _next_up(jnp.maximum(sums.top, 0.0))
  high = jnp.maximum(jnp.minimum(over, high), low)

  def halve(_, span):
    low, high = span
    at = low + (high - low) * 0.5
    passed = above(at) > limit
    return jnp.where(passed, at, low), jnp.where(passed, high, at)

  low, high = jax.lax.fori_loop(0, _PLAIN_STEPS, halve, (low, high))

  def undecided(carry):
    _, low, last = carry
    return blocks.any_lane(jnp.any((low < last) & valid))

  def narrow(carry):
    step, low, last = carry  # low ≤ τ ≤ last; scores, after the first turn
    halved = _image(low + (last - low) * 0.5)
    bits = _image(low) + (_image(last) - _image(low)) // 2
    image = jnp.where(step < _LINEAR_STEPS, halved, bits)
    at = jnp.minimum(_value(jnp.maximum(image, _image(low) + 1)), last)
    passed = above(at) > limit
    low = jnp.where(passed, at, low)
    high = jnp.where(passed, _next_up(last), at)
    return step + 1, *_drawn_in(scores, filled, low, high)

  last = _value(_image(jnp.maximum(high, _next_up(low))) - 1)
  _, low, _ = jax.lax.while_loop(undecided, narrow, (jnp.int32(0), low, last))
  return low


def _next_up(value: Float) -> Float:
  """The next larger float32 of one ≥ 0."""
  return _value(_image(value) + 1)


def _drawn_in(
  scores: Float, filled: Int, low: Float, high: Float
) -> tuple[Float, Float]:
  """Least and largest score in [low, high): f32[M] twice; low where none is."""
  _, block = blocks.padded(scores.shape[1])

  def body(first, carry):
    least, last = carry
    score = jax.lax.dynamic_slice(scores, (0, first), (scores.shape[0], block))
    above = jnp.where(score >= low[:, None], score, jnp.inf)
    below = jnp.where(score < high[:, None], score, -jnp.inf)
    return (
      jnp.minimum(least, jnp.min(above, axis=-1)),
      jnp.maximum(last, jnp.max(below, axis=-1)),
    )

  nothing = jnp.full(low.shape, jnp.inf)
  least, last = blocks.fold(filled, block, body, (nothing, -nothing))
  empty = (least >= high) | (last < low)
  return jnp.where(empty, low, least), jnp.where(empty, low, last)


def kept_clusters(
  scores: Float, rows: Rows, valid: Bool, filled: Int, votes: Int | int = 1
) -> Bool:
  """Clusters that at least `votes` rows keep (all rows, of fewer): b[C].

  Args:
    scores: f32[M, C], as given to `row_thresholds`.
    rows: its result.
    valid: b[M].
    filled: i32[].
    votes: 1 for the union over rows.

  Source: V-Rex, Sec. IV.C aggregates the rows by union.
  """
  rank, size = scores.shape
  _, block = blocks.padded(size)
  least = jnp.where(valid, rows.threshold, jnp.inf)
  needed = jnp.minimum(votes, jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1))

  def body(first, kept):
    score = jax.lax.dynamic_slice(scores, (0, first), (rank, block))
    keep = (score >= least[:, None]) & (score > -jnp.inf)
    number = jnp.sum(keep, axis=0, dtype=jnp.int32)
    return jax.lax.dynamic_update_slice(kept, number >= needed, (first,))

  return blocks.fold(filled, block, body, jnp.zeros((size,), bool))
