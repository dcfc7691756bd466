"""Loops over the filled part of a table of fixed capacity.

Tables are allocated for the worst case and mostly empty. Work on them runs in
blocks, as many as the fullest stream needs.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from vrex_jax.typing import Bool, Int

__all__ = ["BLOCK", "any_lane", "fold", "padded", "shared_bound"]

BLOCK = 256
"""Clusters handled in one step of a loop."""

Carry = TypeVar("Carry")


def padded(capacity: int) -> tuple[int, int]:
  """Allocated size and block size of a table with room for `capacity`.

  Example:
    >>> padded(5000), padded(3)
    ((5120, 256), (32, 32))
  """
  block = BLOCK if capacity > BLOCK else max(32, -(-capacity // 32) * 32)
  return -(-capacity // block) * block, block


@jax.custom_batching.custom_vmap
def shared_bound(count: Int) -> Int:
  """A number at least `count`, the same for all lanes of a `vmap`: their max.

  As the bound of a loop it keeps the loop a plain one: a bound of its own for
  every lane would make JAX select between the old and the new carry of every
  lane, each turn.

  Args:
    count: i32[].

  Example:
    >>> jax.vmap(lambda n: n * 0 + shared_bound(n))(jnp.array([3, 7])).tolist()
    [7, 7]
  """
  return count


@shared_bound.def_vmap
def _shared_over_lanes(axis_size, in_batched, count):
  del axis_size
  return shared_bound(jnp.max(count) if in_batched[0] else count), False


def fold(
  filled: Int, block: int, body: Callable[[Int, Carry], Carry], start: Carry
) -> Carry:
  """body(first entry of the block, carry) for every block with an entry.

  Args:
    filled: i32[], entries in use; of several streams the most.
    block: entries of one step.
    body: must not mind entries past `filled`.
    start: first carry.

  Example:
    >>> fold(jnp.int32(33), 32, lambda first, total: total + first, 0).tolist()
    32
  """
  steps = (shared_bound(filled) + block - 1) // block
  _, last = jax.lax.while_loop(
    lambda carry: carry[0] < steps,
    lambda carry: (carry[0] + 1, body(carry[0] * block, carry[1])),
    (jnp.int32(0), start),
  )
  return last


def any_lane(flag: Bool) -> Bool:
  """Whether a condition holds in any lane of a `vmap`: b[].

  As the condition of a `while_loop` it keeps the loop a plain one. Lanes that
  are done must not mind another turn.
  """
  return shared_bound(flag.astype(jnp.int32)) > 0
