"""Sizes become buildable a few at a time, and the descent goes on around them.

Between two and three cores, or two kinds of DRAM, lies nothing that can be
built, and what suits the one does not suit the other. So each size of a group
takes its buildable value below and the one above; every combination is a lane
that holds them and lets all numbers after them move, thresholds included:

  optimum   cores 2.2      DRAM 294 GB/s

  lane 0    2, held        273, held       rest moves  ─┐ a short descent; the
  lane 1    3, held        273, held       rest moves   ├ two best lanes go on
  lane 2    2, held        546, held       rest moves   │ to the next group
  lane 3    3, held        546, held       rest moves  ─┘

After the last group all sizes are held, and `rounding` has thousandths of
thresholds to round. This is a beam search whose nodes are relaxed by descent
(a dive of branch and bound, without bounds); all lanes are those of the descent
and share its program.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vrex_jax.codesign import descent
from vrex_jax.codesign import rounding
from vrex_jax.codesign import space as space_lib

__all__ = ["groups_of", "rounds_of", "snap"]

_BEAM = 2
_MOST_OF_A_GROUP = 4
_LATE = 0.7
"""Share of the descent's schedule that a lane has behind it: steps are small,
as it begins beside an optimum."""
_COARSE = (
  "dram_bytes_per_s", "link_bytes_per_s", "cores", "dot_inputs",
  "dot_units", "vector_lanes", "clock_hz", "capacity_bytes",
)  # fmt: skip
"""First the sizes whose next value is far or changes much; then all others."""


def groups_of(names: Sequence[str], starts: int) -> list[tuple[str, ...]]:
  """Sizes that are rounded together: as many as lanes can hold combinations.

  Args:
    names: of free fields that are one number.
    starts: lanes, shared by two parents.

  Example:
    >>> groups_of(["wtu_width", "cores", "hcu_width"], starts=8)
    [('cores', 'wtu_width'), ('hcu_width',)]
  """
  most = int(np.clip(np.log2(starts / _BEAM), 1, _MOST_OF_A_GROUP))
  first = [name for name in _COARSE if name in names]
  ordered = [*first, *(name for name in names if name not in first)]
  return [
    tuple(ordered[place : place + most])
    for place in range(0, len(ordered), most)
  ]


def snap(
  space: space_lib.Space,
  plan: descent.Plan,
  state: descent.State,
  go_on: Callable[[descent.State], descent.State],
) -> descent.State:
  """Lanes whose sizes are all buildable.

  Args:
    space: what moves.
    plan: of the descent.
    state: after a descent.
    go_on: does the rounds that are left of a state.

  Returns:
    The state after the last group; a lane's best is ∞ where it never kept all
    limits. The given one where no size is free.
  """
  ladder = rounding.ladder_of(space)
  for names in groups_of(list(ladder), plan.starts):
    state = go_on(_held(space, plan, state, {n: ladder[n] for n in names}))
  return state


def rounds_of(space: space_lib.Space, plan: descent.Plan) -> int:
  """Rounds that `snap` does in all."""
  groups = groups_of(list(rounding.ladder_of(space)), plan.starts)
  return len(groups) * (plan.rounds - _first_round(plan))


def _first_round(plan: descent.Plan) -> int:
  return min(int(_LATE * plan.rounds), plan.rounds - 1)


def _parents(state: descent.State) -> list[int]:
  """The best lane, and the best of those that are worth something else."""
  worth = np.where(
    np.isfinite(state.best), state.best, 1e3 + np.asarray(state.worst)
  )
  order = [int(lane) for lane in np.argsort(worth, kind="stable")]
  others = [lane for lane in order if worth[lane] > worth[order[0]] + 1e-6]
  return [order[0], *others[: _BEAM - 1]]


def _held(
  space: space_lib.Space,
  plan: descent.Plan,
  state: descent.State,
  ladder: Mapping[str, np.ndarray],
) -> descent.State:
  """Lanes for every combination of values around two parents."""
  combinations = list(itertools.product((0, 1), repeat=len(ladder)))
  parents = _parents(state)
  lanes, x, free = [], [], []
  labels = space.labels()
  for lane in range(plan.starts):
    parent = parents[lane // len(combinations) % len(parents)]
    above = combinations[lane % len(combinations)]
    own, moves = np.array(_best_x(state, parent)), np.array(state.free[parent])
    at = space_lib.design(space, jax.nn.sigmoid(jnp.asarray(own)))
    for (name, values), up in zip(ladder.items(), above, strict=True):
      value = _around(values, float(getattr(at, name)))[up]
      own[labels.index(name)] = _x_of(space, name, value)
      moves[labels.index(name)] = 0.0
    lanes.append(parent)
    x.append(own)
    free.append(moves)
  children = jax.tree.map(
    lambda leaf: leaf[np.array(lanes)], state.replace(rounds=state.choice)
  )
  first = _first_round(plan)
  count: Any = jnp.full(plan.starts, first * plan.steps, jnp.int32)
  return children.replace(
    x=jnp.asarray(np.stack(x)),
    free=jnp.asarray(np.stack(free)),
    memory=optax.tree_utils.tree_set(children.memory, count=count),
    worst=jnp.full_like(state.worst, jnp.inf),
    best_x=jnp.asarray(np.stack(x)),
    best=jnp.full_like(state.best, jnp.inf),
    rounds=jnp.int32(first),
  )


def _best_x(state: descent.State, lane: int) -> np.ndarray:
  kept = np.isfinite(state.best[lane])
  return np.asarray((state.best_x if kept else state.x)[lane])


def _around(values: np.ndarray, at: float) -> tuple[float, float]:
  """The value below and the one above; both the same where there is one."""
  if len(values) == 1:
    return float(values[0]), float(values[0])
  above = int(np.clip(np.searchsorted(values, at), 1, len(values) - 1))
  return float(values[above - 1]), float(values[above])


def _x_of(space: space_lib.Space, name: str, value: float) -> float:
  """x of one size; just inside the cube at its ends."""
  low, high = space.low[name], space.high[name]
  share = np.clip(np.log(value / low) / np.log(high / low), 1e-6, 1 - 1e-6)
  return float(np.log(share / (1.0 - share)))
