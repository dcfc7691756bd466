"""WiCSum where numbers are huge, tiny, next to zero or far apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import wicsum_rows
from vrex_jax.resv import wicsum


@pytest.mark.parametrize("scale", [1e30, 1e-30, 2.0**100, 2.0**-100])
@pytest.mark.parametrize("ratio", [1 / 16, 5 / 16, 15 / 16])
def test_huge_and_tiny_scores(scale, ratio):
  scores, counts = wicsum_rows.whole_numbers(3, 30, -50, 200)
  scores = scores * np.float32(scale)
  np.testing.assert_array_equal(
    wicsum_rows.kept(scores, counts, ratio)[0],
    wicsum_rows.by_sorting(scores, counts, ratio),
  )


def test_scores_of_very_different_size_in_one_row():
  """Twelve orders of magnitude in one bucket: the bisection must still end."""
  scores = np.array([1e12, 1e6, 1.0, 1e-6, 1e-12, 0.0, -1e12])
  for ratio, number in ((0.0, 1), (0.9, 1)):
    assert wicsum_rows.kept(scores, [1] * 7, ratio)[0].sum() == number
  # Below the best the sums are decided by counts.
  counts = [1, 10**7, 1, 1, 1, 1, 1]
  keep = wicsum_rows.kept(scores, counts, 0.5)[0][0]
  assert keep.tolist() == [True, True] + [False] * 5


def test_a_threshold_met_exactly_is_not_passed_however_close_the_scores():
  """Small scores beside a large one: halving values does not tell them apart.

  Every partial sum p of a total of 2^23 is asked for by the ratio p / 2^23.
  """
  scores = np.array([3.5 * 2**20, 8, 7, 6, 5, 4, 3, 2, 1])
  counts = [1] + [2**17] * 8
  partial = np.cumsum(scores * counts)
  assert partial[-1] == 2**23
  for number, passed in enumerate(partial[:-1], start=1):
    keep = wicsum_rows.kept(scores, counts, passed / 2**23)[0][0]
    assert keep.tolist() == [True] * (number + 1) + [False] * (8 - number)
    below = wicsum_rows.kept(scores, counts, passed / 2**23 - 1e-6)[0][0]
    assert below.tolist() == [True] * number + [False] * (9 - number)


def test_denormal_scores_end_and_keep_the_best():
  """Whether the machine takes them for zero or not."""
  tiny = np.float32(1e-42)
  keep = wicsum_rows.kept([tiny, 3 * tiny, 0.0, -1.0], [1, 1, 1, 1], 0.5)[0][0]
  assert keep[1]
  assert not keep[3]
  keep = wicsum_rows.kept([1.0, tiny, 0.0], [1, 1, 1], 0.999)[0][0]
  assert keep.tolist() == [True, False, False]


@pytest.mark.parametrize(
  ("scores", "counts", "ratio", "expected"),
  [
    # The least normal number is next to zero: nothing to halve in between.
    ([1.2e-38, 0.0], [1, 1], 0.3, [True, False]),
    ([1e-37, 1.2e-38, 0.0], [1, 9, 1], 0.9, [True, True, False]),
    ([1.2e-38, -0.0], [1, 1], 0.3, [True, False]),
  ],
)
def test_the_search_ends_beside_zero(scores, counts, ratio, expected):
  assert wicsum_rows.kept(scores, counts, ratio)[0][0].tolist() == expected


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_search_ends_over_many_octaves(zero):
  """Half the mass in every octave down to the last, where most of it lies."""
  octaves = 2.0 ** -np.arange(45.0)
  counts = np.ones(46, np.int64)
  counts[44] = 10**9
  scores = np.append(octaves, zero).astype(np.float32)
  keep, _ = wicsum.wicsum(scores[None], jnp.asarray(counts), 0.999997)
  assert keep[0, 0]
