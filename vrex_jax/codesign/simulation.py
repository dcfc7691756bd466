"""A turn on a design, event by event (`hwmodel.simulated_step`).

The simulator knows tiles of a stage, whole tables and rows, and requests one by
one with their latency and queue; nothing of it is in the objective. Energy is
the model's, with static power over the simulated time instead of the modelled.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import turn
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import simulated_step
from vrex_jax.hwmodel import workload

__all__ = ["DETAIL", "Simulated", "simulate"]

DETAIL = simulated_step.Detail(
  tiles=16, engine=True, requests=True, arrivals=True
)
_SCHEDULE = latency.Schedule(on_engine=True, contiguous=True)
_PS = 1e-12


class Simulated(NamedTuple):
  """A turn, simulated.

  Attributes:
    latency_s: of a turn.
    energy_j: of a turn.
    event_s: of a frame, a question, an answer token.
  """

  latency_s: float
  energy_j: float
  event_s: tuple[float, ...]

  @property
  def power_w(self) -> float:
    """Average over the turn."""
    return self.energy_j / self.latency_s

  def figures(self) -> dict[str, Any]:
    """As metrics.json holds them."""
    return {
      "latency_s": self.latency_s,
      "energy_j": self.energy_j,
      "power_w": self.power_w,
      "event_s": list(self.event_s),
    }


def simulate(
  pricer: pricing.Pricer,
  placed: pricing.Placed,
  limits: objective_lib.Limits,
  *,
  detail: simulated_step.Detail = DETAIL,
) -> Simulated:
  """Seconds and joules of a turn by simulation.

  Args:
    pricer: of the problem.
    placed: a design with its shares and constants.
    limits: of the problem; they change nothing here.
    detail: what is simulated instead of approximated.
  """
  modelled = pricer([placed], limits).figures
  platform, work = pricer.built(placed)
  seconds = []
  for index, tokens in enumerate(pricer.problem.stream.chunk_tokens):
    line = simulated_step.simulate(
      platform,
      _event(work, index),
      _SCHEDULE,
      detail,
      tokens=int(tokens),
    )
    seconds.append(_PS * line.finish_ps)
  later = np.array(seconds) - modelled.event_s[0]
  joules = modelled.event_j[0] + float(platform.power.static_w) * later
  counts = np.array(turn.EVENTS)
  return Simulated(
    float(counts @ seconds), float(counts @ joules), tuple(seconds)
  )


def _event(work: workload.Work, index: int) -> workload.Work:
  return jax.tree.map(lambda leaf: leaf[index], work)
