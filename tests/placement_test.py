"""Runs of a fetch in three layouts, against layouts written out by hand."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax import attend
from vrex_jax import bitmap
from vrex_jax import placement
from vrex_jax.models import cache as cache_lib

SLOTS, HEADS = 64, 2


everything = np.ones((SLOTS,), bool)
time = np.arange(SLOTS)


@functools.partial(jax.jit, static_argnames=("merge",))
def clustered(wanted, stored, groups, block, merge=True):
  return placement.runs_clustered(
    bitmap.pack(wanted),
    bitmap.pack(stored),
    groups,
    block=block,
    merge_neighbours=merge,
  )


def clustered_oracle(wanted, stored, groups, block, merge):
  """Addresses are written down block by block, then read one by one."""
  layout = []  # (slot, what it may be fetched together with)
  for number in sorted(set(block.tolist())):
    inside = [s for s in range(SLOTS) if stored[s] and block[s] == number]
    for group in sorted({int(groups[s]) for s in inside if groups[s] >= 0}):
      layout += [(s, (number, group)) for s in inside if groups[s] == group]
    layout += [(s, ("alone", s)) for s in inside if groups[s] < 0]
  number, last = 0, None
  for slot, unit in layout:
    if not wanted[slot]:
      last = None
      continue
    if last is None or (not merge and unit != last):
      number += 1
    last = unit
  return number


def arrays(low, high):
  """i32[S]: every slot for itself, or in stretches as tokens of a frame."""
  whole = strategies.integers(low, high)
  scattered = strategies.lists(whole, min_size=SLOTS, max_size=SLOTS)
  stretches = strategies.lists(whole, min_size=SLOTS // 8, max_size=SLOTS // 8)
  made = strategies.one_of(
    scattered, stretches.map(lambda each: np.repeat(each, 8))
  )
  return made.map(lambda values: np.array(values, np.int32))


masks = strategies.one_of(arrays(0, 1), strategies.just(time >= 0)).map(
  lambda values: values.astype(bool)
)
groups_of = arrays(-1, 5)
blocks_of = strategies.one_of(
  strategies.integers(1, SLOTS).map(lambda size: time // size),
  arrays(-1, 6),
).map(lambda values: values.astype(np.int32))


def runs_of(mask):
  return int(np.sum(mask[:1])) + int(np.sum(mask[1:] & ~mask[:-1]))


@hypothesis.given(masks, masks, groups_of, blocks_of, strategies.booleans())
def test_runs_clustered_is_the_layout_read_in_order(
  wanted, stored, groups, block, merge
):
  found = clustered(wanted, stored, groups, block, merge)
  assert found.dtype == jnp.int32
  assert found.shape == ()
  expected = clustered_oracle(wanted, stored, groups, block, merge)
  assert int(found) == expected


@hypothesis.given(masks, masks, groups_of, blocks_of)
def test_finer_borders_never_save_a_run(wanted, stored, groups, block):
  one = 0 * block
  by_block, by_cluster = (
    int(clustered(wanted, stored, groups, of, merge=False))
    for of in (block, one)
  )
  merged = int(clustered(wanted, stored, groups, block))
  assert by_cluster <= by_block <= np.sum(wanted & stored)
  assert merged <= by_block


@hypothesis.given(masks, groups_of, strategies.booleans())
def test_whole_clusters_take_a_run_each_at_most(stored, groups, merge):
  chosen = {0, 2, 5}
  wanted = np.isin(groups, list(chosen))
  found = int(clustered(wanted, stored, groups, 0 * groups, merge))
  number = len(chosen & set(groups[stored].tolist()))
  assert found <= number
  if not merge:
    assert found == number


@hypothesis.given(masks, groups_of, strategies.integers(1, SLOTS))
def test_whole_clusters_take_a_run_in_every_block(stored, groups, size):
  wanted, block = groups == 3, (time // size).astype(np.int32)
  found = int(clustered(wanted, stored, groups, block, merge=False))
  assert found == len(set(block[wanted & stored].tolist()))


@hypothesis.given(masks, groups_of)
def test_blocks_of_one_token_are_time_order(wanted, groups):
  found = clustered(wanted, everything, groups, time.astype(np.int32))
  assert int(found) == runs_of(wanted)


@hypothesis.given(masks)
def test_one_cluster_in_one_block_is_time_order(wanted):
  for group in (0, -1):
    groups = np.full((SLOTS,), group, np.int32)
    found = clustered(wanted, everything, groups, 0 * groups)
    assert int(found) == runs_of(wanted)


@hypothesis.given(masks, masks, strategies.booleans())
def test_every_token_its_own_cluster_is_no_help(wanted, stored, none):
  groups = np.where(none, -1, time).astype(np.int32)
  alone = clustered(wanted, stored, groups, 0 * groups, merge=False)
  assert int(alone) == np.sum(wanted & stored)
  merged = clustered(wanted, stored, groups, 0 * groups)
  assert int(merged) == runs_of(wanted[stored])


@hypothesis.given(masks, strategies.booleans())
def test_everything_in_one_cluster_is_one_run(stored, merge):
  groups = np.zeros((SLOTS,), np.int32)
  found = clustered(everything, stored, groups, groups, merge)
  assert int(found) == int(np.any(stored))


def test_the_drawing_of_the_module():
  groups = np.full((SLOTS,), -1, np.int32)
  groups[:8] = [0, 1, 0, 1, 1, 0, 0, 1]
  wanted, stored = groups == 0, time < 8
  assert int(placement.runs(bitmap.pack(wanted))) == 3
  assert int(clustered(wanted, stored, groups, (time // 4))) == 2
  assert int(clustered(wanted, stored, groups, 0 * groups)) == 1


def test_neighbours_in_the_layout_merge_only_when_told():
  groups = (time % 4).astype(np.int32)
  for chosen, merged in (({0, 1}, 1), ({0, 2}, 2), ({0, 1, 2, 3}, 1)):
    wanted = np.isin(groups, list(chosen))
    assert int(clustered(wanted, everything, groups, 0 * groups)) == merged
    alone = clustered(wanted, everything, groups, 0 * groups, merge=False)
    assert int(alone) == len(chosen)


def test_resident_is_the_window_of_the_driver():
  cache = cache_lib.create(
    num_layers=1,
    batch=1,
    num_kv_heads=1,
    capacity=40,
    largest_chunk=8,
    head_dim=2,
    dtype=jnp.float32,
    per_head=False,
  )
  size = cache.slots.valid.shape[1]
  position = jnp.arange(size)[None]
  cache = cache.replace(
    slots=cache.slots.replace(
      valid=jnp.arange(size)[None] % 3 > 0, position=position
    ),
    cursor=jnp.int32(30),
  )
  # Of the slots below 30, those that are a multiple of 3 are not valid.
  for window, number in ((0, 0), (1, 1), (7, 5), (1000, 20)):
    sets = attend.slot_sets(
      cache,
      next_position=jnp.array([30]),
      recent_tokens=jnp.int32(0),
      resident_tokens=jnp.int32(window),
    )
    found = placement.resident(position[0], 30, window) & sets.live[0, 0]
    np.testing.assert_array_equal(found, sets.resident[0, 0])
    assert int(bitmap.count(found)) == number


def test_fetched_is_what_is_missing():
  generator = np.random.default_rng(0)
  selected, resident = generator.random((2, HEADS, SLOTS)) < 0.5
  found = placement.fetched(bitmap.pack(selected), bitmap.pack(resident))
  np.testing.assert_array_equal(bitmap.unpack(found), selected & ~resident)


def layer(seed=0, per_head=False):
  """50 tokens in frames of 7, random clusters, some of them selected."""
  generator = np.random.default_rng(seed)
  groups = generator.integers(-1, 9, (HEADS, SLOTS)).astype(np.int32)
  selected = np.isin(groups, [-1, 1, 4, 5])
  position = np.arange(SLOTS, dtype=np.int32)
  slots = cache_lib.SlotTable(
    valid=jnp.asarray(generator.random(SLOTS) < 0.9),
    position=jnp.asarray(position),
    frame=jnp.asarray(position // 7 - 1),
    kind=jnp.zeros((SLOTS,), jnp.int8),
  )
  live = (np.asarray(slots.valid) & (position < 50))[None]
  if per_head:
    slots = jax.tree.map(lambda array: jnp.stack([array] * HEADS), slots)
    live = np.repeat(live, HEADS, axis=0)
  return selected, live, groups, slots


@functools.partial(
  jax.jit, static_argnames=("block_tokens", "merge_neighbours")
)
def layer_runs(selected, live, groups, slots, **options):
  selected, live = bitmap.pack(selected), bitmap.pack(live)
  return placement.fetch_runs(
    selected, live, groups, slots, next_position=50, **options
  )


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("block_tokens", [None, 16])
@pytest.mark.parametrize("merge", [False, True])
def test_fetch_runs_counts_every_head_in_every_layout(
  per_head, block_tokens, merge
):
  selected, live, groups, slots = layer(per_head=per_head)
  made = layer_runs(
    selected,
    live,
    groups,
    slots,
    resident_tokens=10,
    block_tokens=block_tokens,
    merge_neighbours=merge,
  )
  stored = live[0] & (time < 40)
  block = time // 7 if block_tokens is None else time // 16
  for head in range(HEADS):
    wanted = selected[head] & stored
    count = functools.partial(clustered_oracle, wanted, stored, groups[head])
    expected = [
      wanted.sum(),
      runs_of(wanted),
      count(block, merge),
      count(0 * block, merge),
    ]
    assert [int(number[head]) for number in made] == expected
    lengths = [expected[0] / number for number in expected[1:]]
    found = [float(mean[head]) for mean in made.mean_tokens]
    np.testing.assert_allclose(found, lengths, rtol=1e-6)
  assert made.time_order.dtype == made.by_block.dtype == jnp.int32


def test_one_table_serves_all_heads():
  selected, live, groups, slots = layer()
  shared = layer_runs(selected, live, groups[:1], slots, resident_tokens=10)
  each = layer_runs(
    selected, live, np.repeat(groups[:1], HEADS, 0), slots, resident_tokens=10
  )
  jax.tree.map(np.testing.assert_array_equal, shared, each)


def test_a_window_over_everything_fetches_nothing():
  made = layer_runs(*layer(), resident_tokens=1 << 30)
  for number in (*made, *made.mean_tokens):
    np.testing.assert_array_equal(number, np.zeros((HEADS,)))


def test_runs_clustered_lifts_with_vmap():
  selected, live, groups, _ = layer(1)
  stored, block = np.stack([live[0]] * HEADS), np.stack([time // 7] * HEADS)
  found = jax.vmap(clustered)(selected, stored, groups, block)
  for head in range(HEADS):
    alone = clustered(selected[head], live[0], groups[head], time // 7)
    assert int(found[head]) == int(alone)


def test_shapes_that_do_not_fit_are_refused():
  wanted = jnp.zeros((2,), jnp.uint32)
  with pytest.raises(AssertionError):
    placement.runs_clustered(wanted, wanted, jnp.zeros((32,), jnp.int32))
  with pytest.raises(AssertionError):
    placement.runs_clustered(wanted, wanted[:1], jnp.zeros((64,), jnp.int32))
  with pytest.raises(AssertionError):
    placement.fetched(wanted, wanted[:1])
