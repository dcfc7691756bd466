"""The accuracy model: its limits, its derivatives, and that a fit finds it."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax import test_util

from vrex_jax.codesign import accuracy
from vrex_jax.codesign import accuracy_errors
from vrex_jax.codesign import accuracy_points as points_lib
from vrex_jax.codesign import accuracy_report
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import setting

SHAPE = (3, 2, 2)


def figure(stages, seed, span):
  random = np.random.default_rng(seed)
  weight = random.uniform(0.01, 0.1, (stages, *SHAPE[1:]))
  return accuracy.Figure(
    jnp.asarray(weight, jnp.float32),
    jnp.float32(1.7),
    jnp.float32(0.5),
    jnp.float32(span),
  )


MODEL = accuracy.AccuracyModel(
  figure(2, 0, accuracy.SPAN["qa"]), figure(1, 1, accuracy.SPAN["narration"])
)
GROUPS = jnp.asarray(np.linspace(0.1, 0.5, 4).reshape(SHAPE[1:]), jnp.float32)
masses = strategies.lists(
  strategies.floats(0.0, 1.0, width=32), min_size=12, max_size=12
)
as_mass = lambda values: np.array(values, np.float32).reshape(SHAPE)


def drop(mass):
  return float(accuracy.drop(MODEL, jnp.asarray(mass), None, GROUPS))


@pytest.fixture(scope="module")
def points():
  """120 settings of a known model, 4 of each prefill, measured to 0.02 %; a
  disturbed one loses half as much again."""
  random = np.random.default_rng(2)
  prefill = np.arange(120) // 4
  mass = random.uniform(0.1, 1.0, (120, *SHAPE)).astype(np.float32)
  mass[:, 0] = mass[prefill * 4, 0]
  size = random.choice([3.0, 12.0, 40.0], 30)[prefill]
  size = np.broadcast_to(size[:, None, None, None], mass.shape)
  given = (jnp.asarray(mass), jnp.asarray(1.0 / size[:, 0], jnp.float32))
  found = [accuracy.figures(MODEL, *each) for each in zip(*given, strict=True)]
  drops = np.array(
    [[float(one[name]) for name in points_lib.FIGURES] for one in found]
  )
  disturb = np.where(prefill < 24, "none", "sink")
  drops *= np.where(disturb == "none", 1.0, 1.5)[:, None]
  error = np.full(drops.shape, 2e-4)
  noise = error * random.standard_normal(drops.shape)
  noise[:, 1] = noise[prefill * 4, 1]
  whole = np.full(120, 64)
  return points_lib.Points(
    disturb=disturb,
    prefill=prefill,
    frames=whole,
    streams=whole,
    hamming_threshold=np.array([4, 7, 9])[prefill % 3],
    ratio=mass,
    kept=mass**2,
    mass=mass,
    size=size,
    full=np.ones(drops.shape),
    drop=drops + noise,
    error=error,
    recall=drops,
    read=mass[:, :, 0, 0],
  )


@pytest.fixture(scope="module")
def fitted(points):
  return accuracy.fit(points)


def test_nothing_is_lost_where_all_attention_is_kept():
  assert drop(np.ones(SHAPE)) == 0.0


def test_without_the_past_no_more_falls_than_there_is():
  heavy = MODEL.qa.replace(weight=jnp.full((2, 2, 2), 1e3))
  nothing = jnp.zeros((2, 2, 2))
  found = accuracy.predict(heavy, nothing, jnp.ones((2, 2, 2)))
  assert float(found) == pytest.approx(accuracy.SPAN["qa"])


@hypothesis.given(masses, strategies.integers(0, 11), strategies.floats(0, 1))
def test_more_attention_never_costs_accuracy(values, place, part):
  mass = as_mass(values)
  more = mass.copy()
  more.flat[place] += np.float32(part) * (1 - more.flat[place])
  assert drop(more) <= drop(mass) * (1 + 1e-5)


@hypothesis.given(masses)
def test_the_drop_is_the_worst_figure_or_a_little_above(values):
  mass = as_mass(values)
  worst = max(
    float(one)
    for one in accuracy.figures(MODEL, jnp.asarray(mass), GROUPS).values()
  )
  assert worst * (1 - 1e-5) <= drop(mass) <= 1.072 * worst + 1e-9


def test_answers_are_taken_to_cost_what_questions_cost():
  mass = as_mass(np.linspace(0.2, 0.9, 12))
  swapped = mass[[0, 2, 1]]
  one = accuracy.figures(MODEL, jnp.asarray(mass), GROUPS)
  other = accuracy.figures(MODEL, jnp.asarray(swapped), GROUPS)
  assert float(one["qa"]) == float(other["answer"]) != float(one["answer"])
  assert float(one["narration"]) == float(other["narration"])


def test_a_table_of_all_heads_counts_for_each_of_them():
  """Its clusters are written to the first head alone."""
  mass = jnp.full(SHAPE, 0.6)
  shared = GROUPS.at[:, 1:].set(0.0)
  alike = jnp.broadcast_to(GROUPS[:, :1], GROUPS.shape)
  one, other = (
    accuracy.drop(MODEL, mass, None, groups) for groups in (shared, alike)
  )
  assert float(one) == float(other)


def test_every_choice_that_ships_has_a_drop_and_a_slope():
  packaged = curves_lib.packaged()
  model = setting.drop_of(None)
  shape = (3, *packaged.kept.shape[2:4])

  def lost(index, ratio):
    point = curves_lib.at(packaged, index, ratio)
    return accuracy.drop(model, point.mass, point.kept, point.groups)

  every = jnp.arange(len(packaged.choices))
  both = jax.vmap(jax.value_and_grad(lost, argnums=1), in_axes=(0, None))
  value, slope = both(every, jnp.full(shape, 0.3))
  assert np.isfinite(slope).all()
  assert (np.asarray(value) < 0.1).all()


def test_its_derivatives_are_those_of_finite_differences():
  mass = jnp.asarray(as_mass(np.linspace(0.1, 0.8, 12)))
  of = lambda mass_, groups: accuracy.drop(MODEL, mass_, None, groups)
  test_util.check_grads(
    of, (mass, GROUPS), order=1, modes=["rev"], eps=4e-3, atol=2e-3, rtol=2e-2
  )


def test_a_fit_finds_the_model_that_made_the_points(fitted):
  found, how = fitted
  for name in points_lib.FIGURES:
    one, other = getattr(found, name), getattr(MODEL, name)
    np.testing.assert_allclose(one.weight, other.weight, rtol=0.25)
    np.testing.assert_allclose(one.exponent, other.exponent, rtol=0.1)
    np.testing.assert_allclose(one.size_exponent, other.size_exponent, atol=0.1)
  assert [how[name].parameters for name in points_lib.FIGURES] == [13, 8]
  assert 9 < how["qa"].effective < 13
  assert how["qa"].factors["sink"] == pytest.approx(1.5, rel=0.1)


def test_a_fit_is_the_same_twice(points, fitted):
  again, _ = accuracy.fit(points)
  np.testing.assert_array_equal(again.qa.weight, fitted[0].qa.weight)


def test_narration_of_a_prefill_counts_once(points):
  assert accuracy.used(points, "qa").sum() == 120
  assert accuracy.used(points, "narration").sum() == 30


def test_a_left_out_point_does_not_know_itself(points):
  """Another drop of one prefill changes all predictions but its own."""
  left = functools.partial(
    accuracy_errors.left_out, figure="narration", model="constant"
  )
  changed = points.drop.copy()
  changed[:4] += 0.5
  before, after = left(points), left(points._replace(drop=changed))
  one, other = before.predicted[::4], after.predicted[::4]
  assert one[0] == other[0]
  assert np.all(one[1:] != other[1:])


def test_errors_on_points_left_out_are_noise_for_the_true_form(points):
  """A fit that knows the form leaves noise; one that does not, more."""
  left = accuracy_errors.left_out(
    points, "narration", accuracy_errors.THE_MODEL, "hamming_threshold"
  )
  chosen = np.isfinite(left.predicted)
  missed = (left.predicted - points.drop[:, 1])[chosen]
  assert chosen.sum() == 30
  assert np.sqrt(np.mean(missed**2)) < 2e-3 < 0.1 * points.drop[:, 1].std()


def test_the_tables_name_every_fit(fitted):
  """A header and a rule, three stages, a factor of each figure."""
  text = accuracy_report.weights(fitted[1])
  assert len(text.splitlines()) == 6
  assert "qa under sink: 1." in text


def test_points_that_ship_are_predicted_better_than_by_their_mean():
  """Settings of a prefill that the fit has not seen."""
  packaged = points_lib.load()
  index = points_lib.FIGURES.index("qa")
  missed = {
    model: accuracy_errors.left_out(packaged, "qa", model).predicted
    - packaged.drop[:, index]
    for model in (accuracy_errors.THE_MODEL, "constant")
  }
  error = {name: np.sqrt(np.mean(one**2)) for name, one in missed.items()}
  assert error[accuracy_errors.THE_MODEL] < 0.8 * error["constant"]
