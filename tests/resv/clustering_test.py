"""The hash-cluster table against the sequential rule in numpy."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from vrex_jax.resv import clustering
from vrex_jax.resv import hashing

WIDTH = 6
insert_chunk = jax.jit(clustering.insert_chunk, static_argnums=3)
insert_tokens = jax.jit(clustering.insert_tokens, static_argnums=3)


def table_of(layers, tables, capacity, *, bits=32, slots=64, width=WIDTH):
  return clustering.create(
    num_layers=layers,
    num_tables=tables,
    capacity=capacity,
    num_slots=slots,
    width=width,
    bits=bits,
  )


def tokens_of(codes, keys=None, *, valid=None, start=0, room=12):
  """Tokens from u32[L, R, T] or u32[L, R, T, W], padded to `room` tokens.

  Padding repeats the last token: were it taken for one, it would show. One
  room for all tests lets them share programs.
  """
  codes = np.asarray(codes, np.uint32)
  codes = codes if codes.ndim == 4 else codes[..., None]
  length = codes.shape[2]
  if keys is None:
    random = np.random.default_rng(start)
    keys = random.standard_normal((*codes.shape[:3], WIDTH))
  valid = np.ones(length, bool) if valid is None else valid
  padding = ((0, 0), (0, 0), (0, max(0, room - length)), (0, 0))
  codes, keys = (np.pad(one, padding, mode="edge") for one in (codes, keys))
  valid = np.pad(valid, padding[2])
  return clustering.Tokens(
    code=jnp.asarray(codes),
    key=jnp.asarray(keys, jnp.float32),
    valid=jnp.asarray(valid),
    start=jnp.int32(start),
  )


def oracles_of(table, threshold, **options):
  layers, tables = table.num.shape
  make = lambda: oracle.Clusters(
    threshold=threshold, capacity=table.capacity, **options
  )
  return [[make() for _ in range(tables)] for _ in range(layers)]


def follow(oracles, tokens, *, frozen=True, center=None):
  for index in np.ndindex(len(oracles), len(oracles[0])):
    oracles[index[0]][index[1]].extend(
      oracle.unpack(tokens.code[index]),
      np.asarray(tokens.key[index], np.float64),
      np.asarray(tokens.valid),
      frozen=frozen,
      center=0.0 if center is None else center[index],
    )


def agree(table, oracles):
  """Codes, members, counts and numbers equal, sums to 1e-6."""
  layers, tables = table.num.shape
  for index in np.ndindex(layers, tables):
    one = oracles[index[0]][index[1]]
    number = len(one.codes)
    assert int(table.num[index]) == number
    members = np.asarray(table.member[index])
    np.testing.assert_array_equal(members[: len(one.members)], one.members)
    assert np.all(members[len(one.members) :] == -1)
    counts = np.asarray(table.count[index])
    np.testing.assert_array_equal(counts[:number], one.counts)
    assert not counts[number:].any()
    found = np.asarray(table.key_sum[index])
    assert not found[number:].any()
    if number:
      codes = np.asarray(table.code[index])[:, :number].T
      np.testing.assert_array_equal(codes, oracle.pack(np.stack(one.codes)))
      sums = np.stack(one.sums)
      scale = max(np.abs(sums).max(), 1e-30)
      np.testing.assert_allclose(
        found[:number], sums, rtol=0, atol=1e-6 * scale
      )


def same(one, other):
  """Two tables, sums apart from rounding."""
  chex.assert_trees_all_equal(
    one.replace(key_sum=None), other.replace(key_sum=None)
  )
  np.testing.assert_allclose(one.key_sum, other.key_sum, rtol=1e-5, atol=1e-5)


# (L, R, T, capacity, W)
SHAPES = [(1, 1, 1, 40, 1), (2, 2, 7, 3, 2), (1, 2, 9, 40, 1)]


@hypothesis.given(
  shape=st.sampled_from(SHAPES),
  seed=st.integers(0, 2**20),
  bits=st.integers(1, 12),
  threshold=st.integers(0, 8),
  chunks=st.integers(1, 5),
  padding=st.booleans(),
)
@hypothesis.settings(max_examples=60)
def test_batched_is_sequential_is_the_oracle(
  shape, seed, bits, threshold, chunks, padding
):
  """Few bits: many ties, chains of near tokens, and full tables."""
  layers, tables, length, capacity, words = shape
  random = np.random.default_rng(seed)
  batched = one_by_one = table_of(layers, tables, capacity, bits=32 * words)
  oracles = oracles_of(batched, threshold)
  for chunk in range(chunks):
    size = (layers, tables, length, words)
    codes = random.integers(0, 2**bits, size, dtype=np.uint32)
    keys = random.standard_normal((layers, tables, length, WIDTH))
    valid = np.ones(length, bool)
    if padding:
      valid = random.random(length) < 0.7
    tokens = tokens_of(codes, keys, valid=valid, start=chunk * length, room=0)
    for row in oracles:
      for one in row:
        one.full = False
    batched, done = insert_chunk(batched, tokens, threshold)
    one_by_one, alone = insert_tokens(one_by_one, tokens, threshold)
    follow(oracles, tokens)
    told = [[one.full for one in row] for row in oracles]
    np.testing.assert_array_equal(done.full, told)
    np.testing.assert_array_equal(alone.full, told)
  agree(batched, oracles)
  agree(one_by_one, oracles)


@hypothesis.given(
  seed=st.integers(0, 2**20),
  bits=st.integers(1, 8),
  threshold=st.integers(1, 8),
  spread=st.sampled_from([0.2, 0.6, 2.0]),
)
@hypothesis.settings(max_examples=25)
def test_joins_ask_for_the_cosine_with_the_mean(seed, bits, threshold, spread):
  """Against means before the chunk, or of the moment, token by token."""
  layers, tables, length, capacity = 1, 2, 9, 40
  random = np.random.default_rng(seed)
  batched = one_by_one = table_of(layers, tables, capacity)
  frozen, moving = (
    oracles_of(batched, threshold, min_cosine=0.5) for _ in range(2)
  )
  axes = random.standard_normal((3, WIDTH))
  for chunk in range(4):
    size = (layers, tables, length)
    codes = random.integers(0, 2**bits, size, dtype=np.uint32)
    keys = axes[random.integers(0, 3, size)]
    keys = keys + spread * random.standard_normal(keys.shape)
    keys = keys.astype(np.float32)
    tokens = tokens_of(codes, keys, start=chunk * length, room=0)
    batched, _ = insert_chunk(batched, tokens, threshold, 0.5)
    one_by_one, _ = insert_tokens(one_by_one, tokens, threshold, 0.5)
    follow(frozen, tokens, frozen=True)
    follow(moving, tokens, frozen=False)
  agree(batched, frozen)
  agree(one_by_one, moving)


@pytest.mark.parametrize("centered", [False, True])
def test_a_following_code_is_that_of_the_mean(centered):
  layers, tables, length, bits = 2, 2, 8, 40
  random = np.random.default_rng(7)
  planes = hashing.hyperplanes(2, WIDTH, bits)
  table = first = table_of(layers, tables, 30, bits=bits)
  oracles = oracles_of(table, 9, planes=planes)
  center = np.zeros((layers, tables, WIDTH), np.float32)
  if centered:
    center = random.standard_normal(center.shape).astype(np.float32)
  step = jax.jit(clustering.insert_tokens, static_argnums=3)
  for chunk in range(5):
    keys = random.standard_normal((layers, tables, length, WIDTH))
    keys = keys.astype(np.float32)
    codes = hashing.hash_codes(jnp.asarray(keys - center[:, :, None]), planes)
    valid = np.arange(length) != 3
    tokens = tokens_of(codes, keys, valid=valid, start=chunk * length, room=0)
    given = jnp.asarray(center) if centered else None
    table, _ = step(table, tokens, 9, None, planes, given)
    first, _ = step(first, tokens, 9)
    follow(oracles, tokens, center=center)
  agree(table, oracles)
  assert max(one.counts[0] for row in oracles for one in row) > 3
  assert np.any(np.asarray(first.code) != np.asarray(table.code))


def groups(table):
  """Slots of every cluster of the first table."""
  members = np.asarray(table.member[0, 0])
  number = int(table.num[0, 0])
  return [np.nonzero(members == index)[0].tolist() for index in range(number)]


def test_three_clusters_of_three_and_two_singletons():
  """Fig. 8: 3-bit codes, previous and current tokens, 3/3/3/1/1.

  The codes are ours: the paper prints the result, and as a row of its table
  cluster 0 with tokens 0, 3 and 8. Five clusters of 3-bit codes that keep the
  code of their first token must be pairwise at the threshold or farther, and
  at most four 3-bit codes differ pairwise in two bits: so the threshold is 1.
  """
  codes = [0b000, 0b011, 0b110, 0b000, 0b011, 0b101, 0b011, 0b110, 0b000, 0b110]
  codes = [*codes, 0b111]
  table = table_of(1, 1, 40)
  previous, current = (
    tokens_of([[codes[:5]]]),
    tokens_of([[codes[5:]]], start=5),
  )
  table, done = insert_chunk(table, previous, 1)
  assert int(table.num[0, 0]) == 3
  # Rows are current tokens, columns previous then current, upper part left out.
  assert int(done.comparisons[0, 0]) == 5 * 4 // 2
  table, done = insert_chunk(table, current, 1)
  assert int(done.comparisons[0, 0]) == 6 * 3 + 6 * 5 // 2
  assert groups(table) == [[0, 3, 8], [1, 4, 6], [2, 7, 9], [5], [10]]
  assert table.count[0, 0, :6].tolist() == [3, 3, 3, 1, 1, 0]
  mean = table.key_sum[0, 0, 0] / table.count[0, 0, 0]
  keys = np.concatenate([previous.key[0, 0, :5], current.key[0, 0, :6]])
  np.testing.assert_allclose(mean, keys[[0, 3, 8]].mean(axis=0), atol=1e-6)


def test_the_nearest_wins_and_the_oldest_of_equals():
  insert = lambda table, tokens: insert_chunk(table, tokens, 4)
  table, _ = insert(table_of(1, 1, 40), tokens_of([[[0b0000000]]]))
  table, _ = insert(table, tokens_of([[[0b1111000]]], start=1))
  table, _ = insert(table, tokens_of([[[0b0001111]]], start=2))
  assert int(table.num[0, 0]) == 3
  # Distances to the three: 3, 1, 7; 1, 5, 3; 2, 2, 6; 3, 3, 3.
  codes = [[[0b1110000, 0b0000001, 0b1100000, 0b0101010]]]
  distances = hashing.hamming_distance(
    jnp.asarray(codes, jnp.uint32)[..., None], table.code
  )
  assert distances[0, 0, :, :3].tolist() == [
    [3, 1, 7],
    [1, 5, 3],
    [2, 2, 6],
    [3, 3, 3],
  ]
  table, _ = insert(table, tokens_of(codes, start=3))
  assert table.member[0, 0, 3:7].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("threshold", [1, 3, 6])
def test_near_is_strictly_below_the_threshold(threshold):
  distances = [threshold, threshold - 1]
  for distance, joins in zip(distances, (False, True), strict=True):
    codes = [[[0, (1 << distance) - 1]]]
    table, _ = insert_chunk(table_of(1, 1, 40), tokens_of(codes), threshold)
    assert int(table.num[0, 0]) == (1 if joins else 2)


def test_a_code_stays_that_of_the_first_member():
  """A chain 0, 1, 11, 111 below 2: members do not draw others in."""
  codes = [0b0, 0b1, 0b11, 0b111]
  whole, _ = insert_chunk(table_of(1, 1, 40), tokens_of([[codes]]), 2)
  assert whole.member[0, 0, :4].tolist() == [0, 0, 1, 1]
  assert whole.code[0, 0, 0, :2].tolist() == [0b0, 0b11]


@pytest.mark.parametrize(
  "keys",
  [
    np.ones((12, WIDTH)),
    np.zeros((12, WIDTH)),
    np.full((12, WIDTH), -3e36),
  ],
  ids=["identical", "zero", "huge"],
)
def test_equal_keys_are_one_cluster(keys):
  planes = hashing.hyperplanes(0, WIDTH, 32)
  code = hashing.hash_codes(jnp.asarray(keys, jnp.float32), planes)
  table = table_of(1, 1, 40)
  for start in (0, 12):
    tokens = tokens_of(code[None, None], keys[None, None], start=start)
    table, done = insert_chunk(table, tokens, 1, 0.0)
  assert groups(table) == [list(range(24))]
  assert not np.any(done.full)
  np.testing.assert_allclose(table.key_sum[0, 0, 0], 24 * keys[0], rtol=1e-6)
  assert np.all(np.isfinite(table.key_sum))


def test_threshold_zero_leaves_every_token_alone():
  codes = [[[5, 5, 5, 0, 0, 9, 5]]]
  table, done = insert_chunk(table_of(1, 1, 40), tokens_of(codes), 0)
  assert table.member[0, 0, :8].tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
  assert not np.any(done.full)


def test_a_threshold_above_all_distances_makes_one_cluster():
  codes = np.random.default_rng(0).integers(0, 2**32, (2, 2, 9), np.uint32)
  codes[:, :, 1] = ~codes[:, :, 0]
  table, _ = insert_chunk(table_of(2, 2, 40), tokens_of(codes), 33)
  assert np.all(table.num == 1)
  assert np.all(np.asarray(table.member)[:, :, :9] == 0)
  table, _ = insert_chunk(table_of(2, 2, 40), tokens_of(codes), 32)
  assert np.all(table.num == 2)


def test_a_full_table_says_so_and_still_takes_members():
  table = table_of(1, 2, 2)
  opening = [0b0, 0b1111, 0b110000]
  codes = [[[*opening, 0b1110, 0b110000, 0b1], [0] * 6]]
  table, done = insert_chunk(table, tokens_of(codes), 2)
  assert done.full.tolist() == [[True, False]]
  assert table.member[0, 0, :6].tolist() == [0, 1, -1, 1, -1, 0]
  assert table.count[0, 0, :3].tolist() == [2, 2, 0]
  assert not np.any(table.key_sum[0, 0, 2:])
  # Later: members of what there is, and no flag where all find one.
  codes = [[[0b1111, 0, 0, 0, 0, 0], [0] * 6]]
  table, done = insert_chunk(table, tokens_of(codes, start=6), 2)
  assert not np.any(done.full)
  assert table.member[0, 0, 6:12].tolist() == [1, 0, 0, 0, 0, 0]
  codes = [[[0b110000] * 6, [0] * 6]]
  valid = np.zeros(6, bool)
  table, done = insert_chunk(table, tokens_of(codes, start=12, valid=valid), 2)
  assert not np.any(done.full)  # padding wants no room


@pytest.mark.parametrize("insert", [insert_chunk, insert_tokens])
def test_a_chunk_of_padding_changes_nothing(insert):
  codes = np.arange(18, dtype=np.uint32).reshape(1, 2, 9)
  table, _ = insert(table_of(1, 2, 40), tokens_of(codes), 2)
  padding = tokens_of(codes, start=20, valid=np.zeros(9, bool))
  after, done = insert(table, padding, 2)
  chex.assert_trees_all_equal(after, table)
  assert not np.any(done.comparisons)
  assert not np.any(done.full)


def test_tables_do_not_meet():
  """Layers and tables permuted before are layers and tables permuted after."""
  random = np.random.default_rng(3)
  codes = random.integers(0, 64, (3, 2, 9), dtype=np.uint32)
  keys = random.standard_normal((3, 2, 9, WIDTH))
  plain, done = insert_chunk(table_of(3, 2, 20), tokens_of(codes, keys), 2)
  layers, tables = [2, 0, 1], [1, 0]
  mix = lambda array: np.asarray(array)[layers][:, tables]
  mixed, other = insert_chunk(
    table_of(3, 2, 20), tokens_of(mix(codes), mix(keys)), 2
  )
  chex.assert_trees_all_equal(mixed, jax.tree.map(mix, plain))
  chex.assert_trees_all_equal(other, jax.tree.map(mix, done))
  assert len({str(row) for row in np.asarray(plain.member).tolist()}) > 1


def test_comparisons_by_hand():
  """Valid tokens times clusters, and pairs of valid tokens of the chunk."""
  table = table_of(1, 1, 40)
  valid = np.array([True, True, True, False])
  tokens = tokens_of([[[0, 7, 7, 7]]], valid=valid)
  table, done = insert_chunk(table, tokens, 1)
  assert int(done.comparisons[0, 0]) == 3 * 0 + 3
  tokens = tokens_of([[[0, 7, 9, 9]]], start=4)
  after, done = insert_chunk(table, tokens, 1)
  assert int(done.comparisons[0, 0]) == 4 * 2 + 6
  # One by one a token meets clusters only: 2 + 2 + 2 + 3.
  again, alone = insert_tokens(table, tokens, 1)
  assert int(alone.comparisons[0, 0]) == 9
  same(after, again)


def filled(number, capacity=300):
  """A table of `number` clusters, by chunks of 50 codes that all differ."""
  table = table_of(1, 1, capacity, slots=640)
  for start in range(0, 300, 50):
    valid = start + np.arange(50) < number
    codes = start + np.arange(50)
    tokens = tokens_of([[codes]], valid=valid, start=start)
    table, _ = insert_chunk(table, tokens, 1)
  return table


def test_streams_of_very_different_fill_under_vmap():
  """0, 3, 270 and 300 clusters: more than one block of the table, and full."""
  numbers = (0, 3, 270, 300)
  tables = [filled(number) for number in numbers]
  assert [int(table.num[0, 0]) for table in tables] == list(numbers)
  codes = [[0, 2, 1000], [2, 2, 7], [269, 1000, 0], [299, 1000, 2]]
  chunks = [tokens_of([[row]], start=400) for row in codes]
  stack = lambda *leaves: jnp.stack(leaves)
  together, done = jax.jit(jax.vmap(clustering.insert_chunk, (0, 0, None)))(
    jax.tree.map(stack, *tables), jax.tree.map(stack, *chunks), 1
  )
  expected = [[0, 1, 2], [2, 2, 3], [269, 270, 0], [299, -1, 2]]
  for index, (table, tokens) in enumerate(zip(tables, chunks, strict=True)):
    alone, told = insert_chunk(table, tokens, 1)
    one = jax.tree.map(lambda leaf, index=index: leaf[index], together)
    same(one, alone)
    chex.assert_trees_all_equal(
      jax.tree.map(lambda leaf, index=index: leaf[index], done), told
    )
    assert one.member[0, 0, 400:403].tolist() == expected[index]
  assert done.full.ravel().tolist() == [False, False, False, True]


def test_a_table_is_small_beside_its_keys_and_values():
  """32 tokens a cluster, heads of 128: below 2.5 % of float32 K and V."""
  width, clusters = 128, 3
  table = table_of(2, 2, 100, width=width, slots=128)
  assert not np.any(clustering.table_bytes(table))
  codes = np.repeat(np.arange(clusters), 32)
  keys = np.ones((2, 2, 96, width))
  codes = np.broadcast_to(codes, (2, 2, 96))
  table, _ = insert_chunk(table, tokens_of(codes, keys), 1)
  found = clustering.table_bytes(table)
  # Code, count and 128 sums a cluster; an index a token.
  one_cluster = 4 + 4 + 4 * 128 + 4 * 32
  np.testing.assert_array_equal(found, np.full((2, 2), clusters * one_cluster))
  assert np.all(found < 0.025 * (96 * 2 * 128 * 4))
