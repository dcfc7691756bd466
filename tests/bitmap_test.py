"""Packed sets of slots against numpy."""

import chex
import hypothesis
import hypothesis.extra.numpy as hypothesis_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax import bitmap


def masks(words=(1, 5), rows=3):
  """b[rows, 32 · words]; dense and sparse ones, runs across word borders."""

  def build(num_words):
    shape = (rows, 32 * num_words)
    dense = hypothesis_numpy.arrays(bool, shape)
    sparse = hypothesis_numpy.arrays(
      bool, shape, elements=strategies.booleans(), fill=strategies.just(False)
    )
    blocks = hypothesis_numpy.arrays(bool, (rows, 4 * num_words)).map(
      lambda array: np.repeat(array, 8, axis=-1)
    )
    return strategies.one_of(dense, sparse, blocks)

  return strategies.integers(*words).flatmap(build)


def runs_of(row):
  return int(row[0]) + int(np.sum(row[1:] & ~row[:-1]))


@hypothesis.given(masks())
def test_unpack_undoes_pack(mask):
  packed = bitmap.pack(jnp.asarray(mask))
  assert packed.dtype == jnp.uint32
  assert packed.shape == (mask.shape[0], mask.shape[1] // 32)
  np.testing.assert_array_equal(bitmap.unpack(packed), mask)


@hypothesis.given(masks())
def test_pack_puts_slot_s_in_bit_s_of_its_word(mask):
  expected = np.packbits(mask, axis=-1, bitorder="little").view("<u4")
  np.testing.assert_array_equal(bitmap.pack(jnp.asarray(mask)), expected)


@hypothesis.given(masks())
def test_count_is_the_number_of_slots(mask):
  counted = bitmap.count(bitmap.pack(jnp.asarray(mask)))
  np.testing.assert_array_equal(counted, mask.sum(axis=-1))


@hypothesis.given(masks())
def test_count_runs_is_the_number_of_rising_edges(mask):
  counted = bitmap.count_runs(bitmap.pack(jnp.asarray(mask)))
  np.testing.assert_array_equal(counted, [runs_of(row) for row in mask])


@jax.jit
def ranked(words, rank):
  """Slots of every rank in every set: u32[R, W], i32[M] -> i32[R, M]."""
  ends = jnp.cumsum(jax.lax.population_count(words).astype(jnp.int32), axis=-1)
  rows = jnp.broadcast_to(
    jnp.arange(len(words))[:, None], (len(words), len(rank))
  )
  return bitmap.select_ranked(
    words, ends, rows, jnp.broadcast_to(rank[None], rows.shape)
  )


@hypothesis.given(masks(words=(1, 7)))
def test_select_ranked_lists_each_set_in_order(mask):
  words = bitmap.pack(jnp.asarray(mask))
  found = np.asarray(ranked(words, jnp.arange(mask.shape[1])))
  for line, slots in zip(mask, found, strict=True):
    np.testing.assert_array_equal(slots[: line.sum()], np.nonzero(line)[0])


@hypothesis.given(masks())
def test_select_ranked_stays_in_range_whatever_the_rank(mask):
  words = bitmap.pack(jnp.asarray(mask))
  found = np.asarray(ranked(words, jnp.arange(0, 400, 7)))
  assert np.all((found >= 0) & (found < mask.shape[1]))


def test_leading_axes_are_kept():
  mask = np.random.default_rng(0).random((2, 3, 4, 64)) < 0.5
  packed = bitmap.pack(jnp.asarray(mask))
  chex.assert_shape(packed, (2, 3, 4, 2))
  np.testing.assert_array_equal(bitmap.unpack(packed), mask)
  np.testing.assert_array_equal(bitmap.count(packed), mask.sum(axis=-1))


def test_a_length_that_fills_no_word_is_refused():
  with pytest.raises(AssertionError):
    bitmap.pack(jnp.zeros((33,), bool))
