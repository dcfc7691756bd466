"""A whole video LLM as pure functions over one parameter tree.

  frame u8 ─normalise─► vision tower ─► connector ─► frame tokens
                                                          │
  separator embedding (all frames but the first) ────────►┴─► decoder's input

Parameters: {vision, connector, decoder}, each as its module names them.
"""

import zlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.models import config as config_lib
from vrex_jax.models import connector as connector_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import vision as vision_lib
from vrex_jax.typing import Array, Bool, Float, Parameters, PyTree

__all__ = [
  "embed_frame_tokens",
  "embed_frames",
  "newline_embedding",
  "normalise",
  "num_parameters",
  "parameter_shapes",
  "random_parameters",
  "separator_embedding",
]

# Draws of one slab: small enough to stay in cache.
_SLAB = 2**20


def normalise(frames: Array, image: config_lib.ImageConfig) -> Float:
  """(frame / 255 - mean) / std, channel by channel.

  Args:
    frames: u8[B, size, size, 3], RGB.
    image: mean and deviation.

  Returns:
    f32[B, size, size, 3].

  Example:
    >>> frame = jnp.array([0, 255, 255], jnp.uint8).reshape(1, 1, 1, 3)
    >>> normalise(frame, config_lib.ImageConfig(size=1)).ravel().tolist()
    [-1.0, 1.0, 1.0]
  """
  chex.assert_shape(frames, (None, image.size, image.size, 3))
  chex.assert_type(frames, jnp.uint8)
  mean = np.reshape(np.asarray(image.mean, np.float32), (1, 1, 1, 3))
  std = np.reshape(np.asarray(image.std, np.float32), (1, 1, 1, 3))
  return (frames.astype(jnp.float32) / 255.0 - mean) / std


def embed_frames(
  config: config_lib.ModelConfig,
  params: Parameters,
  frames: Array,
  *,
  dtype: Any = jnp.float32,
) -> Float:
  """Tokens of frames, without separators.

  Args:
    config: the model.
    params: the model's parameters; "vision" and "connector" are read.
    frames: u8[B, size, size, 3]; frames of one video may lie along B.
    dtype: dtype of activations.

  Returns:
    f[B, connector.tokens_per_frame, D] in `dtype`.
  """
  tower, connector = _modules(config, dtype, dtype)
  features, pooled = tower.apply(
    {"params": params["vision"]}, normalise(frames, config.image)
  )
  return connector.apply({"params": params["connector"]}, features, pooled)


def embed_frame_tokens(
  config: config_lib.ModelConfig,
  params: Parameters,
  frames: Array,
  first: Bool,
  *,
  dtype: Any = jnp.float32,
) -> tuple[Float, Bool]:
  """One frame of every stream as the decoder takes it.

  With a separator the chunk is always one token longer, so that its shape is
  static; on a first frame that token is padding:

    first     [ · f f f f ]   valid 0 1 1 1 1
    others    [ , f f f f ]   valid 1 1 1 1 1

  Args:
    config: the model.
    params: the model's parameters.
    frames: u8[B, size, size, 3].
    first: b[B], the frame opens its stream.
    dtype: dtype of activations.

  Returns:
    f[B, T, D] in `dtype` and valid b[B, T], T = config.tokens_per_frame.
  """
  tokens = embed_frames(config, params, frames, dtype=dtype)
  batch, length, width = tokens.shape
  chex.assert_shape(first, (batch,))
  valid = jnp.ones((batch, length), bool)
  if config.connector.separator is None:
    return tokens, valid
  separator = separator_embedding(config, params).astype(dtype)
  separator = jnp.broadcast_to(separator[None, None], (batch, 1, width))
  return (
    jnp.concatenate([separator, tokens], axis=1),
    jnp.concatenate([~first[:, None], valid], axis=1),
  )


def separator_embedding(
  config: config_lib.ModelConfig, params: Parameters
) -> Float:
  """Embedding of the text token between frames: f[D].

  Raises:
    ValueError: the model separates frames by nothing.
  """
  if config.connector.separator is None:
    raise ValueError(
      f"the model {config.name} has no separator between frames: ask only"
      " where connector.separator is a token id"
    )
  table = params["decoder"]["embed_tokens"]["embedding"]
  return table[config.connector.separator]


def newline_embedding(params: Parameters) -> Float:
  """Embedding that ends a LLaVA-OneVision video embedded at once: f[D].

  The reference class appends it after the last frame of a whole video; a
  stream, which has no last frame, leaves it out.
  """
  return params["connector"]["newline"]


def parameter_shapes(
  config: config_lib.ModelConfig, dtype: Any = jnp.float32
) -> PyTree:
  """Shape and dtype of every parameter, with nothing allocated.

  Args:
    config: the model.
    dtype: dtype of the parameters.

  Returns:
    {vision, connector, decoder}, nested dicts of jax.ShapeDtypeStruct.
  """
  tower, connector = _modules(config, jnp.float32, dtype)
  decoder = decoder_lib.Decoder(config.decoder, param_dtype=dtype)
  side, width = config.vision.image_size, config.vision.hidden_size
  # Abstract values: lambdas, so that zeros are traced and never allocated.
  parts = {
    "vision": lambda key: tower.init(key, jnp.zeros((1, side, side, 3))),
    "connector": lambda key: connector.init(
      key, jnp.zeros((1, config.vision.grid**2, width)), jnp.zeros((1, width))
    ),
    "decoder": lambda key: decoder.init(
      key,
      jnp.zeros((1, 1), jnp.int32),
      method=lambda module, tokens: module(module.embed(tokens)),
    ),
  }
  return {
    name: jax.eval_shape(init, jax.random.key(0))["params"]
    for name, init in parts.items()
  }


def random_parameters(
  config: config_lib.ModelConfig, key: Array, *, dtype: Any = jnp.float32
) -> Parameters:
  """Random weights, made one by one in their own dtype.

  Kernels are uniform with variance 1 / inputs, embeddings with variance 1 / D,
  scales are 1 and biases 0; every layer then adds to its input at most about
  as much as a normalised input holds. A parameter depends on the key and its
  own name only. The draws are numpy's, on the host: nothing is compiled, and
  beside the result there is one parameter and a few megabytes.

  Args:
    config: the model.
    key: PRNG key; a value, not traced.
    dtype: dtype of the parameters.

  Returns:
    The tree that `parameter_shapes` describes.
  """
  seed = np.asarray(jax.random.key_data(key)).tolist()

  def create(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    kind = path[-1].key
    if kind == "scale":
      return jnp.ones(leaf.shape, leaf.dtype)
    if kind == "bias":
      return jnp.zeros(leaf.shape, leaf.dtype)
    inputs = np.prod(leaf.shape[:-1]) if kind == "kernel" else leaf.shape[-1]
    generator = np.random.default_rng([*seed, zlib.crc32(name.encode())])
    return jnp.asarray(
      _uniform(generator, np.sqrt(3.0 / inputs), leaf.shape, leaf.dtype)
    )

  return jax.tree_util.tree_map_with_path(
    create, parameter_shapes(config, dtype)
  )


def _uniform(
  generator: np.random.Generator,
  bound: float,
  shape: tuple[int, ...],
  dtype: Any,
) -> np.ndarray:
  """Uniform between -bound and bound, drawn in float32 slab by slab."""
  out = np.empty(shape, dtype)
  flat = out.reshape(-1)
  for start in range(0, flat.size, _SLAB):
    part = flat[start : start + _SLAB]
    draws = generator.random(part.size, np.float32)
    part[:] = np.float32(2.0 * bound) * (draws - np.float32(0.5))
  return out


def num_parameters(params: PyTree) -> int:
  """Entries of all leaves of a tree of arrays or of their shapes.

  Example:
    >>> num_parameters({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    9
  """
  # Python integers: the sum of a large model overflows int32.
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _modules(
  config: config_lib.ModelConfig, dtype: Any, param_dtype: Any
) -> tuple[vision_lib.SiglipTower, connector_lib.Connector]:
  return (
    vision_lib.SiglipTower(config.vision, dtype, param_dtype),
    connector_lib.Connector(
      config.connector,
      config.vision.grid,
      config.decoder.hidden_size,
      dtype,
      param_dtype,
    ),
  )
