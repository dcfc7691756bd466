"""Do clusters find a scene again? Same-scene share of what a frame joins.

A token of a scene that was seen before joins a cluster. Of the tokens that the
cluster holds from earlier segments of the film, what share is of the same
scene? Compared with the same share when the segments' scenes are shuffled:

  lift = share with the true scenes / share with shuffled scenes

Which segments come back is asked anew of every shuffle. Otherwise a segment
would be counted that has no earlier one of its scene, and clusters that know
nothing of scenes would seem to find them: lift 1.5 instead of 1 on a film of 22
segments.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from vrex_jax.errors import InputError

__all__ = [
  "Lift",
  "Segment",
  "first_revisit_s",
  "read_segments",
  "same_scene_lift",
]


class Segment(NamedTuple):
  """Static. One stretch of a film.

  Attributes:
    scene: its name; a scene may come back.
    start_s: beginning, seconds.
    end_s: end, seconds.
  """

  scene: str
  start_s: float
  end_s: float


class Lift(NamedTuple):
  """Static. Same-scene shares, means over tokens.

  Attributes:
    share: with the true scenes; nan where no token was counted.
    shuffled: the same with shuffled scenes, over all shuffles.
    tokens: tokens of revisited scenes that joined a cluster with a past.
    per_layer: `share` of every layer.
  """

  share: float
  shuffled: float
  tokens: int
  per_layer: list[float]

  @property
  def lift(self) -> float:
    """share / shuffled."""
    return self.share / self.shuffled if self.shuffled else float("nan")


def read_segments(path: str | pathlib.Path) -> list[Segment]:
  """The segments of an annotation file.

  Args:
    path: JSON with `segments`: a list of {scene, start_s, end_s}.

  Raises:
    InputError: absent, not JSON, or without segments one after the other.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    segments = [
      Segment(str(one["scene"]), float(one["start_s"]), float(one["end_s"]))
      for one in found["segments"]
    ]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{path} is not an annotation ({error}); a JSON file with segments of"
      " scene, start_s and end_s is expected: check the path"
    ) from error
  times = [time_s for one in segments for time_s in one[1:]]
  ordered = times == sorted(times) and np.all(np.isfinite(times))
  if not segments or not ordered:
    raise InputError(
      f"{path} has no segments one after the other; each is expected to end"
      " before the next one begins: sort them by start_s, in seconds"
    )
  return segments


def first_revisit_s(segments: list[Segment]) -> float:
  """When a scene comes back for the first time, seconds; infinity if never.

  Example:
    >>> first_revisit_s([Segment("a", 0, 1), Segment("b", 1, 2)])
    inf
  """
  seen: set[str] = set()
  for one in segments:
    if one.scene in seen:
      return one.start_s
    seen.add(one.scene)
  return float("inf")


def same_scene_lift(
  member: np.ndarray,
  time_s: np.ndarray,
  segments: list[Segment],
  *,
  shuffles: int = 200,
  seed: int = 0,
) -> Lift:
  """Same-scene share of clusters, beside shuffled scenes.

  Tokens that lie in no segment are left out.

  Args:
    member: i32[L, K, tokens], cluster of every frame token; -1 for none.
    time_s: f[tokens], when its frame was shown.
    segments: of the film.
    shuffles: how many orders of scenes are tried.
    seed: of the shuffles.

  Example:
    >>> film = [Segment("a", 0, 1), Segment("b", 1, 2), Segment("a", 2, 3)]
    >>> member = np.array([[[0, 1, 0]]])
    >>> same_scene_lift(member, np.array([0.5, 1.5, 2.5]), film).share
    1.0
  """
  starts = np.array([one.start_s for one in segments])
  ends = np.array([one.end_s for one in segments])
  segment = np.searchsorted(starts, time_s + 1e-9, side="right") - 1
  inside = (segment >= 0) & (time_s < ends[segment])
  member, segment = member[..., inside], segment[inside]
  names = sorted({one.scene for one in segments})
  scenes = np.array([names.index(one.scene) for one in segments])
  pairs = [_past_pairs(layer, segment, len(segments)) for layer in member]
  tokens, shares = (np.sum(one, axis=0) for one in zip(*pairs, strict=True))
  random = np.random.default_rng(seed)
  orders = [random.permutation(scenes) for _ in range(shuffles)]
  hits, counted = np.sum([_hits(tokens, shares, one) for one in orders], axis=0)
  return Lift(
    share=_quotient(*_hits(tokens, shares, scenes)),
    shuffled=_quotient(hits, counted),
    tokens=round(_hits(tokens, shares, scenes)[1]),
    per_layer=[_quotient(*_hits(*one, scenes)) for one in pairs],
  )


def _past_pairs(
  member: np.ndarray, segment: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of segments by joined clusters, all heads of one layer.

  Returns:
    (tokens f[segments], shares f[segments, segments]): tokens of a segment
    that joined a cluster with a past, and the sum over them of the share of
    that past in every segment.
  """
  tokens = np.zeros(count)
  shares = np.zeros((count, count))
  for head in member:
    clusters = head.max(initial=-1) + 1
    inside = head >= 0
    held = np.zeros((clusters, count))
    np.add.at(held, (head[inside], segment[inside]), 1.0)
    before = np.cumsum(held, axis=1) - held  # of earlier segments
    counted = inside.copy()
    counted[inside] = before[head[inside], segment[inside]] > 0
    for now in np.unique(segment[counted]):
      joined = head[counted & (segment == now)]
      past = held[joined].copy()
      past[:, now:] = 0.0
      shares[now] += (past / past.sum(axis=1, keepdims=True)).sum(axis=0)
      tokens[now] += len(joined)
  return tokens, shares


def _hits(
  tokens: np.ndarray, shares: np.ndarray, scenes: np.ndarray
) -> tuple[float, float]:
  """Same-scene past of revisiting segments, and their tokens, summed."""
  first = np.array([np.flatnonzero(scenes == scene)[0] for scene in scenes])
  revisit = first < np.arange(len(scenes))
  same = scenes[:, None] == scenes[None, :]
  return float((shares * same)[revisit].sum()), float(tokens[revisit].sum())


def _quotient(hits: float, tokens: float) -> float:
  return hits / tokens if tokens else float("nan")
