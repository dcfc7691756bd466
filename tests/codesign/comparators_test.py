"""Every method makes a simple function small; what is missing is said."""

import sys

import numpy as np
import pytest

from vrex_jax.codesign import comparators
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
