"""Dense layers whose kernels may be stored in panels of 64 outputs.

  plain [in, out]                panels [out / 64, in, 64]

      ┌────┬────┬────┐               ┌────┐ ┌────┐ ┌────┐
  in  │ p0 │ p1 │ p2 │      ──►      │ p0 │ │ p1 │ │ p2 │   each contiguous
      └────┴────┴────┘               └────┘ └────┘ └────┘
         64   64   64

A CPU reads each panel once, in order, for all of a few rows, and takes half
the time of the library's matrix product, which first packs the whole kernel.
Parameters are made and loaded plain; `to_panels` stores them anew.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from vrex_jax import order
from vrex_jax.typing import Array, Float, Parameters

__all__ = [
  "PANEL",
  "Dense",
  "panels_pay",
  "product",
  "storage",
  "store_for",
  "to_panels",
  "to_plain",
]

PANEL = 64
"""Outputs of a panel; XLA compiles its own loop for products this narrow."""
MOST_ROWS = 32
"""Rows up to which panels were faster on one core."""


def product(x: Float, kernel: Float) -> Float:
  """x @ kernel, whichever way the kernel is stored.

  Args:
    x: f[..., in].
    kernel: f[in, out], or f[out / 64, in, 64].

  Returns:
    f[..., out].

  Example:
    >>> kernel = jnp.arange(256.0).reshape(2, 128)
    >>> panels = jnp.stack(jnp.split(kernel, 2, axis=1))
    >>> x = jnp.ones((3, 2))
    >>> bool(jnp.all(product(x, panels) == product(x, kernel)))
    True
  """
  if kernel.ndim == 2:
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
  panels, inputs, width = kernel.shape
  rows = x.reshape(-1, inputs)
  out = jnp.matmul(jnp.broadcast_to(rows, (panels, *rows.shape)), kernel)
  return out.swapaxes(0, 1).reshape(*x.shape[:-1], panels * width)


class Dense(nn.Module):
  """x @ kernel + bias, with the parameters of nn.Dense or their panels.

  Attributes:
    features: outputs.
    use_bias: whether a bias is added.
    dtype: dtype of the arithmetic.
    param_dtype: dtype parameters are created in.
  """

  features: int
  use_bias: bool
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float) -> Float:
    """f[..., in] -> f[..., features]."""
    if self.is_initializing():
      kernel = self.param(
        "kernel",
        nn.initializers.lecun_normal(),
        (x.shape[-1], self.features),
        self.param_dtype,
      )
    else:
      kernel = self.get_variable("params", "kernel")
    bias = None
    if self.use_bias:
      bias = self.param(
        "bias", nn.initializers.zeros, (self.features,), self.param_dtype
      )
    chex.assert_size(kernel, x.shape[-1] * self.features)
    if kernel.dtype != self.dtype:
      kernel = order.after(x, kernel).astype(self.dtype)
    out = product(x.astype(self.dtype), kernel)
    if bias is None:
      return out
    bias = bias.astype(self.dtype)
    return out + bias.reshape((1,) * (out.ndim - 1) + (-1,))


def panels_pay(rows: int, threads: int) -> bool:
  """Whether panels are the faster storage here: a CPU, one core, few rows.

  XLA runs the product over panels on one core; with more, the library's is
  faster by the clock, though it takes twice the CPU time.

  Args:
    rows: B · T of the stage that runs most.
    threads: cores XLA may use.

  Example:
    >>> panels_pay(rows=196, threads=1)
    False
  """
  on_cpu = jax.default_backend() == "cpu"
  return on_cpu and threads == 1 and rows <= MOST_ROWS


def storage(params: Parameters) -> str:
  """How the first layer's kernels are stored: "panels" or "plain"."""
  layer = params["decoder"]["layers_0"].values()
  kernels = [leaves["kernel"] for leaves in layer if "kernel" in leaves]
  panels = any(kernel.ndim == 3 for kernel in kernels)
  return "panels" if panels else "plain"


def store_for(params: Parameters, rows: int, threads: int) -> Parameters:
  """`to_panels` where `panels_pay`, else `params` as they are."""
  return to_panels(params) if panels_pay(rows, threads) else params


def to_panels(params: Parameters) -> Parameters:
  """Stores the kernels of a decoder's layers in panels.

  Kernels whose outputs are not whole panels stay as they are. Leaf by leaf,
  and each old leaf is deleted, so two copies never exist: as with a donated
  argument, `params` must not be used again.

  Args:
    params: of a video LLM, decoder under "decoder".

  Returns:
    The same tree.
  """
  return _store_kernels(params, _panels_of)


def to_plain(params: Parameters) -> Parameters:
  """Undoes `to_panels`; `params` stays usable."""
  return _store_kernels(params, _plain_of)


def _store_kernels(
  params: Parameters, store: Callable[[Array], Array]
) -> Parameters:
  layers = {
    name: {
      part: {**leaves, "kernel": store(leaves["kernel"])}
      if "kernel" in leaves
      else leaves
      for part, leaves in layer.items()
    }
    if name.startswith("layers_")
    else layer
    for name, layer in params["decoder"].items()
  }
  return {**params, "decoder": layers}


def _panels_of(kernel: Array) -> Array:
  if kernel.ndim != 2 or kernel.shape[1] % PANEL:
    return kernel
  panels = jax.block_until_ready(_cut(kernel))
  kernel.delete()
  return panels


def _plain_of(kernel: Array) -> Array:
  return kernel if kernel.ndim == 2 else _join(kernel)


@jax.jit
def _cut(kernel: Array) -> Array:
  inputs, outputs = kernel.shape
  return kernel.reshape(inputs, outputs // PANEL, PANEL).swapaxes(0, 1)


@jax.jit
def _join(panels: Array) -> Array:
  number, inputs, width = panels.shape
  return panels.swapaxes(0, 1).reshape(inputs, number * width)
