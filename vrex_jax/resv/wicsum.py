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
import numpy as np

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

_PLAIN_STEPS = 15
_LINEAR_STEPS = 40
_ZERO = np.uint32(0x007FFFFF)


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
    b[M, C], and the thresholds. Scores and their weighted sum must be finite in
    float32; past that (sums above 3e38) a row keeps more than it asks for.

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

  total: Float  # f32 [M], Sum_i
  top: Float  # f32 [M]
  low: Float  # f32 [M]


def _block_of(scores: Float, first: Int) -> Float:
  """f32[M, block]."""
  block = blocks.padded(scores.shape[1])[1]
  return jax.lax.dynamic_slice_in_dim(scores, first, block, axis=1)


def _weigh(values: Float, weights: Float, first: Int) -> Float:
  """Σ values · weights of one block: f32[M, block] -> f32[M].

  As a product of a matrix and a vector it is fast to run and to compile. No
  term is negative where sums are compared, so they fall as terms are left out.
  """
  weight = jax.lax.dynamic_slice_in_dim(weights, first, values.shape[-1])
  return jnp.matmul(values, weight, precision=jax.lax.Precision.HIGHEST)


def _fold(scores: Float, filled: Int, body, start):
  return blocks.fold(filled, blocks.padded(scores.shape[1])[1], body, start)


def _sums(scores: Float, weights: Float, filled: Int, signed: bool) -> _Sums:
  def body(first, sums):
    score = _block_of(scores, first)
    live = score > -jnp.inf
    counted = jnp.where(live if signed else score >= 0, score, 0.0)
    return _Sums(
      sums.total + _weigh(counted, weights, first),
      jnp.maximum(sums.top, jnp.max(score, axis=-1)),
      jnp.minimum(sums.low, jnp.min(jnp.where(live, score, jnp.inf), axis=-1)),
    )

  zero = jnp.zeros(scores.shape[:1], jnp.float32)
  return _fold(
    scores, filled, body, _Sums(zero, zero - jnp.inf, zero + jnp.inf)
  )


def _above(scores: Float, weights: Float, filled: Int, least: Float) -> Float:
  """Acc(≥ least), least ≥ 0: f32[M], Σ of score · count where score ≥ least."""

  def body(first, total):
    score = _block_of(scores, first)
    taken = jnp.where(score >= least[:, None], score, 0.0)
    return total + _weigh(taken, weights, first)

  return _fold(scores, filled, body, jnp.zeros_like(least))


def _how_many(scores: Float, filled: Int, least: Float) -> Int:
  """Scores at or above `least`: i32[M]."""
  one = jnp.ones(scores.shape[1:], jnp.float32)

  def body(first, total):
    score = _block_of(scores, first)
    taken = (score >= least[:, None]) & (score > -jnp.inf)
    return total + _weigh(taken.astype(jnp.float32), one, first)

  total = _fold(scores, filled, body, jnp.zeros_like(least))
  return total.astype(jnp.int32)


def _image(value: Float) -> Array:
  """Place of a float32 ≥ 0 among all of them: u32, in the same order.

  CPUs and accelerators take what is smaller than the least normal number for
  zero, so there is one place for zero and the next is for that number:

    bits   0 … 0x007fffff, 0x80000000   0x00800000  …
    place      0x007fffff               0x00800000  …
  """
  bits = jax.lax.bitcast_convert_type(value, jnp.uint32)
  return jnp.where(value > 0, jnp.maximum(bits, _ZERO), _ZERO)


def _value(image: Array) -> Float:
  value = jax.lax.bitcast_convert_type(image, jnp.float32)
  return jnp.where(image > _ZERO, value, 0.0)


def _next_up(value: Float) -> Float:
  """The next larger float32 of one ≥ 0."""
  return _value(_image(value) + 1)


def _bucket_edge(sums: _Sums, index: Int, buckets: int) -> Float:
  """Lower edge of a bucket, 0 being the top one: f32[M]."""
  step = (sums.top - sums.low) / buckets
  edge = sums.top - (index + 1).astype(jnp.float32) * step
  return jnp.where(index >= buckets - 1, sums.low, jnp.maximum(edge, sums.low))


def _bucket_of(sums: _Sums, value: Float, buckets: int) -> Int:
  """The bucket a value ≥ low lies in: i32[M]."""
  index = jnp.arange(buckets - 1, dtype=jnp.int32)[:, None]
  edges = _bucket_edge(_Sums(*(fact[None] for fact in sums)), index, buckets)
  return jnp.sum(value[None] < edges, axis=0, dtype=jnp.int32)


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
  limit = jnp.maximum(ratio * sums.total, 0.0)
  everything, best_only = ratio >= 1, sums.top <= 0
  open_ = valid & ~everything
  threshold = _search(
    scores, weights, filled, limit, sums, open_, form, buckets
  )
  bucket = _bucket_of(sums, threshold, buckets)
  bucket = jnp.where(everything | best_only, buckets - 1, bucket)
  edge = _bucket_edge(sums, bucket, buckets)
  threshold = edge if form == "buckets" else threshold
  threshold = jnp.where(best_only, sums.top, threshold)
  threshold = jnp.where(everything, -jnp.inf, threshold)
  there = valid & (sums.top > -jnp.inf)
  return Rows(
    threshold,
    jnp.where(there, bucket + 1, 0),
    jnp.where(there, _how_many(scores, filled, edge), 0),
  )


def _search(
  scores: Float,
  weights: Float,
  filled: Int,
  limit: Float,
  sums: _Sums,
  wanted: Bool,
  form: str,
  buckets: int,
) -> Float:
  """τ, or any value in its bucket: Acc(≥ low) > limit ≥ Acc(> last) all along.

  Buckets are halved until one is left. Values are halved too, at first; when
  few scores are left the span is also drawn in to scores that exist, until
  low = last:

    low ├──·───·──·──┤ last    ─►    ·───·──·    ─►    · = τ
  """

  def undecided(carry):
    _, low, last = carry
    if form == "buckets":
      low, last = (-_bucket_of(sums, one, buckets) for one in (low, last))
    return blocks.any_lane(jnp.any((low < last) & wanted))

  def middle(step, low, last):
    if form == "buckets":
      lower, upper = (_bucket_of(sums, one, buckets) for one in (low, last))
      return _bucket_edge(sums, (lower + upper) // 2, buckets)
    halved = _image(low + (last - low) * 0.5)
    bits = _image(low) + (_image(last) - _image(low)) // 2
    return _value(jnp.where(step < _LINEAR_STEPS, halved, bits))

  def narrow(carry):
    step, low, last = carry
    at = jnp.minimum(jnp.maximum(middle(step, low, last), _next_up(low)), last)
    passed = _above(scores, weights, filled, at) > limit
    low = jnp.where(passed, at, low)
    high = jnp.where(passed, _next_up(last), at)
    last = jnp.where(high > low, _value(_image(high) - 1), low)
    if form == "exact":
      plain = step < _PLAIN_STEPS
      number = jnp.where(plain, 0, filled)
      drawn = _drawn_in(scores, number, low, high)
      low, last = (
        jnp.where(plain, *pair) for pair in ((low, drawn[0]), (last, drawn[1]))
      )
    return step + 1, low, last

  top = jnp.maximum(sums.top, 0.0)
  start = (jnp.int32(0), jnp.zeros_like(top), top)
  return jax.lax.while_loop(undecided, narrow, start)[1]


def _drawn_in(
  scores: Float, filled: Int, low: Float, high: Float
) -> tuple[Float, Float]:
  """Least and largest score in [low, high): f32[M] twice; low where none is."""

  def body(first, carry):
    score = _block_of(scores, first)
    above = jnp.where(score >= low[:, None], score, jnp.inf)
    below = jnp.where(score < high[:, None], score, -jnp.inf)
    return (
      jnp.minimum(carry[0], jnp.min(above, axis=-1)),
      jnp.maximum(carry[1], jnp.max(below, axis=-1)),
    )

  nothing = jnp.full_like(low, jnp.inf)
  least, last = _fold(scores, filled, body, (nothing, -nothing))
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
  least = jnp.where(valid, rows.threshold, jnp.inf)
  needed = jnp.minimum(votes, jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1))

  def body(first, kept):
    score = _block_of(scores, first)
    keep = (score >= least[:, None]) & (score > -jnp.inf)
    number = jnp.sum(keep, axis=0, dtype=jnp.int32)
    return jax.lax.dynamic_update_slice_in_dim(kept, number >= needed, first, 0)

  return _fold(scores, filled, body, jnp.zeros(scores.shape[1:], bool))
