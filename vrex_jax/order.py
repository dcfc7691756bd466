"""When a value is computed, where the compiler is free to choose.

XLA may make what depends on nothing, such as the zeros a loop starts from, at
the start of a program, and keep it until its turn. In a program of many layers
that is one array a layer instead of one.
"""

import jax
import jax.numpy as jnp

from vrex_jax.typing import Array

__all__ = ["after"]


def after(inputs: Array, value: Array) -> Array:
  """`value`, computed no earlier than `inputs`.

  Args:
    inputs: any real array, not empty.
    value: any real array; a constant too is then made when it is needed.

  Example:
    >>> after(jnp.ones((2, 3)), jnp.zeros(2)).tolist()
    [0.0, 0.0]
  """
  origin = (0,) * inputs.ndim
  first = jax.lax.slice(inputs, origin, (1,) * inputs.ndim).reshape(())
  # Nothing is above infinity, but the compiler does not know.
  return jnp.where(first > jnp.inf, jnp.ones((), value.dtype), value)
