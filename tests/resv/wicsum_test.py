"""WiCSum by bisection against a real sort, and the WTU's early exit."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from vrex_jax.resv import wicsum

ROWS, CLUSTERS = 3, 40
STATIC = ("treatment", "form", "buckets")
run = jax.jit(wicsum.wicsum, static_argnames=STATIC)
SIXTEENTHS = st.integers(0, 17).map(lambda number: number / 16)


def kept(scores, counts, ratio, **options):
  """b[M, C] and the rows; any number of clusters up to 40 in one program."""
  scores = np.atleast_2d(np.asarray(scores, np.float32))
  rows, clusters = scores.shape
  padding = ((0, ROWS - rows), (0, CLUSTERS - clusters))
  counts = np.pad(np.asarray(counts, np.int32), padding[1])
  padded = jnp.asarray(np.pad(scores, padding))
  keep, asked = run(padded, jnp.asarray(counts), ratio, **options)
  assert not np.any(np.asarray(keep)[:, clusters:])
  cut = lambda leaf: np.asarray(leaf)[:rows]
  return cut(keep)[:, :clusters], wicsum.Rows(*map(cut, asked))


def by_sorting(scores, counts, ratio, treatment="clamped"):
  return np.stack(
    [
      oracle.wicsum(row, counts, ratio, treatment)
      for row in np.atleast_2d(np.asarray(scores, np.float32))
    ]
  )


def whole_numbers(seed, clusters, low, high):
  """Scores and counts whose sums float32 holds exactly; many ties."""
  random = np.random.default_rng(seed)
  scores = random.integers(low, high + 1, (ROWS, clusters))
  counts = random.integers(0, 5, clusters)
  counts[random.integers(clusters)] = 3  # somewhere there is a cluster
  return scores.astype(np.float32), counts


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


@pytest.mark.parametrize("scale", [1e30, 1e-30, 2.0**100, 2.0**-100])
@pytest.mark.parametrize("ratio", [1 / 16, 5 / 16, 15 / 16])
def test_huge_and_tiny_scores(scale, ratio):
  scores, counts = whole_numbers(3, 30, -50, 200)
  scores = scores * np.float32(scale)
  np.testing.assert_array_equal(
    kept(scores, counts, ratio)[0], by_sorting(scores, counts, ratio)
  )


def test_scores_of_very_different_size_in_one_row():
  """Twelve orders of magnitude in one bucket: the bisection must still end."""
  scores = np.array([1e12, 1e6, 1.0, 1e-6, 1e-12, 0.0, -1e12])
  for ratio, number in ((0.0, 1), (0.9, 1)):
    assert kept(scores, [1] * 7, ratio)[0].sum() == number
  # Below the best the sums are decided by counts.
  counts = [1, 10**7, 1, 1, 1, 1, 1]
  keep = kept(scores, counts, 0.5)[0][0]
  assert keep.tolist() == [True, True] + [False] * 5


def test_a_threshold_met_exactly_is_not_passed_however_close_the_scores():
  """Small scores beside a large one: halving values does not tell them apart.

  Every partial sum p of a total of 2^23 is asked for by the ratio p / 2^23.
  """
  scores = np.array([3.5 * 2**20, 8, 7, 6, 5, 4, 3, 2, 1])
  counts = [1] + [2**17] * 8
  partial = np.cumsum(scores * counts)
  assert partial[-1] == 2**23
  for number, passed in enumerate(partial[:-1], start=1):
    keep = kept(scores, counts, passed / 2**23)[0][0]
    assert keep.tolist() == [True] * (number + 1) + [False] * (8 - number)
    below = kept(scores, counts, passed / 2**23 - 1e-6)[0][0]
    assert below.tolist() == [True] * number + [False] * (9 - number)


def test_denormal_scores_end_and_keep_the_best():
  """Whether the machine takes them for zero or not."""
  tiny = np.float32(1e-42)
  keep = kept([tiny, 3 * tiny, 0.0, -1.0], [1, 1, 1, 1], 0.5)[0][0]
  assert keep[1]
  assert not keep[3]
  keep = kept([1.0, tiny, 0.0], [1, 1, 1], 0.999)[0][0]
  assert keep.tolist() == [True, False, False]


@pytest.mark.parametrize(
  ("scores", "counts", "ratio", "expected"),
  [
    # The least normal number is next to zero: nothing to halve in between.
    ([1.2e-38, 0.0], [1, 1], 0.3, [True, False]),
    ([1e-37, 1.2e-38, 0.0], [1, 9, 1], 0.9, [True, True, False]),
    ([1.2e-38, -0.0], [1, 1], 0.3, [True, False]),
  ],
)
def test_the_search_ends_beside_zero(scores, counts, ratio, expected):
  assert kept(scores, counts, ratio)[0][0].tolist() == expected


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_search_ends_over_many_octaves(zero):
  """Half the mass in every octave down to the last, where most of it lies."""
  octaves = 2.0 ** -np.arange(45.0)
  counts = np.ones(46, np.int64)
  counts[44] = 10**9
  scores = np.append(octaves, zero).astype(np.float32)
  keep, _ = wicsum.wicsum(scores[None], jnp.asarray(counts), 0.999997)
  assert keep[0, 0]


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


rows_of = jax.jit(wicsum.row_thresholds, static_argnames=("form", "signed"))
clusters_of = jax.jit(wicsum.kept_clusters)


@pytest.mark.parametrize("form", ["exact", "buckets"])
@pytest.mark.parametrize("filled", [0, 1, 256, 257, 300])
def test_nothing_behind_the_filled_blocks_is_read(form, filled):
  """Garbage, infinite or not a number, from the next block on."""
  random = np.random.default_rng(filled)
  end = -(-filled // 256) * 256
  scores = np.full((4, 768), -np.inf, np.float32)
  scores[:, :filled] = random.standard_normal((4, filled))
  scores[:, end:] = np.where(np.arange(768 - end) % 2, np.nan, np.inf)
  counts = np.where(np.arange(768) < end, 0, 9).astype(np.float32)
  counts[:filled] = random.integers(1, 60, filled)
  valid = np.array([True, True, False, True])
  ratio = jnp.full(4, 0.3, jnp.float32)
  rows = rows_of(
    jnp.asarray(scores), jnp.asarray(counts), filled, ratio, valid, form=form
  )
  told = [
    oracle.early_exit(row[:filled], counts[:filled], np.float32(0.3))[1:]
    for row in scores
  ]
  told[2] = (0, 0)
  np.testing.assert_array_equal(np.stack(rows[1:], axis=1), told)
  keep = np.asarray(clusters_of(jnp.asarray(scores), rows, valid, filled))
  assert not keep[filled:].any()
  which = oracle.wicsum
  if form == "buckets":
    which = lambda *arguments: oracle.early_exit(*arguments)[0]
  expected = [
    which(scores[row, :filled], counts[:filled], np.float32(0.3))
    for row in (0, 1, 3)
  ]
  np.testing.assert_array_equal(keep[:filled], np.any(expected, axis=0))


def test_one_row_alone_decides_whatever_the_votes():
  """A token of an answer asks with fewer rows than there are votes."""
  scores = jnp.asarray([[3.0, 2.0, 1.0] + [-jnp.inf] * 61] * 4)
  counts = jnp.asarray([1.0] * 3 + [0.0] * 61)
  valid = np.array([False, True, False, False])
  for ratio, kept in ((0.4, 1), (0.6, 2), (1.0, 3)):
    rows = rows_of(scores, counts, 3, jnp.full(4, ratio), valid)
    keep = clusters_of(scores, rows, valid, 3, 4)
    assert int(keep.sum()) == kept


@pytest.mark.parametrize("votes", [1, 2, 3, 4, 5])
def test_votes_are_counted_over_valid_rows(votes):
  random = np.random.default_rng(2)
  scores = random.standard_normal((5, 64)).astype(np.float32)
  scores[:, 50:] = -np.inf
  counts = np.where(np.arange(64) < 50, 2, 0).astype(np.float32)
  valid = np.array([True, False, True, True, True])
  rows = rows_of(
    jnp.asarray(scores),
    jnp.asarray(counts),
    50,
    jnp.full(5, 0.75, jnp.float32),
    valid,
  )
  keep = clusters_of(jnp.asarray(scores), rows, valid, 50, votes)
  number = sum(
    oracle.wicsum(scores[row], counts, 0.75).astype(int) for row in (0, 2, 3, 4)
  )
  np.testing.assert_array_equal(keep, number >= min(votes, 4))
  assert set(number.tolist()) >= {0, 1, 2, 3}


def test_rows_of_a_batch_under_vmap_are_those_rows_alone():
  """Streams with 300, 2 and no clusters, and rows that are hard to decide."""
  random = np.random.default_rng(4)
  scores = np.full((3, 4, 512), -np.inf, np.float32)
  scores[0, :, :300] = 1e3 * random.standard_normal((4, 300)) ** 5
  scores[1, :, :2] = random.standard_normal((4, 2))
  counts = np.zeros((3, 512), np.float32)
  counts[0, :300], counts[1, :2] = random.integers(1, 60, 300), 7
  filled = np.array([300, 2, 0])
  ratio = np.float32([[0.0, 0.3, 0.9, 1.0]] * 3)
  valid = np.array([[True] * 4, [True, False, True, True], [True] * 4])
  arguments = (scores, counts, filled, ratio, valid)

  def both(*one):
    rows = wicsum.row_thresholds(*one)
    return rows, wicsum.kept_clusters(one[0], rows, one[4], one[2])

  together = jax.jit(jax.vmap(both))(*map(jnp.asarray, arguments))
  alone = jax.jit(both)
  for stream in range(3):
    rows, keep = alone(*(jnp.asarray(one[stream]) for one in arguments))
    found, kept_ = jax.tree.map(
      lambda leaf, stream=stream: leaf[stream], together
    )
    np.testing.assert_array_equal(kept_, keep)
    chex.assert_trees_all_equal(found[1:], rows[1:])
  assert np.asarray(together[1]).sum(axis=1).tolist()[1:] == [2, 0]


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
