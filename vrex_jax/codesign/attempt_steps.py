"""Steps of an attempt, each kept as it is done (`attempts.until_kept`)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax.codesign import confirm
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import extras
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import rounding
from vrex_jax.codesign import study as study_lib

__all__ = ["AttemptSteps", "search_again"]


class AttemptSteps:
  """Dynamic. Searches under a tighter limit, rounds and runs.

  Args:
    searched: what has been searched, with its programs.
    start: that runs beside the first attempt; None for no such run.
    choices: names of the static choices.
    frames: of a stream of the real run.
    questions: of the real run; 0 for none.

  Attributes:
    of_start: the real run of the start; None before, and without one.
  """

  def __init__(
    self,
    searched: extras.Searched,
    start: study_lib.Designed | None,
    choices: Sequence[curves_lib.StaticChoice],
    *,
    frames: int,
    questions: int,
  ):
    self.searched, self.start, self.choices = searched, start, choices
    self.frames, self.questions = frames, questions
    self.of_start: confirm.Measured | None = None
    self._full: Mapping[str, Any] | None = None

  def search(
    self, number: int, limit: float, before: study_lib.Optimum
  ) -> study_lib.Optimum | None:
    """The same starts under another limit, but one at the optimum before."""
    limits = self.searched.limits.replace(accuracy_drop=limit)

    def make():
      found = extras.again(
        self.searched,
        seed=self.searched.plan.seed,
        limits=limits,
        around=before.free,
      ).optimum
      return None if found is None else found.as_json()

    kept = self.searched.step(f"search {number}", make)
    return None if kept is None else study_lib.optimum(kept)

  def round_(
    self, number: int, limit: float, optimum: study_lib.Optimum
  ) -> study_lib.Designed | None:
    """What can be built, judged by exact held-out curves.

    Raises:
      InfeasibleError: nothing around the first optimum keeps the limits.
    """
    limits = self.searched.limits.replace(accuracy_drop=limit)

    def make():
      found = _rounded(self.searched, optimum.snapped, limits, must=number == 1)
      return None if found is None else found.as_json()

    kept = self.searched.step(f"rounded {number}", make)
    return None if kept is None else study_lib.designed(kept)

  def measure(
    self, number: int, rounded: study_lib.Designed
  ) -> confirm.Measured | None:
    """The real run; `full` and the start run with the first alone."""
    self.searched.go_on()
    if not self.questions:
      return None
    designs = {"rounded": rounded}
    if number == 1 and self.start is not None:
      designs = {"start": self.start, **designs}
    kept = self.searched.step(
      f"measured {number}",
      lambda: confirm.measure_designs(
        {
          name: (one.design.ratio, dataclasses.asdict(self.choices[one.choice]))
          for name, one in designs.items()
        },
        frames=self.frames,
        questions=self.questions,
        full=self._full,
      ),
    )
    self._full = kept["full"]
    found = {
      name: confirm.from_json(one) for name, one in kept["designs"].items()
    }
    self.of_start = found.get("start", self.of_start)
    return found["rounded"]


def search_again(
  searched: extras.Searched, limits: objective_lib.Limits
) -> study_lib.Designed | None:
  """The descent under other limits, rounded; None where nothing keeps them."""
  found = extras.again(searched, seed=searched.plan.seed, limits=limits).optimum
  if found is None:
    return None
  return _rounded(searched, found.snapped, limits, must=False)


def _rounded(
  searched: extras.Searched,
  at: study_lib.Designed,
  limits: objective_lib.Limits,
  *,
  must: bool,
) -> study_lib.Designed | None:
  built = rounding.repair(
    searched.pricer, searched.space, limits, at.design, at.choice
  )
  found = study_lib.Designed(built.design, at.choice)
  if built.feasible:
    return found
  if must:
    study_lib.refuse(searched.pricer, found, limits, exact=True)
  return None
