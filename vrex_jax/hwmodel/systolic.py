"""Cycles of a matrix product on a systolic array, in closed form.

For an array of R rows and C columns and a product of M × K by K × N,

  weight stationary   (2 R + C + M - 2) ⌈K/R⌉ ⌈N/C⌉ - 1
  output stationary   (  R + C + K - 2) ⌈M/R⌉ ⌈N/C⌉ - 1
  input stationary    (2 R + C + N - 2) ⌈K/R⌉ ⌈M/C⌉ - 1

the time of one fold (fill, stream, drain) by the number of folds. Exact on all
36 rows of SCALE-Sim 3.0.0 that are usable; none of these is input stationary.

Source: Samajdar et al., A systematic methodology for characterizing scalability
of DNN accelerators using SCALE-Sim (ISPASS 2020); -1 as counted by the tool.
"""

import enum

import jax
import jax.numpy as jnp

from vrex_jax.typing import Float

__all__ = ["Dataflow", "systolic_cycles"]


class Dataflow(enum.Enum):
  """Which operand stays in the array."""

  WEIGHT_STATIONARY = "ws"
  OUTPUT_STATIONARY = "os"
  INPUT_STATIONARY = "is"


def systolic_cycles(
  *,
  rows: Float,
  inner: Float,
  columns: Float,
  array_height: Float,
  array_width: Float,
  dataflow: Dataflow,
) -> Float:
  """Compute cycles of one product; memory never waits.

  Args:
    rows: f[...], of the left operand.
    inner: f[...], columns of the left operand, rows of the right one.
    columns: f[...], of the right operand.
    array_height: f[...], rows of the array.
    array_width: f[...], columns of the array.
    dataflow: static.

  Returns:
    f[...]. The derivative is that without rounding folds up: a fold counts as
    the fraction that is used (straight through), not as 0.

  Example:
    >>> cycles = systolic_cycles(
    ...   rows=40.0, inner=128.0, columns=1024.0, array_height=64.0,
    ...   array_width=64.0, dataflow=Dataflow.OUTPUT_STATIONARY,
    ... )
    >>> float(cycles)
    4063.0
  """
  edge = array_height + array_width - 2.0
  if dataflow is Dataflow.OUTPUT_STATIONARY:
    fold = edge + inner
    folds = _ceil(rows / array_height) * _ceil(columns / array_width)
  elif dataflow is Dataflow.WEIGHT_STATIONARY:
    fold = edge + array_height + rows
    folds = _ceil(inner / array_height) * _ceil(columns / array_width)
  else:
    fold = edge + array_height + columns
    folds = _ceil(inner / array_height) * _ceil(rows / array_width)
  return fold * folds - 1.0


def _ceil(value: Float) -> Float:
  """⌈value⌉ with the derivative of value."""
  value = jnp.asarray(value, float)
  return value + jax.lax.stop_gradient(jnp.ceil(value) - value)
