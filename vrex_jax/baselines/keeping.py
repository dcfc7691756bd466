"""Evicting for each query head: who keeps what, and when a slot is free.

A slot holds one token for a KV head. Where query heads choose for themselves, a
slot is freed when none of its group keeps it, and a selection masks what each
head has given up: more is held than one head attends to.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import choosing
from vrex_jax.typing import Bool, Float, Int

__all__ = ["end_of", "follow", "held_by", "if_needed", "keep_of", "per_row"]


def per_row(table: Int | Bool, rows: int) -> Int | Bool:
  """Repeats KV heads for their rows: [L, K, S] -> [L, A, S]."""
  return jnp.repeat(table, rows // table.shape[1], axis=1)


def held_by(mine: Bool, view: policy_lib.View, chunk: policy_lib.Chunk) -> Bool:
  """Live slots of every row, the chunk's tokens included: b[L, A, S].

  Args:
    mine: b[L, A, S], kept by each row before the chunk.
    view: at `write`.
    chunk: the chunk.
  """
  new = choosing.chunk_slots(chunk, mine.shape[-1])
  live = per_row(bitmap.unpack(view.live), mine.shape[1])
  return (mine | new[None, None]) & live


def if_needed(needed: Bool, make: Callable[[], Bool], otherwise: Bool) -> Bool:
  """`make()` where needed, else `otherwise`.

  A loop of at most one trip: of streams side by side each gets its own, and
  nothing is made while none needs it; `lax.cond` would then always make it.
  `make` must not read the cache: a loop that does has XLA copy it.

  Args:
    needed: b[].
    make: without arguments -> an array like `otherwise`.
    otherwise: any array.

  Example:
    >>> if_needed(jnp.array(True), lambda: jnp.zeros(2), jnp.ones(2)).tolist()
    [0.0, 0.0]
  """
  return jax.lax.while_loop(
    lambda carry: carry[0],
    lambda carry: (jnp.zeros_like(carry[0]), make()),
    (needed, otherwise),
  )[1]


def keep_of(mine: Bool, kv_heads: int) -> Bool:
  """What a KV head must hold: any row of its group, b[L, K, S]."""
  layers, rows, slots = mine.shape
  return jnp.any(
    mine.reshape(layers, kv_heads, rows // kv_heads, slots), axis=2
  )


def follow(table: Float | Bool, source: Int) -> Float | Bool:
  """A table [L, A, S] after compaction; see `KVPolicy.move`."""
  return jnp.take_along_axis(table, per_row(source, table.shape[1]), axis=-1)


def end_of(chunk: policy_lib.Chunk | policy_lib.Queries) -> Int:
  """Position after the chunk; it may hold no valid token at all."""
  return jnp.min(chunk.position) + jnp.sum(chunk.valid, dtype=jnp.int32)
