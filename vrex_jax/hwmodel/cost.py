"""Cost is a value: it adds, scales and has a neutral element.

Counts, seconds, joules and square metres by part are all of this kind, so that
events, layers and blocks add up, and totals are sums of parts by construction.
"""

import functools
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax.typing import Float

__all__ = ["Additive"]


class Additive(flax.struct.PyTreeNode):
  """Dynamic. A pytree of floats that adds leaf by leaf.

  Example:
    >>> class Legs(Additive):
    ...   left: Float
    ...   right: Float
    >>> both = Legs(1.0, 2.0) + 2.0 * Legs(3.0, 4.0)
    >>> float(both.total), float((both + both.zeros()).left)
    (17.0, 7.0)
  """

  def __add__(self, other: Self) -> Self:
    return jax.tree.map(jnp.add, self, other)

  def __mul__(self, factor: Float | float) -> Self:
    return jax.tree.map(lambda leaf: leaf * factor, self)

  __rmul__ = __mul__

  def zeros(self) -> Self:
    """The neutral element of +, with the shapes of this value."""
    return jax.tree.map(jnp.zeros_like, self)

  @property
  def total(self) -> Float:
    """Sum of the leaves, for costs whose leaves are of one unit."""
    return functools.reduce(jnp.add, jax.tree.leaves(self))
