"""Rotary embedding: against complex numbers in numpy, and as laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary


def heads(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("head_dim", [2, 8, 64])
def test_rotate_multiplies_pairs_as_complex_numbers(head_dim):
  x = heads(2, 3, 5, head_dim)
  angle = heads(2, 1, 5, head_dim // 2, seed=1)
  got = rotary.rotate(jnp.asarray(x), jnp.asarray(angle))
  half = head_dim // 2
  turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
  want = np.concatenate([turned.real, turned.imag], axis=-1)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_turn_taken_once_rotates_as_its_angle():
  x, angle = jnp.asarray(heads(2, 3, 5, 16)), jnp.asarray(heads(2, 1, 5, 8))
  got = jax.jit(lambda x, a: rotary.rotate_by(x, rotary.turn_once(a)))(x, angle)
  np.testing.assert_allclose(got, rotary.rotate(x, angle), atol=1e-6)


@pytest.mark.usefixtures("fused_as_for_users")
def test_a_turn_is_taken_once_however_many_heads_use_it():
  """Otherwise XLA on a CPU takes the cosine again in every rotation."""

  def rotations(x, angle):
    turn = rotary.turn_once(angle)
    for _ in range(4):
      x = rotary.rotate_by(x @ x.swapaxes(-1, -2) @ x, turn)
    return x

  x, angle = jnp.asarray(heads(1, 4, 5, 16)), jnp.asarray(heads(1, 1, 5, 8))
  compiled = jax.jit(rotations).lower(x, angle).compile().as_text()
  assert compiled.count(" cosine(") == 1


def test_rotations_add():
  x = jnp.asarray(heads(4, 16))
  one, two = (jnp.asarray(heads(4, 8, seed=seed)) for seed in (1, 2))
  twice = rotary.rotate(rotary.rotate(x, one), two)
  np.testing.assert_allclose(twice, rotary.rotate(x, one + two), atol=1e-6)


def test_products_depend_on_the_distance_only():
  frequencies = rotary.inverse_frequencies(config_lib.RopeConfig(), 32)
  query, key = jnp.asarray(heads(1, 32)), jnp.asarray(heads(1, 32, seed=1))

  def product(query_position, key_position):
    turn = lambda x, position: rotary.rotate(
      x, rotary.angles(jnp.array([position]), frequencies)
    )
    return jnp.sum(turn(query, query_position) * turn(key, key_position))

  np.testing.assert_allclose(product(7, 2), product(905, 900), atol=1e-4)
  assert abs(product(7, 2) - product(7, 6)) > 1e-2


@pytest.mark.parametrize("position", [4095, 4096, 131072, 1_000_003, -70_001])
def test_angles_stay_true_in_long_streams(position):
  frequencies = rotary.inverse_frequencies(config_lib.RopeConfig(theta=1e6), 64)
  got = np.asarray(rotary.angles(jnp.array([position]), frequencies))[0]
  want = position * frequencies.astype(np.float64)
  np.testing.assert_allclose(np.cos(got), np.cos(want), atol=3e-4)
  np.testing.assert_allclose(np.sin(got), np.sin(want), atol=3e-4)


def test_a_shift_back_is_the_opposite_angle():
  """Keys move to earlier positions: small negative shifts, small angles."""
  frequencies = np.array([1.0, 0.3, 0.001], np.float32)
  shifts = jnp.asarray([1, 11, 4095, 4096, 70000])
  forth = rotary.angles(shifts, frequencies)
  np.testing.assert_array_equal(rotary.angles(-shifts, frequencies), -forth)


def test_small_positions_are_the_plain_product():
  frequencies = rotary.inverse_frequencies(config_lib.RopeConfig(), 64)
  positions = np.arange(4096)
  plain = positions[:, None].astype(np.float32) * frequencies[None]
  got = rotary.angles(jnp.asarray(positions), frequencies)
  np.testing.assert_array_equal(got, plain)


def test_result_has_the_dtype_of_x():
  x = jnp.asarray(heads(3, 8), jnp.bfloat16)
  angle = jnp.full((3, 4), 0.7)
  got = rotary.rotate(x, angle)
  assert got.dtype == jnp.bfloat16
  wide = rotary.rotate(x.astype(jnp.float32), angle)
  np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


def test_frequencies_are_a_geometric_series():
  got = rotary.inverse_frequencies(config_lib.RopeConfig(theta=1e6), 128)
  want = [1e6 ** (-2.0 * pair / 128) for pair in range(64)]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert got.dtype == np.float32


def test_linear_scaling_divides_positions():
  plain = config_lib.RopeConfig()
  scaled = config_lib.RopeConfig(scaling="linear", factor=4.0)
  positions = jnp.array([0, 3, 100])
  np.testing.assert_allclose(
    rotary.angles(4 * positions, rotary.inverse_frequencies(scaled, 16)),
    rotary.angles(positions, rotary.inverse_frequencies(plain, 16)),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ("factor", "low", "high", "original"),
  [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 2.0, 16.0, 512)],
)
def test_llama3_scaling_band_by_band(factor, low, high, original):
  """The rule case by case, as published, one frequency at a time."""
  rope = config_lib.RopeConfig(
    theta=500000.0,
    scaling="llama3",
    factor=factor,
    low_freq_factor=low,
    high_freq_factor=high,
    original_max_position_embeddings=original,
  )
  want, bands = [], set()
  for pair in range(64):
    frequency = 500000.0 ** (-pair / 64)
    wavelength = 2 * np.pi / frequency
    if wavelength < original / high:
      bands.add("kept")
      want.append(frequency)
    elif wavelength > original / low:
      bands.add("scaled")
      want.append(frequency / factor)
    else:
      bands.add("between")
      smooth = (original / wavelength - low) / (high - low)
      want.append((1 - smooth) * frequency / factor + smooth * frequency)
  assert bands == {"kept", "between", "scaled"}
  np.testing.assert_allclose(
    rotary.inverse_frequencies(rope, 128), want, rtol=1e-6
  )


def test_unknown_scaling_is_refused():
  with pytest.raises(ValueError, match="'yarn'; it must be none, linear or"):
    rotary.inverse_frequencies(config_lib.RopeConfig(scaling="yarn"), 8)


def test_equal_components_are_ordinary_rope():
  """M-RoPE of a text token, whose three components agree."""
  frequencies = rotary.inverse_frequencies(config_lib.RopeConfig(), 32)
  positions = jnp.array([[0, 5, 9, 1000]])
  three = jnp.broadcast_to(positions, (3, 1, 4))
  np.testing.assert_array_equal(
    rotary.angles(three, frequencies, (4, 6, 6)),
    rotary.angles(positions, frequencies),
  )


def test_each_section_follows_its_own_component():
  frequencies = rotary.inverse_frequencies(config_lib.RopeConfig(), 16)
  positions = np.array([[1, 2], [30, 40], [500, 600]])
  got = rotary.angles(jnp.asarray(positions), frequencies, (2, 3, 3))
  want = np.empty((2, 8))
  for pair, component in enumerate([0, 0, 1, 1, 1, 2, 2, 2]):
    want[:, pair] = positions[component] * frequencies[pair]
  np.testing.assert_allclose(got, want, rtol=1e-6)
