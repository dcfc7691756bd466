"""What a study does beside its result: fronts, comparison, certificate."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vrex_jax import interrupt
from vrex_jax.codesign import comparators
from vrex_jax.codesign import descent
from vrex_jax.codesign import fronts
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import report
from vrex_jax.codesign import rounding
from vrex_jax.codesign import snapping
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import study as study_lib

__all__ = [
  "Again",
  "Bar",
  "Searched",
  "again",
  "certified",
  "compared",
  "evaluations",
  "fronts_of",
  "settled",
]

_SMALL_GRID = ("cores", "dot_units", "clock_hz", "hcu_width", "wtu_width")
_GRID = (*_SMALL_GRID, "link_bytes_per_s", "dram_bytes_per_s")
_MOST_VALUES = 12
"""Of one field of the grid; a longer ladder is thinned."""

Bar = Callable[[int, str], Callable[[descent.Round, Any], None]]
"""(rounds, what) -> what is told of every round."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
  """Static. What has been searched, and with which programs.

  Attributes:
    pricer: of the problem.
    space: what moves.
    limits: to keep.
    plan: of the descent.
    advance: its round.
    kept: static choices that were left after screening.
    step: of the ledger.
    bar: makes what shows rounds.
    stopped: has the user asked to end?
    note: keeps a sentence for the end.
  """

  pricer: pricing.Pricer
  space: space_lib.Space
  limits: objective_lib.Limits
  plan: descent.Plan
  advance: descent.Advance
  kept: Sequence[int]
  step: Callable[[str, Callable[[], Any]], Any]
  bar: Bar
  stopped: Callable[[], bool]
  note: Callable[[str], None]

  @property
  def problem(self) -> objective_lib.Problem:
    """What is priced."""
    return self.pricer.problem

  def go_on(self) -> None:
    """Raises `interrupt.StoppedError` where the user has asked to end."""
    if self.stopped():
      raise interrupt.StoppedError


def evaluations(plan: descent.Plan, space: space_lib.Space) -> int:
  """Points of a descent and of its snapping, each with its gradient."""
  rounds = plan.rounds + snapping.rounds_of(space, plan)
  return plan.starts * rounds * plan.steps


def fronts_of(
  searched: Searched, optimum: study_lib.Designed
) -> dict[str, list[dict[str, Any]]]:
  """The objective as a limit moves, of area and, if it can, accuracy."""
  names = ["area"] + ["accuracy"] * ("ratio" in searched.space.free)
  around = space_lib.shares(searched.space, optimum.design)

  def one(name: str) -> list[dict[str, Any]]:
    found = fronts.front(
      name,
      searched.problem,
      searched.space,
      searched.limits,
      searched.plan,
      around=around,
      choice=optimum.choice,
      advance=searched.advance,
      told=searched.bar(searched.plan.rounds, f"front of {name}"),
      stopped=searched.stopped,
    )
    searched.go_on()
    return found

  return {
    name: searched.step(f"front of {name}", functools.partial(one, name))
    for name in names
  }


class Again(NamedTuple):
  """Another descent.

  Attributes:
    optimum: what it found; None where no point keeps the limits.
    value: ln f of its best point.
    seconds: it took.
  """

  optimum: study_lib.Optimum | None
  value: float
  seconds: float


def again(
  searched: Searched,
  *,
  seed: int,
  limits: objective_lib.Limits | None = None,
  around: study_lib.Designed | None = None,
) -> Again:
  """The descent from other starts, or under other limits.

  Args:
    searched: what has been searched.
    seed: of the starts.
    limits: other than those of `searched`.
    around: a design that the last lane starts at.
  """
  began = time.monotonic()
  limits = searched.limits if limits is None else limits
  plan = dataclasses.replace(searched.plan, seed=seed)
  state = descent.start(searched.problem, searched.space, plan, searched.kept)
  if around is not None:
    share = space_lib.shares(searched.space, around.design)
    state = descent.begin_at(state, -1, share, around.choice)
  state = _run(searched, limits, state, f"descent, seed {seed}")
  found = descent.found(state)
  optimum = settled(searched, limits, state) if found.feasible else None
  return Again(optimum, found.value, time.monotonic() - began)


def settled(
  searched: Searched, limits: objective_lib.Limits, state: descent.State
) -> study_lib.Optimum:
  """The best lane, and the best after sizes have become buildable.

  Args:
    searched: what has been searched.
    limits: that the descent kept.
    state: after it; some lane has kept them.
  """
  found = descent.found(state)
  snapped = descent.found(
    snapping.snap(
      searched.space, searched.plan, state,
      lambda lanes: _run(searched, limits, lanes, "buildable sizes"),
    )
  )  # fmt: skip
  return study_lib.Optimum(
    study_lib.placed(searched.space, found),
    study_lib.placed(searched.space, snapped if snapped.feasible else found),
  )


def _run(
  searched: Searched,
  limits: objective_lib.Limits,
  state: descent.State,
  what: str,
) -> descent.State:
  """The rounds that are left of a state, by the program of the descent."""
  state = descent.run(
    searched.problem,
    searched.space,
    limits,
    searched.plan,
    state=state,
    advance=searched.advance,
    told=searched.bar(searched.plan.rounds - int(state.rounds), what),
    stopped=searched.stopped,
  )
  searched.go_on()
  return state


def compared(
  searched: Searched, seeds: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
  """The descent and every comparator on the same static choices.

  Args:
    searched: what has been searched.
    seeds: one row of each method for each.
    seconds: that every comparator has.
  """
  if not seeds:
    return []
  problem = objective_lib.restrict(searched.problem, searched.kept)
  pricer = pricing.Pricer(problem)

  def descend(seed: int) -> dict[str, Any]:
    found = again(searched, seed=seed)
    row = {
      "method": "descent",
      "seed": seed,
      "value": None,
      "evaluations": evaluations(searched.plan, searched.space),
      "seconds": found.seconds,
      "rounded": None,
      "simulated": None,
    }
    if found.optimum is None:
      return row
    return {
      **row,
      "value": found.value,
      **study_lib.after_rounding(
        searched.pricer, searched.space, searched.limits, found.optimum.snapped
      ),
    }

  def search(name: str, seed: int) -> dict[str, Any]:
    return study_lib.compare(
      pricer,
      searched.space,
      searched.limits,
      name,
      seconds=seconds,
      seed=seed,
    )

  rows = []
  for seed in seeds:
    rows.append(
      searched.step(f"descent {seed}", functools.partial(descend, seed))
    )
    for name in comparators.METHODS:
      searched.go_on()
      rows.append(
        searched.step(f"{name} {seed}", functools.partial(search, name, seed))
      )
  searched.note(report.comparison_table(rows))
  return rows


def certified(
  searched: Searched, choice: int, *, small: bool
) -> dict[str, Any] | None:
  """The descent beside brute force on a small grid; None without one.

  Args:
    searched: what has been searched.
    choice: static choice of the algorithm.
    small: thousands of points instead of millions.
  """
  ladder = rounding.ladder_of(searched.space)
  names = _SMALL_GRID if small else _GRID
  axes = {name: _thinned(ladder[name]) for name in names if name in ladder}
  if not axes:
    searched.note("no certificate: none of the grid's fields is free")
    return None
  found = searched.step(
    "certificate",
    lambda: study_lib.certify(
      searched.pricer,
      searched.space,
      searched.limits,
      axes,
      searched.plan,
      choice,
    ),
  )
  searched.note(report.certificate_sentence(found))
  return found


def _thinned(values: np.ndarray) -> np.ndarray:
  return values[:: -(-len(values) // _MOST_VALUES)]
