"""The augmented Lagrangian finds known constrained minima, and goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.codesign import problems
from vrex_jax.codesign import descent
from vrex_jax.codesign import objective
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError

PLAN = descent.Plan(starts=3, rounds=12, steps=80, rate=0.1)
LIMITS = objective.Limits(1.0, 1.0, 1.0)


def both(x, choice, limits):
  """(x₀ - 3)² + (x₁ + 1)² with x₀ ≤ limit, in one choice x₁ ≥ 0."""
  value = jnp.sum((x - jnp.array([3.0, -1.0])) ** 2)
  passed = jnp.stack(
    [x[0] - limits.area_m2, jnp.where(choice == 1, -x[1], -1.0)]
  )
  return value, passed


def begin(plan=PLAN):
  x = jnp.zeros((plan.starts, 2)) + jnp.arange(3.0)[:, None]
  memory = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(
      optax.cosine_decay_schedule(plan.rate, plan.rounds * plan.steps, 0.05)
    ),
  )
  infinite = jnp.full(plan.starts, jnp.inf, x.dtype)
  return descent.State(
    x=x,
    memory=jax.vmap(memory.init)(x),
    multipliers=jnp.zeros((plan.starts, 2)),
    weight=jnp.full(plan.starts, 10.0, x.dtype),
    worst=infinite,
    choice=jnp.array([0, 1, 0], jnp.int32),
    best_x=x,
    free=jnp.ones_like(x),
    best=infinite,
    rounds=jnp.int32(0),
  )


@pytest.fixture(scope="module")
def advance():
  return descent.round_of(both, PLAN)


@pytest.fixture(scope="module")
def ended(advance):
  limits = objective.Limits(jnp.array([1.0, 1.0, 2.0]), 1.0, 1.0)
  return descent.run(None, None, limits, PLAN, state=begin(), advance=advance)


def test_minima_lie_on_the_limits_of_each_lane(ended):
  expected = [[1.0, -1.0], [1.0, 0.0], [2.0, -1.0]]
  np.testing.assert_allclose(ended.best_x, expected, atol=0.02)
  np.testing.assert_allclose(ended.best, [4.0, 5.0, 1.0], atol=0.08)


def test_multipliers_are_the_prices_of_the_limits(ended):
  np.testing.assert_allclose(ended.multipliers[:, 0], [4.0, 4.0, 2.0], rtol=0.1)
  np.testing.assert_allclose(ended.multipliers[1, 1], 2.0, rtol=0.1)
  assert ended.multipliers[0, 1] == 0.0


def test_the_best_lane_is_found_and_can_be_asked_of_some(ended):
  assert descent.found(ended).lane == 2
  assert descent.found(ended, np.array([0, 1])).lane == 0


def test_without_a_feasible_lane_the_nearest_is_told(ended):
  lost = ended.replace(
    best=jnp.full(3, jnp.inf), worst=jnp.array([3.0, 1.0, 2.0])
  )
  found = descent.found(lost)
  assert (found.lane, found.feasible) == (1, False)


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
  advance, ended, tmp_path
):
  limits = objective.Limits(jnp.array([1.0, 1.0, 2.0]), 1.0, 1.0)
  path, done = tmp_path / "search.npz", []

  def told(round_, state):
    done.append(round_.done)
    descent.save(state, path, {"seed": 0})

  descent.run(
    None, None, limits, PLAN, state=begin(), advance=advance, told=told,
    stopped=lambda: len(done) == 5,
  )  # fmt: skip
  assert done == [1, 2, 3, 4, 5]
  state = descent.load(begin(), path, {"seed": 0})
  again = descent.run(None, None, limits, PLAN, state=state, advance=advance)
  np.testing.assert_array_equal(again.best_x, ended.best_x)
  assert [one.name for one in tmp_path.iterdir()] == ["search.npz"]


def test_a_state_of_another_search_or_a_broken_one_is_refused(ended, tmp_path):
  path = tmp_path / "search.npz"
  descent.save(ended, path, {"seed": 0})
  with pytest.raises(InputError, match="other settings"):
    descent.load(begin(), path, {"seed": 1})
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(InputError, match="cannot be read"):
    descent.load(begin(), path, {"seed": 0})


def test_lanes_are_dealt_to_choices_and_differ():
  """The first of each choice starts at the space's start, the others do not."""
  space = space_lib.make(problems.paper(), groups=["engine"])
  plan = descent.Plan(starts=6)
  state = descent.start(problems.problem(), space, plan, [1, 0])
  assert state.choice.tolist() == [1, 0, 1, 0, 1, 0]
  x = np.asarray(state.x)
  np.testing.assert_array_equal(x[0], x[1])
  assert len(np.unique(x[1:], axis=0)) == 5
  there = descent.begin_at(state, -1, np.full(x.shape[1], 0.5), 1)
  np.testing.assert_allclose(there.x[-1], 0.0, atol=1e-6)
  np.testing.assert_array_equal(there.x[:-1], x[:-1])
  assert there.choice.tolist() == [1, 0, 1, 0, 1, 1]
  other = descent.start(
    problems.problem(), space, descent.Plan(starts=6, seed=1), [1, 0]
  )
  assert not np.any(np.asarray(other.x)[2:] == x[2:])
