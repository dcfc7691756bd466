"""A turn on a design, event by event (`hwmodel.simulated_step`).

The simulator knows tiles of a stage, whole tables and rows, and requests one by
one with their latency and queue; nothing of it is in the objective. Energy is
the model's counts and busy times, with static power over the simulated time.
"""

from typing import NamedTuple

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

  @jax.jit
  def make(design, shares, known):
    sized = sizing.apply(problem.base, design, problem.stream.model)
    platform = constants_lib.applied(sized.platform, known)
    work = objective_lib.works(
      problem, design, shares, jnp.int32(choice), known
    )
    return platform, work

  @jax.jit
  def joules(platform, event, latency_s, known):
    spent = latency.estimate(platform, event, _SCHEDULE, memory=problem.memory)
    joule = constants_lib.link_j_per_byte(platform.link, known)
    spent = spent._replace(latency_s=latency_s)
    return energy.parts(platform, event, spent, link_j_per_byte=joule).total

  floats = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, float), tree)
  platform, work = make(floats(design), shares, floats(known))
  plain = jax.tree.map(np.asarray, platform)
  spent_s, used_j = [], []
  for index in range(len(turn.STAGES)):
    event = jax.tree.map(lambda leaf, i=index: np.asarray(leaf)[i], work)
    line = simulated_step.simulate(
      plain,
      event,
      _SCHEDULE,
      detail,
      tokens=int(problem.stream.chunk_tokens[index]),
    )
    seconds = _PS * line.finish_ps
    spent_s.append(seconds)
    used_j.append(
      float(joules(platform, event, jnp.float32(seconds), floats(known)))
    )
  counts = np.array(turn.EVENTS)
  return Simulated(
    float(counts @ spent_s), float(counts @ used_j), tuple(spent_s)
  )
