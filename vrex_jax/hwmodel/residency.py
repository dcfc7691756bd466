"""How many selected tokens are not on the device, from the length of the past.

Which tokens those are depends on the data, and a trace that ran with a window
knows (`past_fetched`). Without one, `FetchLaw` is fitted to the paper, and
`ResidentWindow` is the plain rule the paper describes (V-Rex, Sec. V.C).
"""

import flax.struct
import jax.numpy as jnp

from vrex_jax.typing import Float

__all__ = ["LAW", "FetchLaw", "ResidentWindow"]


class FetchLaw(flax.struct.PyTreeNode):
  """Dynamic. Tokens of a frame's selection that are not on the device.

    fetched(S) = W · (1 - exp(-r · S / W))

  At short caches a share r of the past is wanted and is not there. Of a long
  past the same tokens are wanted again and again and are on the device: what
  is missing saturates at W. The form is that of the distinct pages among r · S
  draws from W (Cardenas). It is a fit: r and W come from five printed
  latencies (experiments/fit_vrex8.py), not from a measurement of residency.

  Attributes:
    initial_ratio: r.
    working_set_tokens: W.
  """

  initial_ratio: Float | float
  working_set_tokens: Float | float

  def __call__(self, cached_tokens: Float) -> Float:
    """Fetched tokens of a layer and KV head, f[...]."""
    wanted = self.initial_ratio * cached_tokens
    return -self.working_set_tokens * jnp.expm1(
      -wanted / self.working_set_tokens
    )


class ResidentWindow(flax.struct.PyTreeNode):
  """Dynamic. The plain alternative: recent tokens are on the device, no others.

    fetched(S) = ratio · max(S - window, 0)

  what is selected being spread evenly over the past (V-Rex, Sec. V.C).

  Attributes:
    ratio: share of the past attended by a frame.
    window_tokens: on the device.
  """

  ratio: Float | float
  window_tokens: Float | float

  def __call__(self, cached_tokens: Float) -> Float:
    """Fetched tokens of a layer and KV head, f[...]."""
    return self.ratio * jnp.maximum(cached_tokens - self.window_tokens, 0.0)


LAW = FetchLaw(initial_ratio=0.5467, working_set_tokens=4384.0)
"""Fitted to V-Rex8 at batch 1: `python experiments/fit_vrex8.py`."""
