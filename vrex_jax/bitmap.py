"""Sets of cache slots as packed bits.

A set over S slots is u32[..., S / 32]; slot s is bit s % 32 of word s // 32:

  word 0                     word 1
  slot 0 is its lowest bit   slot 32 is its lowest bit

Sets combine with the ordinary operators `&`, `|`, `~` and cost 1/256 of a
float32 mask to move.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.typing import Bitmap, Bool, Int

__all__ = [
  "WORD_BITS",
  "count",
  "count_runs",
  "pack",
  "select_ranked",
  "unpack",
]

WORD_BITS = 32


def pack(mask: Bool) -> Bitmap:
  """b[..., S] -> u32[..., S / 32]; S must be a multiple of 32.

  Example:
    >>> pack(jnp.arange(32) < 3).tolist()
    [7]
  """
  chex.assert_is_divisible(mask.shape[-1], WORD_BITS)
  bits = mask.reshape(*mask.shape[:-1], -1, WORD_BITS).astype(jnp.uint32)
  weights = jnp.uint32(1) << jnp.arange(WORD_BITS, dtype=jnp.uint32)
  weights = weights.reshape((1,) * (bits.ndim - 1) + (WORD_BITS,))
  return jnp.sum(bits * weights, axis=-1, dtype=jnp.uint32)


def unpack(bitmap: Bitmap) -> Bool:
  """u32[..., S / 32] -> b[..., S].

  Example:
    >>> unpack(jnp.array([5], jnp.uint32))[:4].tolist()
    [True, False, True, False]
  """
  shifts = jnp.arange(WORD_BITS, dtype=jnp.uint32)
  shifts = shifts.reshape((1,) * bitmap.ndim + (WORD_BITS,))
  bits = (bitmap[..., None] >> shifts) & jnp.uint32(1)
  return bits.astype(bool).reshape(*bitmap.shape[:-1], -1)


def count(bitmap: Bitmap) -> Int:
  """Number of slots in each set: u32[..., S / 32] -> i32[...].

  Example:
    >>> count(jnp.array([[7, 1], [0, 0]], jnp.uint32)).tolist()
    [4, 0]
  """
  bits = jax.lax.population_count(bitmap).astype(jnp.int32)
  return jnp.sum(bits, axis=-1)


def count_runs(bitmap: Bitmap) -> Int:
  """Number of maximal runs of neighbouring slots: u32[..., W] -> i32[...].

  A run starts at a set bit whose lower neighbour is clear:

    slots  0 1 2 3 4 5 6      bits    1 1 0 1 0 0 1
                              starts  1 . . 1 . . 1   -> 3 runs

  Example:
    >>> count_runs(jnp.array([0b1001011, 1], jnp.uint32)).tolist()
    4
  """
  top = bitmap >> jnp.uint32(WORD_BITS - 1)
  carried = jnp.concatenate(
    [jnp.zeros_like(top[..., :1]), top[..., :-1]], axis=-1
  )
  return count(bitmap & ~((bitmap << jnp.uint32(1)) | carried))


def select_ranked(words: Bitmap, ends: Int, row: Int, rank: Int) -> Int:
  """The slot that holds a given rank in the increasing order of its set.

  Binary search for the word, then for the bit: about log2(S) steps a slot and
  no array of the size of the cache.

  Args:
    words: u32[R, S / 32], R sets.
    ends: i32[R, S / 32], inclusive running count of bits of each set.
    row: i32[...], which set.
    rank: i32[...], 0 for the lowest slot; below the number of slots in the set
      (otherwise the result is a slot index without meaning, in range).

  Returns:
    i32[...], slot indices.

  Example:
    >>> words = jnp.array([[0b1010, 0b1]], jnp.uint32)
    >>> ends = jnp.array([[2, 3]])
    >>> select_ranked(words, ends, jnp.zeros(3, int), jnp.arange(3)).tolist()
    [1, 3, 32]
  """
  chex.assert_equal_shape([words, ends])
  num_words = words.shape[-1]
  flat_words, flat_ends = words.reshape(-1), ends.reshape(-1)
  base = row * num_words
  index = jnp.zeros_like(rank)
  half = 1 << max(0, int(np.ceil(np.log2(max(num_words, 2)))) - 1)
  while half:  # index = number of words that end at or before the rank
    probe = flat_ends[base + jnp.minimum(index + half - 1, num_words - 1)]
    index = jnp.where(probe <= rank, index + half, index)
    half //= 2
  index = jnp.minimum(index, num_words - 1)
  before = jnp.where(index > 0, flat_ends[base + jnp.maximum(index, 1) - 1], 0)
  word = flat_words[base + index]
  left = rank - before
  bit = jnp.zeros_like(rank)
  for width in (16, 8, 4, 2, 1):
    window = (word >> bit.astype(jnp.uint32)) & jnp.uint32((1 << width) - 1)
    below = jax.lax.population_count(window).astype(jnp.int32)
    upper = left >= below
    left = jnp.where(upper, left - below, left)
    bit = jnp.where(upper, bit + width, bit)
  return index * WORD_BITS + jnp.minimum(bit, WORD_BITS - 1)
