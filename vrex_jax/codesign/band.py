"""Does a design beat another whatever the uncertain constants are?

Both are priced with the same constants, at every corner of the band
(`constants.corners`) by the model and at every end by the simulator; the
quotient of their objectives is below 1 where the first is better.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import simulation

__all__ = [
  "MOST_SIMULATED",
  "Verdict",
  "by_model",
  "by_simulator",
  "power_range",
]

MOST_SIMULATED = 17
"""Both ends of each constant, and the centre."""


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
  pricer: pricing.Pricer,
  first: pricing.Placed,
  second: pricing.Placed,
  limits: objective_lib.Limits,
) -> Verdict:
  """At all corners and the centre, by the model with hard maxima."""
  values = [
    pricer(_everywhere(one, constants_lib.corners()), limits).value
    for one in (first, second)
  ]
  return _verdict(np.exp(values[0] - values[1]))


def by_simulator(
  pricer: pricing.Pricer,
  first: pricing.Placed,
  second: pricing.Placed,
  limits: objective_lib.Limits,
  *,
  points: int | None = None,
  told: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
  """At both ends of each constant and in the centre, by the simulator.

  Args:
    pricer: of the problem.
    first: a design.
    second: another.
    limits: of the problem.
    points: only the last so many, the centre among them; None for all.
    told: called with points done and to do.
  """
  pairs = list(
    zip(
      *(_everywhere(one, constants_lib.ends()) for one in (first, second)),
      strict=True,
    )
  )
  chosen = pairs if points is None else pairs[-points:]
  quotients = []
  for done, pair in enumerate(chosen):
    values = []
    for one in pair:
      found = simulation.simulate(pricer, one, limits).figures()
      values.append(objective_lib.value_of(pricer.problem.objective, found))
    quotients.append(values[0] / values[1])
    told(done + 1, len(chosen))
  return _verdict(np.array(quotients))


def power_range(
  pricer: pricing.Pricer, placed: pricing.Placed, limits: objective_lib.Limits
) -> tuple[float, float]:
  """Least and most average power over the corners of the band, W."""
  everywhere = _everywhere(placed, constants_lib.corners())
  power = pricer(everywhere, limits).figures.power_w
  return float(power.min()), float(power.max())


def _everywhere(
  placed: pricing.Placed, known: constants_lib.Constants
) -> list[pricing.Placed]:
  host = jax.tree.map(np.asarray, known)
  return [
    placed._replace(known=jax.tree.map(lambda leaf, i=index: leaf[i], host))
    for index in range(len(host.residency))
  ]


def _verdict(quotients: np.ndarray) -> Verdict:
  """The last is the centre's."""
  return Verdict(
    float(quotients[-1]),
    float(quotients.min()),
    float(quotients.max()),
    len(quotients),
  )
