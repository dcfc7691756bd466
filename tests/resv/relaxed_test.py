"""The soft WiCSum: against numpy, against the exact rule, and its gradients."""

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax.errors import InputError
from vrex_jax.resv import relaxed
from vrex_jax.resv import wicsum

ROWS, CLUSTERS = 3, 8


def sigmoid(value):
  return 0.5 * (1 + np.tanh(value / 2))


def entry_ratio(row, counts, cluster):
  """e_j in plain Python, of whole numbers."""
  best = max(row[j] for j in range(len(row)) if counts[j])
  if row[cluster] == best:
    return 0.0
  mass = [
    max(score, 0) * count for score, count in zip(row, counts, strict=True)
  ]
  if row[cluster] <= 0:
    return 1.0
  above = [m for m, s in zip(mass, row, strict=True) if s > row[cluster]]
  return sum(above) / sum(mass)


def oracle(scores, counts, ratio, temperature):
  """Weights and e, f64[M, C] twice."""
  weights, enters = np.zeros(scores.shape), np.zeros(scores.shape)
  for i, row in enumerate(scores.tolist()):
    for j, count in enumerate(counts.tolist()):
      if count == 0:
        continue
      e = enters[i, j] = entry_ratio(row, counts.tolist(), j)
      start = sigmoid(-e / temperature)
      end = sigmoid((1 - e) / temperature)
      cut = (sigmoid((ratio - e) / temperature) - start) / (end - start)
      weights[i, j] = 1.0 if e == 0 else cut
  return weights, enters


@strategies.composite
def tables(draw):
  """Whole scores, negative ones and ties among them; some counts are 0."""
  whole = lambda low, high, size: strategies.lists(
    strategies.integers(low, high), min_size=size, max_size=size
  )
  scores = draw(whole(-3, 9, ROWS * CLUSTERS))
  counts = draw(whole(0, 4, CLUSTERS).filter(any))
  return (
    np.array(scores, np.float32).reshape(ROWS, CLUSTERS),
    np.array(counts, np.int32),
  )


ratios = strategies.floats(0, 1).map(lambda value: float(np.float32(value)))
temperatures = strategies.sampled_from([1e-4, 1e-3, 0.02, 0.1, 0.5, 3.0])
soft = jax.jit(relaxed.soft_wicsum, static_argnames=("treatment",))
exact_rule = jax.jit(wicsum.wicsum, static_argnames=("treatment",))
share = jax.jit(relaxed.kept_share, static_argnames=("rows", "treatment"))


def weights_of(scores, counts, ratio, temperature):
  """`soft_wicsum` of a small table, in the one shape that is compiled."""
  rank, clusters = len(scores), len(counts)
  table = np.zeros((ROWS, CLUSTERS), np.float32)
  table[:rank, :clusters] = scores
  padded = np.zeros((CLUSTERS,), np.int32)
  padded[:clusters] = counts
  found = soft(table, padded, ratio, temperature)
  np.testing.assert_array_equal(found[:, clusters:], 0)
  return found[:rank, :clusters]


@hypothesis.given(tables(), ratios, temperatures)
def test_weights_are_those_of_the_formula(table, ratio, temperature):
  scores, counts = table
  hypothesis.assume(oracle_is_firm(scores, counts, ratio, temperature))
  expected, _ = oracle(scores, counts, ratio, temperature)
  found = soft(scores, counts, ratio, temperature)
  np.testing.assert_allclose(found, expected, atol=3e-6)


def oracle_is_firm(scores, counts, ratio, temperature):
  """No stair so steep and near that float32 shares decide on the result."""
  _, enters = oracle(scores, counts, ratio, temperature)
  near = np.abs(enters - ratio) < 20 * temperature
  return temperature > 0.01 or not np.any(near & (enters > 0) & (enters < 1))


@hypothesis.given(tables(), ratios, temperatures)
def test_the_distance_to_the_exact_rule_has_its_bound(
  table, ratio, temperature
):
  scores, counts = table
  _, enters = oracle(scores, counts, ratio, temperature)
  exact, _ = exact_rule(jnp.asarray(scores), jnp.asarray(counts), ratio)
  gap = np.abs(enters - ratio)
  bound = 2 * np.exp(-gap / temperature) / math.tanh(0.5 / temperature)
  error = np.abs(soft(scores, counts, ratio, temperature) - np.asarray(exact))
  firm = gap > 1e-5  # nearer, float32 sums decide on the exact rule
  assert np.all((error <= bound * (1 + 1e-2) + 1e-5)[firm])


@hypothesis.given(tables(), temperatures, strategies.sampled_from([0.0, -1.0]))
def test_at_ratio_0_only_the_best_is_kept(table, temperature, ratio):
  scores, counts = table
  exact, _ = exact_rule(jnp.asarray(scores), jnp.asarray(counts), 0.0)
  found = soft(scores, counts, ratio, temperature)
  np.testing.assert_array_equal(found, exact)


@hypothesis.given(tables(), temperatures, strategies.sampled_from([1.0, 2.5]))
def test_from_ratio_1_on_everything_is_kept(table, temperature, ratio):
  scores, counts = table
  found = soft(scores, counts, ratio, temperature)
  live = np.broadcast_to(counts > 0, found.shape)
  np.testing.assert_array_equal(found, live.astype(np.float32))


@hypothesis.given(tables(), ratios, ratios, temperatures)
def test_more_ratio_never_keeps_less(table, one, other, temperature):
  low, high = sorted((one, other))
  lower, upper = (soft(*table, ratio, temperature) for ratio in (low, high))
  assert np.all((lower >= 0) & (upper <= 1))
  assert np.all(upper - lower >= -1e-6)


@hypothesis.given(tables(), ratios, strategies.permutations(range(CLUSTERS)))
def test_the_order_of_clusters_does_not_matter(table, ratio, order):
  scores, counts = table
  order = np.array(order)
  found = soft(scores[:, order], counts[order], ratio, 0.1)
  expected = soft(scores, counts, ratio, 0.1)[:, order]
  np.testing.assert_allclose(found, expected, atol=3e-6)


def test_figure_9_in_the_limit():
  scores, counts = [[9, 8, 7, 2, 1, 1, 1, 1]], [4, 3, 3, 2, 3, 2, 2, 3]
  weights = weights_of(scores, counts, 0.8, 1e-3)
  np.testing.assert_allclose(weights[0], [1, 1, 1, 0, 0, 0, 0, 0], atol=1e-6)


def test_at_its_own_entry_a_cluster_is_half_kept():
  weights = weights_of([[2, 1, 1]], [1, 1, 1], 0.5, 1e-3)
  np.testing.assert_allclose(weights[0], [1, 0.5, 0.5], atol=1e-4)


def test_a_high_temperature_forgets_the_scores():
  weights = weights_of([[5, 3, 1]], [1, 1, 1], 0.3, 50.0)
  np.testing.assert_allclose(weights[0], [1, 0.3, 0.3], atol=1e-3)


def test_a_row_without_a_positive_score_keeps_its_best():
  weights = weights_of([[-2, -1, -3], [0, 0, -1]], [1, 2, 3], 0.4, 0.02)
  np.testing.assert_allclose(weights, [[0, 1, 0], [1, 1, 0]], atol=1e-6)


def test_ratios_may_differ_by_row():
  scores, counts = [[4, 3, 2, 1]] * 3, [1, 2, 3, 4]
  every = weights_of(scores, counts, np.float32([0.2, 0.7, 1.0]), 0.05)
  for row, ratio in enumerate((0.2, 0.7, 1.0)):
    alone = weights_of(scores, counts, ratio, 0.05)
    np.testing.assert_allclose(every[row], alone[row], atol=1e-6)


@pytest.mark.parametrize("treatment", ["clamped", "shift_min", "exp"])
def test_every_treatment_has_its_exact_limit(treatment):
  key = jax.random.key(3)
  scores = jax.random.normal(key, (4, 30))
  counts = jnp.arange(30) % 5
  exact, _ = exact_rule(scores, counts, 0.37, treatment=treatment)
  weights = soft(scores, counts, 0.37, 1e-5, treatment=treatment)
  np.testing.assert_allclose(weights, exact, atol=1e-3)


def random_case(shape=(), rows=4, clusters=9, seed=0):
  generator = np.random.default_rng(seed)
  scores = generator.normal(size=(*shape, rows, clusters))
  counts = generator.integers(0, 6, (*shape, clusters))
  return scores, counts


def slope_of(function, at, step=1e-6):
  """Central differences of a scalar function, one entry after the other."""
  slopes = np.zeros(at.shape)
  for index in np.ndindex(at.shape):
    moved = np.zeros(at.shape)
    moved[index] = step
    slopes[index] = (function(at + moved) - function(at - moved)) / (2 * step)
  return slopes


@pytest.mark.parametrize("rows", relaxed.ROWS)
def test_kept_shares_have_the_slope_of_finite_differences(rows):
  with jax.enable_x64(True):
    scores, counts = (jnp.asarray(array) for array in random_case((2, 3)))
    ratio = np.random.default_rng(1).uniform(0.05, 0.9, (2, 3))
    weight = np.arange(1.0, 7.0).reshape(2, 3)  # no two heads count alike

    @jax.jit
    def total(ratio, temperature):
      shares = relaxed.kept_shares(
        scores, counts, ratio, temperature, rows=rows
      )
      return jnp.sum(shares * weight)

    slope = jax.jit(jax.grad(total))
    for temperature in (0.02, 0.3):
      found = slope(ratio, temperature)
      assert found.dtype == jnp.float64
      expected = slope_of(lambda at, t=temperature: total(at, t), ratio)
      np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
      assert np.max(expected) > 0.1


@pytest.mark.parametrize("treatment", ["clamped", "shift_min"])
def test_scores_and_temperature_have_their_slopes_too(treatment):
  with jax.enable_x64(True):
    scores, counts = random_case()
    counts = jnp.asarray(counts)

    @jax.jit
    def total(scores, temperature):
      return relaxed.kept_share(
        scores, counts, 0.4, temperature, treatment=treatment
      )

    by_score, by_temperature = jax.jit(jax.grad(total, (0, 1)))(scores, 0.1)
    expected = slope_of(lambda at: total(at, 0.1), scores)
    np.testing.assert_allclose(by_score, expected, rtol=1e-5, atol=1e-8)
    expected = slope_of(lambda at: total(scores, at), np.asarray(0.1))
    np.testing.assert_allclose(by_temperature, expected, rtol=1e-5)
    assert np.any(by_score != 0)


slopes_of_share = jax.jit(jax.grad(relaxed.kept_share, (0, 2, 3)))


@pytest.mark.parametrize("ratio", [-0.5, 0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("scores", [-1.0, 0.0, 1e30])
def test_gradients_are_finite_at_the_corners(ratio, scores):
  scores = jnp.full((2, 5), scores).at[0, 0].add(1.0)
  counts = jnp.array([0, 3, 1, 0, 2])
  slopes = slopes_of_share(scores, counts, ratio, 1e-3)
  assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)


def test_the_gradient_points_inside_at_the_ends_and_is_none_beyond():
  scores, counts = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([5, 3, 2])
  slope = jax.jit(jax.grad(lambda ratio: share(scores, counts, ratio, 0.3)))
  for end, inside, outside in ((0.0, 1e-4, -1e-4), (1.0, 1 - 1e-4, 1 + 1e-4)):
    np.testing.assert_allclose(slope(end), slope(inside), rtol=1e-2)
    assert slope(end) > 0.05
    assert slope(outside) == 0


def test_union_is_one_minus_the_product():
  weights = np.random.default_rng(0).random((5, 8)).astype(np.float32)
  weights[2, 3] = weights[4, 3] = 1.0
  expected = 1 - np.prod(1 - weights.astype(np.float64), axis=0)
  np.testing.assert_allclose(
    relaxed.union(jnp.asarray(weights)), expected, 1e-6
  )


def test_union_keeps_what_is_tiny():
  weights = jnp.full((1000, 1), 1e-12)
  np.testing.assert_allclose(relaxed.union(weights), [1e-9], rtol=1e-5)


def test_union_of_hard_rows_is_the_exact_union():
  keep = np.random.default_rng(1).random((3, 40)) < 0.3
  found = relaxed.union(jnp.asarray(keep, jnp.float32))
  np.testing.assert_array_equal(found, keep.any(axis=0).astype(np.float32))


def test_union_has_a_gradient_where_a_row_is_sure():
  weights = jnp.array([[1.0, 0.5, 0.0], [0.5, 0.25, 0.0]])
  slope = jax.grad(lambda weights: jnp.sum(relaxed.union(weights)))(weights)
  np.testing.assert_allclose(slope[:, 0], [0, 0])
  np.testing.assert_allclose(slope[:, 1:], [[0.75, 1], [0.5, 1]], rtol=1e-6)


@hypothesis.given(tables(), ratios)
def test_the_kept_share_goes_to_the_exact_one(table, ratio):
  scores, counts = table
  _, enters = oracle(scores, counts, ratio, 1.0)
  hypothesis.assume(np.min(np.abs(enters[:, counts > 0] - ratio)) > 1e-3)
  valid = np.array([True, False, True])
  exact, _ = exact_rule(jnp.asarray(scores), jnp.asarray(counts), ratio)
  kept = np.asarray(exact)[valid].any(axis=0)
  expected = counts[kept].sum() / counts.sum()
  found = share(scores, counts, ratio, 1e-5, valid=valid)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@hypothesis.given(tables(), ratios)
def test_pooled_is_the_row_of_the_mean_query(table, ratio):
  scores, counts = table
  valid = np.array([True, False, True])
  mean = scores[valid].mean(axis=0, keepdims=True)
  weights = soft(mean, counts, ratio, 0.1)[0]
  expected = np.sum(weights * counts) / counts.sum()
  found = share(scores, counts, ratio, 0.1, valid=valid, rows="pooled")
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", relaxed.ROWS)
def test_nothing_asked_and_nothing_there_keep_nothing(rows):
  scores, counts = jnp.ones((2, 3)), jnp.array([1, 2, 3])
  nobody = jnp.zeros((2,), bool)
  assert share(scores, counts, 0.5, 0.1, valid=nobody, rows=rows) == 0
  assert share(scores, 0 * counts, 0.5, 0.1, rows=rows) == 0


@pytest.mark.parametrize("rows", relaxed.ROWS)
def test_kept_shares_are_those_of_every_head(rows):
  scores, counts = random_case((2, 3))
  scores, counts = jnp.asarray(scores, jnp.float32), jnp.asarray(counts)
  ratio = jnp.linspace(0.1, 0.8, 6).reshape(2, 3)
  valid = jnp.array([True, True, False, True])
  options = {"valid": valid, "rows": rows, "treatment": "shift_min"}
  every = functools.partial(relaxed.kept_shares, **options)
  found = jax.jit(every)(scores, counts, ratio, 0.05)
  for at in np.ndindex(2, 3):
    alone = share(scores[at], counts[at], ratio[at], 0.05, **options)
    np.testing.assert_allclose(found[at], alone, rtol=1e-5)


def test_kept_shares_lift_over_ratios():
  scores, counts = random_case((1, 2))
  scores, counts = jnp.asarray(scores, jnp.float32), jnp.asarray(counts)
  shares = functools.partial(relaxed.kept_shares, scores, counts)
  ratios = jnp.linspace(0.0, 1.0, 5).reshape(5, 1, 1) * jnp.ones((1, 1, 2))
  found = jax.jit(jax.vmap(lambda ratio: shares(ratio, 0.1)))(ratios)
  assert found.shape == (5, 1, 2)
  assert np.all(np.diff(found, axis=0) > 0)
  np.testing.assert_allclose(found[-1], 1.0, rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"rows": "vote"}, "rows is 'vote'; it must be one of union, pooled"),
    ({"treatment": "raw"}, "signed sums have no soft form"),
  ],
)
def test_what_cannot_be_used_is_refused(options, words):
  arguments = {"ratio": 0.3, "temperature": 0.1, **options}
  with pytest.raises(InputError, match=words):
    relaxed.kept_share(jnp.ones((2, 3)), jnp.ones((3,), int), **arguments)


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(AssertionError):
    relaxed.soft_wicsum(jnp.ones((2, 3)), jnp.ones((4,), int), 0.3, 0.1)
  with pytest.raises(AssertionError):
    relaxed.kept_shares(
      jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 4), int), jnp.ones((2,)), 0.1
    )
