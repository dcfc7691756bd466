"""Contiguous runs of a fetch, laid out by cluster, for all ratios at once.

Outside the device every cluster lies in one piece, in the order of age; in it
the sinks, which are oldest and always wanted, then the rest, which is wanted
from the cluster's ratio on. Such a piece is a *segment*. A wanted segment is a
run unless its neighbour before it is wanted too, so that

  runs(r) = Σ segments [e ≤ r] - Σ neighbours [max(e, e') ≤ r].

Source: the layout is the ideal one of `placement`; V-Rex (arXiv 2512.12284),
Sec. V.C.
"""

import numpy as np

__all__ = ["ends", "soft"]


def _segments(
  free: np.ndarray, sinks: np.ndarray, entry: np.ndarray, first: float
) -> tuple[np.ndarray, np.ndarray]:
  """Which segments hold a token, and when each comes in.

  Args:
    free: i64[A, C], tokens of a cluster that are fetched when it is kept.
    sinks: i64[A, C], sinks of it; they are in the first clusters.
    entry: [A, C, …], of a cluster.
    first: of a sink.

  Returns:
    b[A, s + C] and [A, s + C, …], s clusters having sinks.
  """
  heads, clusters = free.shape
  holding = np.flatnonzero(sinks.any(axis=0))
  split = int(holding[-1]) + 1 if len(holding) else 0
  there = np.empty((heads, split + clusters), bool)
  enters = np.empty((heads, split + clusters, *entry.shape[2:]), entry.dtype)
  ends_ = 2 * split
  there[:, 0:ends_:2], enters[:, 0:ends_:2] = sinks[:, :split] > 0, first
  there[:, 1:ends_:2], enters[:, 1:ends_:2] = (
    free[:, :split] > 0,
    entry[:, :split],
  )
  there[:, ends_:], enters[:, ends_:] = free[:, split:] > 0, entry[:, split:]
  return there, enters


def _before(there: np.ndarray) -> np.ndarray:
  """Place of the last segment before each that holds a token; -1 for none."""
  place = np.where(there, np.arange(there.shape[1]), -1)
  before = np.full(there.shape, -1)
  np.maximum.accumulate(place[:, :-1], axis=1, out=before[:, 1:])
  return before


def ends(
  free: np.ndarray, sinks: np.ndarray, entry: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Runs as segments less neighbours.

  Args:
    free: i64[A, C].
    sinks: i64[A, C].
    entry: i64[A, C], place of the ratio from which on a cluster is kept.

  Returns:
    When each segment comes in and whether it holds a token; when each comes in
    together with its neighbour before it, and whether it has one: [A, s + C].

  Example:
    >>> one = ends(np.array([[2, 0, 3]]), np.zeros((1, 3), int),
    ...            np.array([[1, 9, 4]]))
    >>> [array.astype(int).tolist()[0] for array in one]
    [[1, 9, 4], [1, 0, 1], [4, 9, 4], [0, 0, 1]]
  """
  there, enters = _segments(free, sinks, entry, 0)
  before = _before(there)
  beside = np.take_along_axis(enters, before, axis=1)
  return enters, there, np.maximum(enters, beside), there & (before >= 0)


def soft(
  free: np.ndarray, sinks: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Runs where clusters are kept for sure to some degree: f64[A, ratios].

  Neighbours are wanted together as surely as the less sure one, which is exact
  for weights 0 and 1.

  Args:
    free: i64[A, C].
    sinks: i64[A, C].
    weights: f64[A, C, ratios].
  """
  there, sure = _segments(free, sinks, weights, 1.0)
  before = _before(there)
  beside = np.take_along_axis(sure, before[..., None], axis=1)
  joined = there & (before >= 0)
  both = np.minimum(sure, beside) * joined[..., None]
  return np.sum(sure * there[..., None] - both, axis=1)
