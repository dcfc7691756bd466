"""Steps of a co-design study; `experiments/codesign.py` strings them together.

start ─► descent ─► optimum ─► snapping, rounding ─► rounded ─► simulation, run
  │                    │                      │            └► confirmed
  └ elasticities       └ elasticities         └ verdict over the band
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import certificate
from vrex_jax.codesign import comparators
from vrex_jax.codesign import confirm
from vrex_jax.codesign import descent
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import report
from vrex_jax.codesign import rounding
from vrex_jax.codesign import simulation
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError

__all__ = [
  "Described",
  "Designed",
  "InfeasibleError",
  "Optimum",
  "after_rounding",
  "calibrated_ratio",
  "certify",
  "compare",
  "confirmed",
  "describe",
  "designed",
  "optimum",
  "placed",
  "refuse",
  "screen",
]


class InfeasibleError(InputError):
  """No design keeps all limits."""


class Designed(NamedTuple):
  """A design and its static choice of the algorithm."""

  design: space_lib.Design
  choice: int

  def as_json(self) -> dict[str, Any]:
    """What `designed` reads; numbers keep every bit."""
    sizes = {
      name: np.asarray(value, float).tolist()
      for name, value in vars(self.design).items()
    }
    return {"sizes": sizes, "choice": int(self.choice)}


def designed(kept: Mapping[str, Any]) -> Designed:
  """What `Designed.as_json` gave.

  Example:
    >>> from vrex_jax.codesign import start
    >>> one = Designed(start.of_platform("vrex8", layers=1, kv_heads=1), 2)
    >>> designed(one.as_json()).as_json() == one.as_json()
    True
  """
  sizes = {
    name: np.asarray(value) if isinstance(value, list) else value
    for name, value in kept["sizes"].items()
  }
  return Designed(space_lib.Design(**sizes), kept["choice"])


class Optimum(NamedTuple):
  """What a descent found.

  Attributes:
    free: the best point, of any sizes.
    snapped: the best one with sizes that can be built (`snapping`), which is
      what is rounded; the same where no such point keeps the limits.
  """

  free: Designed
  snapped: Designed

  def as_json(self) -> list[dict[str, Any]]:
    """What `optimum` reads."""
    return [one.as_json() for one in self]


def optimum(kept: Sequence[Mapping[str, Any]]) -> Optimum:
  """What `Optimum.as_json` gave."""
  return Optimum(*map(designed, kept))


def placed(space: space_lib.Space, found: descent.Found) -> Designed:
  """What a descent found, as a design."""
  design = space_lib.design(space, jnp.asarray(found.share))
  return Designed(jax.tree.map(np.asarray, design), found.choice)


class Described(NamedTuple):
  """A design with what it costs.

  Attributes:
    placed: the design with its shares.
    figures: as metrics.json holds them (`objective.dictionary`).
    passed: violations, f[7].
    value: ln f.
  """

  placed: pricing.Placed
  figures: dict[str, Any]
  passed: np.ndarray
  value: float


def describe(
  pricer: pricing.Pricer,
  at: Designed,
  limits: objective_lib.Limits,
  *,
  exact: bool,
) -> Described:
  """Prices one design with hard maxima.

  Args:
    pricer: of the problem.
    at: the design.
    limits: that it should keep.
    exact: by the exact rule on the held-out stream.
  """
  (placed,) = pricer.place([at.design], at.choice, exact=exact)
  priced = pricer([placed], limits)
  alone = jax.tree.map(lambda leaf: leaf[0], priced.figures)
  return Described(
    placed,
    objective_lib.dictionary(alone),
    priced.passed[0],
    float(priced.value[0]),
  )


def refuse(
  pricer: pricing.Pricer,
  nearest: Designed,
  limits: objective_lib.Limits,
  *,
  exact: bool,
) -> NoReturn:
  """Says which limits the nearest design passes.

  Raises:
    InfeasibleError: always.
  """
  found = describe(pricer, nearest, limits, exact=exact)
  raise InfeasibleError(
    report.infeasible(
      found.passed.tolist(), found.figures, nearest.design, limits
    )
  )


def screen(
  problem: objective_lib.Problem,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  plan: descent.Plan,
  advance: descent.Advance,
  *,
  rounds: int,
  told: Callable[[descent.Round, descent.State], None] = lambda one, state: (
    None
  ),
) -> list[int]:
  """Static choices, best first, by a short descent of one lane each.

  Args:
    problem: with all choices.
    space: what moves.
    limits: to keep.
    plan: of `advance`.
    advance: of `descent.make_round`.
    rounds: of each lane.
    told: see `descent.run`.
  """
  number = len(np.atleast_1d(problem.choices.hash_bits))
  worth = np.full(number, np.inf)
  for first in range(0, number, plan.starts):
    own = first + np.arange(plan.starts)
    state = descent.start(problem, space, plan)
    state = state.replace(
      x=jnp.broadcast_to(state.x[:1], state.x.shape),
      choice=jnp.asarray(own % number, jnp.int32),
    )
    short = dataclasses.replace(plan, rounds=rounds)
    state = descent.run(
      problem, space, limits, short, state=state, advance=advance, told=told
    )
    inside = own < number
    worth[own[inside]] = np.where(
      np.isfinite(state.best), state.best, 1e3 + np.asarray(state.worst)
    )[inside]
  return [int(index) for index in np.argsort(worth, kind="stable")]


def calibrated_ratio(
  problem: objective_lib.Problem,
  start: space_lib.Design,
  choice: int,
  drop: float,
) -> float:
  """Least threshold from the start's on that keeps the accuracy, to 0.001.

  One threshold for all stages, layers and heads; exact shares.

  Returns:
    The threshold; 1 where none keeps it.
  """

  @jax.jit
  def lost(ratios):
    def one(ratio):
      everywhere = jnp.full(np.shape(start.ratio), ratio)
      shares = problem.exact(jnp.int32(choice), everywhere)
      return problem.drop(shares.mass, shares.kept, shares.groups)

    return jax.vmap(one)(ratios)

  first = round(1000 * float(np.mean(start.ratio)))
  ratios = np.arange(first, 1001) / 1000
  keeps = np.asarray(lost(jnp.asarray(ratios, jnp.float32))) <= drop
  return float(ratios[np.argmax(keeps)]) if keeps.any() else 1.0


def confirmed(
  pricer: pricing.Pricer,
  described: Described,
  limits: objective_lib.Limits,
  measured: confirm.Measured | None,
) -> tuple[dict[str, Any], pricing.Placed]:
  """A design by simulation, with what the real run kept and lost.

  Stages without an event in the run keep what the curves say, as does
  everything but the kept share.

  Args:
    pricer: of the problem.
    described: by curves.
    limits: of the problem.
    measured: of its real run; None to simulate what the curves say.

  Returns:
    Figures as metrics.json holds them, and the design with its shares.
  """
  placed, drop = described.placed, described.figures["accuracy_drop"]
  if measured is not None:
    own = np.asarray(placed.shares.kept)
    kept = np.where(np.isfinite(measured.kept), measured.kept, own)
    placed = placed._replace(
      shares=placed.shares._replace(kept=kept.astype(np.float32))
    )
    drop = measured.drop
  line = simulation.simulate(pricer, placed, limits)
  kept_by_stage = np.asarray(placed.shares.kept).mean(axis=(1, 2))
  return {
    **line.figures(),
    "area_m2": described.figures["area_m2"],
    "accuracy": 1.0 - drop,
    "accuracy_drop": drop,
    "kept": kept_by_stage.tolist(),
  }, placed


def after_rounding(
  pricer: pricing.Pricer,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  at: Designed,
) -> dict[str, Any]:
  """What a point is worth once it is built: ln f rounded, and simulated.

  Both None where no buildable neighbour keeps the limits.
  """
  built = rounding.repair(pricer, space, limits, at.design, at.choice)
  if not built.feasible:
    return {"rounded": None, "simulated": None}
  described = describe(
    pricer, Designed(built.design, at.choice), limits, exact=True
  )
  line = simulation.simulate(pricer, described.placed, limits).figures()
  value = objective_lib.value_of(pricer.problem.objective, line)
  return {"rounded": built.value, "simulated": float(np.log(value))}


def compare(
  pricer: pricing.Pricer,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  name: str,
  *,
  seconds: float,
  seed: int,
) -> dict[str, Any]:
  """A comparator, rounded and simulated as the descent is."""
  out = comparators.run(
    name, pricer.problem, space, limits, seconds=seconds, seed=seed
  )
  design = space_lib.design(space, jnp.asarray(out.share, jnp.float32))
  built = after_rounding(pricer, space, limits, Designed(design, out.choice))
  return {
    "method": name,
    "seed": seed,
    "value": out.value if np.isfinite(out.value) else None,
    "evaluations": out.evaluations,
    "seconds": out.seconds,
    **built,
  }


def certify(
  pricer: pricing.Pricer,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  axes: Mapping[str, np.ndarray],
  plan: descent.Plan,
  choice: int,
  *,
  told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
  """Brute force on a small grid, and the descent on the same fields.

  Everything that is not an axis stays as in the space's start. Both use the
  shares that are searched on.
  """
  problem = pricer.problem
  best = certificate.enumerate_all(
    problem, space.start, axes, limits, choice=choice, told=told
  )
  small = dataclasses.replace(
    space,
    free=tuple(axes),
    low={**space.low, **{n: float(v[0]) for n, v in axes.items()}},
    high={**space.high, **{n: float(v[-1]) for n, v in axes.items()}},
  )
  alone = objective_lib.restrict(problem, [choice])
  found = descent.found(descent.run(alone, small, limits, plan))
  design = space_lib.design(small, jnp.asarray(found.share))
  built = rounding.repair(
    pricer, small, limits, design, choice, exact=False, ladder=axes
  )
  return {
    "fields": list(axes),
    "points": best.points,
    "feasible": best.feasible,
    "brute_force": best.value,
    "descent": found.value if found.feasible else None,
    "rounded": built.value if built.feasible else None,
    "gap": float(np.expm1(built.value - best.value))
    if built.feasible
    else None,
  }
