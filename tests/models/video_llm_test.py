"""The whole model as functions: input, frame tokens, random weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import attention
from vrex_jax.models import config as config_lib
from vrex_jax.models import connector as connector_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import presets
from vrex_jax.models import video_llm
from vrex_jax.models import vision as vision_lib

TINY = presets.preset("tiny")
KEY = jax.random.key(0)


def online(separator=7):
  """The paper's arrangement, small: pooled head, 3 x 3 grid, separator."""
  return dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, use_head=True, feature="post_norm"),
    connector=config_lib.ConnectorConfig(
      kind="videollm_online",
      pooled_grid=3,
      use_pooled_head=True,
      separator=separator,
    ),
  )


@functools.cache
def make_parameters(config):
  return video_llm.random_parameters(config, KEY)


def make_frames(config=TINY, batch=2, seed=0):
  size = config.image.size
  return np.random.default_rng(seed).integers(
    0, 256, (batch, size, size, 3), np.uint8
  )


@functools.partial(jax.jit, static_argnums=0, static_argnames="dtype")
def embed_frames(config, params, frames, dtype=jnp.float32):
  return video_llm.embed_frames(config, params, frames, dtype=dtype)


@functools.partial(jax.jit, static_argnums=0)
def embed_frame_tokens(config, params, frames, first):
  return video_llm.embed_frame_tokens(config, params, frames, first)


def test_normalise_channel_by_channel():
  image = config_lib.ImageConfig(
    size=4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)
  )
  frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
  got = video_llm.normalise(jnp.asarray(frames), image)
  for channel in range(3):
    want = (frames[..., channel] / 255 - image.mean[channel]) / image.std[
      channel
    ]
    np.testing.assert_allclose(got[..., channel], want, atol=1e-6)


def test_normalise_takes_bytes_of_the_right_size_only():
  image = config_lib.ImageConfig(size=4)
  with pytest.raises(AssertionError, match="4"):
    video_llm.normalise(jnp.zeros((1, 5, 4, 3), jnp.uint8), image)
  with pytest.raises(AssertionError, match="float32"):
    video_llm.normalise(jnp.zeros((1, 4, 4, 3)), image)


@pytest.mark.parametrize(
  "config", [TINY, online()], ids=["onevision", "online"]
)
def test_embed_frames_is_tower_then_connector(config):
  params = make_parameters(config)
  frames = make_frames(config)
  tower = vision_lib.SiglipTower(config.vision)
  connector = connector_lib.Connector(
    config.connector, config.vision.grid, config.decoder.hidden_size
  )

  @jax.jit
  def compose(params):
    pixels = video_llm.normalise(frames, config.image)
    features, pooled = tower.apply({"params": params["vision"]}, pixels)
    return connector.apply({"params": params["connector"]}, features, pooled)

  want = compose(params)
  got = embed_frames(config, params, frames)
  assert got.shape == (2, config.connector.tokens_per_frame, 128)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_frames_along_the_batch_are_frames_one_by_one():
  params = make_parameters(TINY)
  frames = make_frames(batch=3)
  together = embed_frames(TINY, params, frames)
  for index in range(3):
    alone = embed_frames(TINY, params, frames[index : index + 1])
    np.testing.assert_allclose(together[index], alone[0], atol=1e-5)


def test_without_a_separator_every_token_is_valid():
  params = make_parameters(TINY)
  frames = make_frames()
  tokens, valid = embed_frame_tokens(
    TINY, params, frames, jnp.array([True, False])
  )
  want = embed_frames(TINY, params, frames)
  np.testing.assert_array_equal(tokens, want)
  assert valid.shape == (2, TINY.tokens_per_frame)
  assert bool(valid.all())


def test_the_separator_precedes_all_frames_but_the_first():
  """Streams of one batch may be at different frames."""
  config = online(separator=7)
  params = make_parameters(config)
  frames = make_frames(config, batch=3)
  tokens, valid = embed_frame_tokens(
    config, params, frames, jnp.array([True, False, True])
  )
  assert tokens.shape == (3, config.tokens_per_frame, 128) == (3, 11, 128)
  assert valid[:, 0].tolist() == [False, True, False]
  assert bool(valid[:, 1:].all())
  row = params["decoder"]["embed_tokens"]["embedding"][7]
  np.testing.assert_array_equal(tokens[1, 0], row)
  np.testing.assert_allclose(
    tokens[:, 1:], embed_frames(config, params, frames), atol=1e-5
  )


def test_separator_and_newline_embeddings():
  config = online(separator=9)
  params = make_parameters(config)
  embedded = decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]}, jnp.array([[9]]), method="embed"
  )
  np.testing.assert_array_equal(
    video_llm.separator_embedding(config, params), embedded[0, 0]
  )
  with pytest.raises(ValueError, match="tiny has no separator"):
    video_llm.separator_embedding(TINY, params)
  newline = video_llm.newline_embedding(video_llm.random_parameters(TINY, KEY))
  assert newline.shape == (128,)
  assert float(jnp.std(newline)) > 0


def test_narrow_weights_are_used_in_the_asked_dtype():
  params = video_llm.random_parameters(TINY, KEY, dtype=jnp.bfloat16)
  frames = make_frames()
  wide = embed_frames(TINY, params, frames)
  narrow = embed_frames(TINY, params, frames, dtype=jnp.bfloat16)
  assert (wide.dtype, narrow.dtype) == (jnp.float32, jnp.bfloat16)
  difference = np.abs(narrow.astype(jnp.float32) - wide).max()
  assert difference < 0.05 * np.ptp(wide)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "config", [TINY, online()], ids=["onevision", "online"]
)
def test_random_parameters_have_the_declared_shapes(config, dtype):
  params = video_llm.random_parameters(config, KEY, dtype=dtype)
  describe = lambda tree: jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), tree
  )
  assert describe(params) == describe(video_llm.parameter_shapes(config, dtype))
  assert set(params) == {"vision", "connector", "decoder"}
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


def test_random_parameters_follow_the_key():
  same, again, other = (
    video_llm.random_parameters(TINY, jax.random.key(seed))
    for seed in (1, 1, 2)
  )
  jax.tree.map(np.testing.assert_array_equal, same, again)
  table = lambda tree: np.asarray(tree["decoder"]["embed_tokens"]["embedding"])
  assert np.mean(table(same) == table(other)) < 0.01


def test_a_parameter_depends_on_its_name_only():
  """Another number of layers leaves the first ones as they were."""
  deep = dataclasses.replace(
    TINY, decoder=dataclasses.replace(TINY.decoder, num_layers=6)
  )
  shallow, longer = (
    video_llm.random_parameters(config, KEY)["decoder"]
    for config in (TINY, deep)
  )
  for name in shallow:
    jax.tree.map(np.testing.assert_array_equal, shallow[name], longer[name])
  kernels = [longer[f"layers_{i}"]["q_proj"]["kernel"] for i in range(2)]
  assert np.mean(kernels[0] == kernels[1]) < 0.01


def test_random_parameters_have_the_documented_spread():
  params = make_parameters(TINY)
  kernel = params["decoder"]["layers_0"]["down_proj"]["kernel"]
  patch = params["vision"]["patch_embedding"]["kernel"]
  table = params["decoder"]["embed_tokens"]["embedding"]
  for leaf, inputs in ((kernel, 384), (patch, 8 * 8 * 3), (table, 128)):
    np.testing.assert_allclose(np.var(leaf), 1.0 / inputs, rtol=0.03)
    assert abs(float(np.mean(leaf))) < 0.05 / np.sqrt(inputs)
  norm = params["vision"]["post_norm"]
  np.testing.assert_array_equal(norm["scale"], np.ones(64))
  np.testing.assert_array_equal(norm["bias"], np.zeros(64))


def test_a_leaf_of_several_slabs_has_no_seam(monkeypatch):
  whole = video_llm.random_parameters(TINY, KEY)["decoder"]["embed_tokens"]
  monkeypatch.setattr(video_llm, "_SLAB", 1000)
  pieces = video_llm.random_parameters(TINY, KEY)["decoder"]["embed_tokens"]
  jax.tree.map(np.testing.assert_array_equal, whole, pieces)


def test_activations_of_a_deep_model_stay_moderate():
  """28 decoder layers over 26 vision layers: finite, of the order of one."""
  config = dataclasses.replace(
    TINY,
    vision=dataclasses.replace(TINY.vision, num_layers=26),
    decoder=dataclasses.replace(TINY.decoder, num_layers=28),
  )
  params = make_parameters(config)
  apply_vision = jax.jit(
    lambda leaf, x: vision_lib.SiglipLayer(config.vision).apply(
      {"params": leaf}, x
    )
  )
  apply_decoder = jax.jit(
    lambda leaf, x: decoder_lib.DecoderLayer(config.decoder).apply(
      {"params": leaf},
      x,
      lambda query, key, value: (
        attention.chunk_attention(
          query, key, value, jnp.ones((2, 16), bool)
        ).out
      ),
    )
  )
  rng = np.random.default_rng(0)
  patches = jnp.asarray(rng.normal(size=(2, 64, 64)), jnp.float32)
  tokens = jnp.asarray(rng.normal(size=(2, 16, 128)), jnp.float32)
  for index in range(26):
    patches = apply_vision(params["vision"][f"layers_{index}"], patches)
  for index in range(28):
    tokens = apply_decoder(params["decoder"][f"layers_{index}"], tokens)
  for hidden in (patches, tokens):
    assert np.isfinite(hidden).all()
    assert 1.0 < np.std(hidden) < 10.0


def test_num_parameters_counts_past_int32():
  leaf = jax.ShapeDtypeStruct((2**17, 2**15), jnp.bfloat16)
  assert video_llm.num_parameters({"one": leaf, "two": [leaf]}) == 2**33
