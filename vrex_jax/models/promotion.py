"""Casts stored weights to the dtype of the arithmetic, just in time.

Weights kept in bfloat16 and used in float32 are cast in every call. Left to
itself XLA on CPU casts all of them at its start, so that a whole model in
float32 is alive at once. Here a cast depends on the input of its layer:

  plain   cast w0 w1 w2 … | x0 w0 | x1 w1 | x2 w2 …    memory: every w
  late    cast w0, x0 w0 | cast w1, x1 w1 | …          memory: one w
"""

from typing import Any

from vrex_jax import order
from vrex_jax.typing import Array, Float

__all__ = ["promote_late"]


def promote_late(
  inputs: Float, *weights: Array | None, dtype: Any, inexact: bool = True
) -> list[Array | None]:
  """Casts inputs and weights to `dtype`, the weights not before the inputs.

  Takes the place of Flax's `promote_dtype`: nn.Dense(…,
  promote_dtype=promote_late). Weights that are in `dtype` already are passed
  on untouched.

  Args:
    inputs: f[...], not empty.
    *weights: arrays of any shape, or None.
    dtype: dtype of the result.
    inexact: not used; part of Flax's signature.

  Returns:
    [inputs, *weights] in `dtype`, None where it was None.

  Example:
    >>> from jax import numpy as jnp
    >>> kernel = jnp.ones((2, 3), jnp.bfloat16)
    >>> x, kernel, bias = promote_late(
    ...   jnp.ones((1, 2)), kernel, None, dtype=jnp.float32
    ... )
    >>> kernel.dtype, bias is None
    (dtype('float32'), True)
  """
  del inexact

  def cast(weight):
    if weight is None or weight.dtype == dtype:
      return weight
    return order.after(inputs, weight).astype(dtype)

  return [inputs.astype(dtype), *(cast(weight) for weight in weights)]
