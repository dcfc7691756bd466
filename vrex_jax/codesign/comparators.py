"""Methods without gradients, for as long as the descent took.

  random        uniform in the cube
  cmaes         covariance matrix adaptation, restarted with a new mean when it
                has converged (package cmaes)
  tpe           tree-structured Parzen estimators, asked in batches (optuna)

They see what the descent sees (ln f with the same smooth maxima and shares, and
the same limits, as 10 Σ max(g, 0)) and search the same cube; the static choice
is one more coordinate. Populations are evaluated by one jitted `vmap`.

Source: Hansen and Ostermeier (2001); Bergstra et al. (NIPS 2011).
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import smooth

__all__ = ["METHODS", "Outcome", "check_installed", "run"]

POPULATION = 64


class Outcome(NamedTuple):
  """What a method found.

  Attributes:
    share: best point of the cube; the last point where none kept all limits.
    choice: its static choice.
    value: its ln f; ∞ where none kept all limits.
    evaluations: points.
    seconds: spent.
  """

  share: np.ndarray
  choice: int
  value: float
  evaluations: int
  seconds: float


class _Judge:
  """Dynamic. Evaluates populations and remembers the best point."""

  def __init__(
    self,
    problem: objective_lib.Problem,
    space: space_lib.Space,
    limits: objective_lib.Limits,
    sharpness: float | None,
    tolerance: float,
  ):
    self.number = len(np.atleast_1d(problem.choices.hash_bits))
    self.size = space.dimensions + (self.number > 1)
    self.tolerance = tolerance
    self.best, self.at = np.inf, np.full(self.size, 0.5)
    self.lowest, self.evaluations = np.inf, 0

    def one(share):
      choice = self._choice(share)
      design = space_lib.design(space, share[: space.dimensions])
      priced = objective_lib.figures(
        problem, design, choice, sharpness=sharpness
      )
      value = objective_lib.logarithm(problem, priced)
      passed = objective_lib.violations(problem, design, choice, priced, limits)
      return value, passed, objective_lib.penalised(value, passed)

    self._all = jax.jit(jax.vmap(one))

  def _choice(self, share):
    if self.number == 1:
      return jnp.int32(0)
    place = jnp.floor(share[-1] * self.number).astype(jnp.int32)
    return jnp.minimum(place, self.number - 1)

  def choice(self) -> int:
    """Static choice of the best point."""
    return int(self._choice(jnp.asarray(self.at)))

  def __call__(self, population: np.ndarray) -> np.ndarray:
    values, passed, penalised = map(
      np.asarray, self._all(jnp.asarray(population, jnp.float32))
    )
    self.evaluations += len(population)
    kept = np.where(passed.max(axis=1) <= self.tolerance, values, np.inf)
    index = int(np.argmin(kept))
    if kept[index] < self.best:
      self.best, self.at = float(kept[index]), population[index]
    elif not np.isfinite(self.best):
      index = int(np.argmin(penalised))
      if penalised[index] < self.lowest:
        self.lowest, self.at = float(penalised[index]), population[index]
    return penalised


def check_installed() -> None:
  """Refuses before the work what could not be compared.

  Raises:
    InputError: a library is missing.
  """
  try:
    import cmaes  # noqa: F401
    import optuna  # noqa: F401
  except ImportError as error:
    raise InputError(
      f"the comparators need cmaes and optuna ({error}): pip install -e"
      " '.[codesign]', or leave out --comparators"
    ) from None


def run(
  name: str,
  problem: objective_lib.Problem,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  *,
  seconds: float,
  seed: int,
  sharpness: float | None = smooth.DEFAULT_SHARPNESS,
  tolerance: float = 1e-3,
) -> Outcome:
  """One method for so many seconds, compilation included.

  Args:
    name: of METHODS.
    problem: what is priced.
    space: what moves.
    limits: f[] each.
    seconds: of wall time.
    seed: of the method.
    sharpness: of the maxima.
    tolerance: violation that counts as none.
  """
  began = time.monotonic()
  judge = _Judge(problem, space, limits, sharpness, tolerance)
  METHODS[name](judge, lambda: time.monotonic() - began < seconds, seed)
  spent = time.monotonic() - began
  share = judge.at[: space.dimensions]
  return Outcome(share, judge.choice(), judge.best, judge.evaluations, spent)


def _random(judge: _Judge, going: Callable[[], bool], seed: int) -> None:
  random = np.random.default_rng(seed)
  while going():
    judge(random.uniform(size=(POPULATION, judge.size)))


def _cmaes(judge: _Judge, going: Callable[[], bool], seed: int) -> None:
  import cmaes

  random = np.random.default_rng(seed)
  while going():
    search = cmaes.CMA(
      mean=random.uniform(0.2, 0.8, judge.size),
      sigma=0.3,
      bounds=np.tile([0.0, 1.0], (judge.size, 1)),
      seed=int(random.integers(2**31)),
      population_size=POPULATION,
    )
    while going() and not search.should_stop():
      population = np.stack([search.ask() for _ in range(POPULATION)])
      told = zip(population, judge(population), strict=True)
      search.tell([(point, float(value)) for point, value in told])


def _tpe(judge: _Judge, going: Callable[[], bool], seed: int) -> None:
  import optuna

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  ranges: dict[str, Any] = {
    str(index): optuna.distributions.FloatDistribution(0.0, 1.0)
    for index in range(judge.size)
  }
  study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
  while going():
    trials = [study.ask(ranges) for _ in range(POPULATION // 8)]
    population = np.array(
      [[trial.params[name] for name in ranges] for trial in trials]
    )
    # One program for all methods: a short batch is filled up.
    filled = np.resize(population, (POPULATION, judge.size))
    judge.evaluations -= POPULATION - len(trials)
    for trial, value in zip(trials, judge(filled), strict=False):
      study.tell(trial, float(value))


METHODS: dict[str, Callable[[_Judge, Callable[[], bool], int], None]] = {
  "random": _random,
  "cmaes": _cmaes,
  "tpe": _tpe,
}
"""By name."""
