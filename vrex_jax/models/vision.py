"""The SigLIP vision transformer in Flax Linen.

  pixels ─patches─► + positions ─► layers ──────────────► "last_hidden"
                                      └► final LayerNorm ► "post_norm"
                                               └► pooling head ► pooled

Parameters: {patch_embedding, position_embedding, layers_0 … , post_norm}, and
`head` where the tower has one. All of them exist whichever feature is read, as
in a checkpoint.

Source: Zhai et al., arXiv 2303.15343; Dosovitskiy et al., arXiv 2010.11929.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vrex_jax.models import config as config_lib
from vrex_jax.models import promotion
from vrex_jax.typing import Float

__all__ = ["PoolingHead", "SiglipLayer", "SiglipTower"]


class SiglipLayer(nn.Module):
  """One pre-norm encoder layer: attention, then a two-layer perceptron.

  Attributes:
    config: shapes of the tower.
    dtype: dtype of activations.
    param_dtype: dtype parameters are created in.
  """

  config: config_lib.VisionConfig
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    width = self.config.hidden_size
    self.norm1 = _norm(self)
    self.q_proj = _dense(self, width)
    self.k_proj = _dense(self, width)
    self.v_proj = _dense(self, width)
    self.out_proj = _dense(self, width)
    self.norm2 = _norm(self)
    self.fc1 = _dense(self, self.config.intermediate_size)
    self.fc2 = _dense(self, width)

  def __call__(self, hidden: Float) -> Float:
    """f[B, patches, D] -> f[B, patches, D]."""
    normal = self.norm1(hidden)
    hidden = hidden + _attention(self, normal, normal)
    return hidden + _perceptron(self, self.norm2(hidden))


class PoolingHead(nn.Module):
  """A learned probe attends to all patches; its result stands for the image.

  Attributes:
    config: shapes of the tower.
    dtype: dtype of activations.
    param_dtype: dtype parameters are created in.
  """

  config: config_lib.VisionConfig
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    width = self.config.hidden_size
    self.probe = self.param(
      "probe", nn.initializers.lecun_normal(), (1, 1, width), self.param_dtype
    )
    self.q_proj = _dense(self, width)
    self.k_proj = _dense(self, width)
    self.v_proj = _dense(self, width)
    self.out_proj = _dense(self, width)
    self.norm = _norm(self)
    self.fc1 = _dense(self, self.config.intermediate_size)
    self.fc2 = _dense(self, width)

  def __call__(self, hidden: Float) -> Float:
    """f[B, patches, D] -> f[B, D]."""
    batch, _, width = hidden.shape
    probe = jnp.broadcast_to(self.probe.astype(self.dtype), (batch, 1, width))
    pooled = _attention(self, probe, hidden)
    return (pooled + _perceptron(self, self.norm(pooled)))[:, 0]


class SiglipTower(nn.Module):
  """Patch features of square images, and the pooled head if there is one.

  Attributes:
    config: shapes of the tower.
    dtype: dtype of activations.
    param_dtype: dtype parameters are created in.
  """

  config: config_lib.VisionConfig
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    cfg = self.config
    if cfg.feature not in ("last_hidden", "post_norm"):
      raise ValueError(
        f"feature is {cfg.feature!r}; it must be last_hidden or post_norm:"
        " check the vision tower's configuration"
      )
    self.patch_embedding = nn.Conv(
      cfg.hidden_size,
      kernel_size=(cfg.patch_size, cfg.patch_size),
      strides=(cfg.patch_size, cfg.patch_size),
      padding="VALID",
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    self.position_embedding = self.param(
      "position_embedding",
      nn.initializers.lecun_normal(),
      (cfg.grid**2, cfg.hidden_size),
      self.param_dtype,
    )
    self.layers = [
      SiglipLayer(cfg, self.dtype, self.param_dtype)
      for _ in range(cfg.num_layers)
    ]
    self.post_norm = _norm(self)
    if cfg.use_head:
      self.head = PoolingHead(cfg, self.dtype, self.param_dtype)

  def __call__(self, pixels: Float) -> tuple[Float, Float | None]:
    """Features of a batch of images.

    Args:
      pixels: f[B, size, size, 3], normalised; rows and columns beyond the last
        whole patch are not read.

    Returns:
      f[B, grid * grid, D], patches row by row, before or after the final
      LayerNorm as `config.feature` says; and f[B, D], the pooled head, or None.
    """
    cfg = self.config
    chex.assert_shape(pixels, (None, cfg.image_size, cfg.image_size, 3))
    patches = self.patch_embedding(pixels.astype(self.dtype))
    hidden = patches.reshape(-1, cfg.grid**2, cfg.hidden_size)
    hidden = hidden + self.position_embedding.astype(self.dtype)[None]
    for layer in self.layers:
      hidden = layer(hidden)
    normal = self.post_norm(hidden)
    pooled = self.head(normal) if cfg.use_head else None
    return (normal if cfg.feature == "post_norm" else hidden), pooled


def _attention(module: Any, query: Float, memory: Float) -> Float:
  """Multi-head attention of f[B, T, D] to f[B, patches, D], without a mask."""
  heads = module.config.num_heads

  def split(x):
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)

  attended = jax.nn.dot_product_attention(
    split(module.q_proj(query)),
    split(module.k_proj(memory)),
    split(module.v_proj(memory)),
  )
  return module.out_proj(attended.reshape(query.shape))


def _perceptron(module: Any, x: Float) -> Float:
  """fc2(gelu(fc1(x))) with the tanh form of gelu: f[..., D] -> f[..., D]."""
  return module.fc2(nn.gelu(module.fc1(x), approximate=True))


def _dense(module: Any, width: int) -> nn.Dense:
  return nn.Dense(
    width,
    dtype=module.dtype,
    param_dtype=module.param_dtype,
    promote_dtype=promotion.promote_late,
  )


def _norm(module: Any) -> nn.LayerNorm:
  # The mean of squared differences, not E[x²] - E[x]², which cancels.
  return nn.LayerNorm(
    epsilon=module.config.layer_norm_eps,
    use_fast_variance=False,
    dtype=module.dtype,
    param_dtype=module.param_dtype,
  )
