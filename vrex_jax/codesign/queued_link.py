"""A link whose rate is that of its queue, where requests are small.

  time = latency + requests · max(bytes / (efficiency · bandwidth),
                                  (latency + bytes / (…)) / depth)

With enough under way the link is the limit, and this is the hardware model's
default (`transfer.ideal_link_time_s`); with small requests it is the latency by
the depth of the queue, which the event-level simulator knows and the default
does not. So the size of a request and the depth of the queue have a price here.

Source: bandwidth = min(link, depth · size / latency), Little's law.
"""

import jax.numpy as jnp

from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import smooth
from vrex_jax.hwmodel import transfer
from vrex_jax.typing import Float

__all__ = ["QUEUED"]

_SHARPNESS = 16.0


def _link_time_s(
  link: params.LinkParameters,
  *,
  transferred_bytes: Float,
  request_bytes: Float,
  requests: Float,
  queue_depth: Float,
) -> Float:
  rate = link.efficiency * link.bandwidth_bytes_per_s
  moves_s = request_bytes / rate
  turns_s = (link.latency_s + moves_s) / queue_depth
  slower = smooth.smooth_max(moves_s, turns_s, sharpness=_SHARPNESS) / moves_s
  first = link.latency_s * jnp.minimum(requests, 1.0)
  return first + transferred_bytes / rate * slower


QUEUED = transfer.MemoryModel(link_time_s=_link_time_s, prices_scatter=True)
"""DRAM as by default, the link as above."""
