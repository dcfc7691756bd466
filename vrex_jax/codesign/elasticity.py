"""What matters: per cent of the objective by per cent of each number.

  e(x) = ∂ ln f / ∂ ln x

of every size of a design and of every uncertain constant, with smooth maxima.
Thresholds of a stage and windows are taken together (Σ e), as if all of them
were scaled; a number at 0 has the elasticity 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import summary
from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import turn
from vrex_jax.hwmodel import smooth
from vrex_jax.typing import Int

__all__ = ["elasticities", "engine_total", "table"]

_CONSTANTS = (
  "dram_efficiency",
  "vision_utilisation",
  "link_efficiency",
  "dram_energy",
  "static_power",
  "storage_power",
)


def elasticities(
  problem: objective_lib.Problem,
  design: space_lib.Design,
  choice: Int,
  *,
  sharpness: float = smooth.DEFAULT_SHARPNESS,
) -> dict[str, float]:
  """∂ ln f / ∂ ln x by name, largest first.

  Args:
    problem: what is priced.
    design: where.
    choice: static choice of the algorithm.
    sharpness: of the maxima.
  """

  @jax.jit
  def slopes(design, known):
    def value(design, known):
      found = objective_lib.figures(
        problem, design, choice, known=known, sharpness=sharpness
      )
      return objective_lib.logarithm(problem, found)

    return jax.grad(value, argnums=(0, 1))(design, known)

  design = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), design)
  known = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, float), constants_lib.CENTRE
  )
  by_design, by_constant = slopes(design, known)
  found = {}
  for name in space_lib.FIELDS:
    own = np.asarray(getattr(design, name))
    each = own * np.asarray(getattr(by_design, name))
    if name == "ratio":
      for stage, one in zip(turn.STAGES, each, strict=True):
        found[f"ratio of a {stage}"] = float(one.sum())
    else:
      found[name] = float(each.sum())
  for name in _CONSTANTS:
    found[f"({name})"] = float(
      getattr(known, name) * getattr(by_constant, name)
    )
  return dict(sorted(found.items(), key=lambda pair: -abs(pair[1])))


def engine_total(found: Mapping[str, float]) -> float:
  """Σ |e| over the sizes of the DRE."""
  own = [
    name for name, field in space_lib.FIELDS.items() if field.group == "engine"
  ]
  return sum(abs(found[name]) for name in own)


def table(found: Mapping[str, Mapping[str, float]], *, least: float) -> str:
  """Columns side by side; rows whose largest is below `least` are left out.

  Args:
    found: column -> elasticities.
    least: absolute.
  """
  names = list(next(iter(found.values())))
  shown = [
    name
    for name in names
    if max(abs(column[name]) for column in found.values()) >= least
  ]
  lines: list[list[Any]] = [
    [name, *(f"{column[name]:+.3f}" for column in found.values())]
    for name in shown
  ]
  total = ["the DRE's sizes, sum of absolutes"]
  total += [f"{engine_total(column):.4f}" for column in found.values()]
  return summary.aligned(["% by %", *found], [*lines, total])
