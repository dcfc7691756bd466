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

This is numpy on the host. Rows of 128, 512, 1024 and 2048 words of 32 bits take
its sort 0.9, 0.9, 5.1 and 7.6 ns of CPU time a word, and that of XLA 12, 19, 22
and 24 (jax 0.10.2, numpy 2.4 with AVX-512; `sweep_thresholds.py --time`).

Source: V-Rex (arXiv 2512.12284), Sec. IV.C, Eqs. 1-3; Sec. V.B for buckets.
"""

from typing import Any, NamedTuple

import numpy as np

from vrex_jax.resv import wicsum

__all__ = ["REDUCTIONS", "Ranked", "buckets_visited", "enters", "kept_from",
           "places", "rank", "reached", "soft_weights"]  # fmt: skip

REDUCTIONS = ("union", "vote", "pooled")
"""How rows become one; "pooled" happens before there are scores."""

_NO_SCORE = np.uint32(2**31 - 1)


class Ranked(NamedTuple):
  """Static. Rows of scores above 0, sorted; W is the most that a row has.

  Attributes:
    rising: e in the order of falling scores; 1 behind the last.
    order: which score that is, counted through [A, M, C + 1]; C of its row
      behind the last.
    score: in that order; 0 behind the last.
    best_only: no score of the row is above 0.
  """

  rising: np.ndarray  # f64 [A, M, W]
  order: np.ndarray  # i64 [A, M, W]
  score: np.ndarray  # f32 [A, M, W]
  best_only: np.ndarray  # b [A, M]


def rank(scores: np.ndarray, counts: np.ndarray) -> Ranked:
  """Sorts rows of scores.

  A float32 above 0 has 31 bits that rise with it. They are inverted, and the
  last of them make room for the cluster, so that a sort of half words does;
  scores of 0 and less are one and the same word, which costs a sort next to
  nothing. Neighbours that only the lost bits tell apart change places after.

    bits   score, falling (inverted)   32 - b │ cluster   b

  Args:
    scores: f32[A, M, C], query rows times mean keys of A heads.
    counts: i[A, C], tokens of each cluster; those with none are not there,
      and their scores must be 0.

  Returns:
    Ranked.

  Example:
    >>> scores = np.float32([[[9, 8, 7, 2, 1, 1, 1, 1]]])
    >>> found = rank(scores, np.array([[4, 3, 3, 2, 3, 2, 2, 3]]))
    >>> (found.rising[0, 0] * 95).round().astype(int).tolist()
    [0, 36, 60, 81, 85, 85, 85, 85]
  """
  heads, rows, clusters = scores.shape
  bits = np.uint32(clusters.bit_length())
  scores = np.ascontiguousarray(scores, np.float32)
  above = scores > 0
  key = (_NO_SCORE - scores.view(np.uint32)) >> (bits - np.uint32(1))
  key <<= bits
  key |= np.arange(clusters, dtype=np.uint32)
  key |= above.astype(np.uint32) - np.uint32(1)  # all ones where not above
  key.sort(axis=-1)
  number = np.count_nonzero(above, axis=-1)
  key = key[..., : max(int(number.max(initial=0)), 1)]
  order = np.empty(key.shape, np.int64)
  np.minimum(key & ((np.uint32(1) << bits) - np.uint32(1)), clusters, out=order)
  order += (np.arange(heads * rows) * (clusters + 1)).reshape(heads, rows, 1)
  positive = np.zeros((heads, rows, clusters + 1), np.float32)
  np.maximum(scores, 0, out=positive[..., :-1])
  score = positive.take(order)
  _mend(order, score)
  positive[..., :-1] *= counts[:, None].astype(np.float32)
  passed = np.zeros((heads, rows, key.shape[2] + 1))
  np.cumsum(
    positive.take(order), axis=-1, dtype=np.float64, out=passed[..., 1:]
  )
  before, total = passed[..., :-1], passed[..., -1:]
  _enter_together(before, score)
  rising = before / np.where(total > 0, total, 1.0)
  return Ranked(rising, order, score, number == 0)


def _mend(order: np.ndarray, score: np.ndarray) -> None:
  """Neighbours in the wrong order change places until none is; in place."""
  width = score.shape[-1]
  while True:
    wrong = np.flatnonzero(score[..., 1:] > score[..., :-1])
    if not len(wrong):
      return
    wrong += wrong // (width - 1)
    first = wrong[np.diff(wrong, prepend=-2) > 1]  # no two that touch
    for array in (order.reshape(-1), score.reshape(-1)):
      array[first], array[first + 1] = array[first + 1], array[first]


def _enter_together(before: np.ndarray, score: np.ndarray) -> None:
  """Equal scores enter with the first of them; in place.

  Args:
    before: f64[A, M, W], what lies before each in the order of scores.
    score: f32[A, M, W], in that order.
  """
  ties = np.zeros(score.shape, bool)
  np.equal(score[..., 1:], score[..., :-1], out=ties[..., 1:])
  ties &= score > 0
  place = np.flatnonzero(ties)
  if not len(place):
    return
  new = np.diff(place, prepend=-2) > 1
  first = (place[new] - 1)[np.cumsum(new) - 1]
  at = np.unravel_index(place, ties.shape)
  before[at] = before[np.unravel_index(first, ties.shape)]


def enters(
  ranked: Ranked, scores: np.ndarray, counts: np.ndarray
) -> np.ndarray:
  """e of every cluster: f64[A, M, C]; without meaning where there is none.

  Args:
    ranked: of these scores.
    scores: f32[A, M, C].
    counts: i[A, C].
  """
  found = np.ones((*scores.shape[:2], scores.shape[2] + 1))
  found.put(ranked.order, ranked.rising)
  return _with_best(found[..., :-1], ranked, scores, counts, 0.0, 1.0)


def reached(ranked: Ranked, grid: np.ndarray) -> np.ndarray:
  """How many scores above 0 of a row enter at each ratio: i64[A, M, ratios].

  What lies behind the last enters at 1.

  Args:
    ranked: rows of scores.
    grid: f64[ratios], rising.
  """
  width = ranked.rising.shape[-1]
  # Rows lie end to end, two apart, so that one search serves all.
  row = 2.0 * np.arange(ranked.best_only.size)[:, None]
  flat = ranked.rising.reshape(-1, width) + row
  found = np.searchsorted(flat.ravel(), (grid + row).ravel(), side="right")
  found = found.reshape(len(row), -1) - np.arange(len(row))[:, None] * width
  return found.reshape(*ranked.best_only.shape, -1)


def places(
  ranked: Ranked,
  number: np.ndarray,
  scores: np.ndarray,
  counts: np.ndarray,
  grid: np.ndarray,
) -> np.ndarray:
  """The first ratio at which a row keeps each cluster: its place in the grid.

  The number of ratios where none does; without meaning where there is no
  cluster. It is what a search of e in the grid finds, without e.

  Args:
    ranked: of these scores.
    number: of `reached`.
    scores: f32[A, M, C].
    counts: i[A, C].
    grid: f64[ratios], rising.

  Returns:
    u8[A, M, C], or u16 with more than 254 ratios.
  """
  width, ratios = ranked.rising.shape[-1], len(grid)
  kind = np.uint8 if ratios < 255 else np.uint16
  last = kind(np.searchsorted(grid, 1.0))
  found = np.full((*scores.shape[:2], scores.shape[2] + 1), last, kind)
  ends = number.reshape(-1, ratios)
  many = np.diff(ends, axis=-1, prepend=0, append=width)
  found.ravel()[ranked.order.ravel()] = np.repeat(
    np.tile(np.arange(ratios + 1, dtype=kind), len(ends)), many.ravel()
  )
  first = kind(np.searchsorted(grid, 0.0))
  return _with_best(found[..., :-1], ranked, scores, counts, first, last)


def _with_best(
  found: np.ndarray,
  ranked: Ranked,
  scores: np.ndarray,
  counts: np.ndarray,
  first: Any,
  last: Any,
) -> np.ndarray:
  """Rows without a score above 0 keep their best cluster, the rest at 1."""
  if ranked.best_only.any():
    there = np.where((counts > 0)[:, None], scores, -np.inf)
    best = there == there.max(axis=-1, keepdims=True)
    found = np.where(
      ranked.best_only[..., None], np.where(best, first, last), found
    )
  return found


def kept_from(
  enters: np.ndarray, rows: str = "union", votes: int = 1
) -> np.ndarray:
  """The ratio from which on every cluster is kept: [A, C].

  Args:
    enters: [A, M, C], ratios or their places.
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
  number: np.ndarray,
  scores: np.ndarray,
  counts: np.ndarray,
  grid: np.ndarray,
  buckets: int = wicsum.BUCKETS,
) -> np.ndarray:
  """Early-exit buckets the WTU visits for every row and ratio.

  Args:
    ranked: of these scores.
    number: of `reached`.
    scores: f32[A, M, C].
    counts: i[A, C].
    grid: f64[ratios], rising.
    buckets: n.

  Returns:
    i32[A, M, ratios], 1 to n; as `wicsum.Rows.buckets`.

  Example:
    >>> scores = np.float32([[[9, 8, 7, 2, 1, 1, 1, 1]]])
    >>> counts = np.array([[4, 3, 3, 2, 3, 2, 2, 3]])
    >>> ranked, grid = rank(scores, counts), np.array([0.0, 0.8])
    >>> number = reached(ranked, grid)
    >>> buckets_visited(ranked, number, scores, counts, grid, 4)
    array([[[1, 1]]], dtype=int32)
  """
  top = ranked.score[..., 0].astype(np.float64)
  absent = np.where(counts > 0, np.float32(0), np.float32(np.inf))
  low = np.min(scores + absent[:, None], axis=-1)
  last = np.take_along_axis(ranked.score, np.maximum(number, 1) - 1, axis=-1)
  step = np.where(top > low, (top - low) / buckets, 1.0)
  passed = np.ceil((top[..., None] - last) / step[..., None])
  visited = np.clip(passed, 1, buckets)
  everything = (grid >= 1) | ranked.best_only[..., None]
  return np.where(everything, buckets, visited).astype(np.int32)
