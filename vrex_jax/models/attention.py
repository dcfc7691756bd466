"""Attention to keys at hand: the current chunk's, and rows that stand for many.

Rows: a selection row (A of them: one per KV head, or one per query head) has M
query rows, M = T · N / A, that share one selected set of slots.
"""

import chex
import jax
import jax.numpy as jnp

from vrex_jax.models import partial as partial_lib
from vrex_jax.typing import Bool, Float

__all__ = [
  "chunk_attention",
  "chunk_mass",
  "extra_attention",
  "group_queries",
  "ungroup_queries",
]


def group_queries(query: Float, rows: int) -> Float:
  """f[B, N, T, H] -> f[B, A, M, H]: query heads folded into selection rows."""
  batch, heads, length, width = query.shape
  return query.reshape(batch, rows, heads // rows * length, width)


def ungroup_queries(out: Float, heads: int) -> Float:
  """f[B, A, M, H] -> f[B, N, T, H]."""
  batch, rows, rank, width = out.shape
  return out.reshape(batch, heads, rows * rank // heads, width)


def chunk_attention(
  query: Float, key: Float, value: Float, valid: Bool
) -> partial_lib.Partial:
  """Causal attention inside the current chunk.

  Args:
    query: f[B, N, T, H], rotated.
    key: f[B, K, T, H], rotated.
    value: f[B, K, T, H].
    valid: b[B, T]; padding is not attended, except by itself.

  Returns:
    Partial with A = N, M = T.

  Example:
    >>> ones = jnp.ones((1, 1, 3, 4))
    >>> chunk_attention(ones, ones, ones, jnp.ones((1, 3), bool)).out.shape
    (1, 1, 3, 4)
  """
  batch, heads, length, width = query.shape
  chex.assert_equal_shape([key, value])
  scores = _chunk_scores(query, key, valid)
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  weights = jnp.exp(scores - top[..., None])
  total = jnp.sum(weights, axis=-1)
  out = jnp.einsum(
    "bkgts,bksh->bkgth",
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  )
  return partial_lib.Partial(
    (out / total[..., None]).reshape(batch, heads, length, width),
    (top + jnp.log(total)).reshape(batch, heads, length),
  )


def _chunk_scores(query: Float, key: Float, valid: Bool) -> Float:
  """Masked scores inside the chunk: f32[B, K, G, T, T]."""
  batch, heads, length, width = query.shape
  kv_heads = key.shape[1]
  grouped = query.reshape(batch, kv_heads, heads // kv_heads, length, width)
  scores = jnp.einsum(
    "bkgth,bksh->bkgts", grouped, key, preferred_element_type=jnp.float32
  ) * (width**-0.5)
  causal = jnp.tril(jnp.ones((length, length), bool))[None]
  mask = (causal & valid[:, None, :]) | jnp.eye(length, dtype=bool)[None]
  return jnp.where(mask[:, None, None], scores, -jnp.inf)


def chunk_mass(query: Float, key: Float, valid: Bool, lse: Float) -> Float:
  """Attention mass each token of the chunk received from the chunk.

  Args:
    query: f[B, N, T, H], rotated.
    key: f[B, K, T, H], rotated.
    valid: b[B, T]; rows and columns of padding count nothing.
    lse: f32[B, N, T], log-normaliser of the whole attention.

  Returns:
    f32[B, N, T], summed over the T query rows of each head.
  """
  scores = _chunk_scores(query, key, valid)
  weights = jnp.exp(scores - lse.reshape(scores.shape[:-1])[..., None])
  both = valid[:, :, None] & valid[:, None, :]
  weights = jnp.where(both[:, None, None], weights, 0.0)
  return jnp.sum(weights, axis=-2).reshape(lse.shape)


def extra_attention(
  query: Float, key: Float, value: Float, log_weight: Float
) -> partial_lib.Partial:
  """Attention to rows that stand for several tokens each.

  Row e counts as exp(log_weight_e) copies of itself: its score is
  q · k_e / sqrt(H) + log_weight_e. A weight of -inf switches a row off.

  Args:
    query: f[B, A, M, H].
    key: f[B, A, E, H].
    value: f[B, A, E, H].
    log_weight: f[B, A, E].

  Returns:
    Partial over the E rows.

  Source: estimation zone of RetroInfer, arXiv 2505.02922.
  """
  chex.assert_equal_shape([key, value])
  scores = jnp.einsum(
    "bamh,baeh->bame", query, key, preferred_element_type=jnp.float32
  ) * (query.shape[-1] ** -0.5)
  scores = scores + log_weight[:, :, None, :].astype(jnp.float32)
  # Not logsumexp: where every row is off, its derivative is 0 / 0.
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
  top = jnp.maximum(top, partial_lib.LOWEST)
  weights = jnp.exp(scores - top[..., None])
  out = jnp.einsum(
    "bame,baeh->bamh", weights, value, preferred_element_type=jnp.float32
  )
  return partial_lib.finish(
    partial_lib.Running(top, jnp.sum(weights, axis=-1), out), out.shape
  )
