"""Does a design beat another whatever the uncertain constants are?

Both are priced with the same constants, at every corner of the band
(`constants.corners`) by the model and at every end by the simulator; the
quotient of their objectives is below 1 where the first is better.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import simulated
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import turn

__all__ = ["Placed", "Verdict", "by_model", "by_simulator", "power_range"]


class Placed(NamedTuple):
  """A design with what happens at its thresholds.

  Attributes:
    design: thresholds and sizes.
    shares: measured or read from curves.
    choice: static choice of the algorithm.
  """

  design: space_lib.Design
  shares: turn.Shares
  choice: int


class Verdict(NamedTuple):
  """Quotients of objectives, first over second.

  Attributes:
    centre: at the central constants.
    least: over the band.
    most: over the band.
    points: of the band.
  """

  centre: float
  least: float
  most: float
  points: int

  @property
  def wins(self) -> bool:
    """Better everywhere."""
    return self.most < 1.0


def by_model(
  problem: objective_lib.Problem, first: Placed, second: Placed
) -> Verdict:
  """At all corners and the centre, by the model with hard maxima."""
  known = constants_lib.corners()
  apart = _logarithms(problem, first, known) - _logarithms(
    problem, second, known
  )
  return _verdict(np.exp(np.asarray(apart)))


def by_simulator(
  problem: objective_lib.Problem,
  first: Placed,
  second: Placed,
  *,
  points: int | None = None,
  told: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
  """At both ends of each constant and in the centre, by the simulator.

  Args:
    problem: what is priced.
    first: a design.
    second: another.
    points: only the last so many, the centre among them; None for all.
    told: called with simulations done and to do.
  """
  ends = constants_lib.ends()
  number = len(np.asarray(ends.link_energy))
  chosen = range(number)[-points if points else None :]
  quotients = []
  for done, index in enumerate(chosen):
    known = jax.tree.map(lambda leaf, i=index: float(leaf[i]), ends)
    values = []
    for one in (first, second):
      line = simulated.simulate(problem, *one, known=known)
      values.append(_objective(problem.objective, line))
    quotients.append(values[0] / values[1])
    told(done + 1, len(chosen))
  return _verdict(np.array(quotients))


def power_range(
  problem: objective_lib.Problem, placed: Placed
) -> tuple[float, float]:
  """Least and most average power over the corners of the band, W."""
  power = _priced(problem, placed, constants_lib.corners()).power_w
  return float(power.min()), float(power.max())


def _objective(name: str, line: simulated.Simulated) -> float:
  return {
    "latency": line.latency_s,
    "energy": line.energy_j,
    "energy_delay": line.latency_s * line.energy_j,
  }[name]


def _priced(
  problem: objective_lib.Problem,
  placed: Placed,
  known: constants_lib.Constants,
) -> objective_lib.Figures:
  design = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), placed.design)

  @jax.jit
  def all_of(design, shares, known):
    return jax.vmap(
      lambda one: objective_lib.priced(
        problem, design, shares, jnp.int32(placed.choice), known=one
      )
    )(known)

  return all_of(design, placed.shares, known)


def _logarithms(problem, placed, known):
  found = _priced(problem, placed, known)
  return objective_lib.logarithm(problem, found)


def _verdict(quotients: np.ndarray) -> Verdict:
  """The last is the centre's."""
  return Verdict(
    float(quotients[-1]),
    float(quotients.min()),
    float(quotients.max()),
    len(quotients),
  )
