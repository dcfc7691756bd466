"""Accuracy with intervals, from what was said on streams drawn at random.

Items of one stream are not independent (one blurred object spoils several
answers), so streams are what is drawn again, not items:

  accuracy    Σ_streams right / Σ_streams asked
  interval    2.5 % to 97.5 % of the same over streams drawn with replacement
  difference  of two policies on the same items, by the same draws
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vrex_jax.evaluation import streaming

__all__ = [
  "GROUPS",
  "Tally",
  "accuracy",
  "difference",
  "recall",
  "tally",
]

GROUPS = ("qa", "qa_old", "qa_present", "narration_old", "narration_new")
"""Accuracies of a row; `qa` is of all questions."""
_DRAWS = 2000


class Tally(NamedTuple):
  """Static. Right answers of every stream.

  Attributes:
    right: how many, f64 [streams].
    asked: of how many, f64 [streams].
  """

  right: np.ndarray
  asked: np.ndarray


def tally(
  said: Sequence[streaming.Said], word_ids: Mapping[str, int], streams: int
) -> dict[str, Tally]:
  """Right answers by group of `GROUPS` and stream.

  Args:
    said: what was said.
    word_ids: token of every word.
    streams: how many there are.
  """
  found = {
    group: Tally(np.zeros(streams), np.zeros(streams)) for group in GROUPS
  }
  for one in said:
    right = one.word == word_ids[one.item.word]
    for group in _groups(one):
      found[group].right[one.stream] += right
      found[group].asked[one.stream] += 1
  return found


def _groups(one: streaming.Said) -> list[str]:
  group = one.item.group
  if one.item.kind == "narration":
    return [group] if group in GROUPS else []
  return ["qa", f"qa_{group}"] if f"qa_{group}" in GROUPS else ["qa"]


def accuracy(one: Tally, seed: int = 0) -> tuple[float, tuple[float, float]]:
  """Share of right answers and its interval; nan where nothing was asked.

  Example:
    >>> accuracy(Tally(np.array([3.0, 3.0]), np.array([4.0, 4.0])))
    (0.75, (0.75, 0.75))
  """
  return _with_interval(one.right, one.asked, seed)


def difference(
  one: Tally, other: Tally, seed: int = 0
) -> tuple[float, tuple[float, float]]:
  """Accuracy of one minus another's on the same items, and its interval.

  Raises:
    ValueError: the items are not the same.
  """
  if not np.array_equal(one.asked, other.asked):
    raise ValueError(
      "the tallies are of different items; only answers to the same questions"
      " can be paired: evaluate both on the same streams"
    )
  return _with_interval(one.right - other.right, one.asked, seed)


def _with_interval(
  right: np.ndarray, asked: np.ndarray, seed: int
) -> tuple[float, tuple[float, float]]:
  if not asked.sum():
    return float("nan"), (float("nan"), float("nan"))
  random = np.random.default_rng(seed)
  draws = random.integers(0, len(asked), (_DRAWS, len(asked)))
  number = asked[draws].sum(axis=1)
  shares = right[draws].sum(axis=1)[number > 0] / number[number > 0]
  low, high = np.percentile(shares, [2.5, 97.5])
  return float(right.sum() / asked.sum()), (float(low), float(high))


def recall(said: Sequence[streaming.Said]) -> dict[str, dict[str, list[float]]]:
  """Share of the evidence's tokens that was read, by layer.

  Returns:
    For "question" and "narration": `mean` over the heads of a layer and `best`,
    that of the layer's best head, both means over items with evidence that is
    further back than `episodes.OLD_FRAMES`; empty lists without any.
  """
  found: dict[str, list[np.ndarray]] = {"question": [], "narration": []}
  for one in said:
    if one.recall is None or one.item.group not in ("old", "narration_old"):
      continue
    stage = "narration" if one.item.kind == "narration" else "question"
    found[stage].append(one.recall)
  means = {
    stage: np.mean(rows, axis=0) if rows else np.zeros((0, 1))
    for stage, rows in found.items()
  }
  return {
    stage: {
      "mean": heads.mean(axis=1).tolist(),
      "best": heads.max(axis=1).tolist(),
    }
    for stage, heads in means.items()
  }
