"""Pages of neighbouring slots and bounds of the keys in them.

Page p holds slots p · page … (p + 1) · page - 1. A policy that recalls never
compacts, so a page keeps its tokens, and slots are in time order.

  page        0         1         2
  slots   |a b c d|e f g h|i . . .|          page = 4, nine tokens
                           ▲ last page, partly filled
"""

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import choosing
from vrex_jax.typing import Bool, Float

__all__ = ["Bounds", "bound", "create", "spread", "there", "update"]


class Bounds(flax.struct.PyTreeNode):
  """Dynamic. Lower and upper bound of every channel in every page.

  A page without a token has zeros, so that scores need no masked copy of the
  tables; which pages there are is asked of the slots (`there`).

  Attributes:
    low: of the rotated keys.
    high: of the rotated keys.
  """

  low: Float  # f32 [L, K, S / page, H]
  high: Float  # f32 [L, K, S / page, H]


def create(spec: policy_lib.Spec, page: int) -> Bounds:
  """Bounds of no token at all."""
  decoder = spec.decoder
  shape = (
    decoder.num_layers,
    decoder.num_kv_heads,
    spec.num_slots // page,
    decoder.head_dim,
  )
  return Bounds(low=jnp.zeros(shape), high=jnp.zeros(shape))


def update(
  bounds: Bounds,
  view: policy_lib.View,
  chunk: policy_lib.Chunk,
  page: int,
  digest: str = "quest",
) -> Bounds:
  """Bounds of the pages that a chunk lies in, made again from their keys.

    quest    low = min k          high = max k
    arkvale  c = (min + max) / 2,  e = mean |c - k|:  low = c - e, high = c + e

  Args:
    bounds: before the chunk.
    view: at `write`, the chunk in the cache.
    chunk: the chunk.
    page: slots of a page.
    digest: "quest" or "arkvale"; all arithmetic by channel.

  Returns:
    Bounds with the chunk.
  """
  num_pages = bounds.low.shape[2]
  touched = min(num_pages, -(-chunk.valid.shape[0] // page) + 1)
  first = jnp.minimum(chunk.start // page, num_pages - touched)
  layers, heads, _, width = view.key.shape
  keys = jax.lax.dynamic_slice_in_dim(
    view.key, first * page, touched * page, axis=2
  ).reshape(layers, heads, touched, page, width)
  keys = keys.astype(jnp.float32)
  live = jax.lax.dynamic_slice_in_dim(
    bitmap.unpack(view.live), first * page, touched * page
  ).reshape(1, 1, touched, page, 1)
  filled = jnp.any(live, axis=3)
  low = jnp.min(jnp.where(live, keys, jnp.inf), axis=3)
  low = jnp.where(filled, low, 0.0)
  high = jnp.max(jnp.where(live, keys, -jnp.inf), axis=3)
  high = jnp.where(filled, high, 0.0)
  if digest == "arkvale":
    center = (low + high) / 2
    away = jnp.where(live, jnp.abs(keys - center[:, :, :, None]), 0.0)
    spread_ = jnp.sum(away, axis=3) / jnp.maximum(jnp.sum(live, axis=3), 1)
    low, high = center - spread_, center + spread_
  put = lambda table, new: jax.lax.dynamic_update_slice_in_dim(
    table, new, first, axis=2
  )
  return Bounds(low=put(bounds.low, low), high=put(bounds.high, high))


def there(view: policy_lib.View, page: int) -> Bool:
  """Pages that hold a token of the past: b[S / page].

  Read from the slots, not the bounds: a table that is read apart from its
  scores would be copied before `write` changes it.
  """
  return jnp.any(bitmap.unpack(view.live).reshape(-1, page), axis=1)


def bound(bounds: Bounds, layer: int, query: Float, held: Bool) -> Float:
  """Σ_h max(q_h low_h, q_h high_h), at least every q · k of the page.

  As two products: max(q low, q high) = max(q, 0) high + min(q, 0) low.

  Args:
    bounds: of all layers.
    layer: l.
    query: f32[K, G, M, H].
    held: b[S / page], from `there`.

  Returns:
    f32[K, G, M, S / page]; -inf for a page without a token.

  Source: Quest (arXiv 2406.10774), Sec. 3.3.
  """
  dot = lambda part, table: choosing.products(part, table[layer])
  score = dot(jnp.maximum(query, 0.0), bounds.high) + dot(
    jnp.minimum(query, 0.0), bounds.low
  )
  return jnp.where(held[None, None, None], score, -jnp.inf)


def spread(chosen: Bool, page: int) -> Bool:
  """Pages to their slots: b[..., S / page] -> b[..., S]."""
  return jnp.repeat(chosen, page, axis=-1)
