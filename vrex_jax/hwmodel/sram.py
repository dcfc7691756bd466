"""Energy, leakage and area of an on-chip memory, by size, width and node.

A power law, and what the table says beyond it:

  log y(x) = βᵀ [1, x] + Σᵢ wᵢ exp(-½ Σⱼ ((xⱼ - xᵢⱼ)/ℓⱼ)²)
  x = log₂ (size, width, feature)

(Gaussian-process regression, or kriging, of log y). A generator of memories
chooses among organisations, so that its energies are rough: doubling the size
may cost 5 % or 90 %. Between rows the second term follows them smoothly; far
from them it fades and the power law is left.

Source: rows of CACTI 7 in `data/cacti7_sram.csv`, 2 KiB to 2 MiB, 8 to 64 bytes
wide, 32 and 22 nm, 350 K. Other nodes are the power law's guess.
"""

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np

from vrex_jax.hwmodel import memory_rows
from vrex_jax.typing import Float

__all__ = ["QUANTITIES", "SramCosts", "SramTable", "fit_sram", "sram_costs"]

QUANTITIES = ("read_j", "write_j", "leakage_w", "area_m2")
"""Columns of a table, in this order."""
_LENGTHS = (3.0, 1.0, 2.0)
"""l of size, width and feature, in doublings. Chosen by looking."""
_ROUGHNESS = 0.2
"""Of a row, beside a deviation of 1 from the power law. Chosen by looking."""


class SramTable(flax.struct.PyTreeNode):
  """Dynamic. What `fit_sram` learnt.

  Attributes:
    nodes: log₂ of size, width and feature of the rows.
    trend: β of each quantity.
    weights: w of each quantity.
    lengths: ℓ, in doublings.
  """

  nodes: Float  # [rows, 3]
  trend: Float  # [4 quantities, 4]
  weights: Float  # [4 quantities, rows]
  lengths: Float  # [3]


class SramCosts(NamedTuple):
  """Dynamic. One memory with one port.

  Attributes:
    read_j: of reading `width_bytes`.
    write_j: of writing them.
    leakage_w: at all times, at 350 K.
    area_m2: with periphery.
  """

  read_j: Float
  write_j: Float
  leakage_w: Float
  area_m2: Float


def sram_costs(
  table: SramTable,
  *,
  size_bytes: Float,
  width_bytes: Float,
  feature_m: Float,
) -> SramCosts:
  """Costs of a memory; all arguments of one shape.

  Args:
    table: of `fit_sram`.
    size_bytes: f[...], > 0.
    width_bytes: f[...], > 0, of an access.
    feature_m: f[...], > 0, technology node.

  Example:
    >>> table = fit_sram()
    >>> costs = sram_costs(
    ...   table, size_bytes=8192.0, width_bytes=32.0, feature_m=22e-9
    ... )
    >>> bool(costs.read_j < costs.write_j)
    True
  """
  axes = jnp.broadcast_arrays(size_bytes, width_bytes, feature_m)
  place = jnp.stack([jnp.log2(axis) for axis in axes], axis=-1)[..., None, :]
  apart = place - _lift(table.nodes, place)
  apart = apart / _lift(table.lengths, place)
  near = jnp.exp(-0.5 * jnp.sum(apart**2, axis=-1))
  values = []
  for index in range(len(QUANTITIES)):
    beyond = jnp.sum(near * _lift(table.weights[index], near), axis=-1)
    slope = _lift(table.trend[index, 1:], place)
    trend = table.trend[index, 0] + jnp.sum(place * slope, axis=(-2, -1))
    values.append(jnp.exp(trend + beyond))
  return SramCosts(*values)


def fit_sram(rows: memory_rows.SramRows | None = None) -> SramTable:
  """Learns a table from rows, in closed form.

  Args:
    rows: of a generator of memories; None for those of the package.

  Returns:
    The table, in jax's default precision.
  """
  if rows is None:
    rows = memory_rows.read_sram()
  nodes = np.log2(
    np.stack([rows.size_bytes, rows.width_bytes, rows.feature_m], axis=1)
  )
  design = np.concatenate([np.ones((len(nodes), 1)), nodes], axis=1)
  apart = (nodes[:, None] - nodes[None]) / np.array(_LENGTHS)
  kernel = np.exp(-0.5 * np.sum(apart**2, axis=-1))
  kernel += _ROUGHNESS**2 * np.eye(len(nodes))
  values = np.log(
    np.stack([getattr(rows, name) for name in QUANTITIES], axis=1)
  )
  trend = np.linalg.lstsq(design, values, rcond=None)[0]
  weights = np.linalg.solve(kernel, values - design @ trend)
  return SramTable(
    jnp.asarray(nodes),
    jnp.asarray(trend.T),
    jnp.asarray(weights.T),
    jnp.asarray(_LENGTHS),
  )


def _lift(constant: Float, like: Float) -> Float:
  """`constant` with leading axes of size 1, up to the rank of `like`."""
  return constant.reshape((1,) * (like.ndim - constant.ndim) + constant.shape)
