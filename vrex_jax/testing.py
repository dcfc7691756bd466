"""A tiny decoder and streams of hidden states: no video, no checkpoint.

For tests of policies and of the stream: a frame *is* its tokens' hidden states,
so what enters the decoder is known exactly.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import stream_state
from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.typing import Array, Bool, Float, Parameters

__all__ = [
  "decoder_config",
  "decoder_parameters",
  "embed_hidden",
  "embed_separated",
  "hidden_frames",
  "start",
]


def decoder_config(
  *, group_size: int = 2, num_heads: int = 4, **changes: Any
) -> config_lib.DecoderConfig:
  """A two-layer decoder of width 32 with heads of 8.

  Args:
    group_size: G; 1 is multi-head, `num_heads` is multi-query attention.
    num_heads: N.
    **changes: other fields of `DecoderConfig`.

  Returns:
    The configuration.

  Example:
    >>> decoder_config(group_size=4).num_kv_heads
    1
  """
  fields = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "head_dim": 8,
    "qkv_bias": True,
    "max_position_embeddings": 4096,
  }
  return config_lib.DecoderConfig(
    num_heads=num_heads,
    num_kv_heads=num_heads // group_size,
    **{**fields, **changes},
  )


def decoder_parameters(
  config: config_lib.DecoderConfig, *, seed: int = 0, sharpness: float = 1.5
) -> Parameters:
  """Random parameters under which attention is far from uniform.

  Kernels have variance 1 / inputs, those of queries and keys `sharpness`²
  times that; biases and norm scales differ from 0 and 1.

  Args:
    config: decoder.
    seed: of the generator.
    sharpness: gain of the query and key projections.

  Returns:
    {"decoder": parameters of `Decoder`}, float32.

  Example:
    >>> sorted(decoder_parameters(decoder_config())["decoder"])
    ['embed_tokens', 'layers_0', 'layers_1', 'lm_head', 'norm']
  """
  module = decoder_lib.Decoder(config)
  shapes = jax.eval_shape(
    lambda key, tokens: module.init(
      key, tokens, method=lambda decoder, ids: decoder(decoder.embed(ids))
    ),
    jax.random.key(0),
    jnp.zeros((1, 2), jnp.int32),
  )["params"]
  random = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path)
    noise = random.standard_normal(leaf.shape).astype(np.float32)
    if "scale" in name:
      noise = 1.0 + 0.1 * noise
    elif "bias" in name:
      noise = 0.3 * noise
    elif "kernel" in name:
      gain = sharpness if "q_proj" in name or "k_proj" in name else 1.0
      noise = noise * gain * leaf.shape[0] ** -0.5
    return jnp.asarray(noise, jnp.float32)

  return {"decoder": jax.tree_util.tree_map_with_path(draw, shapes)}


def hidden_frames(
  config: stream_state.StreamConfig, num_frames: int, *, seed: int = 1
) -> np.ndarray:
  """Random frames as hidden states: f32[F, B, T, D]."""
  shape = (config.batch, config.frame_tokens, config.decoder.hidden_size)
  random = np.random.default_rng(seed)
  return random.standard_normal((num_frames, *shape)).astype(np.float32)


def embed_hidden(
  params: Parameters, frame: Array, first: Bool
) -> tuple[Float, Bool]:
  """An `EmbedFrame` that takes hidden states as they are.

  Args:
    params: not used.
    frame: f[B, T, D].
    first: b[B], not used.

  Returns:
    The same hidden states, all valid.
  """
  del params, first
  return frame, jnp.ones(frame.shape[:2], bool)


def embed_separated(
  params: Parameters, frame: Array, first: Bool
) -> tuple[Float, Bool]:
  """`embed_hidden` with a separator: token 0 is invalid in a first frame."""
  hidden, valid = embed_hidden(params, frame, first)
  return hidden, valid.at[:, 0].set(~first)


def start(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  *,
  embed_frame: Any = embed_hidden,
  knobs: Any = None,
  sample: Any = None,
  recent_tokens: int | None = None,
  resident_tokens: int | None = None,
  **compile_options: Any,
) -> tuple[programs.Driver, driver_lib.Run]:
  """Compiled programs and an empty stream of hidden-state frames.

  Args:
    config: shapes.
    policy: the policy.
    params: decoder parameters.
    embed_frame: `embed_hidden` or `embed_separated`.
    knobs: see `stream_state.init`.
    sample: see `stream_state.init`.
    recent_tokens: see `stream_state.init`.
    resident_tokens: see `stream_state.init`.
    **compile_options: see `programs.compile_stream`.

  Returns:
    The driver and a run before its first chunk.
  """
  state = stream_state.init(
    config,
    policy,
    params,
    knobs=knobs,
    sample=sample,
    recent_tokens=recent_tokens,
    resident_tokens=resident_tokens,
  )
  frame = jax.ShapeDtypeStruct(
    (config.batch, config.frame_tokens, config.decoder.hidden_size),
    jnp.float32,
  )
  driver = programs.compile_stream(
    config, policy, params, state, embed_frame, frame, **compile_options
  )
  return driver, driver_lib.Run(state)
