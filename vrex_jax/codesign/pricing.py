"""Prices lists of designs with one compiled program for everything.

Rounding, figures, verdicts over the band and simulations all ask for the same:
hard maxima, at some thresholds' shares, with some constants. Designs are taken
in blocks of one size, so that a program is compiled once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import sizing
from vrex_jax.codesign import space as space_lib
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import workload

__all__ = ["BLOCK", "Placed", "Priced", "Pricer"]

BLOCK = 128


class Placed(NamedTuple):
  """A design with what happens at its thresholds.

  Attributes:
    design: thresholds and sizes.
    choice: static choice of the algorithm.
    shares: measured, or read from curves.
    known: uncertain constants.
  """

  design: space_lib.Design
  choice: Any
  shares: Any
  known: constants_lib.Constants = constants_lib.CENTRE


class Priced(NamedTuple):
  """Host arrays with a leading axis of designs.

  Attributes:
    figures: of `objective.Figures`.
    value: ln f.
    passed: violations, f[designs, 7].
  """

  figures: objective_lib.Figures
  value: np.ndarray
  passed: np.ndarray


class Pricer:
  """Dynamic. The compiled programs of one problem.

  Args:
    problem: what is priced.
  """

  def __init__(self, problem: objective_lib.Problem):
    self.problem = problem

    def shares(design, choice, exact):
      read = (
        problem.exact(choice, design.ratio),
        problem.lookup(choice, design.ratio),
      )
      return jax.tree.map(lambda a, b: jnp.where(exact, a, b), *read)

    def one(placed: Placed, limits):
      found = objective_lib.priced(
        problem,
        placed.design,
        placed.shares,
        placed.choice,
        known=placed.known,
      )
      passed = objective_lib.violations(
        problem, placed.design, placed.choice, found, limits
      )
      return found, objective_lib.logarithm(problem, found), passed

    def built(placed: Placed):
      sized = sizing.apply(problem.base, placed.design, problem.stream.model)
      work = objective_lib.works(
        problem, placed.design, placed.shares, placed.choice, placed.known
      )
      return constants_lib.applied(sized.platform, placed.known), work

    self._shares = jax.jit(jax.vmap(shares, in_axes=(0, 0, None)))
    self._all = jax.jit(jax.vmap(one, in_axes=(0, None)))
    self._built = jax.jit(built)

  def place(
    self,
    designs: Sequence[space_lib.Design],
    choice: int,
    *,
    exact: bool = True,
  ) -> list[Placed]:
    """Designs with the shares that curves give them.

    Args:
      designs: any number.
      choice: of all.
      exact: of the exact rule on the held-out stream; else those that are
        searched on.
    """
    found: list[Placed] = []
    for block, number in _blocks(designs):
      several = np.full(BLOCK, choice, np.int32)
      shares = self._shares(block, several, jnp.asarray(exact))
      shares = jax.tree.map(np.asarray, shares)
      for index in range(number):
        own = jax.tree.map(lambda leaf, i=index: leaf[i], shares)
        found.append(Placed(designs[len(found)], choice, own))
    return found

  def __call__(
    self, placed: Sequence[Placed], limits: objective_lib.Limits
  ) -> Priced:
    """Prices placed designs."""
    limits = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), limits)
    parts = []
    for block, number in _blocks(placed):
      priced = self._all(block, limits)
      parts.append(
        jax.tree.map(lambda leaf, n=number: np.asarray(leaf)[:n], priced)
      )
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return Priced(*joined)

  def built(self, placed: Placed) -> tuple[params.Platform, workload.Work]:
    """Platform and counts of the three events, as host arrays."""
    return jax.tree.map(np.asarray, self._built(_single(placed)))


def _single(tree: Any) -> Any:
  """Leaves as arrays: f32, and i32 for whole numbers."""
  return jax.tree.map(
    lambda leaf: np.asarray(
      leaf, np.int32 if isinstance(leaf, (int, np.integer)) else np.float32
    ),
    tree,
  )


def _blocks(trees: Sequence[Any]):
  """Stacks of BLOCK, the last filled up with its first; and how many count."""
  for first in range(0, len(trees), BLOCK):
    block = [_single(tree) for tree in trees[first : first + BLOCK]]
    number = len(block)
    block += [block[0]] * (BLOCK - number)
    yield jax.tree.map(lambda *leaves: np.stack(leaves), *block), number
