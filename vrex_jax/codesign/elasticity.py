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
  places: Mapping[str, tuple[space_lib.Design, int]],
  *,
  sharpness: float = smooth.DEFAULT_SHARPNESS,
) -> dict[str, dict[str, float]]:
  """∂ ln f / ∂ ln x by name, largest of the first place first.

  Args:
    problem: what is priced.
    places: name -> a design and its static choice.
    sharpness: of the maxima.
  """

  def value(design, known, choice):
    found = objective_lib.figures(
      problem, design, choice, known=known, sharpness=sharpness
    )
    return objective_lib.logarithm(problem, found)

  slopes = jax.jit(
    jax.vmap(jax.grad(value, argnums=(0, 1)), in_axes=(0, None, 0))
  )
  designs = jax.tree.map(
    lambda *leaves: jnp.stack([jnp.asarray(leaf, float) for leaf in leaves]),
    *(design for design, _ in places.values()),
  )
  known = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, float), constants_lib.CENTRE
  )
  choices = jnp.asarray([choice for _, choice in places.values()], jnp.int32)
  by_design, by_constant = slopes(designs, known, choices)
  found = {}
  for index, name in enumerate(places):
    here = lambda tree, i=index: jax.tree.map(lambda leaf: leaf[i], tree)
    found[name] = _products(
      here(designs), here(by_design), known, here(by_constant)
    )
  first = next(iter(found.values()))
  order = sorted(first, key=lambda one: -abs(first[one]))
  return {
    place: {name: own[name] for name in order} for place, own in found.items()
  }


def _products(
  design: space_lib.Design,
  by_design: space_lib.Design,
  known: constants_lib.Constants,
  by_constant: constants_lib.Constants,
) -> dict[str, float]:
  """x · ∂ ln f / ∂ x; those of an array added up, thresholds by stage."""
  found = {}
  for name in space_lib.FIELDS:
    each = np.asarray(getattr(design, name) * getattr(by_design, name))
    if name == "ratio":
      for stage, one in zip(turn.STAGES, each, strict=True):
        found[f"Th_r, {stage}"] = float(one.sum())
    else:
      found[name] = float(each.sum())
  for name in _CONSTANTS:
    found[f"({name})"] = float(
      getattr(known, name) * getattr(by_constant, name)
    )
  return found


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
