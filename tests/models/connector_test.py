"""Connectors: pooling against explicit loops, both orders of operations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import config as config_lib
from vrex_jax.models import connector as connector_lib

ONEVISION = config_lib.ConnectorConfig(kind="onevision", pooled_grid=3)
ONLINE = config_lib.ConnectorConfig(
  kind="videollm_online", pooled_grid=3, use_pooled_head=True
)


@functools.cache
def make(config, grid, seed=0):
  """A jitted connector from 6 to 10 wide, with every leaf random."""
  module = connector_lib.Connector(config, grid, 10)
  shapes = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0), jnp.zeros((1, grid**2, 6)), jnp.zeros((1, 6))
    )
  )["params"]
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes
  )
  run = jax.jit(lambda params, *args: module.apply({"params": params}, *args))
  return run, params


def make_features(grid, width=6, seed=1):
  shape = (2, grid**2, width)
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def oracle_bilinear(image, pooled):
  """[g, g, D] sampled cell by cell at half-pixel centres."""
  size = len(image)
  out = np.zeros((pooled, pooled, image.shape[-1]))

  def neighbours(cell):
    at = max((cell + 0.5) * size / pooled - 0.5, 0.0)
    low = int(at)
    high = min(low + 1, size - 1)
    return (low, 1.0 - (at - low)), (high, at - low)

  for row in range(pooled):
    for column in range(pooled):
      for y, weight_y in neighbours(row):
        for x, weight_x in neighbours(column):
          out[row, column] += weight_y * weight_x * image[y, x]
  return out.reshape(pooled**2, -1)


def oracle_average(image, pooled):
  """[g, g, D] averaged window by window."""
  size = len(image)
  window = lambda cell: slice(
    math.floor(cell * size / pooled), math.ceil((cell + 1) * size / pooled)
  )
  return np.stack(
    [
      image[window(row), window(column)].mean((0, 1))
      for row in range(pooled)
      for column in range(pooled)
    ]
  )


def oracle_project(x, params):
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  one, two = params["linear_1"], params["linear_2"]
  x = x @ one["kernel"] + one.get("bias", 0.0)
  x = 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
  return x @ two["kernel"] + two.get("bias", 0.0)


POOLINGS = {
  "bilinear": (connector_lib.bilinear_matrix, oracle_bilinear),
  "average": (connector_lib.average_matrix, oracle_average),
}


@pytest.mark.parametrize(
  ("pooling", "grid", "pooled"),
  [
    ("bilinear", 27, 14),
    ("bilinear", 8, 4),
    ("bilinear", 9, 5),
    ("bilinear", 5, 3),
    ("bilinear", 4, 2),
    ("bilinear", 3, 5),
    ("bilinear", 1, 1),
    ("average", 24, 3),
    ("average", 10, 3),
    ("average", 7, 3),
    ("average", 9, 4),
    ("average", 2, 2),
    ("average", 2, 3),
  ],
)
def test_pooling_equals_the_loops(pooling, grid, pooled):
  make_matrix, oracle = POOLINGS[pooling]
  features = make_features(grid)
  matrix = make_matrix(grid, pooled)
  got = connector_lib.pool_grid(jnp.asarray(features), matrix)
  for image in range(2):
    want = oracle(features[image].reshape(grid, grid, -1), pooled)
    np.testing.assert_allclose(got[image], want, atol=1e-5)


@pytest.mark.parametrize("grid", [27, 9, 8])
def test_bilinear_pooling_does_not_antialias(grid):
  """The resampling of jax.image with antialiasing off; with it on, another."""
  pooled = -(-grid // 2)
  features = make_features(grid)
  matrix = connector_lib.bilinear_matrix(grid, pooled)
  got = connector_lib.pool_grid(jnp.asarray(features), matrix)
  sharp, smooth = (
    jax.image.resize(
      features.reshape(2, grid, grid, 6),
      (2, pooled, pooled, 6),
      "bilinear",
      antialias=antialias,
    ).reshape(2, pooled**2, 6)
    for antialias in (False, True)
  )
  np.testing.assert_allclose(got, sharp, atol=1e-5)
  assert np.abs(got - smooth).max() > 0.1


@pytest.mark.parametrize(
  "matrix", [connector_lib.bilinear_matrix, connector_lib.average_matrix]
)
@pytest.mark.parametrize(("grid", "pooled"), [(27, 14), (24, 3), (7, 4)])
def test_pooling_keeps_a_constant(matrix, grid, pooled):
  rows = matrix(grid, pooled).sum(-1)
  np.testing.assert_allclose(rows, np.ones(pooled), atol=1e-6)


def test_pooling_keeps_the_dtype():
  features = jnp.asarray(make_features(4), jnp.bfloat16)
  matrix = connector_lib.bilinear_matrix(4, 2)
  got = connector_lib.pool_grid(features, matrix)
  wide = connector_lib.pool_grid(features.astype(jnp.float32), matrix)
  np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("grid", [5, 6])
def test_onevision_projects_then_pools(grid):
  run, params = make(ONEVISION, grid)
  features = make_features(grid)
  got = run(params, features)
  assert got.shape == (2, ONEVISION.tokens_per_frame, 10)
  for image in range(2):
    projected = oracle_project(features[image].astype(np.float64), params)
    want = oracle_bilinear(projected.reshape(grid, grid, -1), 3)
    np.testing.assert_allclose(got[image], want, atol=1e-4)
    other = oracle_project(
      oracle_bilinear(features[image].reshape(grid, grid, -1), 3), params
    )
    assert np.abs(got[image] - other).max() > 0.1


@pytest.mark.parametrize("grid", [6, 7])
def test_videollm_online_pools_then_projects(grid):
  run, params = make(ONLINE, grid)
  features = make_features(grid)
  head = np.random.default_rng(2).normal(size=(2, 6)).astype(np.float32)
  got = run(params, features, head)
  assert got.shape == (2, 10, 10)
  for image in range(2):
    grid_tokens = oracle_average(features[image].reshape(grid, grid, -1), 3)
    tokens = np.concatenate([head[image][None], grid_tokens])
    want = oracle_project(tokens.astype(np.float64), params)
    np.testing.assert_allclose(got[image], want, atol=1e-4)


def test_the_pooled_head_is_optional():
  config = config_lib.ConnectorConfig(kind="videollm_online", pooled_grid=3)
  run, params = make(config, 6)
  with_head, _ = make(ONLINE, 6)
  features = make_features(6)
  head = jnp.ones((2, 6))
  np.testing.assert_allclose(
    run(params, features),
    with_head(params, features, head)[:, 1:],
    atol=1e-5,
  )


def test_trees_of_both_kinds():
  _, params = make(ONEVISION, 6)
  assert set(params) == {"linear_1", "linear_2", "newline"}
  assert params["newline"].shape == (10,)
  assert params["linear_1"]["kernel"].shape == (6, 10)
  assert params["linear_2"]["kernel"].shape == (10, 10)
  _, params = make(ONLINE, 6)
  assert set(params) == {"linear_1", "linear_2"}
  plain = config_lib.ConnectorConfig(
    kind="onevision", pooled_grid=3, bias=False
  )
  _, params = make(plain, 6)
  assert set(params["linear_1"]) == set(params["linear_2"]) == {"kernel"}


def test_frames_do_not_read_the_newline():
  run, params = make(ONEVISION, 6)
  features = make_features(6)
  changed = {**params, "newline": params["newline"] + 1.0}
  np.testing.assert_array_equal(
    run(params, features),
    run(changed, features),
  )


def test_impossible_configurations_are_refused():
  with pytest.raises(ValueError, match="'resampler'; it must be one of"):
    make(config_lib.ConnectorConfig(kind="resampler", pooled_grid=3), 6)
  with pytest.raises(ValueError, match="reads patches only"):
    make(
      config_lib.ConnectorConfig(
        kind="onevision", pooled_grid=3, use_pooled_head=True
      ),
      6,
    )
  run, params = make(ONLINE, 6)
  with pytest.raises(ValueError, match="set use_head"):
    run(params, make_features(6))
