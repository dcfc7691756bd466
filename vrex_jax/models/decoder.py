"""A Llama or Qwen2 decoder in Flax Linen, cut where a KV cache plugs in.

A layer is two functions with attention between them, so that whoever drives
the layer decides what is attended:

  project:  hidden ──RMSNorm──► q, k, v (not yet rotated)
  finish:   hidden + o_proj(attended) ──► hidden + feed-forward

The modules know no cache and no policy. `Decoder.__call__` joins the pieces
with plain causal attention: the one-shot reference that every streaming path
is compared with.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vrex_jax.models import attention
from vrex_jax.models import config as config_lib
from vrex_jax.models import dense as dense_lib
from vrex_jax.models import promotion
from vrex_jax.models import rotary
from vrex_jax.typing import Bool, Float, Int, Tokens

__all__ = [
  "Decoder",
  "DecoderLayer",
  "RMSNorm",
  "merge_heads",
  "split_heads",
]


def split_heads(x: Float, num_heads: int) -> Float:
  """f[B, T, heads * H] -> f[B, heads, T, H]."""
  batch, length, width = x.shape
  x = x.reshape(batch, length, num_heads, width // num_heads)
  return x.transpose(0, 2, 1, 3)


def merge_heads(x: Float) -> Float:
  """f[B, heads, T, H] -> f[B, T, heads * H]."""
  batch, heads, length, width = x.shape
  return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


class RMSNorm(nn.Module):
  """x / rms(x) * scale, with the mean square taken in float32.

  Source: Zhang and Sennrich, arXiv 1910.07467, Eq. 4.

  Attributes:
    epsilon: added to the mean square.
    dtype: dtype of the result.
    param_dtype: dtype of the scale.
  """

  epsilon: float
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float) -> Float:
    """f[..., D] -> f[..., D]."""
    scale = self.param(
      "scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype
    )
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normal = wide * jax.lax.rsqrt(mean_square + self.epsilon)
    scaled = normal * scale.astype(jnp.float32).reshape(
      (1,) * (x.ndim - 1) + (-1,)
    )
    return scaled.astype(self.dtype)


class DecoderLayer(nn.Module):
  """One pre-norm decoder layer with grouped-query attention.

  Attributes:
    config: shapes of the decoder.
    dtype: dtype of activations.
    param_dtype: dtype parameters are created in.
  """

  config: config_lib.DecoderConfig
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    cfg = self.config
    norm = lambda: RMSNorm(cfg.rms_norm_eps, self.dtype, self.param_dtype)
    dense = lambda width, bias: dense_lib.Dense(
      width, bias, self.dtype, self.param_dtype
    )
    self.input_norm = norm()
    self.q_proj = dense(cfg.num_heads * cfg.head_dim, cfg.qkv_bias)
    self.k_proj = dense(cfg.num_kv_heads * cfg.head_dim, cfg.qkv_bias)
    self.v_proj = dense(cfg.num_kv_heads * cfg.head_dim, cfg.qkv_bias)
    self.o_proj = dense(cfg.hidden_size, False)
    self.post_norm = norm()
    self.gate_proj = dense(cfg.intermediate_size, False)
    self.up_proj = dense(cfg.intermediate_size, False)
    self.down_proj = dense(cfg.hidden_size, False)

  def project(self, hidden: Float) -> tuple[Float, Float, Float]:
    """Queries, keys and values before rotation.

    Args:
      hidden: f[B, T, D], the layer's input.

    Returns:
      f[B, N, T, H], f[B, K, T, H], f[B, K, T, H].
    """
    cfg = self.config
    chex.assert_shape(hidden, (None, None, cfg.hidden_size))
    normal = self.input_norm(hidden)
    return (
      split_heads(self.q_proj(normal), cfg.num_heads),
      split_heads(self.k_proj(normal), cfg.num_kv_heads),
      split_heads(self.v_proj(normal), cfg.num_kv_heads),
    )

  def project_query(self, hidden: Float) -> Float:
    """Unrotated queries only: f[B, T, D] -> f[B, N, T, H]."""
    normal = self.input_norm(hidden)
    return split_heads(self.q_proj(normal), self.config.num_heads)

  def finish(self, hidden: Float, attended: Float) -> Float:
    """Everything after attention.

    Args:
      hidden: f[B, T, D], the layer's input.
      attended: f[B, N, T, H], attention output per query head.

    Returns:
      f[B, T, D], the layer's output.
    """
    hidden = hidden + self.o_proj(merge_heads(attended))
    normal = self.post_norm(hidden)
    gated = nn.silu(self.gate_proj(normal)) * self.up_proj(normal)
    return hidden + self.down_proj(gated)

  def __call__(
    self,
    hidden: Float,
    attend: Callable[[Float, Float, Float], Float],
  ) -> Float:
    """project, `attend`(q, k, v) -> f[B, N, T, H], finish."""
    query, key, value = self.project(hidden)
    return self.finish(hidden, attend(query, key, value))


class Decoder(nn.Module):
  """Token embedding, layers, final norm and output head.

  Parameters: {embed_tokens, layers_0 … layers_{L-1}, norm, lm_head}; no
  lm_head when embeddings are tied. Layer l's subtree is what
  `DecoderLayer.apply` takes on its own, which is how the stream drives it.

  Attributes:
    config: shapes of the decoder.
    dtype: dtype of activations.
    param_dtype: dtype parameters are created in.
  """

  config: config_lib.DecoderConfig
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    cfg = self.config
    self.embed_tokens = nn.Embed(
      cfg.vocab_size,
      cfg.hidden_size,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      promote_dtype=promotion.promote_late,
    )
    self.layers = [
      DecoderLayer(cfg, self.dtype, self.param_dtype)
      for _ in range(cfg.num_layers)
    ]
    self.norm = RMSNorm(cfg.rms_norm_eps, self.dtype, self.param_dtype)
    if not cfg.tie_embeddings:
      self.lm_head = nn.Dense(
        cfg.vocab_size,
        use_bias=False,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        promote_dtype=promotion.promote_late,
      )

  def embed(self, tokens: Tokens) -> Float:
    """i32[B, T] -> f[B, T, D]; only the rows that are read are cast."""
    table = self.embed_tokens.embedding
    return jnp.take(table, tokens, axis=0).astype(self.dtype)

  def head(self, hidden: Float) -> Float:
    """Logits f32[B, T, vocabulary] of hidden states f[B, T, D]."""
    normal = self.norm(hidden)
    if self.config.tie_embeddings:
      logits = self.embed_tokens.attend(normal)
    else:
      logits = self.lm_head(normal)
    return logits.astype(jnp.float32)

  def __call__(
    self,
    hidden: Float,
    positions: Int | None = None,
    valid: Bool | None = None,
  ) -> Float:
    """Logits of a whole sequence at once, with full causal attention.

    Args:
      hidden: f[B, T, D], embedded tokens (text and frames).
      positions: i32[B, T]; 0 … T-1 when None.
      valid: b[B, T], False for padding; all True when None.

    Returns:
      f32[B, T, vocabulary].
    """
    batch, length = hidden.shape[:2]
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    if valid is None:
      valid = jnp.ones((batch, length), bool)
    frequencies = rotary.inverse_frequencies(
      self.config.rope, self.config.head_dim
    )
    angle = rotary.angles(positions, frequencies)[:, None]

    def attend(query, key, value):
      partial = attention.chunk_attention(
        rotary.rotate(query, angle), rotary.rotate(key, angle), value, valid
      )
      return partial.out.astype(query.dtype)

    for layer in self.layers:
      hidden = layer(hidden, attend)
    return self.head(hidden)
