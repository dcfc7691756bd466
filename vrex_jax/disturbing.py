"""Streams whose keys and queries are as odd as those of real checkpoints.

A small model has neither the constant key biases nor the uneven channels nor
the attention sinks of real ones. `StreamConfig.disturb` puts them in, between
projection and cache, after rotation:

  key_bias        k' = k + c                      softmax takes q · c off again
  channel_scale   k' = s k, q' = q / s per pair   q' · k' = q · k
  sink            the first key points along the mean query, its value is 0

The first two leave the attention of the full cache as it is; the third is
another attention, judged against `full` with the same sink. Recordings are
disturbed likewise in `study/disturb.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Float, Int

__all__ = [
  "NAMES",
  "Disturbance",
  "Heads",
  "Statistics",
  "apply",
  "channel_scale",
  "key_bias",
  "make",
  "sink",
]

NAMES = ("key_bias", "channel_scale", "sink")
_SLOW_SHARE = 0.25
"""Of the rotary pairs, the slowest, that a key bias lies in."""


class Heads(NamedTuple):
  """Dynamic. What a layer projects of a chunk, rotated."""

  query: Float  # [B, N, T, H]
  key: Float  # [B, K, T, H]
  value: Float  # [B, K, T, H]


Disturbance = Callable[[int, Heads, Int], Heads]
"""(layer, heads, position i32[B, T]) -> heads."""


class Statistics(NamedTuple):
  """Static. Sizes that disturbances are given in.

  Attributes:
    key_length: root-mean-square length of a key.
    mean_query: mean over tokens and the query heads of a KV head.
  """

  key_length: np.ndarray  # f32 [L, K]
  mean_query: np.ndarray  # f32 [L, K, H]


def make(
  name: str,
  size: float,
  sizes: Statistics,
  config: config_lib.DecoderConfig,
  seed: int = 0,
) -> Disturbance:
  """A disturbance by name.

  Args:
    name: one of `NAMES`.
    size: of the bias in lengths of a key; standard deviation of log s; or the
      mean score q · k / √H that queries give to the sink.
    sizes: of the undisturbed stream.
    config: of the decoder.
    seed: of directions and scales.

  Raises:
    ValueError: no disturbance has this name.
  """
  if name == "key_bias":
    return key_bias(size, sizes, config, seed)
  if name == "channel_scale":
    return channel_scale(size, config, seed)
  if name == "sink":
    return sink(size, sizes)
  raise ValueError(
    f"the disturbance is {name!r}; it must be one of {', '.join(NAMES)}: choose"
    " one of these"
  )


def key_bias(
  size: float,
  sizes: Statistics,
  config: config_lib.DecoderConfig,
  seed: int = 0,
) -> Disturbance:
  """One constant vector on every rotated key of a layer and head."""
  layers, heads, width = sizes.mean_query.shape
  slow = np.argsort(
    rotary.inverse_frequencies(config.rope, config.head_dim), kind="stable"
  )
  chosen = np.zeros(width // 2, bool)
  chosen[slow[: max(1, round(_SLOW_SHARE * len(slow)))]] = True
  draws = np.random.default_rng(seed).standard_normal((layers, heads, width))
  draws *= np.concatenate([chosen, chosen])
  draws /= np.linalg.norm(draws, axis=-1, keepdims=True)
  constant = jnp.asarray(
    size * sizes.key_length[..., None] * draws, jnp.float32
  )

  def disturb(layer: int, heads_: Heads, position: Int) -> Heads:
    del position
    moved = heads_.key + constant[layer][None, :, None].astype(heads_.key.dtype)
    return heads_._replace(key=moved)

  return disturb


def channel_scale(
  spread: float, config: config_lib.DecoderConfig, seed: int = 0
) -> Disturbance:
  """Keys by s, queries by 1 / s; s of each layer, KV head and rotary pair."""
  heads, pairs = config.num_kv_heads, config.head_dim // 2
  random = np.random.default_rng(seed)
  draws = random.standard_normal((config.num_layers, heads, pairs))
  draws = np.exp(spread * np.concatenate([draws, draws], axis=-1))
  scale = jnp.asarray(draws, jnp.float32)
  by_query = jnp.repeat(scale, config.num_heads // heads, axis=1)

  def disturb(layer: int, heads_: Heads, position: Int) -> Heads:
    del position
    times = lambda x, by: x * by[None, :, None].astype(x.dtype)
    return heads_._replace(
      query=times(heads_.query, 1.0 / by_query[layer]),
      key=times(heads_.key, scale[layer]),
    )

  return disturb


def sink(score: float, sizes: Statistics) -> Disturbance:
  """The token at position 0 draws attention and gives nothing."""
  mean = jnp.asarray(sizes.mean_query, jnp.float32)
  length = jnp.sum(mean**2, axis=-1, keepdims=True)
  drawn = score * mean.shape[-1] ** 0.5 * mean / length

  def disturb(layer: int, heads_: Heads, position: Int) -> Heads:
    first = (position == 0)[:, None, :, None]
    key = drawn[layer][None, :, None].astype(heads_.key.dtype)
    return heads_._replace(
      key=jnp.where(first, key, heads_.key),
      value=jnp.where(first, jnp.zeros_like(heads_.value), heads_.value),
    )

  return disturb


def apply(
  disturbance: Disturbance,
  layer: int,
  heads: Heads,
  position: Int,
  turn: rotary.Turn,
) -> tuple[Heads, Float, Float]:
  """Disturbed heads, and their queries and keys as they were before rotation.

  Args:
    disturbance: what is done.
    layer: l.
    heads: rotated.
    position: i32[B, T].
    turn: that rotated them.
  """
  heads = disturbance(layer, heads, position)
  back = rotary.Turn(turn.cosine, -turn.sine)
  unrotated = lambda x: rotary.rotate_by(x, back)
  return heads, unrotated(heads.query), unrotated(heads.key)
