"""What static choices keep of the pasts of events, summed by stage.

A cluster that is kept from the ratio at place p of the grid on adds what stands
behind it to a histogram at p; summed along the ratios in the end, that is what
is kept at each of them. Source of the rule: `ranking`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax.codesign import fetch_runs
from vrex_jax.codesign import ranking
from vrex_jax.resv import wicsum

__all__ = ["STAGES", "Clusters", "Options", "Sums", "add_batch", "shaped",
           "zeros"]  # fmt: skip

STAGES = policy_lib.STAGES[1:]
"""Stages that retrieve."""
_SCORES = 2**16
"""Scores that are sorted in one call, about."""
_FIELDS = ("kept", "mass", "recall", "runs", "buckets", "worst_buckets")


class Options(NamedTuple):
  """Static. What all settings of a walk share; defaults are those of `resv`.

  Attributes:
    recent_tokens: always attended, and not fetched; one frame when None.
    sink_tokens: first tokens of the stream, always attended.
    rows: "union", "vote" or "pooled".
    votes: for "vote".
    buckets: of the WTU.
    temperature: smears every entry (`relaxed`); None for the exact rule.
    seed: of the hyperplanes.
  """

  recent_tokens: int | None = None
  sink_tokens: int = 4
  rows: str = "union"
  votes: int = 2
  buckets: int = wicsum.BUCKETS
  temperature: float | None = None
  seed: int = 0


class Sums(NamedTuple):
  """Static. Sums over the events of each stage that have a past.

  Attributes:
    seen: past tokens.
    recent: of them, always attended and on the device.
    events: how many.
    shown: events whose evidence is known.
    rows: query rows of a head.
    kept: tokens attended.
    mass: shares of the past's attention.
    recall: shares of the evidence's tokens.
    runs: contiguous runs of what is fetched, laid out by cluster.
    buckets: early-exit buckets visited, mean over rows.
    worst_buckets: the same, of the row that needs most.
    clusters: before the event.
  """

  seen: np.ndarray  # f64 [3]
  recent: np.ndarray  # f64 [3]
  events: np.ndarray  # f64 [3]
  shown: np.ndarray  # f64 [3]
  kept: np.ndarray  # f64 [Z, 3, L, K, ratios]
  mass: np.ndarray  # f64 [Z, 3, L, K, ratios]
  recall: np.ndarray  # f64 [Z, 3, L, K, ratios]
  runs: np.ndarray  # f64 [Z, 3, L, K, ratios]
  buckets: np.ndarray  # f64 [Z, 3, L, K, ratios]
  worst_buckets: np.ndarray  # f64 [Z, 3, L, K, ratios]
  clusters: np.ndarray  # f64 [Z, 3, L, K]


class Clusters(NamedTuple):
  """What an event, or several, ask of one table; free: not always attended."""

  scores: np.ndarray  # f32 [A, M, C]
  tokens: np.ndarray  # i64 [A, C]
  free: np.ndarray  # i64 [A, C]
  sinks: np.ndarray  # i64 [A, C]
  mass: np.ndarray  # f64 [A, C]
  evidence: np.ndarray  # f64 [A, C]
  filled: np.ndarray  # i64 [A]


def zeros(choices: int, heads: int, ratios: int) -> Sums:
  """Sums of nothing, heads side by side with a place behind the last ratio.

  Args:
    choices: Z.
    heads: layers times KV heads.
    ratios: of the grid.
  """
  wide = lambda: np.zeros((choices, len(STAGES), heads, ratios + 1))
  small = lambda: np.zeros(len(STAGES))
  return Sums(
    seen=small(),
    recent=small(),
    events=small(),
    shown=small(),
    clusters=np.zeros((choices, len(STAGES), heads)),
    **{name: wide() for name in _FIELDS},
  )


def _add_table(
  sums: Sums,
  index: int,
  stage: int,
  asked: Clusters,
  grid: np.ndarray,
  options: Options,
) -> None:
  """What one static choice keeps of some events' pasts, from which ratio on."""
  heads, ratios = sums.clusters.shape[-1], len(grid)
  together = lambda array: array.reshape(-1, heads, array.shape[-1]).sum(axis=0)
  ranked = ranking.rank(asked.scores, asked.tokens)
  number = ranking.reached(ranked, grid)
  visited = ranking.buckets_visited(
    ranked, number, asked.scores, asked.tokens, grid, options.buckets
  )
  own = lambda name: getattr(sums, name)[index, stage]
  own("buckets")[:, :ratios] += together(visited.mean(axis=1))
  own("worst_buckets")[:, :ratios] += together(visited.max(axis=1))
  own("clusters")[...] += asked.filled.reshape(-1, heads).sum(axis=0)
  values = {"kept": asked.free, "mass": asked.mass, "recall": asked.evidence}
  if options.temperature is not None:
    enters = ranking.enters(ranked, asked.scores, asked.tokens)
    weights = ranking.soft_weights(enters, grid, options.temperature)
    soft = {
      name: np.einsum("ac,acr->ar", value, weights)
      for name, value in values.items()
    }
    soft["runs"] = fetch_runs.soft(asked.free, asked.sinks, weights)
    for name, value in soft.items():
      own(name)[:, :ratios] += np.diff(together(value), prepend=0.0, axis=-1)
    return
  by_row = ranking.places(ranked, number, asked.scores, asked.tokens, grid)
  place = ranking.kept_from(by_row, options.rows, options.votes).astype(int)
  row = np.arange(len(place))[:, None] % heads * (ratios + 1)
  histogram = lambda at, weights: np.bincount(
    (row + at).ravel(), weights.ravel(), heads * (ratios + 1)
  ).reshape(heads, ratios + 1)
  for name, value in values.items():
    if value.any():
      own(name)[...] += histogram(place, value)
  begins, there, joins, joined = fetch_runs.ends(asked.free, asked.sinks, place)
  own("runs")[...] += histogram(begins, there) - histogram(joins, joined)


def add_batch(
  sums: Sums,
  stage: int,
  grid: np.ndarray,
  options: Options,
  index: int,
  asked: Sequence[Clusters],
  room: np.ndarray,
) -> None:
  """All events of a batch at one table.

  Args:
    sums: added to, in place.
    stage: of the events.
    grid: f64[ratios], rising.
    options: what all choices share.
    index: of the static choice.
    asked: what each event asks.
    room: f32[events, A, M, C], in which their scores lie.
  """
  scores = room[: len(asked)]
  _, *others = zip(*asked, strict=True)
  whole = Clusters(
    scores.reshape(-1, *scores.shape[2:]), *map(np.concatenate, others)
  )
  for piece in _pieces(whole, sums.clusters.shape[-1]):
    _add_table(sums, index, stage, piece, grid, options)


def _pieces(whole: Clusters, heads: int) -> Iterator[Clusters]:
  """Events by and by, as many at once as a core's cache holds scores of."""
  own = whole.scores[:heads].size
  step = heads * max(1, _SCORES // own)
  for first in range(0, len(whole.tokens), step):
    yield Clusters(*(array[first : first + step] for array in whole))


def shaped(sums: Sums, layers: int, heads: int) -> Sums:
  """Histograms summed along the ratios, layers and heads apart.

  Args:
    sums: of all events.
    layers: L.
    heads: K.
  """
  fields = {}
  for name in _FIELDS:
    value = getattr(sums, name)[..., :-1]
    if "buckets" not in name:
      value = np.cumsum(value, axis=-1)
    fields[name] = value.reshape(*value.shape[:2], layers, heads, -1)
  clusters = sums.clusters.reshape(*sums.clusters.shape[:2], layers, heads)
  return sums._replace(clusters=clusters, **fields)
