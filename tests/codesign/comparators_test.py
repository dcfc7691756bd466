"""Every method makes a simple function small; what is missing is said."""

import sys
import types

import numpy as np
import pytest

from tests.codesign import problems
from vrex_jax.codesign import comparators
from vrex_jax.codesign import descent
from vrex_jax.codesign import extras
from vrex_jax.codesign import objective
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import study
from vrex_jax.errors import InputError


class Judge:
  """Distance from a point of the cube."""

  size = 3

  def __init__(self, most):
    self.evaluations, self.best, self.most = 0, np.inf, most

  def going(self):
    return self.evaluations < self.most

  def __call__(self, population):
    assert population.shape[1] == self.size
    assert np.all((population >= 0) & (population <= 1))
    self.evaluations += len(population)
    values = np.sum((population - np.array([0.2, 0.5, 0.7])) ** 2, axis=1)
    self.best = min(self.best, float(values.min()))
    return values


@pytest.mark.parametrize(
  ("name", "most", "reached"),
  [("random", 2048, 0.02), ("cmaes", 1280, 1e-3), ("tpe", 64, 0.1)],
)
def test_a_method_comes_near_the_minimum(name, most, reached):
  for module in {"cmaes": ["cmaes"], "tpe": ["optuna"]}.get(name, []):
    pytest.importorskip(module, reason=f"the extra codesign has {module}")
  judge = Judge(most)
  comparators.METHODS[name](judge, judge.going, 0)
  assert judge.best < reached


def test_a_missing_library_is_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, "cmaes", None)
  with pytest.raises(InputError, match=r"pip install -e '\.\[codesign\]'"):
    comparators.check_installed()


def test_a_point_that_exceeds_a_limit_is_never_the_best():
  """A loose judge would take the fastest point, which is too large."""
  space = space_lib.make(problems.paper(), groups=["cores"])
  problem = objective.restrict(problems.problem(), [1])
  judge = comparators._Judge(problem, space, problems.LIMITS, None, 1e-3)
  paper = space_lib.shares(space, space.start)
  large = np.ones_like(paper)
  judge(np.stack([large, paper]))
  assert np.isfinite(judge.best)
  np.testing.assert_array_equal(judge.at, paper)


def test_comparators_get_the_time_that_the_descent_took(monkeypatch):
  given = []

  def run(name, problem, space, limits, *, seconds, seed):
    given.append((name, seconds, seed))
    return comparators.Outcome(np.full(2, 0.5), 0, 1.0, 1, seconds)

  monkeypatch.setattr(study.comparators, "run", run)
  monkeypatch.setattr(study, "after_rounding", lambda *given: {})
  monkeypatch.setattr(extras.objective_lib, "restrict", lambda *given: None)
  monkeypatch.setattr(
    extras, "again", lambda *given, **named: extras.Again(None, 1.0, 1.0)
  )
  monkeypatch.setattr(study.space_lib, "design", lambda *given: None)
  space = space_lib.make(problems.paper(), groups=["dram"])
  searched = extras.Searched(
    pricer=types.SimpleNamespace(problem=None), space=space,
    limits=problems.LIMITS, plan=descent.Plan(), advance=None, kept=[0],
    step=lambda name, make: make(), bar=None, stopped=lambda: False,
    note=lambda text: None,
  )  # fmt: skip
  monkeypatch.setattr(extras.pricing, "Pricer", lambda problem: searched.pricer)
  monkeypatch.setattr(extras.report, "comparison_table", lambda rows: "")
  extras.compared(searched, [3], 12.5)
  assert given == [(name, 12.5, 3) for name in comparators.METHODS]
