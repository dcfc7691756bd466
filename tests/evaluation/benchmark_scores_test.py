"""Judging answers without a judge."""

import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax.evaluation import benchmark_scores
from vrex_jax.tasks import benchmark_items

SHORT = strategies.text("abc .", max_size=7)


def plain_distance(one, other):
  """The recursion as it is written."""

  @functools.cache
  def d(i, j):
    if not i or not j:
      return i + j
    changed = d(i - 1, j - 1) + (one[i - 1] != other[j - 1])
    return min(d(i - 1, j) + 1, d(i, j - 1) + 1, changed)

  return d(len(one), len(other))


@hypothesis.given(SHORT, strategies.lists(SHORT, min_size=1, max_size=4))
def test_distances_are_levenshtein_s(said, labels):
  found = benchmark_scores.distances(said, labels)
  expected = [plain_distance(said, label) for label in labels]
  np.testing.assert_array_equal(found, expected)


def item(how, *answer, labels=()):
  return benchmark_items.Item(None, "", answer, how, "task", labels)


LABELS = ("Boil the egg.", "Cut the bread.", "Cut the beard.")
CASES = [
  (item("label", "Cut the bread.", labels=LABELS), "cut bread", (1, 1)),
  (item("label", "Boil the egg.", labels=LABELS), "cut bread", (0, 1)),
  (
    item("steps", "Cut the bread.", "Boil the egg.", labels=LABELS),
    "1. Cut the bread.\n2. Cut the beard.",
    (1, 2),
  ),
  (item("steps", "Boil the egg.", "Cut the bread.", labels=LABELS), "", (1, 2)),
  (
    item("steps", "Boil the egg.", labels=LABELS),
    "Boil the egg.\nCut the bread.",
    (1, 1),
  ),
  (item("letter", "B"), "B", (1, 1)),
  (item("letter", "B"), "(B) two", (1, 1)),
  (item("letter", "B"), "The answer is B.", (1, 1)),
  (item("letter", "B"), "A or B", (0, 1)),
  (item("letter", "A"), "An apple", (0, 1)),
  (item("letter", "A"), "", (0, 1)),
  (item("letter", "K"), "(K) ten", (1, 1)),
  (item("contains", "B"), "AB", (1, 1)),
  (item("digits", "12"), "about 12 times", (1, 1)),
  (item("digits", "12"), "1, then 12", (0, 1)),
  (item("yes_no", "Yes"), "Y", (1, 1)),
  (item("yes_no", "No"), "No, not yet.", (1, 1)),
  (item("yes_no", "No"), "Yes", (0, 1)),
  (item("open", "a cup"), "a cup", (0, 0)),
]


@pytest.mark.parametrize(("asked", "said", "expected"), CASES)
def test_answers_are_judged(asked, said, expected):
  assert benchmark_scores.judge(asked, said) == expected


def test_word_f1_counts_words_once_each():
  assert benchmark_scores.word_f1("The cup.", "a CUP") == 1.0
  assert benchmark_scores.word_f1("cup cup", "cup") == pytest.approx(2 / 3)
  assert benchmark_scores.word_f1("", "cup") == 0.0
  assert benchmark_scores.word_f1("", "") == 1.0
