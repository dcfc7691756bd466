"""Do clusters find a scene again? Same-scene share of what a frame joins.

A token of a scene that was seen before joins a cluster. Of the tokens that the
cluster holds from earlier segments of the film, what share is of the same
scene? Compared with the same share when the segments' scenes are shuffled:

  lift = share with the true scenes / mean share with shuffled scenes
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from vrex_jax.errors import InputError

__all__ = ["Lift", "Segment", "read_segments", "same_scene_lift"]


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
    shuffled: mean over shuffled scenes.
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
    InputError: absent, not JSON, or without segments in order of time.
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
  starts = [one.start_s for one in segments]
  if not segments or starts != sorted(starts):
    raise InputError(
      f"{path} has no segments in order of time; at least one is expected:"
      " sort them by start_s"
    )
  return segments


def same_scene_lift(
  member: np.ndarray,
  time_s: np.ndarray,
  segments: list[Segment],
  *,
  shuffles: int = 20,
  seed: int = 0,
) -> Lift:
  """Same-scene share of clusters, beside shuffled scenes.

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
  segment = np.searchsorted(starts, time_s + 1e-9, side="right") - 1
  names = sorted({one.scene for one in segments})
  scenes = np.array([names.index(one.scene) for one in segments])
  first = np.array([np.flatnonzero(scenes == scene)[0] for scene in scenes])
  revisit = (first < np.arange(len(scenes)))[segment]
  pairs = [
    _past_pairs(layer, segment, revisit, len(segments)) for layer in member
  ]
  random = np.random.default_rng(seed)
  drawn = [_share(pairs, random.permutation(scenes)) for _ in range(shuffles)]
  return Lift(
    share=_share(pairs, scenes),
    shuffled=float(np.mean(drawn)),
    tokens=sum(int(one.sum()) for one, _ in pairs),
    per_layer=[_share([one], scenes) for one in pairs],
  )


def _past_pairs(
  member: np.ndarray, segment: np.ndarray, revisit: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of segments by joined clusters, all heads of one layer.

  Returns:
    (tokens f[segments], shares f[segments, segments]): tokens of a revisiting
    segment that joined a cluster with a past, and the sum over them of the
    share of that past in every segment.
  """
  tokens = np.zeros(count)
  shares = np.zeros((count, count))
  for head in member:
    clusters = head.max(initial=-1) + 1
    inside = head >= 0
    held = np.zeros((clusters, count))
    np.add.at(held, (head[inside], segment[inside]), 1.0)
    before = np.cumsum(held, axis=1) - held  # of earlier segments
    counted = inside & revisit
    counted[counted] = before[head[counted], segment[counted]] > 0
    for now in np.unique(segment[counted]):
      joined = head[counted & (segment == now)]
      past = held[joined].copy()
      past[:, now:] = 0.0
      shares[now] += (past / past.sum(axis=1, keepdims=True)).sum(axis=0)
      tokens[now] += len(joined)
  return tokens, shares


def _share(
  pairs: list[tuple[np.ndarray, np.ndarray]], scenes: np.ndarray
) -> float:
  same = scenes[:, None] == scenes[None, :]
  total = sum(float(tokens.sum()) for tokens, _ in pairs)
  hits = sum(float((shares * same).sum()) for _, shares in pairs)
  return hits / total if total else float("nan")
