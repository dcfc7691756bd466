"""Attention to sets of slots and to a prefix against a dense softmax."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import attention_oracle as oracle
from vrex_jax import bitmap
from vrex_jax.models import past_attention
from vrex_jax.models import rotary
from vrex_jax.models import work_list


@pytest.mark.parametrize(
  ("rows", "kind", "stored"),
  [
    (oracle.KV_HEADS, None, "per stream"),
    (oracle.HEADS, None, "per stream"),
    (oracle.KV_HEADS, "rank", "per head"),
    (oracle.HEADS, "rank", "per stream"),
    (oracle.HEADS, "fixed", "per head"),
  ],
)
@pytest.mark.parametrize("turn", [0, 3])
def test_work_list_attention_is_dense_attention_over_each_set(
  rows, kind, stored, turn
):
  sizes = oracle.SIZES[turn:] + oracle.SIZES[:turn]
  mask, query = oracle.sets_of(rows, sizes), oracle.query_of(rows)
  found = oracle.WORK_LIST(
    query,
    oracle.KEYS,
    oracle.VALUES,
    bitmap.pack(jnp.asarray(mask)),
    oracle.rotation_of(kind, stored),
    oracle.LAYER,
  )
  keys = oracle.moved_keys(kind, stored, mask)
  # Angles at position 9000 are good to 1e-4 in float32.
  tolerance = 1e-5 if kind is None else 1e-3
  oracle.close(
    found,
    oracle.dense(
      query, keys, oracle.per_row(oracle.VALUES[oracle.LAYER], rows), mask
    ),
    tolerance,
  )
  empty = ~mask.any(axis=-1)
  assert np.all(np.isneginf(np.asarray(found.lse)[empty]))
  assert not np.any(np.asarray(found.out)[empty])


@pytest.mark.parametrize("kind", ["rank", "fixed"])
def test_moving_keys_is_rotating_them_explicitly(kind):
  """With the package's own rotary arithmetic the two agree to rounding."""
  mask, query = (
    oracle.sets_of(oracle.HEADS, oracle.SIZES),
    oracle.query_of(oracle.HEADS),
  )
  rotation = oracle.rotation_of(kind, "per stream")
  words = bitmap.pack(jnp.asarray(mask))
  found = oracle.WORK_LIST(
    query, oracle.KEYS, oracle.VALUES, words, rotation, oracle.LAYER
  )
  target = np.cumsum(mask, axis=-1) - 1
  if kind == "fixed":
    target = np.broadcast_to(np.array([40, 7])[:, None, None], mask.shape)
  shift = target - oracle.STORED["per stream"][:, None]
  keys = rotary.rotate(
    jnp.asarray(oracle.per_row(oracle.KEYS[oracle.LAYER], oracle.HEADS)),
    rotary.angles(jnp.asarray(shift), oracle.FREQUENCIES),
  )
  oracle.close(
    found,
    oracle.dense(
      query,
      np.asarray(keys),
      oracle.per_row(oracle.VALUES[oracle.LAYER], oracle.HEADS),
      mask,
    ),
    2e-5,
  )


@pytest.mark.parametrize("cursor", [0, 1, 511, 512, 513, oracle.SLOTS])
def test_prefix_attention_is_dense_attention_below_the_cursor(cursor):
  valid = np.random.default_rng(6).random((oracle.BATCH, oracle.SLOTS)) < 0.6
  query = oracle.query_of(oracle.KV_HEADS)
  found = oracle.PREFIX(
    query, oracle.KEYS, oracle.VALUES, valid, jnp.int32(cursor), oracle.LAYER
  )
  mask = (valid & (np.arange(oracle.SLOTS) < cursor))[:, None].repeat(
    oracle.KV_HEADS, 1
  )
  oracle.close(
    found,
    oracle.dense(
      query, oracle.KEYS[oracle.LAYER], oracle.VALUES[oracle.LAYER], mask
    ),
  )


def test_prefix_and_work_list_agree_on_the_same_slots():
  valid = np.random.default_rng(7).random((oracle.BATCH, oracle.SLOTS)) < 0.3
  query = oracle.query_of(oracle.KV_HEADS)
  whole = oracle.PREFIX(
    query,
    oracle.KEYS,
    oracle.VALUES,
    valid,
    jnp.int32(oracle.SLOTS),
    oracle.LAYER,
  )
  words = bitmap.pack(jnp.asarray(valid))[:, None].repeat(oracle.KV_HEADS, 1)
  listed = oracle.WORK_LIST(
    query, oracle.KEYS, oracle.VALUES, words, None, oracle.LAYER
  )
  oracle.close(listed, whole, 2e-6)


@pytest.mark.parametrize("rank", [255, 300, 2100])
def test_many_query_rows_are_handled_in_smaller_steps(rank):
  """Below, just above and far above the size at which steps are cut."""
  query = oracle.normal(12, oracle.BATCH, oracle.KV_HEADS, rank, oracle.WIDTH)
  valid = np.random.default_rng(13).random((oracle.BATCH, oracle.SLOTS)) < 0.5
  cursor = 1300
  mask = (valid & (np.arange(oracle.SLOTS) < cursor))[:, None].repeat(
    oracle.KV_HEADS, 1
  )
  expected = oracle.dense(
    query, oracle.KEYS[oracle.LAYER], oracle.VALUES[oracle.LAYER], mask
  )
  oracle.close(
    oracle.PREFIX(
      query, oracle.KEYS, oracle.VALUES, valid, jnp.int32(cursor), oracle.LAYER
    ),
    expected,
  )
  words = bitmap.pack(jnp.asarray(mask))
  oracle.close(
    oracle.WORK_LIST(
      query, oracle.KEYS, oracle.VALUES, words, None, oracle.LAYER
    ),
    expected,
  )


def test_permuting_the_batch_permutes_the_result():
  mask, query = (
    oracle.sets_of(oracle.HEADS, oracle.SIZES),
    oracle.query_of(oracle.HEADS),
  )
  words = bitmap.pack(jnp.asarray(mask))
  rotation = oracle.rotation_of("rank", "per stream")
  straight = oracle.WORK_LIST(
    query, oracle.KEYS, oracle.VALUES, words, rotation, oracle.LAYER
  )
  swapped = oracle.WORK_LIST(
    query[::-1],
    oracle.KEYS[:, ::-1],
    oracle.VALUES[:, ::-1],
    words[::-1],
    rotation._replace(stored=rotation.stored[::-1]),
    oracle.LAYER,
  )
  oracle.close(swapped, (straight.out[::-1], straight.lse[::-1]), 2e-6)


def test_slots_outside_the_sets_are_never_read():
  """Not masked, not there: no value they hold can reach the result."""
  mask, query = (
    oracle.sets_of(oracle.KV_HEADS, [40, 300, 5, 700]),
    oracle.query_of(oracle.KV_HEADS),
  )
  words = bitmap.pack(jnp.asarray(mask))
  outside = np.broadcast_to(~mask[None, ..., None], oracle.KEYS.shape)
  poison = lambda array: np.where(outside, np.float32(np.nan), array)
  clean = oracle.WORK_LIST(
    query, oracle.KEYS, oracle.VALUES, words, None, oracle.LAYER
  )
  dirty = oracle.WORK_LIST(
    query, poison(oracle.KEYS), poison(oracle.VALUES), words, None, oracle.LAYER
  )
  np.testing.assert_array_equal(clean.out, dirty.out)
  np.testing.assert_array_equal(clean.lse, dirty.lse)


def test_keys_stored_in_bfloat16_are_attended_in_float32():
  mask, query = (
    oracle.sets_of(oracle.KV_HEADS, oracle.SIZES[2:]),
    oracle.query_of(oracle.KV_HEADS),
  )
  small_keys, small_values = (
    jnp.asarray(x).astype(jnp.bfloat16) for x in (oracle.KEYS, oracle.VALUES)
  )
  words = bitmap.pack(jnp.asarray(mask))
  widen = lambda array: np.asarray(array.astype(jnp.float32))[oracle.LAYER]
  expected = oracle.dense(query, widen(small_keys), widen(small_values), mask)
  oracle.close(
    oracle.WORK_LIST(
      query, small_keys, small_values, words, None, oracle.LAYER
    ),
    expected,
  )
  valid = mask[:, 0]
  expected = oracle.dense(
    query, widen(small_keys), widen(small_values), mask[:, :1].repeat(2, 1)
  )
  oracle.close(
    oracle.PREFIX(
      query,
      small_keys,
      small_values,
      valid,
      jnp.int32(oracle.SLOTS),
      oracle.LAYER,
    ),
    expected,
  )


def test_numpy_arrays_are_taken_as_they_are():
  query, keys, values, mask = oracle.small_problem(2)
  words = np.asarray(bitmap.pack(jnp.asarray(mask)))
  expected = oracle.dense(query, keys[1], values[1], mask)
  rotation = work_list.KeyRotation(
    np.arange(512, dtype=np.int32)[None], oracle.FREQUENCIES, None
  )
  attend = lambda turn: past_attention.work_list_attention(
    query, keys, values, words, turn, 1
  )
  oracle.close(attend(None), expected)
  assert np.all(np.isfinite(attend(rotation).out))
  oracle.close(
    past_attention.prefix_attention(query, keys, values, mask[:, 1], 512, 1),
    oracle.dense(query, keys[1], values[1], mask[:, 1:].repeat(2, 1)),
  )


def test_a_cursor_past_the_valid_slots_reads_whole_chunks_only():
  """S must hold whole chunks of 512 slots, or the last ones would be lost."""
  with pytest.raises(AssertionError):
    past_attention.prefix_attention(
      oracle.query_of(oracle.KV_HEADS),
      oracle.KEYS[:, :, :, :500],
      oracle.VALUES[:, :, :, :500],
      jnp.ones((oracle.BATCH, 500), bool),
      jnp.int32(3),
      oracle.LAYER,
    )
