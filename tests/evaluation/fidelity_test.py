"""Measures of a policy's distance from `full`."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from vrex_jax.evaluation import fidelity

LOGITS = arrays.arrays(
  np.float32, 5, elements=strategies.floats(-30, 30, width=32)
)


@hypothesis.given(LOGITS, LOGITS, strategies.floats(-5, 5))
def test_divergence_is_not_negative_and_knows_no_offset(one, other, offset):
  found = fidelity.divergence(one, other)
  assert found >= -1e-12
  shifted = fidelity.divergence(
    one.astype(np.float64) + offset, other.astype(np.float64) - offset
  )
  assert shifted == pytest.approx(found, abs=1e-9)
  assert fidelity.divergence(one, one) == 0.0


def test_divergence_is_that_of_full_from_the_policy_and_not_the_reverse():
  p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
  expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
  assert fidelity.divergence(np.log(p), np.log(q)) == pytest.approx(expected)


def test_divergence_survives_logits_that_overflow_exp():
  one, other = np.array([2000.0, 0.0]), np.array([0.0, 2000.0])
  assert fidelity.divergence(one, other) == pytest.approx(2000.0)


def test_an_error_is_relative_and_by_layer():
  reference = np.zeros((2, 3, 4))
  reference[0, 0, 0], reference[1, 2, 3] = 2.0, 10.0
  other = reference.copy()
  other[0, 1, 1], other[1, 2, 3] = 1.0, 0.0
  found = fidelity.relative_error(reference, other)
  np.testing.assert_allclose(found, [0.5, 1.0])
