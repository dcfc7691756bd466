"""Every point of a small space, so that a descent can be held against it.

A few fields take all their buildable values (`rounding.buildable`), all other
numbers stay as they are. Points are priced in blocks by one jitted `vmap`, up
to ten million of them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError

__all__ = ["MOST_POINTS", "Certificate", "enumerate_all", "grid_size"]

MOST_POINTS = 10**7
_BLOCK = 2048


class Certificate(NamedTuple):
  """The best of all points.

  Attributes:
    design: it.
    value: its ln f; ∞ where no point keeps the limits.
    points: priced.
    feasible: that keep all limits.
  """

  design: space_lib.Design
  value: float
  points: int
  feasible: int


def grid_size(axes: Mapping[str, np.ndarray]) -> int:
  """Points of a grid.

  Raises:
    InputError: more than MOST_POINTS.
  """
  points = int(np.prod([len(values) for values in axes.values()], dtype=float))
  if points > MOST_POINTS:
    raise InputError(
      f"the grid has {points} points; all of them are priced only up to"
      f" {MOST_POINTS}: leave out an axis"
    )
  return points


def enumerate_all(
  problem: objective_lib.Problem,
  start: space_lib.Design,
  axes: Mapping[str, np.ndarray],
  limits: objective_lib.Limits,
  *,
  choice: int = 0,
  told: Callable[[int, int], None] = lambda done, total: None,
) -> Certificate:
  """Prices all points, with hard maxima.

  Args:
    problem: what is priced.
    start: numbers of all that is not an axis.
    axes: field that is one number -> its values.
    limits: f[] each.
    choice: static choice of the algorithm.
    told: called with points priced and all.

  Raises:
    InputError: the grid is too large.
  """
  total = grid_size(axes)
  lengths = tuple(len(values) for values in axes.values())
  tables = [jnp.asarray(values, jnp.float32) for values in axes.values()]

  def one(index):
    places = jnp.unravel_index(index, lengths)
    picked = [table[place] for table, place in zip(tables, places, strict=True)]
    design = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), start)
    design = design.replace(**dict(zip(axes, picked, strict=True)))
    priced = objective_lib.figures(problem, design, jnp.int32(choice))
    passed = objective_lib.violations(
      problem, design, jnp.int32(choice), priced, limits
    )
    value = objective_lib.logarithm(problem, priced)
    return jnp.where(jnp.max(passed) <= 0.0, value, jnp.inf)

  @jax.jit
  def block(first):
    index = jnp.minimum(first + jnp.arange(_BLOCK), total - 1)
    values = jax.vmap(one)(index)
    inside = first + jnp.arange(_BLOCK) < total
    values = jnp.where(inside, values, jnp.inf)
    best = jnp.argmin(values)
    return values[best], index[best], jnp.sum(jnp.isfinite(values))

  best, at, feasible = np.inf, 0, 0
  for first in range(0, total, _BLOCK):
    value, index, kept = block(jnp.int32(first))
    feasible += int(kept)
    if float(value) < best:
      best, at = float(value), int(index)
    told(min(first + _BLOCK, total), total)
  places = np.unravel_index(at, lengths)
  picked = {
    name: float(values[place])
    for (name, values), place in zip(axes.items(), places, strict=True)
  }
  return Certificate(start.replace(**picked), best, total, feasible)
