"""One number to make small, and limits it has to keep.

  latency        seconds of a turn
  energy         joules of a turn
  energy_delay   their product

  limit       violation, ≤ 0 where it is kept
  area        ln(area / limit)
  power       ln(energy / latency / limit)      average over the turn
  accuracy    (drop - limit) / 0.01
  dram        ln(held / capacity)     weights, tables, window, attended
  on_chip     ln(needed / memory of all cores)
  vector      ln(dot units / vector lanes)      a result of every tree a cycle
  codes       ln(codes of a chunk / their memory)

With `sharpness` None every maximum is the hardware model's own; with a number
it is smooth, and so is everything above.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import queued_link
from vrex_jax.codesign import sizing
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import turn
from vrex_jax.hwmodel import energy
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import transfer
from vrex_jax.typing import Float, Int

__all__ = [
  "LIMITS",
  "OBJECTIVES",
  "Figures",
  "Limits",
  "Problem",
  "dictionary",
  "figures",
  "logarithm",
  "penalised",
  "priced",
  "restrict",
  "value_of",
  "violations",
  "works",
]

OBJECTIVES = ("latency", "energy", "energy_delay")
LIMITS = (
  "area",
  "power",
  "accuracy",
  "dram",
  "on_chip",
  "vector",
  "codes",
)
"""Violations in this order."""
_SCHEDULE = latency.Schedule(on_engine=True, contiguous=True)
_DROP_SCALE = 0.01
_PENALTY = 10.0


class Limits(flax.struct.PyTreeNode):
  """Dynamic. What must not be passed; f[] each.

  Attributes:
    area_m2: of the chip, interfaces beyond the paper's included.
    power_w: average over a turn.
    accuracy_drop: against attending to everything, a share.
  """

  area_m2: Float | float
  power_w: Float | float
  accuracy_drop: Float | float


class Figures(NamedTuple):
  """Dynamic. What a design costs; f[] unless said otherwise.

  Attributes:
    latency_s: of a turn.
    energy_j: of a turn.
    power_w: their quotient.
    area_m2: of the chip.
    accuracy_drop: modelled.
    event_s: of a frame, a question, an answer token; f[3].
    event_j: likewise.
    held_bytes: in DRAM, most of the three.
    core_needs_bytes: of the core memories together.
    kept: share of the past attended, by stage, mean; f[3].
  """

  latency_s: Float
  energy_j: Float
  power_w: Float
  area_m2: Float
  accuracy_drop: Float
  event_s: Float
  event_j: Float
  held_bytes: Float
  core_needs_bytes: Float
  kept: Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """Static. Everything but design, limits and constants.

  Attributes:
    stream: what is priced.
    base: platform that is sized anew.
    lookup: (choice, ratio f[3, L, K]) -> `turn.Shares`, smooth in the ratio.
    exact: the same of the exact rule, on a stream held out.
    drop: (mass, kept, groups f[3, L, K]) -> f[], loss of accuracy.
    choices: hash bits and table scope of every static choice; f[Z] each.
    objective: of OBJECTIVES.
    memory: what request sizes do.
  """

  stream: turn.Stream
  base: params.Platform
  lookup: Callable[[Int, Float], turn.Shares]
  exact: Callable[[Int, Float], turn.Shares]
  drop: Callable[[Float, Float, Float], Float]
  choices: turn.Choice
  objective: str = "energy_delay"
  memory: transfer.MemoryModel = queued_link.QUEUED


def restrict(problem: Problem, choices: Sequence[int]) -> Problem:
  """The same problem with some of its static choices, in this order."""
  kept = np.asarray(choices, np.int32)
  return dataclasses.replace(
    problem,
    lookup=lambda index, ratio: problem.lookup(jnp.asarray(kept)[index], ratio),
    exact=lambda index, ratio: problem.exact(jnp.asarray(kept)[index], ratio),
    choices=jax.tree.map(
      lambda leaf: np.asarray(leaf, float)[kept], problem.choices
    ),
  )


def figures(
  problem: Problem,
  design: space_lib.Design,
  choice: Int,
  *,
  known: constants_lib.Constants = constants_lib.CENTRE,
  sharpness: float | None = None,
) -> Figures:
  """Prices a design by the shares that are searched on.

  Args:
    problem: what is priced.
    design: thresholds and sizes.
    choice: i32[], of the static choices.
    known: uncertain constants.
    sharpness: of the maxima; None for hard ones.
  """
  return priced(
    problem,
    design,
    problem.lookup(choice, design.ratio),
    choice,
    known=known,
    sharpness=sharpness,
  )


def priced(
  problem: Problem,
  design: space_lib.Design,
  shares: turn.Shares,
  choice: Int,
  *,
  known: constants_lib.Constants = constants_lib.CENTRE,
  sharpness: float | None = None,
) -> Figures:
  """Prices a design whose shares are known; see `figures`."""
  sized = sizing.apply(problem.base, design, problem.stream.model)
  platform = constants_lib.applied(sized.platform, known)
  work = works(problem, design, shares, choice, known)
  joule = constants_lib.link_j_per_byte(platform.link, known)

  def one(event):
    spent = latency.estimate(
      platform, event, _SCHEDULE, sharpness=sharpness, memory=problem.memory
    )
    used = energy.parts(platform, event, spent, link_j_per_byte=joule)
    return spent.latency_s, used.total

  seconds, joules = jax.vmap(one)(work)
  counts = jnp.asarray(turn.EVENTS)
  latency_s, energy_j = jnp.sum(counts * seconds), jnp.sum(counts * joules)
  return Figures(
    latency_s=latency_s,
    energy_j=energy_j,
    power_w=energy_j / latency_s,
    area_m2=sized.area_m2,
    accuracy_drop=problem.drop(shares.mass, shares.kept, shares.groups),
    event_s=seconds,
    event_j=joules,
    held_bytes=jnp.max(work.held_bytes),
    core_needs_bytes=sized.core_needs_bytes,
    kept=jnp.mean(shares.kept, axis=(1, 2)),
  )


def works(
  problem: Problem,
  design: space_lib.Design,
  shares: turn.Shares,
  choice: Int,
  known: constants_lib.Constants = constants_lib.CENTRE,
):
  """Counts of one event of every stage (`turn.works`)."""
  chosen = jax.tree.map(
    lambda leaf: jnp.asarray(leaf, float)[choice], problem.choices
  )
  return turn.works(problem.stream, design, shares, chosen, known)


def logarithm(problem: Problem, found: Figures) -> Float:
  """ln of what is to be small."""
  values = {
    "latency": jnp.log(found.latency_s),
    "energy": jnp.log(found.energy_j),
    "energy_delay": jnp.log(found.energy_j) + jnp.log(found.latency_s),
  }
  return values[problem.objective]


def value_of(name: str, found: Mapping[str, float]) -> float:
  """What is to be small, from figures by name.

  Example:
    >>> value_of("energy_delay", {"latency_s": 2.0, "energy_j": 3.0})
    6.0
  """
  return {
    "latency": found["latency_s"],
    "energy": found["energy_j"],
    "energy_delay": found["latency_s"] * found["energy_j"],
  }[name]


def violations(
  problem: Problem,
  design: space_lib.Design,
  choice: Int,
  found: Figures,
  limits: Limits,
) -> Float:
  """By how much each limit is passed; f[7] in the order of LIMITS."""
  bits = jnp.asarray(problem.choices.hash_bits, float)[choice]
  chunk = max(problem.stream.chunk_tokens)
  memory = design.cores * design.memory_bytes
  return jnp.stack(
    [
      jnp.log(found.area_m2 / limits.area_m2),
      jnp.log(found.power_w / limits.power_w),
      (found.accuracy_drop - limits.accuracy_drop) / _DROP_SCALE,
      jnp.log(found.held_bytes / design.capacity_bytes),
      jnp.log(found.core_needs_bytes / memory),
      jnp.log(design.dot_units / design.vector_lanes),
      jnp.log(chunk * bits / 8.0 / design.hash_bytes),
    ]
  )


def penalised(value: Float, passed: Float) -> Float:
  """What methods without multipliers make small: ln f + 10 Σ max(g, 0)."""
  return value + _PENALTY * jnp.sum(jnp.maximum(passed, 0.0), axis=-1)


def dictionary(found: Figures) -> dict[str, float | list[float]]:
  """Figures as metrics.json holds them.

  `accuracy` is that of attending to everything (1) less the drop.
  """
  plain = {
    name: np.asarray(value, float).tolist()
    for name, value in found._asdict().items()
  }
  return {**plain, "accuracy": 1.0 - float(found.accuracy_drop)}
