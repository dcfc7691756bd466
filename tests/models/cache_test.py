"""The cache against numpy: append, commit, scratch, compaction."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax.models import cache as cache_lib

LAYERS, BATCH, HEADS, WIDTH = 2, 3, 2, 4


def new_cache(capacity=40, largest_chunk=8, per_head=False, dtype=jnp.float32):
  return cache_lib.create(
    num_layers=LAYERS,
    batch=BATCH,
    num_kv_heads=HEADS,
    capacity=capacity,
    largest_chunk=largest_chunk,
    head_dim=WIDTH,
    dtype=dtype,
    per_head=per_head,
  )


def chunk_of(length, seed=0):
  """Keys and values of all layers, [L, B, K, T, H]."""
  random = np.random.default_rng(seed)
  shape = (LAYERS, BATCH, HEADS, length, WIDTH)
  return [random.standard_normal(shape).astype(np.float32) for _ in range(2)]


def push(cache, key, value, start, advance, valid, position, frame=3, kind=1):
  """Appends in every layer, then commits."""
  for layer in range(LAYERS):
    cache = cache_lib.append(
      cache, layer, key[layer], value[layer], jnp.int32(start)
    )
  return cache_lib.commit(
    cache,
    start=jnp.int32(start),
    advance=jnp.int32(advance),
    valid=jnp.asarray(valid),
    position=jnp.asarray(position, jnp.int32),
    frame=jnp.full(np.shape(valid), frame, jnp.int32),
    kind=jnp.full(np.shape(valid), kind, jnp.int8),
  )


@pytest.mark.parametrize("per_head", [False, True])
def test_chunks_follow_each_other(per_head):
  cache = new_cache(per_head=per_head)
  keys, values, valids, positions = [], [], [], []
  for index, length in enumerate((5, 1, 8)):
    key, value = chunk_of(length, seed=index)
    valid = np.random.default_rng(index).random((BATCH, length)) < 0.7
    position = np.arange(length) + 10 * np.arange(BATCH)[:, None]
    start = int(cache.cursor)
    cache = push(cache, key, value, start, length, valid, position)
    keys.append(key)
    values.append(value)
    valids.append(valid)
    positions.append(position)
  assert int(cache.cursor) == 14
  np.testing.assert_array_equal(
    cache.key[..., :14, :], np.concatenate(keys, axis=3)
  )
  np.testing.assert_array_equal(
    cache.value[..., :14, :], np.concatenate(values, axis=3)
  )
  for name, expected in (
    ("valid", np.concatenate(valids, axis=1)),
    ("position", np.concatenate(positions, axis=1)),
    ("frame", np.full((BATCH, 14), 3)),
    ("kind", np.full((BATCH, 14), 1)),
  ):
    table = np.asarray(getattr(cache.slots, name))[..., :14]
    wide = expected[None, :, None] if per_head else expected
    np.testing.assert_array_equal(table, np.broadcast_to(wide, table.shape))
  assert not np.any(cache.key[..., 14:, :])
  assert not np.any(cache.slots.valid[..., 14:])


def test_only_the_given_layer_is_written():
  key, value = chunk_of(5)
  cache = cache_lib.append(new_cache(), 1, key[1], value[1], jnp.int32(7))
  assert not np.any(cache.key[0])
  np.testing.assert_array_equal(cache.key[1, :, :, 7:12], key[1])
  assert int(cache.cursor) == 0
  assert not np.any(cache.slots.valid)


def test_scratch_holds_the_longest_chunk_whatever_the_capacity():
  for capacity in (1, 500, 504, 505, 512, 1000):
    slots = cache_lib.num_slots(capacity, 8)
    assert slots >= capacity + 8
    assert slots % cache_lib.SLOT_MULTIPLE == 0
    assert slots < capacity + 8 + cache_lib.SLOT_MULTIPLE


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("capacity", [40, 504])
def test_a_chunk_in_scratch_changes_nothing_below_the_capacity(
  capacity, per_head
):
  """With capacity 504 and chunk 8, the scratch ends where the cache does."""
  before = new_cache(capacity, per_head=per_head)
  key, value = chunk_of(8)
  valid = np.ones((BATCH, 8), bool)
  position = np.arange(8)[None].repeat(BATCH, 0)
  before = push(before, key, value, capacity - 8, 8, valid, position)
  before = before.replace(cursor=jnp.int32(capacity))
  key, value = chunk_of(8, seed=1)
  after = push(before, key, value, capacity, 0, ~valid, position + 99)
  assert int(after.cursor) == capacity
  np.testing.assert_array_equal(
    after.key[..., :capacity, :], before.key[..., :capacity, :]
  )
  np.testing.assert_array_equal(
    after.value[..., :capacity, :], before.value[..., :capacity, :]
  )
  np.testing.assert_array_equal(after.slots.valid, before.slots.valid)
  np.testing.assert_array_equal(
    after.slots.position[..., :capacity], before.slots.position[..., :capacity]
  )
  assert np.any(after.key[..., capacity:, :])


def test_storage_dtype_rounds_once_and_bytes_are_counted():
  cache = new_cache(dtype=jnp.bfloat16)
  key, value = chunk_of(5)
  cache = cache_lib.append(cache, 0, key[0], value[0], jnp.int32(0))
  np.testing.assert_array_equal(
    cache.key[0, :, :, :5], jnp.asarray(key[0]).astype(jnp.bfloat16)
  )
  stored = cache.key.nbytes + cache.value.nbytes
  per_slot = cache_lib.kv_bytes_per_slot(LAYERS, HEADS, WIDTH, jnp.bfloat16)
  assert stored == per_slot * BATCH * cache.key.shape[3]


COMPACT = jax.jit(cache_lib.compact)


@hypothesis.settings(max_examples=20)
@hypothesis.given(
  seed=strategies.integers(0, 10**6),
  cursor=strategies.sampled_from([0, 1, 33, 504]),
  density=strategies.sampled_from([0.0, 0.2, 0.9, 1.0]),
)
def test_compaction_keeps_order_per_head(seed, cursor, density):
  """Kept tokens move to the front in order; source says where they came from.

  Heads keep different numbers; validity beyond the cursor is ignored.
  """
  random = np.random.default_rng(seed)
  cache = new_cache(504, per_head=True)
  fill = lambda array: jnp.asarray(
    random.integers(0, 100, array.shape).astype(array.dtype)
  )
  kept = random.random(cache.slots.valid.shape) < density
  cache = cache.replace(
    key=fill(cache.key),
    value=fill(cache.value),
    slots=cache.slots.replace(
      valid=jnp.asarray(kept),
      position=fill(cache.slots.position),
      frame=fill(cache.slots.frame),
      kind=fill(cache.slots.kind),
    ),
    cursor=jnp.int32(cursor),
  )
  compacted, source = COMPACT(cache)
  to_host = lambda tree: jax.tree.map(np.asarray, tree)
  cache, compacted, source = map(to_host, (cache, compacted, source))
  sizes = []
  for index in np.ndindex(LAYERS, BATCH, HEADS):
    slots = np.nonzero(kept[index][:cursor])[0]
    size = len(slots)
    sizes.append(size)
    np.testing.assert_array_equal(source[index][:size], slots)
    np.testing.assert_array_equal(
      compacted.slots.valid[index], np.arange(cache.key.shape[3]) < size
    )
    for name in ("key", "value"):
      np.testing.assert_array_equal(
        getattr(compacted, name)[index][:size],
        getattr(cache, name)[index][slots],
      )
    for name in ("position", "frame", "kind"):
      np.testing.assert_array_equal(
        getattr(compacted.slots, name)[index][:size],
        getattr(cache.slots, name)[index][slots],
      )
  assert int(compacted.cursor) == max(sizes)


def test_compacting_twice_changes_nothing():
  cache = new_cache(504, per_head=True)
  kept = np.random.default_rng(0).random(cache.slots.valid.shape) < 0.4
  cache = cache.replace(
    slots=cache.slots.replace(valid=jnp.asarray(kept)), cursor=jnp.int32(300)
  )
  once, _ = COMPACT(cache)
  twice, source = COMPACT(once)
  np.testing.assert_array_equal(once.slots.valid, twice.slots.valid)
  assert int(once.cursor) == int(twice.cursor)
  live = np.asarray(twice.slots.valid)
  identity = np.broadcast_to(np.arange(live.shape[-1]), live.shape)
  np.testing.assert_array_equal(np.asarray(source)[live], identity[live])


def test_a_cache_without_metadata_per_head_is_not_compacted():
  with pytest.raises(AssertionError):
    cache_lib.compact(new_cache())
