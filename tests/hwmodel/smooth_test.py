"""Laws of the smooth maximum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.hwmodel import smooth

pair = jax.jit(smooth.smooth_max, static_argnames="sharpness")
PAIRS = np.random.default_rng(0).uniform(0.0, 5.0, (2, 200))


@pytest.mark.parametrize("sharpness", [1.0, 16.0, 20.5])
def test_it_lies_between_maximum_and_sum(sharpness):
  a, b = map(jnp.asarray, PAIRS)
  value = pair(a, b, sharpness=sharpness)
  assert np.all(value >= np.maximum(a, b) * (1 - 1e-6))
  assert np.all(value <= (a + b) * (1 + 1e-6))


@pytest.mark.parametrize("sharpness", [3.0, 16.0])
def test_it_is_the_p_norm(sharpness):
  a, b = map(jnp.asarray, PAIRS)
  value = pair(a, b, jnp.ones_like(a), sharpness=sharpness)
  norm = (PAIRS[0] ** sharpness + PAIRS[1] ** sharpness + 1) ** (1 / sharpness)
  np.testing.assert_allclose(value, norm, rtol=1e-5)


def test_it_scales_with_its_arguments():
  a, b = map(jnp.asarray, PAIRS)
  one = pair(a, b, sharpness=8.0)
  np.testing.assert_allclose(
    pair(1e-6 * a, 1e-6 * b, sharpness=8.0), 1e-6 * one, rtol=1e-5
  )


def test_it_tends_to_the_hard_one():
  a, b = map(jnp.asarray, PAIRS)
  value = pair(a, b, sharpness=2.0**20)
  np.testing.assert_allclose(value, np.maximum(a, b), rtol=2e-6)
  hard = pair(a, b, sharpness=None)
  np.testing.assert_array_equal(hard, np.maximum(a, b))


@pytest.mark.parametrize("sharpness", [None, 8.0, 7.5])
@pytest.mark.parametrize("point", [(0.0, 0.0), (0.0, 2.0), (3.0, 3.0)])
def test_its_slopes_are_finite_at_corners(sharpness, point):
  norm = lambda x: smooth.smooth_max(x[0], x[1], sharpness=sharpness)
  slopes = jax.jit(jax.grad(norm))(jnp.array(point))
  assert np.all(np.isfinite(slopes))
  assert np.all(slopes >= 0)


def test_its_second_derivative_is_right():
  """∂²/∂a² = (p - 1) a^(p-2) b^p / f^(2p-1)."""
  with jax.enable_x64(True):
    at = jnp.array([2.0, 2.2])
    norm = lambda x: smooth.smooth_max(x[0], x[1], sharpness=8.0)
    second = jax.jit(jax.hessian(norm))(at)
    a, b = np.array(at)
    value = (a**8 + b**8) ** (1 / 8)
    assert second[0, 0] == pytest.approx(7 * a**6 * b**8 / value**15, rel=1e-9)


def test_excess_is_nothing_below_and_the_rest_above():
  value = jax.jit(smooth.excess)(
    jnp.array([0.0, 500.0, 2048.0]), jnp.float32(1024.0)
  )
  np.testing.assert_allclose(value, [0.0, 0.0, 1024.0], atol=0.5)
