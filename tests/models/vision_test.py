"""The SigLIP tower: against plain numpy, and as laws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import config as config_lib
from vrex_jax.models import vision


def make_config(**changes):
  config = config_lib.VisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=3,
    image_size=15,
    patch_size=5,
    layer_norm_eps=1e-3,
    use_head=True,
  )
  return dataclasses.replace(config, **changes)


@functools.cache
def make_parameters(config, seed=0):
  """Every leaf random, biases and scales too."""
  tower = vision.SiglipTower(config)
  size = config.image_size
  shapes = jax.eval_shape(
    lambda: tower.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
  )["params"]
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32),
    shapes,
  )


def make_pixels(config, batch=2, seed=1):
  size = config.image_size
  pixels = np.random.default_rng(seed).normal(size=(batch, size, size, 3))
  return pixels.astype(np.float32)


@functools.partial(jax.jit, static_argnums=0, static_argnames="dtype")
def run(config, params, pixels, dtype=jnp.float32):
  tower = vision.SiglipTower(config, dtype)
  return tower.apply({"params": params}, pixels)


def oracle_norm(x, leaf, epsilon):
  centred = x - x.mean(-1, keepdims=True)
  deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
  return centred / deviation * leaf["scale"] + leaf["bias"]


def oracle_linear(x, leaf):
  return x @ leaf["kernel"] + leaf["bias"]


def oracle_attention(query, memory, leaf, heads):
  """One image: [T, D] attends to [patches, D], head by head."""
  q, k, v = (
    oracle_linear(x, leaf[name])
    for x, name in ((query, "q_proj"), (memory, "k_proj"), (memory, "v_proj"))
  )
  width = q.shape[1] // heads
  out = np.empty_like(q)
  for head in range(heads):
    part = slice(head * width, (head + 1) * width)
    weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(width))
    out[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
  return oracle_linear(out, leaf["out_proj"])


def oracle_perceptron(x, leaf):
  x = oracle_linear(x, leaf["fc1"])
  inner = np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)
  return oracle_linear(0.5 * x * (1.0 + np.tanh(inner)), leaf["fc2"])


def oracle_layer(x, leaf, config):
  normal = oracle_norm(x, leaf["norm1"], config.layer_norm_eps)
  x = x + oracle_attention(normal, normal, leaf, config.num_heads)
  normal = oracle_norm(x, leaf["norm2"], config.layer_norm_eps)
  return x + oracle_perceptron(normal, leaf)


def oracle_tower(config, params, image):
  """(last hidden, after the norm, pooled) of one image, float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  embedding, side = params["patch_embedding"], config.patch_size
  rows = []
  for row in range(config.grid):
    for column in range(config.grid):
      patch = image[
        row * side : (row + 1) * side, column * side : (column + 1) * side
      ]
      rows.append(np.einsum("xyc,xycd->d", patch, embedding["kernel"]))
  x = np.stack(rows) + embedding["bias"] + params["position_embedding"]
  for index in range(config.num_layers):
    x = oracle_layer(x, params[f"layers_{index}"], config)
  normal = oracle_norm(x, params["post_norm"], config.layer_norm_eps)
  head = params["head"]
  pooled = oracle_attention(head["probe"][0], normal, head, config.num_heads)
  normal_pooled = oracle_norm(pooled, head["norm"], config.layer_norm_eps)
  return x, normal, (pooled + oracle_perceptron(normal_pooled, head))[0]


def test_one_layer_equals_the_numpy_layer():
  config = make_config()
  leaf = make_parameters(config)["layers_1"]
  x = np.random.default_rng(3).normal(size=(2, 9, 24)).astype(np.float32)
  got = vision.SiglipLayer(config).apply({"params": leaf}, x)
  wide = jax.tree.map(lambda array: np.asarray(array, np.float64), leaf)
  for image in range(2):
    want = oracle_layer(x[image].astype(np.float64), wide, config)
    np.testing.assert_allclose(got[image], want, atol=2e-5)


@pytest.mark.parametrize("feature", ["last_hidden", "post_norm"])
@pytest.mark.parametrize(("size", "patch"), [(15, 5), (16, 4), (17, 5)])
def test_tower_equals_the_numpy_tower(feature, size, patch):
  """Odd grid, even grid, and a last row of pixels no patch covers."""
  config = make_config(feature=feature, image_size=size, patch_size=patch)
  params, pixels = make_parameters(config), make_pixels(config)
  features, pooled = run(config, params, pixels)
  assert features.shape == (2, config.grid**2, 24)
  for image in range(2):
    hidden, normal, head = oracle_tower(config, params, pixels[image])
    want = hidden if feature == "last_hidden" else normal
    np.testing.assert_allclose(features[image], want, atol=1e-4)
    np.testing.assert_allclose(pooled[image], head, atol=1e-4)


def test_pixels_beyond_the_last_patch_are_not_read():
  config = make_config(image_size=17)
  params, pixels = make_parameters(config), make_pixels(config)
  changed = pixels.copy()
  changed[:, 15:], changed[:, :, 15:] = 9.0, 9.0
  for before, after in zip(
    run(config, params, pixels), run(config, params, changed), strict=True
  ):
    np.testing.assert_array_equal(before, after)


def test_last_hidden_does_not_see_the_final_norm():
  config = make_config(use_head=False)
  params, pixels = make_parameters(config), make_pixels(config)
  changed = {
    **params,
    "post_norm": jax.tree.map(lambda leaf: 7.0 * leaf, params["post_norm"]),
  }
  before, pooled = run(config, params, pixels)
  after, _ = run(config, changed, pixels)
  np.testing.assert_array_equal(before, after)
  assert pooled is None


def test_the_tree_is_the_one_checkpoints_fill():
  config = make_config()
  shapes = jax.tree.map(jnp.shape, make_parameters(config))
  linear = lambda inputs, outputs: {
    "kernel": (inputs, outputs),
    "bias": (outputs,),
  }
  norm = {"scale": (24,), "bias": (24,)}
  block = {
    **{
      name: linear(24, 24)
      for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    },
    "fc1": linear(24, 40),
    "fc2": linear(40, 24),
  }
  layer = {**block, "norm1": norm, "norm2": norm}
  assert shapes == {
    "patch_embedding": {"kernel": (5, 5, 3, 24), "bias": (24,)},
    "position_embedding": (9, 24),
    "layers_0": layer,
    "layers_1": layer,
    "post_norm": norm,
    "head": {**block, "probe": (1, 1, 24), "norm": norm},
  }
  assert "head" not in make_parameters(make_config(use_head=False))


def test_images_of_a_batch_are_independent():
  config = make_config()
  params, pixels = make_parameters(config), make_pixels(config)
  both, one = run(config, params, pixels), run(config, params, pixels[1:])
  for together, alone in zip(both, one, strict=True):
    np.testing.assert_allclose(together[1:], alone, atol=1e-5)


def test_narrow_weights_are_used_in_float32():
  config = make_config()
  params, pixels = make_parameters(config), make_pixels(config)
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
  got, _ = run(config, narrow, pixels)
  want, _ = run(config, rounded, pixels)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_narrow_arithmetic_stays_close():
  """In bfloat16 every layer output is bfloat16, within its rounding."""
  config = make_config()
  params, pixels = make_parameters(config), make_pixels(config)
  want, _ = run(config, params, pixels)
  got, pooled = run(config, params, pixels, dtype=jnp.bfloat16)
  assert got.dtype == pooled.dtype == jnp.bfloat16
  assert np.abs(got.astype(jnp.float32) - want).max() < 0.05 * np.ptp(want)


def test_wrong_sizes_and_features_are_refused():
  config = make_config()
  params = make_parameters(config)
  with pytest.raises(AssertionError, match="15"):
    run(config, params, make_pixels(make_config(image_size=20)))
  unknown = dataclasses.replace(config, feature="second_to_last")
  with pytest.raises(ValueError, match="'second_to_last'; it must be"):
    run(unknown, params, make_pixels(config))
