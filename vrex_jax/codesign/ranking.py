"""All thresholds of WiCSum read off one sort of a row's scores.

Cluster j of a row is kept at a ratio r when what lies strictly above it has not
passed the threshold, so that one number says at which ratios it is kept:

  e_j = Σ_{u: Score_u > Score_j} Score_u · TC_u / Sum,    kept iff e_j ≤ r

and over rows (union) iff min over rows of e_j ≤ r. A row is sorted once,
whatever the number of ratios:

  scores (falling)   9   8   7   2   1 …
  weights · scores  36  24  21   4   3 …       Sum 95
  e                  0  .38 .63 .85 .89 …      r = 0.8 keeps three

Sums are in float64 here and in float32 in `wicsum.wicsum`, which bisects; both
choose the same clusters but where a threshold falls within that rounding of a
partial sum. Scores below 0 count as 0 ("clamped").

This is numpy on the host: XLA sorts rows of some hundred scores on a CPU many
times slower than numpy's vector sort does.

Source: V-Rex (arXiv 2512.12284), Sec. IV.C, Eqs. 1-3; Sec. V.B for buckets.
"""

from typing import NamedTuple

import numpy as np

from vrex_jax.resv import wicsum

__all__ = ["REDUCTIONS", "Ranked", "buckets_visited", "kept_from", "rank",
           "soft_weights"]  # fmt: skip

REDUCTIONS = ("union", "vote", "pooled")
"""How rows become one; "pooled" happens before there are scores."""


_INDEX_BITS = 29
_LOW = np.uint64(2**_INDEX_BITS - 1)
_HIGH = ~_LOW
_NOTHING = np.finfo(np.float32).tiny
_LAST = (np.float64(_NOTHING).view(np.uint64) ^ _HIGH) | _LOW
"""Key of a score that counts as 0, whatever its index."""


class Ranked(NamedTuple):
  """Static. Rows of scores, sorted.

  Attributes:
    enters: e of every cluster; without meaning for those that are not there.
    rising: the same in the order of falling scores.
    order: which score that is, counted through all of [A, M, C].
    top: largest score of the row, at least 0.
    best_only: no score of the row is above 0.
  """

  enters: np.ndarray  # f64 [A, M, C]
  rising: np.ndarray  # f64 [A, M, C]
  order: np.ndarray  # i64 [A, M, C]
  top: np.ndarray  # f32 [A, M]
  best_only: np.ndarray  # b [A, M]


def rank(scores: np.ndarray, counts: np.ndarray) -> Ranked:
  """Sorts rows of scores.

  A float32 that is written as a float64 has 29 bits to spare at its end: they
  carry the index along, so that one sort of whole words does.

    bits   score, falling (inverted)   35 │ place of the cluster   29

  Args:
    scores: f32[A, M, C], query rows times mean keys of A heads.
    counts: i[A, C], tokens of each cluster; those with none are not there,
      and their scores must be 0.

  Returns:
    Ranked.

  Example:
    >>> scores = np.float32([[[9, 8, 7, 2, 1, 1, 1, 1]]])
    >>> found = rank(scores, np.array([[4, 3, 3, 2, 3, 2, 2, 3]]))
    >>> (found.enters[0, 0] * 95).round().astype(int).tolist()
    [0, 36, 60, 81, 85, 85, 85, 85]
  """
  if scores.size > 2**_INDEX_BITS:
    raise ValueError("more scores at once than an index can tell apart")
  # The least normal number stands for 0: it has no sign, and adds nothing.
  positive = np.maximum(scores, _NOTHING)
  key = positive.astype(np.float64).view(np.uint64)
  place = np.arange(scores.size, dtype=np.uint64)
  place |= _HIGH
  key ^= place.reshape(scores.shape)
  key.sort(axis=-1)
  order = (key & _LOW).view(np.int64)
  top = positive.max(axis=-1)
  weighed = (positive * counts[:, None].astype(np.float32)).ravel()[order]
  passed = np.zeros((*scores.shape[:2], scores.shape[2] + 1))
  np.cumsum(weighed, axis=-1, dtype=np.float64, out=passed[..., 1:])
  best_only = top <= _NOTHING
  before = passed[..., :-1]
  _enter_together(before, key)
  # What adds nothing follows all that does: total / total is 1.
  rising = before / passed[..., -1:]
  enters = np.empty(scores.shape)
  enters.ravel()[order] = rising
  if best_only.any():
    there = np.where((counts > 0)[:, None], scores, -np.inf)
    best = there == there.max(axis=-1, keepdims=True)
    alone = np.where(best, 0.0, 1.0)
    enters = np.where(best_only[..., None], alone, enters)
  return Ranked(enters, rising, order, top, best_only)


def _enter_together(before: np.ndarray, key: np.ndarray) -> None:
  """Equal scores enter with the first of them; in place.

  Args:
    before: f64[A, M, C], what lies before each in the order of scores.
    key: u64[A, M, C], scores in that order as `rank` sorts them.
  """
  high = key | _LOW
  ties = high[..., 1:] == high[..., :-1]
  ties &= high[..., 1:] < _LAST
  if not ties.any():
    return
  place = np.arange(key.shape[-1])
  first = np.zeros(key.shape, np.intp)
  first[..., 1:] = np.where(ties, 0, place[1:])
  first = np.maximum.accumulate(first, axis=-1)
  before[...] = np.take_along_axis(before, first, axis=-1)


def kept_from(
  enters: np.ndarray, rows: str = "union", votes: int = 1
) -> np.ndarray:
  """The ratio from which on every cluster is kept: f64[A, C].

  Args:
    enters: f64[A, M, C].
    rows: one of REDUCTIONS.
    votes: rows that must keep it, with "vote" (all, of fewer).

  Example:
    >>> kept_from(np.array([[[0.0, 0.6], [0.5, 0.2]]])).tolist()
    [[0.0, 0.2]]
    >>> kept_from(np.array([[[0.0, 0.6], [0.5, 0.2]]]), "vote", 2).tolist()
    [[0.5, 0.6]]
  """
  if rows != "vote":
    return enters.min(axis=1)
  place = min(votes, enters.shape[1]) - 1
  return np.partition(enters, place, axis=1)[:, place]


def soft_weights(
  enters: np.ndarray, grid: np.ndarray, temperature: float
) -> np.ndarray:
  """How surely some row keeps each cluster at each ratio: f64[A, C, ratios].

  What `relaxed.soft_wicsum` and `relaxed.union` say, from e.

  Args:
    enters: f64[A, M, C].
    grid: f[ratios], in [0, 1].
    temperature: θ, above 0.
  """
  below = lambda at: 0.5 * (1 + np.tanh(0.5 * (at - enters) / temperature))
  start = below(0.0)
  span = below(1.0) - start
  found = []
  for ratio in grid:
    risen = (below(ratio) - start) / np.where(span > 0, span, 1.0)
    weight = np.where(span > 0, risen, ratio)
    weight = np.where(enters == 0, 1.0, weight)
    found.append(1.0 - np.prod(1.0 - weight, axis=1))
  return np.stack(found, axis=-1)


def buckets_visited(
  ranked: Ranked,
  scores: np.ndarray,
  counts: np.ndarray,
  grid: np.ndarray,
  buckets: int = wicsum.BUCKETS,
) -> np.ndarray:
  """Early-exit buckets the WTU visits for every row and ratio.

  Args:
    ranked: of these scores.
    scores: f32[A, M, C].
    counts: i[A, C].
    grid: f64[ratios], rising.
    buckets: n.

  Returns:
    i32[A, M, ratios], 1 to n; as `wicsum.Rows.buckets`.

  Example:
    >>> scores = np.float32([[[9, 8, 7, 2, 1, 1, 1, 1]]])
    >>> counts = np.array([[4, 3, 3, 2, 3, 2, 2, 3]])
    >>> ranked = rank(scores, counts)
    >>> buckets_visited(ranked, scores, counts, np.array([0.0, 0.8]), 4)
    array([[[1, 1]]], dtype=int32)
  """
  heads, rank_, clusters = scores.shape
  live = np.broadcast_to((counts > 0)[:, None], scores.shape)
  top = ranked.top.astype(np.float64)
  low = np.min(scores, axis=-1, where=live, initial=np.inf)
  # Rows lie end to end, two apart, so that one search serves all.
  row = 2.0 * np.arange(heads * rank_)
  flat = ranked.rising.reshape(-1, clusters) + row[:, None]
  wanted = (grid[None] + row[:, None]).ravel()
  number = np.searchsorted(flat.ravel(), wanted, side="right")
  last = np.maximum(scores.ravel()[ranked.order.ravel()[number - 1]], 0)
  last = last.reshape(heads, rank_, len(grid))
  step = np.where(top > low, (top - low) / buckets, 1.0)
  passed = np.ceil((top[..., None] - last) / step[..., None])
  visited = np.clip(passed, 1, buckets)
  everything = (grid >= 1) | ranked.best_only[..., None]
  return np.where(everything, buckets, visited).astype(np.int32)
