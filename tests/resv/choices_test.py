"""Every choice of ReSV does what its name says: one sharp case each.

With threshold 0 every token is its own cluster, so a set of clusters is a set
of tokens. There are no sinks unless a test has some.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from tests.resv.direct import SLOTS
from tests.resv.direct import WIDTH
from tests.resv.direct import Direct
from tests.resv.direct import axis
from tests.resv.direct import programs
from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax.errors import InputError
from vrex_jax.resv import hashing
from vrex_jax.resv import resv as resv_lib


def random_keys(seed, *shape):
  random = np.random.default_rng(seed)
  return random.standard_normal((*shape, WIDTH)).astype(np.float32)


def test_counts_by_hand():
  """Clusters A = 3 · 2e₁, B = -e₁, C = e₂; three rows and one of padding."""
  one = Direct(ratio=0.99)
  written = one.write([axis(2), axis(2), axis(-1), axis(2), axis(0, 1)])
  assert one.member().tolist() == [[0, 0, 1, 0, 2]]
  assert written.keys_hashed.tolist() == [5]
  assert written.code_comparisons.tolist() == [5 * 4 // 2]
  # Row 0 scores A 2, B -1, C 2: 6 + 2 in the top bucket.
  # Row 1 scores 20, -10, 1: 60 of 61 are not 99 %; C is in bucket 13 of 1.5.
  # Row 2 scores -2, 1, 0: B alone.
  rows = [axis(1, 2), axis(10, 1), axis(-1), axis(0, -99)]
  slots, counts = one.select(rows, valid=[True, True, True, False])
  assert slots == [[0, 1, 2, 3, 4]]
  assert counts.groups_live.tolist() == [3]
  assert counts.groups_scored.tolist() == [9]
  assert counts.buckets_visited.tolist() == [1 + 13 + 1]
  assert counts.buckets_visited_max.tolist() == [13]
  assert counts.scores_visited.tolist() == [2 + 2 + 1]
  assert counts.scores_visited_max.tolist() == [2]
  assert counts.keys_scored.tolist() == [0]
  slots, counts = one.select(rows, valid=[True, True, False, False])
  assert slots == [[0, 1, 3, 4]]
  written = one.write([axis(0, 3), axis(5)], valid=[True, False])
  assert one.member().tolist() == [[0, 0, 1, 0, 2, 2, -1]]
  assert written.keys_hashed.tolist() == [1]
  assert written.code_comparisons.tolist() == [3]
  assert written.overflow.tolist() == [0]


@pytest.mark.parametrize(
  ("choice", "expected"),
  [
    ("", [[0, 1], [0, 1]]),
    ("rows=pooled", [[2], [2]]),
    ("rows=vote, votes=2", [[0], [1]]),
    ("rows=vote, votes=3", [[], []]),
  ],
)
def test_rows_are_reduced(choice, expected):
  """Rows e₁, e₂, e₁ (head 1: e₂, e₁, e₂), and one of padding."""
  one = Direct(choice, ratio=0.0, threshold=0, heads=2)
  one.write([axis(1), axis(0, 1), axis(0.9, 0.9)])
  x, y = axis(1), axis(0, 1)
  rows = [[x, y, x, 9 * y], [y, x, y, 9 * x]]
  slots, counts = one.select(rows, valid=[True, True, True, False])
  assert slots == expected
  number = 1 if "pooled" in choice else 3
  assert counts.groups_scored.tolist() == [3 * number] * 2


def test_the_query_heads_of_a_kv_head_are_rows_of_one_union():
  one = Direct(ratio=0.0, threshold=0, heads=2, group=2)
  one.write([axis(1), axis(0, 1), axis(0, 0, 1), axis(0, 0, 0, 1)])
  heads = np.eye(4, WIDTH, dtype=np.float32)[[2, 0, 3, 3]]
  slots, counts = one.select(heads[:, None])
  assert slots == [[0, 2], [3]]
  assert counts.groups_scored.tolist() == [8, 8]


@pytest.mark.parametrize(
  "choice",
  ["", "scores=raw", "scores=shift_min", "scores=exp, form=buckets, buckets=7"],
)
def test_scores_and_forms_are_those_of_the_oracle(choice):
  """40 tokens alone; exp weighs exp(score / √8)."""
  one = Direct(choice, ratio=0.4, threshold=0)
  keys, rows = random_keys(0, 40), random_keys(1, 3)
  one.write(keys)
  slots, counts = one.select(rows)
  treatment = choice.split(",")[0].removeprefix("scores=")
  treatment = treatment if "scores" in choice else "clamped"
  buckets = 7 if "buckets=7" in choice else 20
  scores = rows.astype(np.float64) @ keys.T.astype(np.float64)
  if treatment == "exp":
    scores = scores / WIDTH**0.5
  ones, keep, visited = np.ones(40), np.zeros(40, bool), []
  for row in scores:
    early = oracle.early_exit(row, ones, 0.4, treatment, buckets)
    visited.append(early[1:])
    exact = oracle.wicsum(row, ones, 0.4, treatment)
    keep |= early[0] if "form" in choice else exact
  assert slots == [np.nonzero(keep)[0].tolist()]
  assert 0 < keep.sum() < 40
  visited = np.array(visited)
  assert counts.buckets_visited[0] == visited[:, 0].sum()
  assert counts.buckets_visited_max[0] == visited[:, 0].max()
  assert counts.scores_visited[0] == visited[:, 1].sum()
  assert counts.scores_visited_max[0] == visited[:, 1].max()


def test_a_score_is_that_of_the_mean_key():
  """Two tokens of a cluster: the mean of their keys, its weight is 2."""
  one = Direct(ratio=0.6)
  one.write([axis(3), axis(1), axis(0, 3.1)])
  assert one.member().tolist() == [[0, 0, 1]]
  # Scores 2 and 3.1: weighted 4 and 3.1, 60 % of 7.1 are 4.26.
  assert one.select([axis(1, 1)])[0] == [[0, 1, 2]]
  one = Direct(ratio=0.4)
  one.write([axis(3), axis(1), axis(0, 3.1)])
  assert one.select([axis(1, 1)])[0] == [[2]]  # 3.1 is above 2.84


def test_a_table_for_each_head_or_one_for_all():
  """Head 0 has e₁ twice, head 1 has e₁ and -e₁."""
  keys = [[axis(1), axis(1)], [axis(1), axis(-1)]]
  each = Direct(ratio=0.0, heads=2)
  written = each.write(keys)
  assert each.member().tolist() == [[0, 0], [0, 1]]
  assert written.keys_hashed.tolist() == [2, 2]
  assert written.code_comparisons.tolist() == [1, 1]
  slots, counts = each.select([axis(1)])
  assert slots == [[0, 1], [0]]
  assert counts.groups_live.tolist() == [1, 2]
  shared = Direct("table=layer", ratio=0.0, heads=2)
  written = shared.write(keys)
  assert shared.member().tolist() == [[0, 1]]
  assert written.keys_hashed.tolist() == [2, 0]
  assert written.code_comparisons.tolist() == [1, 0]
  slots, counts = shared.select([axis(1)])
  assert slots == [[0, 1], [0]]  # head 0 scores 1 and 1, head 1 scores 1 and -1
  assert counts.groups_live.tolist() == [2, 0]  # one table
  sums = np.asarray(shared.state.table.key_sum)[0, 0, :2]
  np.testing.assert_array_equal(sums, np.concatenate(keys, axis=-1))


@pytest.mark.parametrize("choice", ["first", "following"])
def test_a_code_is_that_of_the_first_key_or_of_the_mean(choice):
  one = Direct(f"code={choice}", threshold=33)
  keys = random_keys(3, 9)
  for chunk in np.split(keys, 3):
    one.write(chunk)
  assert np.all(one.member() == 0)
  planes = hashing.hyperplanes(0, WIDTH, 32)
  codes = oracle.pack(
    oracle.sign_bits(np.stack([keys[0], keys.mean(axis=0)]), planes)
  )
  found = np.asarray(one.state.table.code)[0, 0, :, 0]
  np.testing.assert_array_equal(found, codes[int(choice == "following")])
  assert np.any(codes[0] != codes[1])


@pytest.mark.parametrize("choice", ["rotated", "raw"])
def test_keys_are_hashed_after_or_before_rotation(choice):
  one = Direct(f"hash_keys={choice}")
  rotated = random_keys(4, 6)
  one.write(rotated, raw=np.ones((6, WIDTH)))
  number = int(one.state.table.num[0, 0])
  assert (number == 1) == (choice == "raw")
  total = np.asarray(one.state.table.key_sum).sum(axis=2)[0, 0]
  np.testing.assert_allclose(total, rotated.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("choice", ["none", "mean"])
def test_centering_takes_away_a_constant_that_all_keys_share(choice):
  """A constant of 100 in front of keys of 1: without it, all codes are one."""
  keys = np.stack([random_keys(5, 24), random_keys(6, 24)])
  constant = 100 * random_keys(7, 2, 1)
  plain, shifted = (
    Direct(f"key_centering={choice}", heads=2) for _ in range(2)
  )
  for chunk in np.split(keys, 4, axis=1):
    plain.write(chunk)
    shifted.write(chunk + constant)
  codes = [np.asarray(one.state.table.code) for one in (plain, shifted)]
  numbers = [one.state.table.num.ravel().tolist() for one in (plain, shifted)]
  assert min(numbers[0]) > 5
  if choice == "mean":
    np.testing.assert_array_equal(*codes)
    np.testing.assert_array_equal(plain.member(), shifted.member())
  else:
    assert numbers[1] == [1, 1]


def test_the_center_is_the_mean_of_all_valid_keys_so_far():
  one = Direct("key_centering=mean", threshold=0)
  keys = random_keys(8, 12)
  valid = np.arange(6) != 2
  one.write(keys[:6], valid=valid)
  one.write(keys[6:])
  live = np.concatenate([keys[:6][valid], keys[6:]])
  planes = hashing.hyperplanes(0, WIDTH, 32)
  first = oracle.sign_bits(live[:5] - live[:5].mean(axis=0), planes)
  second = oracle.sign_bits(live[5:] - live.mean(axis=0), planes)
  expected = oracle.pack(np.concatenate([first, second]))[:, 0]
  found = np.asarray(one.state.table.code)[0, 0, 0, :11]
  np.testing.assert_array_equal(found, expected)


def test_a_join_may_ask_for_a_cosine():
  keys = [axis(1), axis(2, 0.1), axis(-1), axis(0.1, 1)]
  free = Direct(threshold=33)
  free.write(keys)
  assert free.member().tolist() == [[0, 0, 0, 0]]
  checked = Direct("min_join_cosine=0.5", threshold=33)
  checked.write(keys)
  assert checked.member().tolist() == [[0, 0, 1, 2]]
  checked.write(keys)
  assert checked.member().tolist() == [[0, 0, 1, 2] * 2]


def test_sinks_are_the_first_tokens_of_the_stream():
  """Positions, not slots: padding before them does not count."""
  one = Direct("sink_tokens=3", ratio=0.0, threshold=0)
  keys = np.eye(WIDTH, dtype=np.float32)
  one.write(keys[:6], valid=[False, True, True, False, True, True])
  one.write(keys[[6, 7, 6, 7, 6, 7]])
  assert one.select([keys[5]])[0] == [[1, 2, 4, 5]]
  assert one.select([keys[7]])[0] == [[1, 2, 4, 7, 9, 11]]


def test_tokens_in_no_cluster_are_always_selected():
  """Room for three clusters: what finds none later is not forgotten."""
  one = Direct("table_capacity=3", ratio=0.0, threshold=0)
  keys = np.eye(WIDTH, dtype=np.float32)
  written = one.write(keys[:3])
  assert written.overflow.tolist() == [0]
  written = one.write(keys[3:6])
  assert written.overflow.tolist() == [policy_lib.Overflow.TABLE_FULL]
  assert one.member().tolist() == [[0, 1, 2, -1, -1, -1]]
  assert one.select([keys[1]])[0] == [[1, 3, 4, 5]]
  assert one.select([keys[4]])[0] == [[0, 1, 2, 3, 4, 5]]  # ties at 0


def test_padding_is_in_no_cluster_and_not_counted():
  """Padding that looks like a cluster's keys neither joins nor opens."""
  one = Direct(ratio=1.0)
  valid = [True, False, True, False]
  one.write([axis(1), axis(1), axis(0, 1), axis(-1)], valid=valid)
  assert one.member().tolist() == [[0, -1, 1, -1]]
  assert one.state.table.count[0, 0, :3].tolist() == [1, 1, 0]
  assert one.select([axis(1)])[0] == [[0, 2]]
  before = jax.tree.map(np.asarray, one.state)
  one.write(np.ones((4, WIDTH)), valid=[False] * 4)
  jax.tree.map(np.testing.assert_array_equal, before, one.state)


def test_a_higher_ratio_selects_no_less_and_ratios_can_be_mapped():
  """`select` under vmap over ratios: nested sets, equal to one by one."""
  one = Direct(heads=2, group=2)
  one.write(np.stack([random_keys(9, 40), random_keys(10, 40)]))
  ratios = np.linspace(0, 1, 8).astype(np.float32)
  rows = random_keys(11, 4, 3)
  asked = one.queries(rows)
  shape = one.state.wicsum_ratio.shape

  def chosen(ratio):
    state = one.state.replace(wicsum_ratio=jnp.broadcast_to(ratio, shape))
    selection, _, counts = one.policy.select(state, one.view, 0, asked, "frame")
    return bitmap.unpack(selection.parts[0].slots), counts.buckets_visited

  sets, _ = jax.jit(jax.vmap(chosen))(ratios)
  sets = np.asarray(sets)[:, :, :40]
  assert np.all(sets[:-1] <= sets[1:])
  assert sets[-1].all()
  sizes = sets.sum(axis=(1, 2))
  assert len(set(sizes.tolist())) >= 4
  single = jax.jit(chosen)
  for index, ratio in enumerate(ratios):
    np.testing.assert_array_equal(single(ratio)[0][:, :40], sets[index])


def test_a_ratio_for_every_stage_and_head():
  ratio = np.zeros((len(policy_lib.STAGES), 1, 2), np.float32)
  ratio[policy_lib.STAGES.index("question"), 0, 1] = 1.0
  one = Direct(ratio=ratio, threshold=0, heads=2)
  one.write(np.eye(5, WIDTH))
  assert one.select([axis(0, 1)])[0] == [[1], [1]]
  slots, _ = one.select([axis(0, 1)], stage="question")
  assert slots == [[1], [0, 1, 2, 3, 4]]


def test_the_placement_unit_is_the_cluster():
  one = Direct()
  one.write([axis(1), axis(-1), axis(1)])
  groups = np.asarray(one.policy.groups(one.state, 0))
  assert groups.shape == (1, SLOTS)
  assert groups[0, :4].tolist() == [0, 1, 0, -1]


def test_stages_without_retrieval_are_left_to_the_driver():
  assert resv_lib.resv().needs.stages == ("frame", "question", "answer")
  assert resv_lib.resv(stages=("answer",)).needs.stages == ("answer",)


@pytest.mark.parametrize(
  ("given", "name"),
  [
    ({}, "resv(wicsum_ratio=0.3, hamming_threshold=7)"),
    (
      {"seed": 3, "table": "layer", "wicsum_ratio": 0.25},
      "resv(wicsum_ratio=0.25, hamming_threshold=7, table=layer, seed=3)",
    ),
    (
      {"hash_bits": 64, "hash_keys": "raw", "key_centering": "mean"},
      "resv(wicsum_ratio=0.3, hamming_threshold=7, hash_bits=64,"
      " hash_keys=raw, key_centering=mean)",
    ),
    (
      {"code": "following", "min_join_cosine": -0.5, "rows": "vote",
       "votes": 3, "scores": "exp"},
      "resv(wicsum_ratio=0.3, hamming_threshold=7, code=following,"
      " min_join_cosine=-0.5, rows=vote, votes=3, scores=exp)",
    ),
    (
      {"form": "buckets", "buckets": 8, "sink_tokens": 0,
       "stages": ("frame",), "table_capacity": 9, "wicsum_ratio": 1e-7},
      "resv(wicsum_ratio=1e-07, hamming_threshold=7, form=buckets, buckets=8,"
      " sink_tokens=0, stages=('frame',), table_capacity=9)",
    ),
  ],
)  # fmt: skip
def test_the_name_is_the_policy(given, name):
  policy = resv_lib.resv(**given)
  assert policy.name == name
  parsed = policy_syntax.make_policy(name)
  assert parsed.name == name
  assert parsed.knobs == policy.knobs
  assert parsed.needs == policy.needs


def test_thresholds_may_be_numpy_and_one_for_each_head():
  ratios = np.full((4, 1, 2), 0.25, np.float32)
  policy = resv_lib.resv(wicsum_ratio=ratios, hamming_threshold=np.int32(5))
  assert policy.name.startswith("resv(wicsum_ratio=[[[0.25, 0.25]]")
  assert resv_lib.resv(wicsum_ratio=np.float32(0.5)).name == (
    "resv(wicsum_ratio=0.5, hamming_threshold=7)"
  )
  with pytest.raises(InputError, match="it must be a number"):
    resv_lib.resv(wicsum_ratio=-ratios)


@pytest.mark.parametrize(
  ("given", "told"),
  [
    ({"wicsum_ratio": -0.1}, r"wicsum_ratio is -0\.1; .*0.*1.*try"),
    ({"wicsum_ratio": "much"}, r"wicsum_ratio is 'much'; it must be a number"),
    ({"wicsum_ratio": float("nan")}, r"wicsum_ratio is nan; .*try"),
    (
      {"code": "following", "hash_keys": "raw"},
      "code is following and hash_keys raw.*use code=first",
    ),
    ({"wicsum_ratio": float("inf")}, r"wicsum_ratio is inf; .*try"),
    ({"wicsum_ratio": True}, r"wicsum_ratio is True; .*try"),
    ({"text_ratio": -1}, r"text_ratio is -1; .*try text_ratio=0\.02"),
    ({"hamming_threshold": -1}, r"hamming_threshold is -1.*_threshold=7"),
    ({"hamming_threshold": 2.5}, r"hamming_threshold is 2\.5.*whole"),
    ({"hamming_threshold": 34}, r"is 34; .* to 33 .*codes of 32 bits.*try"),
    ({"hash_bits": 0}, r"hash_bits is 0.*try|hash_bits is 0.*hash_bits="),
    ({"hash_bits": 129}, r"hash_bits is 129; .*at most 128: try hash_bits=32"),
    ({"hash_keys": "both"}, r"hash_keys is 'both'; .*rotated, raw: try"),
    ({"key_centering": 1}, r"key_centering is 1; .*none, mean: try"),
    ({"table": "stream"}, r"table is 'stream'; .*head, layer: try"),
    ({"code": "last"}, r"code is 'last'; .*first, following: try"),
    ({"min_join_cosine": 1.5}, r"min_join_cosine is 1\.5; .*-1 and 1: try"),
    ({"min_join_cosine": "half"}, r"min_join_cosine is 'half'; .*: try"),
    ({"min_join_cosine": float("nan")}, r"min_join_cosine is nan; .*: try"),
    ({"rows": "any"}, r"rows is 'any'; .*union, pooled, vote: try"),
    ({"votes": 0}, r"votes is 0.*votes=1"),
    ({"scores": "relu"}, r"scores is 'relu'; .*clamped, raw.*: try"),
    ({"form": "sort"}, r"form is 'sort'; .*exact, buckets: try"),
    ({"buckets": 0}, r"buckets is 0.*buckets=1"),
    ({"sink_tokens": -1}, r"sink_tokens is -1.*sink_tokens="),
    ({"stages": ("frames",)}, r"stages is \('frames',\); .*frame.*: try"),
    ({"stages": ()}, r"stages is \(\); .*try stages="),
    ({"stages": "frame"}, r"stages is .*; .*try stages="),
    ({"stages": 3}, r"stages is 3; .*try stages="),
    ({"table_capacity": 0}, r"table_capacity is 0.*table_capacity="),
    ({"seed": -1}, r"seed is -1.*seed="),
  ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_value_rule_and_fix(given, told):
  with pytest.raises(InputError, match=told):
    resv_lib.resv(**given)


@pytest.mark.parametrize(
  "choices",
  [
    "table=layer, rows=pooled, key_centering=mean",
    "code=following, min_join_cosine=0.5, rows=vote, form=buckets",
  ],
)
def test_the_same_where_python_numbers_have_64_bits(choices):
  def watch():
    programs.cache_clear()
    random = np.random.default_rng(0)
    stream = Direct(choices, heads=2, group=2)
    told = [stream.write(random.standard_normal((2, 30, 8))) for _ in range(2)]
    slots, counts = stream.select(random.standard_normal((4, 3, 8)))
    state = jax.tree.map(np.asarray, stream.state)
    return slots, (told, counts, state.table, state.center_count)

  slots, expected = watch()
  with jax.enable_x64(True):
    same, found = watch()
  assert same == slots
  chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
  chex.assert_trees_all_equal(found, expected)
