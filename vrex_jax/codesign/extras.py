"""What a study does beside its result: fronts, comparison, certificate."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vrex_jax import interrupt
from vrex_jax.codesign import comparators
from vrex_jax.codesign import descent
from vrex_jax.codesign import fronts
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import report
from vrex_jax.codesign import rounding
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import study as study_lib

__all__ = [
  "Bar",
  "Searched",
  "again",
  "certified",
  "compared",
  "evaluations",
  "fronts_of",
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


def evaluations(plan: descent.Plan) -> int:
  """Points of a descent, each with its gradient."""
  return plan.starts * plan.rounds * plan.steps


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


def again(
  searched: Searched,
  *,
  seed: int,
  limits: objective_lib.Limits | None = None,
  around: study_lib.Designed | None = None,
) -> tuple[descent.Found, float]:
  """The descent from other starts, or under other limits; and its seconds.

  Args:
    searched: what has been searched.
    seed: of the starts.
    limits: other than those of `searched`.
    around: a design that the last lane starts at.
  """
  began = time.monotonic()
  plan = dataclasses.replace(searched.plan, seed=seed)
  state = descent.start(searched.problem, searched.space, plan, searched.kept)
  if around is not None:
    share = space_lib.shares(searched.space, around.design)
    state = descent.begin_at(state, -1, share, around.choice)
  state = descent.run(
    searched.problem,
    searched.space,
    searched.limits if limits is None else limits,
    searched.plan,
    state=state,
    advance=searched.advance,
    told=searched.bar(plan.rounds, f"descent, seed {seed}"),
    stopped=searched.stopped,
  )
  searched.go_on()
  return descent.found(state), time.monotonic() - began


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
    found, spent = again(searched, seed=seed)
    share = jnp.asarray(found.share)
    at = study_lib.Designed(
      space_lib.design(searched.space, share), found.choice
    )
    return {
      "method": "descent",
      "seed": seed,
      "value": found.value if found.feasible else None,
      "evaluations": evaluations(searched.plan),
      "seconds": spent,
      **study_lib.after_rounding(
        searched.pricer, searched.space, searched.limits, at
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
