"""The one place where bytes become seconds.

How well DRAM and link are used depends on sizes and queues; functions that know
it are handed in (`MemoryModel`). The default knows nothing of them: whatever a
request's size, DRAM delivers the platform's `efficiency` of its peak, and the
link one latency and then `efficiency` of its bandwidth.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vrex_jax.hwmodel import params
from vrex_jax.typing import Float

__all__ = ["IDEAL", "MemoryModel", "dram_time_s", "fetch_time_s"]


def ideal_dram_efficiency(
  dram: params.DramParameters, *, chunk_bytes: Float, queue_depth: Float
) -> Float:
  """1: every access is as good as a sequential one."""
  del dram, queue_depth
  return jnp.ones_like(chunk_bytes)


def ideal_link_time_s(
  link: params.LinkParameters,
  *,
  transferred_bytes: Float,
  request_bytes: Float,
  requests: Float,
  queue_depth: Float,
) -> Float:
  """latency + bytes / (efficiency · bandwidth); nothing without a request."""
  del request_bytes, queue_depth
  rate = link.efficiency * link.bandwidth_bytes_per_s
  first = link.latency_s * jnp.minimum(requests, 1.0)
  return first + transferred_bytes / rate


class MemoryModel(NamedTuple):
  """Static. What DRAM and link make of sizes and queues.

  Attributes:
    dram_efficiency: (dram, *, chunk_bytes, queue_depth) -> share of what a
      sequential stream gets, in (0, 1].
    link_time_s: (link, *, transferred_bytes, request_bytes, requests,
      queue_depth) -> seconds.
    prices_scatter: `link_time_s` knows what short requests cost. Otherwise the
      link's `scattered_efficiency` stands for it.
  """

  dram_efficiency: Callable[..., Float] = ideal_dram_efficiency
  link_time_s: Callable[..., Float] = ideal_link_time_s
  prices_scatter: bool = False


IDEAL = MemoryModel()


def dram_time_s(
  dram: params.DramParameters,
  moved_bytes: Float,
  *,
  chunk_bytes: Float,
  memory: MemoryModel = IDEAL,
) -> Float:
  """Seconds of the DRAM bus: bytes / (bandwidth · efficiency).

  Args:
    dram: parameters.
    moved_bytes: f[...].
    chunk_bytes: f[...], contiguous bytes of one access.
    memory: what access sizes do.
  """
  share = memory.dram_efficiency(
    dram, chunk_bytes=chunk_bytes, queue_depth=dram.queue_depth
  )
  rate = dram.bandwidth_bytes_per_s * dram.efficiency * share
  return moved_bytes / rate


def fetch_time_s(
  link: params.LinkParameters,
  *,
  transferred_bytes: Float,
  requests: Float,
  memory: MemoryModel = IDEAL,
) -> Float:
  """Seconds of the link.

  Args:
    link: parameters.
    transferred_bytes: f[...].
    requests: f[...], contiguous pieces.
    memory: what request sizes do.
  """
  return memory.link_time_s(
    link,
    transferred_bytes=transferred_bytes,
    request_bytes=transferred_bytes / jnp.maximum(requests, 1.0),
    requests=requests,
    queue_depth=link.queue_depth,
  )
