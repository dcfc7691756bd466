"""Accuracy, its interval over streams, and paired differences."""

import numpy as np
import pytest

from vrex_jax.evaluation import scores
from vrex_jax.evaluation import streaming
from vrex_jax.tasks import rooms_episodes as episodes

IDS = {"red": 3, "blue": 4, "new": 5}


def said(stream, kind, word, token, *, old=True, recall=None):
  evidence = np.array([2, 3]) if old else np.array([98])
  if word == "new":
    evidence = np.zeros(0, np.int64)
  item = episodes.Item(kind, "", word, 100, evidence)
  return streaming.Said(stream, item, token, recall, np.zeros(101))


def test_a_tally_counts_right_words_by_group_and_stream():
  found = scores.tally(
    [
      said(0, "colour-of", "red", 3),
      said(0, "colour-of", "red", 4),
      said(1, "colour-now", "blue", 4, old=False),
      said(1, "narration", "red", 3),
      said(1, "narration", "new", 5),
      said(1, "narration", "red", 3, old=False),
    ],
    IDS,
    streams=2,
  )
  pairs = {
    group: (one.right.tolist(), one.asked.tolist())
    for group, one in found.items()
  }
  assert pairs == {
    "qa": ([1, 1], [2, 1]),
    "qa_old": ([1, 0], [2, 0]),
    "qa_present": ([0, 1], [0, 1]),
    "narration_old": ([0, 1], [0, 1]),
    "narration_new": ([0, 1], [0, 1]),
  }


def test_the_interval_covers_as_often_as_it_says():
  """Streams differ in difficulty; items in them are far from independent."""
  random = np.random.default_rng(0)
  covered = 0
  for seed in range(200):
    chance = random.beta(4, 2, 60)
    right = random.binomial(20, chance).astype(float)
    _, (low, high) = scores.accuracy(
      scores.Tally(right, np.full(60, 20.0)), seed
    )
    covered += low <= 4 / 6 <= high
  assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_is_as_wide_as_95_per_cent_of_a_normal_law():
  """1.96 standard errors of the mean over streams of equal size."""
  right = np.random.default_rng(1).binomial(20, 0.7, 400).astype(float)
  _, (low, high) = scores.accuracy(scores.Tally(right, np.full(400, 20.0)))
  error = np.std(right / 20) / 20.0
  assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_a_constant_difference_has_no_width():
  asked = np.array([10.0, 20.0, 30.0])
  one = scores.Tally(0.8 * asked, asked)
  other = scores.Tally(0.7 * asked, asked)
  value, (low, high) = scores.difference(one, other)
  assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))
  with pytest.raises(ValueError, match="different items"):
    scores.difference(one, scores.Tally(other.right, asked[::-1]))


def test_nothing_asked_has_no_accuracy():
  value, interval = scores.accuracy(scores.Tally(np.zeros(3), np.zeros(3)))
  assert np.isnan([value, *interval]).all()


def test_recall_is_of_old_items_by_layer_and_of_the_best_head():
  heads = lambda *rows: np.array(rows, float)
  found = scores.recall(
    [
      said(0, "colour-of", "red", 3, recall=heads([1, 0], [1, 1])),
      said(0, "colour-of", "red", 3, recall=heads([0, 1], [1, 1])),
      said(0, "colour-of", "red", 3, recall=heads([0, 1], [1, 1])),
      said(0, "colour-of", "red", 3, old=False, recall=heads([0, 0], [0, 0])),
      said(0, "narration", "red", 3, recall=heads([0.5, 0], [0, 0])),
    ]
  )
  assert found["question"] == {
    "mean": [0.5, 1.0],
    "best": [pytest.approx(2 / 3), 1.0],
  }
  assert found["narration"] == {"mean": [0.25, 0.0], "best": [0.5, 0.0]}
