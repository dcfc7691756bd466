"""Sizes become buildable group by group, and lanes keep what is held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.codesign import problems
from vrex_jax.codesign import descent
from vrex_jax.codesign import rounding
from vrex_jax.codesign import snapping
from vrex_jax.codesign import space as space_lib

SPACE = space_lib.make(problems.paper())
PLAN = descent.Plan(starts=8, rounds=4, steps=3)
LADDER = rounding.ladder_of(SPACE)


def lanes():
  """A state all of whose lanes are at one place, one of them feasible."""
  point = jax.random.normal(jax.random.key(0), (SPACE.dimensions,))
  x = jnp.broadcast_to(point, (PLAN.starts, len(point)))
  memory = jax.vmap(descent._adam(PLAN).init)(x)
  return descent.State(
    x=x,
    memory=memory,
    multipliers=jnp.zeros((PLAN.starts, 7)),
    weight=jnp.ones(PLAN.starts),
    worst=jnp.ones(PLAN.starts),
    choice=jnp.zeros(PLAN.starts, jnp.int32),
    free=jnp.ones_like(x),
    best_x=x,
    best=jnp.full(PLAN.starts, jnp.inf).at[3].set(1.0),
    rounds=jnp.int32(PLAN.rounds),
  )


def sizes(x):
  at = space_lib.design(SPACE, jax.nn.sigmoid(x))
  return {name: float(getattr(at, name)) for name in LADDER}


def snapped(worth):
  """Lanes that only are judged, and do not move."""
  seen = []

  def go_on(state):
    seen.append(state)
    values = [worth(sizes(x)) for x in state.x]
    return state.replace(
      best=jnp.asarray(values), best_x=state.x, rounds=jnp.int32(PLAN.rounds)
    )

  return snapping.snap(SPACE, PLAN, lanes(), go_on), seen


def off(values):
  """How many factors of e a design lies above 1, in all."""
  return float(sum(np.log(value) for value in values.values()))


def test_groups_hold_every_size_once_and_coarse_ones_first():
  groups = snapping.groups_of(list(LADDER), 32)
  names = [name for group in groups for name in group]
  assert sorted(names) == sorted(LADDER)
  assert names[:3] == ["dram_bytes_per_s", "link_bytes_per_s", "cores"]
  assert {len(group) for group in groups[:-1]} == {4}
  assert {len(one) for one in snapping.groups_of(list(LADDER), 2)} == {1}


def test_in_the_end_all_sizes_can_be_built():
  state, _ = snapped(off)
  for x in state.best_x:
    for name, value in sizes(x).items():
      assert np.min(np.abs(LADDER[name] / value - 1)) < 1e-4, name


def test_what_is_held_and_only_that_does_not_move():
  state, _ = snapped(off)
  moves = dict(zip(SPACE.labels(), np.asarray(state.free).T, strict=True))
  for label, lanes_ in moves.items():
    assert (lanes_ == (0.0 if label in LADDER else 1.0)).all(), label


def test_a_separable_objective_ends_at_its_best_neighbour():
  """Every size falls to the value below, and thresholds stay."""
  state, _ = snapped(off)
  best = int(jnp.argmin(state.best))
  parent = np.asarray(lanes().best_x[3])
  for name, value in sizes(parent).items():
    below = LADDER[name][LADDER[name] <= value * (1 + 1e-6)]
    expected = below[-1] if len(below) else LADDER[name][0]
    assert sizes(state.best_x[best])[name] == pytest.approx(expected, rel=1e-4)
  thresholds = slice(0, 3 * 2 * 2)
  assert SPACE.labels()[0].startswith("ratio")
  np.testing.assert_array_equal(
    state.best_x[best][thresholds], parent[thresholds]
  )


def test_lanes_begin_late_in_the_schedule_with_nothing_remembered():
  _, seen = snapped(off)
  for state in seen:
    assert int(state.rounds) == 2
    assert np.isinf(state.best).all()
    counts = [
      leaf
      for leaf in jax.tree.leaves(state.memory)
      if jnp.issubdtype(leaf.dtype, jnp.integer)
    ]
    assert counts
    assert all((np.asarray(leaf) == 2 * PLAN.steps).all() for leaf in counts)
  assert len(seen) * 2 == snapping.rounds_of(SPACE, PLAN)


def test_held_numbers_are_not_moved_by_a_round():
  """The program of the descent, on a bowl around 1."""
  plan = descent.Plan(starts=2, rounds=2, steps=4)
  advance = descent.round_of(
    lambda x, choice, own: (jnp.sum((x - 1.0) ** 2), -jnp.ones(7)), plan
  )
  x = jnp.zeros((2, 3))
  state = lanes()
  pick = lambda leaf: leaf[:2] if jnp.ndim(leaf) else leaf
  state = jax.tree.map(pick, state).replace(
    x=x, best_x=x, memory=jax.vmap(descent._adam(plan).init)(x),
    free=jnp.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
    rounds=jnp.int32(0),
  )  # fmt: skip
  limits = jax.tree.map(lambda leaf: jnp.full(2, leaf), problems.LIMITS)
  moved = np.asarray(advance(state, limits).x)
  assert (moved != 0).tolist() == [[True, False, True], [True, True, True]]
