"""From patch features of one frame to tokens of the decoder.

  onevision:        features ─► project ─► bilinear pooling, g -> ceil(g / 2)
  videollm_online:  features ─► average pooling, g -> 3 ┐
                    pooled head ────────────────────────┴► project

project(x) = linear_2(gelu(linear_1(x))), with the exact (erf) gelu. Both ways
of pooling are one constant matrix applied to the rows and the columns of the
grid: out[p, q] = Σ_gh M[p, g] M[q, h] x[g, h].

Source: LLaVA-OneVision, arXiv 2408.03326; VideoLLM-online, arXiv 2406.11816
and its published code (connector and vision features).
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.models import config as config_lib
from vrex_jax.models import promotion
from vrex_jax.typing import Float

__all__ = ["Connector", "average_matrix", "bilinear_matrix", "pool_grid"]

_KINDS = ("onevision", "videollm_online")


def bilinear_matrix(size: int, pooled: int) -> np.ndarray:
  """Weights of bilinear resampling along one side, without antialiasing.

  Output cell i reads the input at (i + 1/2) size / pooled - 1/2, clamped to
  the grid, with weight 1 - d for a neighbour at distance d (torch's
  `interpolate` with align_corners=False).

  Args:
    size: cells along the input's side.
    pooled: cells along the output's side.

  Returns:
    f32[pooled, size]; rows sum to 1.

  Example:
    >>> bilinear_matrix(3, 2)
    array([[0.75, 0.25, 0.  ],
           [0.  , 0.25, 0.75]], dtype=float32)
  """
  centre = (np.arange(pooled) + 0.5) * size / pooled - 0.5
  centre = np.clip(centre, 0.0, size - 1.0)
  distance = np.abs(centre[:, None] - np.arange(size)[None])
  return np.maximum(1.0 - distance, 0.0).astype(np.float32)


def average_matrix(size: int, pooled: int) -> np.ndarray:
  """Weights of adaptive average pooling along one side.

  Output cell i is the mean of the input cells from floor(i size / pooled) to
  ceil((i + 1) size / pooled) - 1.

  Args:
    size: cells along the input's side.
    pooled: cells along the output's side.

  Returns:
    f32[pooled, size]; rows sum to 1.

  Example:
    >>> average_matrix(4, 2)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]], dtype=float32)
  """
  cell = np.arange(pooled)[:, None]
  first = cell * size // pooled
  end = -(-(cell + 1) * size // pooled)
  column = np.arange(size)[None]
  inside = (column >= first) & (column < end)
  return (inside / (end - first)).astype(np.float32)


def pool_grid(features: Float, matrix: np.ndarray) -> Float:
  """Resamples a square grid with the same matrix along both sides.

  Args:
    features: f[B, size * size, D], row by row.
    matrix: f32[pooled, size].

  Returns:
    f[B, pooled * pooled, D] in the features' dtype; the sums are float32.

  Example:
    >>> pool_grid(jnp.ones((1, 9, 4)), bilinear_matrix(3, 2)).shape
    (1, 4, 4)
  """
  pooled, size = matrix.shape
  chex.assert_shape(features, (None, size * size, None))
  batch, _, width = features.shape
  grid = features.reshape(batch, size, size, width).astype(jnp.float32)
  out = jnp.einsum(
    "pg,bghd,qh->bpqd",
    matrix,
    grid,
    matrix,
    precision=jax.lax.Precision.HIGHEST,
  )
  return out.reshape(batch, pooled * pooled, width).astype(features.dtype)


class Connector(nn.Module):
  """Pools and projects the features of a frame.

  Parameters: {linear_1, linear_2}, and for "onevision" `newline`, the
  embedding that ends a video when a whole video is embedded at once; frames
  of a stream do not use it.

  Attributes:
    config: kind and shapes.
    grid: patches along one side of the image.
    width: D of the decoder.
    dtype: dtype of activations.
    param_dtype: dtype parameters are created in.
  """

  config: config_lib.ConnectorConfig
  grid: int
  width: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    cfg = self.config
    if cfg.kind not in _KINDS:
      raise ValueError(
        f"connector kind is {cfg.kind!r}; it must be one of"
        f" {', '.join(_KINDS)}: check the connector's configuration"
      )
    if cfg.kind == "onevision" and cfg.use_pooled_head:
      raise ValueError(
        "use_pooled_head is set for an onevision connector, which reads patches"
        " only: unset it, or use kind videollm_online"
      )
    self.linear_1 = self._dense()
    self.linear_2 = self._dense()
    if cfg.kind == "onevision":
      self.newline = self.param(
        "newline", nn.initializers.normal(), (self.width,), self.param_dtype
      )

  def __call__(self, features: Float, pooled: Float | None = None) -> Float:
    """Tokens of a batch of frames.

    Args:
      features: f[B, grid * grid, width of the tower], row by row.
      pooled: f[B, width of the tower], the pooled head; needed with
        `config.use_pooled_head`, else not read.

    Returns:
      f[B, T, D]: the pooled head first, if used, then the grid row by row.
    """
    cfg = self.config
    if cfg.kind == "onevision":
      matrix = bilinear_matrix(self.grid, cfg.pooled_grid)
      return pool_grid(self._project(features), matrix)
    tokens = pool_grid(features, average_matrix(self.grid, cfg.pooled_grid))
    if cfg.use_pooled_head:
      if pooled is None:
        raise ValueError(
          "the connector uses the pooled head, which this vision tower lacks:"
          " set use_head in the vision configuration"
        )
      tokens = jnp.concatenate([pooled[:, None], tokens], axis=1)
    return self._project(tokens)

  def _project(self, x: Float) -> Float:
    return self.linear_2(nn.gelu(self.linear_1(x), approximate=False))

  def _dense(self) -> nn.Dense:
    return nn.Dense(
      self.width,
      use_bias=self.config.bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      promote_dtype=promotion.promote_late,
    )
