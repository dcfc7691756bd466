"""Shapes are those of the specification; towers give the asked tokens."""

import jax
import pytest

from vrex_jax.benchmark import plans
from vrex_jax.errors import InputError
from vrex_jax.models import video_llm


@pytest.mark.parametrize(
  ("shape", "layers", "width", "feed_forward", "heads", "kv_heads", "head_dim"),
  [
    ("wide", 8, 1024, 4096, 16, 4, 128),
    ("qwen2_512", 8, 512, 1408, 8, 4, 64),
    ("onevision-0.5b", 24, 896, 4864, 14, 2, 64),
    ("llama3-8b", 32, 4096, 14336, 32, 8, 128),
  ],
)
def test_decoders_have_the_published_shapes(
  shape, layers, width, feed_forward, heads, kv_heads, head_dim
):
  decoder = plans.model_config(shape, 16).decoder
  assert decoder.num_layers == layers
  assert decoder.hidden_size == width
  assert decoder.intermediate_size == feed_forward
  assert (decoder.num_heads, decoder.num_kv_heads) == (heads, kv_heads)
  assert decoder.head_dim == head_dim
  assert decoder.qkv_bias == (shape in ("qwen2_512", "onevision-0.5b"))
  assert decoder.vocab_size == 64


@pytest.mark.parametrize(
  ("shape", "frame_tokens"),
  [
    ("wide", 10),
    ("wide", 196),
    ("qwen2_512", 16),
    ("onevision-0.5b", 196),
    ("llama3-8b", 10),
    ("smoke", 4),
  ],
)
def test_with_vision_a_frame_has_the_asked_tokens(shape, frame_tokens):
  model = plans.model_config(shape, frame_tokens, with_vision=True)
  params = video_llm.parameter_shapes(model)
  size = model.image.size
  frame = jax.ShapeDtypeStruct((2, size, size, 3), "uint8")
  hidden = jax.eval_shape(
    lambda params_, frame_: video_llm.embed_frames(model, params_, frame_),
    params,
    frame,
  )
  assert hidden.shape == (2, frame_tokens, model.decoder.hidden_size)


@pytest.mark.parametrize(
  ("shape", "frame_tokens"), [("wide", 12), ("onevision-0.5b", 10)]
)
def test_tokens_that_are_no_grid_are_refused(shape, frame_tokens):
  with pytest.raises(InputError, match=f"--frame_tokens is {frame_tokens}"):
    plans.model_config(shape, frame_tokens, with_vision=True)
  assert plans.model_config(shape, frame_tokens).decoder.num_layers > 0


def test_an_unknown_shape_is_answered_with_the_known_ones():
  with pytest.raises(InputError, match="wide, qwen2_512, "):
    plans.model_config("narrow", 16)
