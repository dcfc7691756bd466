"""How far a policy takes a model from what it does when it reads everything.

Compared are last tokens: of every frame, of a question, and every token of an
answer. At each of them the model has a distribution of the next token,

  KL(full ‖ policy) = Σ_v p(v) log(p(v) / q(v))     p of `full`, q of the policy

and in each layer an attention output o (all query heads, before the output
projection), of which two relative errors are taken, ‖a - b‖ / ‖b‖ over heads:

  accumulated   a of the policy, b of `full` at the same token: what all earlier
                layers, frames and answers did to it is in there
  alone         a of the policy, b what the same query gives with every slot of
                the policy's own cache: this layer's choice for this token only
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax import observing
from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import past_attention
from vrex_jax.typing import Float, Parameters

__all__ = [
  "Glimpse",
  "divergence",
  "last_token",
  "relative_error",
]


class Glimpse(NamedTuple):
  """Dynamic. A chunk's last token.

  Attributes:
    logits: of the token that follows.
    attended: attention output of every layer, before the output projection.
    alone: relative error of each layer's choice alone; nan where the policy
      evicts, since what it gave up cannot be attended to.
  """

  logits: Float  # f32 [B, V]
  attended: Float  # f32 [L, B, N, H]
  alone: Float  # f32 [L, B]


def last_token(
  config: config_lib.DecoderConfig, dtype: jnp.dtype
) -> observing.Observer:
  """An observer of what the last token of each chunk attends to and predicts.

  Args:
    config: of the decoder.
    dtype: of activations, for the head.

  Returns:
    The observer; it returns a `Glimpse`.
  """
  module = decoder_lib.Decoder(config, dtype)

  def observe(params: Parameters, seen: observing.Observed) -> Glimpse:
    index = seen.last
    hidden = jnp.take_along_axis(seen.hidden, index[:, None, None], axis=1)
    logits = module.apply({"params": params}, hidden, method="head")[:, 0]
    at_last = lambda heads: jnp.take_along_axis(
      heads, index[:, None, None, None], axis=2
    )[:, :, 0]
    outputs = [at_last(layer.attended) for layer in seen.layers]
    alone = [
      _alone(seen, layer, at_last(output.query), out)
      for layer, (output, out) in enumerate(
        zip(seen.layers, outputs, strict=True)
      )
    ]
    return Glimpse(
      logits.astype(jnp.float32),
      jnp.stack(outputs).astype(jnp.float32),
      jnp.stack(alone),
    )

  return observe


def _alone(
  seen: observing.Observed, layer: int, query: Float, out: Float
) -> Float:
  """Relative error of one layer's choice: f32[B]; query, out f[B, N, H]."""
  cache = seen.cache
  batch, heads, width = query.shape
  if cache.per_head:
    return jnp.full((batch,), jnp.nan)
  whole, _ = past_attention.prefix_attention(
    query.reshape(batch, cache.key.shape[2], -1, width),
    cache.key,
    cache.value,
    cache.slots.valid,
    cache.cursor,
    layer,
  )
  whole = whole.reshape(batch, heads, width).astype(jnp.float32)
  size = lambda array: jnp.sqrt(jnp.sum(array * array, axis=(1, 2)))
  return size(out.astype(jnp.float32) - whole) / size(whole)


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
  """KL divergence of softmax(logits) from softmax(reference), nats.

  Args:
    reference: f[V], logits of `full`.
    logits: f[V], of the policy.

  Example:
    >>> round(divergence(np.zeros(2), np.log([0.9, 0.1])), 4)
    0.5108
  """
  ours, theirs = _log_softmax(reference), _log_softmax(logits)
  return float(np.sum(np.exp(ours) * (ours - theirs)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  shifted = np.asarray(logits, np.float64) - np.max(logits)
  return shifted - np.log(np.sum(np.exp(shifted)))


def relative_error(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
  """‖other - reference‖ / ‖reference‖ of every layer.

  Args:
    reference: f[L, N, H].
    other: f[L, N, H].

  Returns:
    f64[L].

  Example:
    >>> relative_error(np.ones((1, 2, 2)), np.full((1, 2, 2), 1.5))
    array([0.5])
  """
  size = lambda array: np.sqrt(np.sum(array.astype(np.float64) ** 2, (1, 2)))
  return size(other - reference) / size(reference)
