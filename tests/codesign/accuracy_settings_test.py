"""Drawn settings: the same from the same seed, and of every kind."""

import numpy as np

from vrex_jax.codesign import accuracy_settings as settings


def drawn(seed=0, number=25):
  return settings.design(
    number, (4, 2), hamming_thresholds=(2, 4, 7, 9), texts=3, seed=seed
  )


def test_a_seed_draws_the_same_settings_again():
  for one, other in zip(drawn(), drawn(), strict=True):
    np.testing.assert_array_equal(one.frame, other.frame)
    np.testing.assert_array_equal(one.text, other.text)
  assert any(
    np.any(one.text != other.text)
    for one, other in zip(drawn(), drawn(1), strict=True)
  )


def test_every_pattern_meets_every_hamming_threshold():
  met = {
    (index % 5, one.hamming_threshold) for index, one in enumerate(drawn())
  }
  assert len(met) == 5 * 4


def test_thresholds_are_the_best_cluster_everything_or_between():
  values = np.concatenate([one.text.ravel() for one in drawn()])
  between = values[(values > 0) & (values < 1)]
  assert (values == 0).any()
  assert (values == 1).any()
  assert between.min() >= 0.005
  assert between.max() <= 0.1


def test_ratios_read_everything_at_the_prompt():
  frame, text = np.full((4, 2), 0.1), np.full((4, 2), 0.2)
  found = settings.ratios(frame, text)
  np.testing.assert_allclose(found[:, 0, 0], [1.0, 0.1, 0.2, 0.2])
