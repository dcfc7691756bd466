"""Cycles of systolic arrays: a simulator's, to the cycle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.hwmodel import memory_rows
from vrex_jax.hwmodel import systolic
from vrex_jax.hwmodel.systolic import Dataflow


def cycles(dataflow, rows, inner, columns, height, width):
  return systolic.systolic_cycles(
    rows=rows,
    inner=inner,
    columns=columns,
    array_height=height,
    array_width=width,
    dataflow=dataflow,
  )


def test_every_usable_row_is_exact():
  table = memory_rows.read_systolic()
  own = np.array(table.dataflow)
  assert set(own) == {"ws", "os"}
  for name in ("ws", "os"):
    columns = [jnp.asarray(column[own == name]) for column in table[1:]]
    np.testing.assert_array_equal(
      cycles(Dataflow(name), *columns[:-1]), columns[-1]
    )


def test_one_fold_is_counted_by_hand():
  """2 x 2 weights in a 2 x 2 array, one row: load 2, travel 1 + 2, less one."""
  assert float(cycles(Dataflow.WEIGHT_STATIONARY, 1.0, 2.0, 2.0, 2.0, 2.0)) == 4


def test_stationary_inputs_are_stationary_weights_of_the_transpose():
  sizes = (37.0, 200.0, 90.0)
  inputs = cycles(Dataflow.INPUT_STATIONARY, *sizes, 32.0, 16.0)
  weights = cycles(Dataflow.WEIGHT_STATIONARY, *sizes[::-1], 32.0, 16.0)
  assert float(inputs) == float(weights)


@pytest.mark.parametrize("dataflow", list(Dataflow))
def test_the_derivative_goes_through_rounding(dataflow):
  by_columns = jax.grad(
    lambda n, m: cycles(dataflow, m, 100.0, n, 32.0, 32.0), argnums=(0, 1)
  )
  slopes = by_columns(100.0, 40.0)
  assert all(float(slope) > 0 for slope in slopes)
