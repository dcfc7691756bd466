"""Costs of on-chip memories: close to a generator, and smooth between rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.hwmodel import memory_fit
from vrex_jax.hwmodel import memory_rows
from vrex_jax.hwmodel import sram

COSTS = jax.jit(sram.sram_costs)


@functools.cache
def fitted():
  rows = memory_rows.read_sram()
  return sram.fit_sram(rows), rows


def at(size_bytes, width_bytes=32.0, feature_m=22e-9):
  sizes = jnp.asarray(size_bytes)
  return COSTS(
    fitted()[0],
    size_bytes=sizes,
    width_bytes=jnp.full_like(sizes, width_bytes),
    feature_m=jnp.full_like(sizes, feature_m),
  )


@pytest.mark.parametrize("quantity", sram.QUANTITIES)
def test_error_with_every_size_left_out_in_turn_is_below_ten_per_cent(quantity):
  case = memory_fit.sram_case(memory_rows.read_sram(), quantity)
  row = memory_fit.validate(case, case.candidates[0])
  assert row["left_out"]["size"]["mean"] < 0.10
  assert row["in_sample"]["mean"] < 0.05


def test_larger_memories_cost_more():
  """Over the range of the rows, between them as well as on them."""
  costs = at(np.geomspace(2048.0, 2.0**21, 54))
  for name in ("read_j", "leakage_w", "area_m2"):
    assert np.all(np.diff(getattr(costs, name)) > 0), name


def test_a_smaller_node_costs_less():
  small, large = at(jnp.array([65536.0])), at(jnp.array([65536.0]), 32.0, 32e-9)
  for ours, theirs in zip(small, large, strict=True):
    assert np.all(ours < theirs)


def test_far_from_the_rows_the_power_law_is_left():
  """Log-linear: a step of size multiplies costs by the same factor anywhere."""
  costs = at(2.0 ** jnp.array([45.0, 46.0, 47.0]))
  for values in costs:
    ratios = np.asarray(values[1:] / values[:-1])
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)


def test_gradients_are_those_of_central_differences():
  with jax.enable_x64(True):
    table = sram.fit_sram()

    def costs(logarithms):
      size, width, feature = jnp.exp(logarithms)
      return jnp.log(
        jnp.stack(
          sram.sram_costs(
            table, size_bytes=size, width_bytes=width, feature_m=feature
          )
        )
      )

    start = jnp.log(jnp.array([20000.0, 40.0, 25e-9]))
    steps = 1e-5 * jnp.eye(3)
    points = jnp.concatenate([start[None] + steps, start[None] - steps])
    values = jax.jit(jax.vmap(costs))(points)
    central = (values[:3] - values[3:]) / 2e-5
    slopes = jax.jit(jax.jacfwd(costs))(start)
    np.testing.assert_allclose(slopes, central.T, atol=1e-8)
