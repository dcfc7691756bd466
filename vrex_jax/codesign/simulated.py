"""A turn on a design, event by event (`hwmodel.simulated_step`).

The simulator knows tiles of a stage, whole tables and rows, and requests one by
one with their latency and queue; nothing of it is in the objective. Energy is
the model's counts and busy times, with static power over the simulated time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import sizing
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import turn
from vrex_jax.hwmodel import energy
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import simulated_step
from vrex_jax.hwmodel import units

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


def simulate(
  problem: objective_lib.Problem,
  design: space_lib.Design,
  shares: turn.Shares,
  choice: int,
  *,
  known: constants_lib.Constants = constants_lib.CENTRE,
  detail: simulated_step.Detail = DETAIL,
) -> Simulated:
  """Seconds and joules of a turn by simulation.

  Args:
    problem: what is priced.
    design: thresholds and sizes.
    shares: what happens at its thresholds.
    choice: static choice of the algorithm.
    known: uncertain constants.
    detail: what is simulated instead of approximated.
  """
  design = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), design)
  sized = sizing.apply(problem.base, design, problem.stream.model)
  platform = constants_lib.applied(sized.platform, known)
  joule = constants_lib.link_j_per_byte(platform.link, known)
  all_work = objective_lib.works(
    problem, design, shares, jnp.int32(choice), known
  )
  seconds, joules = [], []
  for index in range(len(turn.STAGES)):
    work = jax.tree.map(lambda leaf, i=index: leaf[i], all_work)
    plain = jax.tree.map(np.asarray, work)
    line = simulated_step.simulate(
      platform,
      plain,
      _SCHEDULE,
      detail,
      tokens=int(problem.stream.chunk_tokens[index]),
    )
    spent = latency.estimate(platform, work, _SCHEDULE, memory=problem.memory)
    spent = spent._replace(latency_s=jnp.asarray(_PS * line.finish_ps))
    used = energy.parts(platform, work, spent, link_j_per_byte=joule)
    seconds.append(_PS * line.finish_ps)
    joules.append(float(used.total))
  counts = np.array(turn.EVENTS)
  return Simulated(
    float(counts @ seconds), float(counts @ joules), tuple(seconds)
  )


def dictionary(
  problem: objective_lib.Problem, found: Simulated, area_m2: float, drop: float
) -> dict[str, Any]:
  """As `objective.dictionary`."""
  del problem
  return {
    "latency_s": found.latency_s,
    "energy_j": found.energy_j,
    "power_w": found.power_w,
    "area_m2": area_m2,
    "accuracy": 1.0 - drop,
    "accuracy_drop": drop,
    "event_s": list(found.event_s),
    "area_mm2": area_m2 / units.MM2,
  }
