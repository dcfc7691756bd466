"""The last queries of a stream, and the attention they pay to what is held.

Several methods judge tokens by the attention of an observation window. Its
queries are kept in the state, since a window may be longer than a chunk:

  before   · · a b c      window of 5, three queries so far
  chunk    d e f .        three valid tokens and one of padding
  after    b c d e f
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Bool, Float, Int

__all__ = ["Window", "attention", "create", "push"]


class Window(flax.struct.PyTreeNode):
  """Dynamic. The last queries, rotated at their positions.

  Attributes:
    query: of all heads.
    position: of each query; -1 where there is none yet.
    frequencies: radians per position.
  """

  query: Float  # f32 [L, N, T, H]
  position: Int  # [T]
  frequencies: Float  # f32 [H / 2]


def create(spec: policy_lib.Spec, tokens: int) -> Window:
  """A window of `tokens` queries with none in it."""
  decoder = spec.decoder
  shape = decoder.num_layers, decoder.num_heads, tokens, decoder.head_dim
  return Window(
    query=jnp.zeros(shape, jnp.float32),
    position=jnp.full((tokens,), -1, jnp.int32),
    frequencies=jnp.asarray(
      rotary.inverse_frequencies(decoder.rope, decoder.head_dim)
    ),
  )


def push(window: Window, chunk: policy_lib.Chunk) -> Window:
  """The window after a chunk; valid tokens come first in it."""
  angle = rotary.angles(chunk.position, window.frequencies)[None, None]
  query = rotary.rotate(chunk.queries.astype(jnp.float32), angle)
  number = jnp.sum(chunk.valid, dtype=jnp.int32)
  size = window.position.shape[0]
  last = lambda old, new, axis: jax.lax.dynamic_slice_in_dim(
    jnp.concatenate([old, new], axis=axis), number, size, axis=axis
  )
  return window.replace(
    query=last(window.query, query, 2),
    position=last(window.position, chunk.position, 0),
  )


ROWS_AT_ONCE = 128
"""Queries of a head whose weights are in memory together."""


def attention(window: Window, view: policy_lib.View, live: Bool) -> Float:
  """Mean attention weight of the window's queries on every slot.

    a_s = mean over queries of softmax(q · K / √H)_s

  over live slots that are not newer than the query.

  Args:
    window: of all layers.
    view: keys and positions, [L, K, S] metadata.
    live: b[L, K, S].

  Returns:
    f32[L, N, S]; 0 for slots that are not live.
  """
  layers, heads, length, width = window.query.shape
  kv_heads = view.num_kv_heads
  rows = window.query.reshape(layers, kv_heads, -1, length, width)
  number = jnp.maximum(jnp.sum(window.position >= 0), 1)
  # Head by head in the open: XLA copies a whole cache that a loop reads before
  # the stream goes on writing to it.
  weight = [
    _of_head(
      rows[at], window.position, view.key[at], view.slots.position[at], live[at]
    )
    for at in np.ndindex(layers, kv_heads)
  ]
  total = jnp.stack(weight).reshape(layers, heads, -1)
  return total / number.astype(jnp.float32)


@jax.jit
def _of_head(
  query: Float, asked: Int, key: Float, position: Int, live: Bool
) -> Float:
  """Weights of one KV head, added over the window: f32[G, S].

  Args:
    query: f32[G, T, H].
    asked: i32[T], position of each query; -1 where there is none.
    key: f[S, H].
    position: i32[S].
    live: b[S].
  """
  group, length, width = query.shape
  size = min(length, ROWS_AT_ONCE)
  padding = -length % size
  query = jnp.pad(query, ((0, 0), (0, padding), (0, 0)))
  asked = jnp.pad(asked, (0, padding), constant_values=-1)
  key = key.astype(jnp.float32)

  def block(first):
    rows = jax.lax.dynamic_slice_in_dim(query, first, size, axis=1)
    at = jax.lax.dynamic_slice_in_dim(asked, first, size)
    score = jnp.einsum("mh,sh->ms", rows.reshape(-1, width), key)
    score = score.reshape(group, size, -1) * width**-0.5
    allowed = live[None] & (position[None] <= at[:, None])
    score = jnp.where(allowed[None], score, -1e30)
    weight = jax.nn.softmax(score, axis=-1)
    weight = jnp.where(allowed[None] & (at >= 0)[None, :, None], weight, 0.0)
    return jnp.sum(weight, axis=1)

  if padding + length == size:
    return block(0)
  empty = jnp.zeros((group, key.shape[0]), jnp.float32)
  starts = jnp.arange(0, length + padding, size)
  return jax.lax.scan(lambda sum_, at: (sum_ + block(at), None), empty, starts)[
    0
  ]
