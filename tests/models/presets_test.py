"""Presets: totals and shapes, without allocating a weight."""

import functools

import jax
import jax.numpy as jnp
import pytest

from vrex_jax.errors import InputError
from vrex_jax.models import cache
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import presets
from vrex_jax.models import video_llm

# Parameters in all, and of the decoder alone.
TOTALS = {
  "tiny": (962_624, 854_144),
  "onevision-0.5b": (893_675_552, 494_090_112),
  "onevision-7b": (8_030_807_584, 7_616_075_264),
  "llama3-8b": (8_367_524_864, 8_030_261_248),
}

TOKENS = {
  "tiny": 16,
  "onevision-0.5b": 196,
  "onevision-7b": 196,
  "llama3-8b": 11,
}

KV_BYTES = {
  "onevision-0.5b": 12_288,
  "onevision-7b": 57_344,
  "llama3-8b": 131_072,
}


@functools.cache
def shapes_of(name):
  return video_llm.parameter_shapes(presets.preset(name), jnp.bfloat16)


def decoder_total(config):
  """Parameters of a decoder by the sum over its matrices."""
  heads, kv_heads = config.num_heads, config.num_kv_heads
  width, hidden = config.head_dim, config.hidden_size
  attention = 2 * hidden * (heads + kv_heads) * width
  biases = config.qkv_bias * (heads + 2 * kv_heads) * width
  feed_forward = 3 * hidden * config.intermediate_size
  layer = attention + biases + feed_forward + 2 * hidden
  tables = (1 if config.tie_embeddings else 2) * config.vocab_size * hidden
  return config.num_layers * layer + tables + hidden


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parameter_totals(name):
  config = presets.preset(name)
  shapes = shapes_of(name)
  total, decoder = TOTALS[name]
  assert video_llm.num_parameters(shapes) == total
  assert video_llm.num_parameters(shapes["decoder"]) == decoder
  assert decoder == decoder_total(config.decoder)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_frame_and_a_sequence_have_the_expected_shapes(name):
  config = presets.preset(name)
  shapes = shapes_of(name)
  size, width = config.image.size, config.decoder.hidden_size
  frames = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
  first = jax.ShapeDtypeStruct((2,), jnp.bool_)
  tokens, valid = jax.eval_shape(
    lambda *args: video_llm.embed_frame_tokens(config, *args),
    shapes,
    frames,
    first,
  )
  assert tokens.shape == (2, TOKENS[name], width)
  assert valid.shape == (2, TOKENS[name])
  assert config.tokens_per_frame == TOKENS[name]
  logits = jax.eval_shape(
    lambda params, hidden: decoder_lib.Decoder(config.decoder).apply(
      {"params": params}, hidden
    ),
    shapes["decoder"],
    tokens,
  )
  assert logits.shape == (2, TOKENS[name], config.decoder.vocab_size)
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize(("name", "expected"), KV_BYTES.items())
def test_kv_bytes_of_a_token(name, expected):
  decoder = presets.preset(name).decoder
  assert expected == cache.kv_bytes_per_slot(
    decoder.num_layers, decoder.num_kv_heads, decoder.head_dim, jnp.bfloat16
  )


@pytest.mark.parametrize("name", presets.PRESETS)
def test_parts_of_a_preset_agree(name):
  config = presets.preset(name)
  assert config.name == name
  assert config.image.size == config.vision.image_size
  if config.connector.kind == "onevision":
    assert config.connector.pooled_grid == -(-config.vision.grid // 2)
  if config.connector.separator is not None:
    assert config.connector.separator < config.decoder.vocab_size


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(InputError, match="onevision-70b") as error:
    presets.preset("onevision-70b")
  for name in presets.PRESETS:
    assert name in str(error.value)
