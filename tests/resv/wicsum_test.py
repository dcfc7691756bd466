"""WiCSum by bisection against a real sort, and the WTU's early exit."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from tests.resv import wicsum_rows
from vrex_jax.resv import wicsum

ROWS, CLUSTERS = wicsum_rows.ROWS, wicsum_rows.CLUSTERS
run, kept = wicsum_rows.run, wicsum_rows.kept
by_sorting, whole_numbers = wicsum_rows.by_sorting, wicsum_rows.whole_numbers
SIXTEENTHS = st.integers(0, 17).map(lambda number: number / 16)


def test_three_clusters_pass_eighty_percent():
  """Fig. 9: sum 95, threshold 76, partial sums 36, 60, 81."""
  scores, counts = [9, 8, 7, 2, 1, 1, 1, 1], [4, 3, 3, 2, 3, 2, 2, 3]
  assert np.dot(scores, counts) == 95
  keep, rows = kept(scores, counts, 0.8)
  assert np.nonzero(keep[0])[0].tolist() == [0, 1, 2]
  assert rows.threshold.tolist() == [7.0]
  for ratio, number in ((35 / 95, 1), (37 / 95, 2), (59 / 95, 2), (61 / 95, 3)):
    assert kept(scores, counts, ratio)[0].sum() == number


def test_whole_buckets_are_taken_until_802():
  """Fig. 11: sum 1000, threshold 800, top bucket #20, exit in #15 at 28-30.

  The paper prints these numbers, the range 0-40 and that bucket's range; which
  scores and counts make them up is ours.
  """
  scores = np.array([40, 37, 35, 34, 29, 28, 27, 20, 11, 0])
  counts = np.array([5, 4, 6, 3, 2, 3, 2, 5, 4, 6])
  value = scores * counts
  assert value.sum() == 1000
  assert value[scores >= 28].sum() == 802
  assert value[scores >= 30].sum() <= 800
  keep, rows = kept(scores, counts, 0.8, form="buckets")
  assert keep[0].tolist() == [True] * 6 + [False] * 4
  assert rows.threshold.tolist() == [28.0]
  assert rows.buckets.tolist() == [6]  # #20, #19, … #15
  assert rows.visited.tolist() == [6]
  exact, same = kept(scores, counts, 0.8)
  assert same.buckets.tolist() == [6]
  assert same.visited.tolist() == [6]
  np.testing.assert_array_equal(exact, keep)  # 718 without the last
  # A threshold of 700: the exact form stops inside the bucket, at 718.
  exact, same = kept(scores, counts, 0.7)
  assert exact[0].tolist() == [True] * 5 + [False] * 5
  assert same.visited.tolist() == [6]
  keep, _ = kept(scores, counts, 0.7, form="buckets")
  assert keep[0].tolist() == [True] * 6 + [False] * 4


@hypothesis.given(
  seed=st.integers(0, 2**20),
  clusters=st.integers(1, CLUSTERS),
  high=st.sampled_from([0, 1, 4, 100]),
  low=st.sampled_from([-100, -3, 0]),
  ratio=SIXTEENTHS,
  treatment=st.sampled_from(["clamped", "raw", "shift_min"]),
)
@hypothesis.settings(max_examples=150)
def test_exactly_what_sorting_keeps(
  seed, clusters, high, low, ratio, treatment
):
  """Whole numbers and sixteenths: no rounding, sums that meet the threshold."""
  scores, counts = whole_numbers(seed, clusters, low, high)
  keep, _ = kept(scores, counts, ratio, treatment=treatment)
  expected = by_sorting(scores, counts, ratio, treatment)
  np.testing.assert_array_equal(keep, expected)


@hypothesis.given(
  seed=st.integers(0, 2**20),
  clusters=st.integers(1, CLUSTERS),
  shift=st.sampled_from([-3.0, 0.0, 3.0]),
  ratio=st.integers(1, 99).map(lambda number: number / 100),
  treatment=st.sampled_from(wicsum.TREATMENTS),
)
@hypothesis.settings(max_examples=150)
def test_every_treatment_and_form_of_real_scores(
  seed, clusters, shift, ratio, treatment
):
  random = np.random.default_rng(seed)
  scores = random.standard_normal((ROWS, clusters)).astype(np.float32) + shift
  scores = scores.astype(np.float32)
  counts = random.integers(1, 60, clusters)
  exact, rows = kept(scores, counts, ratio, treatment=treatment)
  np.testing.assert_array_equal(
    exact, by_sorting(scores, counts, ratio, treatment)
  )
  whole, early = kept(
    scores, counts, ratio, treatment=treatment, form="buckets"
  )
  for row in range(ROWS):
    keep, buckets, visited = oracle.early_exit(
      scores[row], counts, ratio, treatment
    )
    np.testing.assert_array_equal(whole[row], keep)
    for told in (rows, early):
      assert int(told.buckets[row]) == buckets
      assert int(told.visited[row]) == visited
  assert np.all(exact <= whole)


@pytest.mark.parametrize("treatment", ["clamped", "exp"])
def test_several_blocks_of_clusters(treatment):
  """600 clusters in blocks of 256, some of them dead."""
  random = np.random.default_rng(5)
  scores = random.standard_normal((4, 600)).astype(np.float32)
  counts = random.integers(1, 60, 600)
  counts[random.integers(0, 600, 90)] = 0
  for ratio in (0.05, 0.3, 0.9):
    keep, _ = run(
      jnp.asarray(scores), jnp.asarray(counts), ratio, treatment=treatment
    )
    expected = by_sorting(scores, counts, ratio, treatment)
    np.testing.assert_array_equal(keep, expected)
    assert 0 < expected.sum() < expected.size


def test_ties_are_all_kept_and_so_is_the_crossing_cluster():
  scores, counts = [5, 3, 3, 3, 1], [2, 1, 1, 1, 1]
  # Sum 20; 10 of it are the first cluster's, the ties bring 9 more.
  assert kept(scores, counts, 0.49)[0][0].tolist() == [True] + [False] * 4
  for ratio in (0.5, 0.6, 0.7):  # not above 10 with the first alone
    keep = kept(scores, counts, ratio)[0][0]
    assert keep.tolist() == [True] * 4 + [False]
  assert kept(scores, counts, 0.96)[0].all()


@hypothesis.given(
  seed=st.integers(0, 2**20), treatment=st.sampled_from(wicsum.TREATMENTS)
)
@hypothesis.settings(max_examples=10)
def test_a_higher_ratio_keeps_no_less(seed, treatment):
  random = np.random.default_rng(seed)
  scores = random.standard_normal((ROWS, 30)).astype(np.float32)
  counts = random.integers(1, 60, 30)
  previous = np.zeros(scores.shape, bool)
  for ratio in np.linspace(0, 1, 9):
    keep, _ = kept(scores, counts, ratio, treatment=treatment)
    assert np.all(previous <= keep)
    previous = keep
  assert previous.all()


@pytest.mark.parametrize("form", ["exact", "buckets"])
@pytest.mark.parametrize("treatment", wicsum.TREATMENTS)
def test_ratio_zero_is_the_best_and_one_is_everything(form, treatment):
  scores = [[-3, 4, 0, 4, 1], [-3, -1, -9, -1, -2], [2, 1, -5, -5, -7]]
  counts = [1, 2, 3, 4, 5]
  options = {"treatment": treatment, "form": form}
  best = np.array(scores) == np.max(scores, axis=1, keepdims=True)
  np.testing.assert_array_equal(kept(scores, counts, 0.0, **options)[0], best)
  for ratio in (1.0, 1.5):
    keep, rows = kept(scores, counts, ratio, **options)
    assert keep.all()
    assert rows.buckets.tolist() == [20] * 3
    assert rows.visited.tolist() == [5] * 3


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.999])
def test_a_row_without_a_positive_score_keeps_its_best(ratio):
  scores, counts = (
    [[-4, -2, -2, -9], [0, -1, -1, 0], [0, 0, 0, 0]],
    [1, 2, 3, 4],
  )
  expected = [[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]]
  for treatment in ("clamped", "raw"):
    keep, _ = kept(scores, counts, ratio, treatment=treatment)
    np.testing.assert_array_equal(keep, np.array(expected, bool))


@pytest.mark.parametrize("treatment", wicsum.TREATMENTS)
@pytest.mark.parametrize("score", [-2.5, 0.0, 3.0])
def test_equal_scores_and_a_single_cluster(score, treatment):
  for clusters in (1, 13):
    scores = np.full((ROWS, clusters), score)
    for ratio in (0.0, 0.5):
      keep, _ = kept(scores, [2] * clusters, ratio, treatment=treatment)
      assert keep.all()


@pytest.mark.parametrize("form", ["exact", "buckets"])
@pytest.mark.parametrize("treatment", wicsum.TREATMENTS)
def test_dead_clusters_are_never_kept(form, treatment):
  scores = np.array([[9.0, 1.0, 8.0, 2.0, -np.inf]] * 3, np.float32)
  counts = np.array([0, 3, 0, 2, 4])
  for ratio in (0.0, 0.3, 1.0):
    options = {"treatment": treatment, "form": form}
    keep, rows = kept(scores, counts, ratio, **options)
    assert not keep[:, [0, 2, 4]].any()
    assert keep.any(axis=1).all()
    assert np.all(rows.visited <= 2)
  keep, rows = kept(scores, [0] * 5, 1.0, treatment=treatment, form=form)
  assert not keep.any()
  assert not rows.visited.any()
  assert not rows.buckets.any()


@hypothesis.given(seed=st.integers(0, 2**20), power=st.integers(-30, 30))
@hypothesis.settings(max_examples=20)
def test_clamped_does_not_mind_the_scale_of_a_row(seed, power):
  random = np.random.default_rng(seed)
  scores = random.standard_normal((ROWS, 30)).astype(np.float32)
  counts = random.integers(1, 60, 30)
  scale = np.array([[2.0**power], [1.0], [3.0]], np.float32)
  keep, _ = kept(scores, counts, 0.3)
  np.testing.assert_array_equal(kept(scores * scale, counts, 0.3)[0], keep)


@hypothesis.given(seed=st.integers(0, 2**20), constant=st.integers(-900, 900))
@hypothesis.settings(max_examples=20)
def test_shift_min_does_not_mind_a_constant(seed, constant):
  """It is what a constant key vector adds to a row; clamped does mind it."""
  scores, counts = whole_numbers(seed, 30, -50, 50)
  before, _ = kept(scores, counts, 5 / 16, treatment="shift_min")
  shifted = scores + np.float32([[constant], [1], [-1]])
  after, _ = kept(shifted, counts, 5 / 16, treatment="shift_min")
  np.testing.assert_array_equal(before, after)
  raised, _ = kept(scores + np.float32(900), counts, 5 / 16)
  assert raised.sum() > kept(scores, counts, 5 / 16)[0].sum()


def test_exp_is_the_softmax():
  random = np.random.default_rng(8)
  scores = 3 * random.standard_normal((ROWS, 30)).astype(np.float32)
  counts = random.integers(1, 9, 30)
  weight = np.exp(scores.astype(np.float64)) * counts
  weight /= weight.sum(axis=1, keepdims=True)
  keep, _ = kept(scores, counts, 0.6, treatment="exp")
  for row in range(ROWS):
    chosen = weight[row][keep[row]]
    last = weight[row][keep[row]][np.argmin(scores[row][keep[row]])]
    assert chosen.sum() > 0.6 >= chosen.sum() - last
  far = np.float32([[1e4, 1e4 - 1, -1e4, 0]])
  keep, _ = kept(far, [1, 1, 1, 1], 0.9, treatment="exp")
  assert keep[0].tolist() == [True, True, False, False]


def test_another_number_of_buckets():
  buckets = 7
  random = np.random.default_rng(buckets)
  scores = random.standard_normal((ROWS, 33)).astype(np.float32)
  counts = random.integers(1, 9, 33)
  keep, rows = kept(scores, counts, 0.4, form="buckets", buckets=buckets)
  for row in range(ROWS):
    expected = oracle.early_exit(scores[row], counts, 0.4, "clamped", buckets)
    np.testing.assert_array_equal(keep[row], expected[0])
    assert (rows.buckets[row], rows.visited[row]) == expected[1:]


def test_a_ratio_of_its_own_for_every_row():
  scores, counts = whole_numbers(1, 30, 0, 50)
  ratios = np.array([1 / 16, 1.0, 9 / 16], np.float32)
  padded = np.pad(scores, ((0, 0), (0, 10)))
  keep, _ = run(jnp.asarray(padded), jnp.pad(counts, (0, 10)), ratios)
  for row, ratio in enumerate(ratios):
    np.testing.assert_array_equal(
      keep[row, :30], oracle.wicsum(scores[row], counts, ratio)
    )


@pytest.mark.parametrize(
  ("treatment", "form"),
  [
    ("clamped", "exact"),
    ("raw", "buckets"),
    ("shift_min", "buckets"),
    ("exp", "exact"),
  ],
)
def test_the_same_where_python_numbers_have_64_bits(treatment, form):
  random = np.random.default_rng(7)
  scores = random.standard_normal((4, 300)).astype(np.float32)
  counts = random.integers(0, 9, 300).astype(np.int32)
  options = {"treatment": treatment, "form": form}
  expected = run(jnp.asarray(scores), jnp.asarray(counts), 0.3, **options)
  with jax.enable_x64(True):
    found = run(jnp.asarray(scores), jnp.asarray(counts), 0.3, **options)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
  chex.assert_trees_all_equal(found, expected)


def test_an_unknown_word_is_refused():
  scores, counts = jnp.ones((1, 3)), jnp.ones(3, jnp.int32)
  with pytest.raises(ValueError, match=r"treatment is 'relu'.*clamped, raw"):
    wicsum.wicsum(scores, counts, 0.3, treatment="relu")
  with pytest.raises(ValueError, match=r"form is 'sort'.*exact or buckets"):
    wicsum.wicsum(scores, counts, 0.3, form="sort")
