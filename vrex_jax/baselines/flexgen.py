"""FlexGen (Sheng et al., arXiv 2303.06865, ICML 2023): everything off-device.

An offload schedule, no selector: the whole cache is attended, and with the
cache percentage of the GPU at 0 all of it is fetched for every chunk.
"""

from vrex_jax import policy as policy_lib
from vrex_jax.baselines import full as full_lib

__all__ = ["flexgen"]


def flexgen() -> policy_lib.KVPolicy:
  """`full` with no past token on the device (`resident_tokens` = 0).

  Adapted: of FlexGen's placement percentages for weights, cache and
  activations only the cache's is here, at 0 on the device. Its zig-zag order
  over batches, 4-bit compression and linear program belong to a model of the
  hardware, which finds the counts `past_fetched` in the trace.

  Example:
    >>> flexgen().needs.resident
    0
  """
  return full_lib.full()._replace(
    name="flexgen", needs=policy_lib.Needs(resident=0)
  )
