"""Hash codes of keys: signs of random projections, packed, and their distance.

  bit p of key k = [k · plane_p > 0]        in W = ⌈P / 32⌉ words of 32 bits

The expected share of bits in which two keys differ is their angle over π, so
the Hamming distance of P bits stands for the cosine:

  E[distance] = P · arccos(cosine) / π
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.typing import Array, Float, Int

__all__ = ["WORD_BITS", "hamming_distance", "hash_codes", "hyperplanes"]

WORD_BITS = 32


def hyperplanes(seed: int, width: int, bits: int) -> np.ndarray:
  """Normals of random hyperplanes through the origin.

  Args:
    seed: of the draw.
    width: H, or K · H for one code of all heads.
    bits: P.

  Returns:
    f32[width, 32 W], standard normal: the paper names no distribution, and this
    one treats all directions alike. Planes past P are zero, and so are their
    bits in every code.

  Example:
    >>> hyperplanes(0, 128, 32).shape, hyperplanes(0, 128, 40).shape
    ((128, 32), (128, 64))

  Source: V-Rex (arXiv 2512.12284), Sec. IV.B; SimHash (Charikar, STOC 2002).
  """
  draws = np.random.default_rng(seed).standard_normal((width, bits))
  padding = -bits % WORD_BITS
  return np.pad(draws, ((0, 0), (0, padding))).astype(np.float32)


def hash_codes(keys: Float, planes: Array | np.ndarray) -> Array:
  """Packed sign bits of keys times hyperplanes; 0 where the product is ≤ 0.

  Args:
    keys: f[..., width].
    planes: f32[width, 32 W].

  Returns:
    u32[..., W], bit p of a code is bit p % 32 of word p // 32.

  Example:
    >>> planes = np.eye(32, dtype=np.float32)
    >>> int(hash_codes(jnp.arange(-2.0, 30.0), planes)[0]) == 2**32 - 2**3
    True

  Source: V-Rex, Sec. IV.B and Fig. 8 (bit is 0 if the value is ≤ 0, else 1).
  """
  width, bits = planes.shape
  chex.assert_axis_dimension(keys, -1, width)
  chex.assert_is_divisible(bits, WORD_BITS)
  values = jnp.einsum(
    "...h,hp->...p",
    keys.astype(jnp.float32),
    jnp.asarray(planes),
    precision=jax.lax.Precision.HIGHEST,
  )
  ones = (values > 0).reshape(*keys.shape[:-1], bits // WORD_BITS, WORD_BITS)
  weights = jnp.uint32(1) << jnp.arange(WORD_BITS, dtype=jnp.uint32)
  weights = weights.reshape((1,) * (ones.ndim - 1) + (WORD_BITS,))
  return jnp.sum(jnp.where(ones, weights, jnp.uint32(0)), -1, dtype=jnp.uint32)


def hamming_distance(codes: Array, table: Array) -> Int:
  """Differing bits of every code and every entry of a table.

  Args:
    codes: u32[..., T, W].
    table: u32[..., W, C]; word-major, so that entries lie side by side.

  Returns:
    i32[..., T, C], XOR and population count.

  Example:
    >>> codes = jnp.array([[0b1011]], jnp.uint32)
    >>> hamming_distance(codes, jnp.array([[0b1011, 0b0001]], jnp.uint32))
    Array([[0, 2]], dtype=int32)

  Source: V-Rex, Sec. IV.B (XOR, then count of ones).
  """
  words = codes.shape[-1]
  chex.assert_axis_dimension(table, -2, words)
  distance = jnp.int32(0)
  for word in range(words):
    differ = codes[..., word][..., None] ^ table[..., word, :][..., None, :]
    distance = distance + jax.lax.population_count(differ).astype(jnp.int32)
  return distance
