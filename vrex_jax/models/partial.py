"""Softmax attention over some of the keys, ready to be merged with the rest.

A `Partial` is softmax attention over *its* keys and the log of its
normaliser. Partials over disjoint keys merge exactly:

  out = Σ_i exp(lse_i - lse) out_i,    lse = log Σ_i exp(lse_i)

A loop over blocks of keys keeps a `Running` softmax and ends in a `Partial`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax import order
from vrex_jax.typing import Float

__all__ = ["LOWEST", "Partial", "Running", "finish", "merge", "start"]


class Partial(NamedTuple):
  """Dynamic. Attention over one set of keys, ready to be merged.

  Attributes:
    out: softmax(scores) values over these keys; 0 where there are none.
    lse: log of the sum of exponentials; -inf where there are no keys.
  """

  out: Float  # f32 [B, A, M, H]
  lse: Float  # f32 [B, A, M]


def merge(partials: tuple[Partial, ...]) -> Partial:
  """Attention over the union of disjoint key sets.

  At least one partial must have a key for every row (the chunk itself does).
  """
  logs = jnp.stack([partial.lse for partial in partials])
  lse = jax.nn.logsumexp(logs, axis=0)
  weights = jnp.exp(logs - lse[None])[..., None]
  out = jnp.zeros_like(partials[0].out)
  for weight, partial in zip(weights, partials, strict=True):
    out = out + weight * partial.out
  return Partial(out, lse)


class Running(NamedTuple):
  """Online softmax of every row: maximum, sum of exponentials, weighted sum."""

  top: Float  # f32 [..., M]
  total: Float  # f32 [..., M]
  out: Float  # f32 [..., M, H]


# Finite, so that top - top is 0 rather than nan in rows without keys.
LOWEST = -1e30


def start(query: Float) -> Running:
  """No keys seen yet.

  Made no earlier than the queries: else XLA makes the starts of all layers at
  once and keeps them until each layer's turn.

  Args:
    query: f[..., M, H].

  Returns:
    Running over [...] rows.
  """
  total = order.after(query, jnp.zeros(query.shape[:-1], jnp.float32))
  return Running(
    total + LOWEST,
    total,
    order.after(query, jnp.zeros(query.shape, jnp.float32)),
  )


def finish(running: Running, shape: tuple[int, ...]) -> Partial:
  """Softmax of what was seen, `out` reshaped to `shape`."""
  seen = running.total > 0
  total = jnp.where(seen, running.total, 1.0)
  out = running.out / total[..., None]
  lse = jnp.where(seen, running.top + jnp.log(total), -jnp.inf)
  return Partial(out.reshape(shape), lse.reshape(shape[:-1]))
