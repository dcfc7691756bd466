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


@jax.jit
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
  rows = window.query.reshape(layers * kv_heads, -1, length, width)
  there = window.position >= 0
  number = jnp.maximum(jnp.sum(there), 1).astype(jnp.float32)

  # Sliced by number: a cache that a loop walks over is copied for it.
  def one_head(index):
    layer, head = index // kv_heads, index % kv_heads
    of_head = lambda table: jax.lax.dynamic_slice(
      table,
      (layer, head) + (0,) * (table.ndim - 2),
      (1, 1, *table.shape[2:]),
    )[0, 0]
    query = jax.lax.dynamic_index_in_dim(rows, index, keepdims=False)
    key, held = of_head(view.key), of_head(live)
    position = of_head(view.slots.position)
    score = jnp.einsum("gth,sh->gts", query, key.astype(jnp.float32))
    allowed = held[None] & (position[None] <= window.position[:, None])
    score = jnp.where(allowed[None], score * width**-0.5, -1e30)
    weight = jax.nn.softmax(score, axis=-1)
    weight = jnp.where(allowed[None] & there[None, :, None], weight, 0.0)
    return jnp.sum(weight, axis=1) / number

  weight = jax.lax.map(one_head, jnp.arange(layers * kv_heads))
  return weight.reshape(layers, heads, -1)
