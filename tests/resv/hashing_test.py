"""Hash codes against numpy, and what their distances stand for."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from vrex_jax.resv import hashing

WIDTH = 24


def keys_of(seed, *shape):
  random = np.random.default_rng(seed)
  return random.standard_normal((*shape, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 32, 40, 64, 128])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
def test_codes_are_the_signs_of_the_products(bits, shape):
  planes = hashing.hyperplanes(3, WIDTH, bits)
  keys = keys_of(bits, *shape)
  codes = np.asarray(hashing.hash_codes(jnp.asarray(keys), planes))
  assert codes.dtype == np.uint32
  assert codes.shape == (*shape, -(-bits // 32))
  expected = oracle.sign_bits(keys, planes[:, :bits])
  found = oracle.unpack(codes)
  np.testing.assert_array_equal(found[..., :bits], expected)
  assert not found[..., bits:].any()
  assert 0.3 < expected.mean() < 0.7


@pytest.mark.parametrize("bits", [16, 32, 40, 64, 128])
def test_planes_past_the_bits_are_zero_and_the_others_are_not(bits):
  planes = hashing.hyperplanes(0, 50, bits)
  assert planes.shape == (50, -(-bits // 32) * 32)
  assert planes.dtype == np.float32
  assert not planes[:, bits:].any()
  assert np.all(planes[:, :bits] != 0)


def test_bit_p_is_bit_p_mod_32_of_word_p_div_32():
  planes = np.eye(96, dtype=np.float32)
  for bit in (0, 1, 31, 32, 33, 63, 64, 95):
    code = hashing.hash_codes(jnp.zeros(96).at[bit].set(1.0), planes)
    expected = [0, 0, 0]
    expected[bit // 32] = 1 << (bit % 32)
    assert code.tolist() == expected


def test_a_product_of_zero_is_bit_zero():
  planes = np.eye(32, dtype=np.float32)
  key = jnp.zeros(32).at[:4].set(jnp.array([0.0, -0.0, 1e-30, -1e-30]))
  assert hashing.hash_codes(key, planes).tolist() == [0b0100]
  planes = hashing.hyperplanes(0, WIDTH, 64)
  assert hashing.hash_codes(jnp.zeros(WIDTH), planes).tolist() == [0, 0]


def test_planes_follow_the_seed():
  one, again = (hashing.hyperplanes(5, WIDTH, 40) for _ in range(2))
  np.testing.assert_array_equal(one, again)
  other = hashing.hyperplanes(6, WIDTH, 40)
  assert np.all(one[:, :40] != other[:, :40])


def test_planes_are_standard_normal():
  """400 · 128 draws: mean and variance within four standard errors."""
  draws = hashing.hyperplanes(1, 400, 128).ravel()
  number = draws.size
  assert abs(draws.mean()) < 4 / number**0.5
  assert abs(draws.var() - 1) < 4 * (2 / number) ** 0.5


@pytest.mark.parametrize("words", [1, 2, 4])
def test_distance_is_the_number_of_differing_bits(words):
  random = np.random.default_rng(words)
  draw = lambda *shape: random.integers(0, 2**32, shape, dtype=np.uint32)
  codes, table = draw(3, 2, 5, words), draw(3, 2, words, 11)
  table[0, 0, :, 4] = codes[0, 0, 2]  # distance 0
  table[1, 1, :, 7] = ~codes[1, 1, 3]  # all bits
  found = hashing.hamming_distance(jnp.asarray(codes), jnp.asarray(table))
  one = oracle.unpack(codes)[..., :, None, :]
  other = oracle.unpack(table.swapaxes(-1, -2))[..., None, :, :]
  np.testing.assert_array_equal(found, np.sum(one != other, axis=-1))
  assert int(found[0, 0, 2, 4]) == 0
  assert int(found[1, 1, 3, 7]) == 32 * words


def test_the_expected_distance_is_the_angle():
  """E = P · angle / π, over 400 draws of 128 planes, for six angles."""
  angles = np.pi * np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
  keys = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
  planes = jnp.asarray(
    np.stack([hashing.hyperplanes(seed, 2, 128) for seed in range(400)])
  )
  codes = jax.vmap(lambda one: hashing.hash_codes(jnp.asarray(keys), one))(
    planes
  )
  distance = hashing.hamming_distance(
    codes[:, :1], jnp.swapaxes(codes, -1, -2)
  )[:, 0]
  share = np.asarray(distance).mean(axis=0) / 128
  error = 0.5 / (400 * 128) ** 0.5  # of a fair coin's mean; others have less
  np.testing.assert_allclose(share, angles / np.pi, atol=4 * error)
  assert share[0] == 0


@hypothesis.given(
  seed=st.integers(0, 2**20), power=st.integers(-20, 20), bits=st.just(40)
)
def test_the_length_of_a_key_does_not_matter(seed, power, bits):
  """Powers of two, which scale every product without rounding."""
  planes = hashing.hyperplanes(0, WIDTH, bits)
  keys = jnp.asarray(keys_of(seed, 6))
  np.testing.assert_array_equal(
    hashing.hash_codes(keys * 2.0**power, planes),
    hashing.hash_codes(keys, planes),
  )


def test_the_opposite_key_has_the_opposite_code():
  planes = hashing.hyperplanes(0, WIDTH, 64)
  keys = jnp.asarray(keys_of(2, 30))
  np.testing.assert_array_equal(
    hashing.hash_codes(-keys, planes), ~hashing.hash_codes(keys, planes)
  )
