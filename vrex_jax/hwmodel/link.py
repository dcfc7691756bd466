"""Time of many requests to an SSD, or to any store behind a packet link.

A closed queue: `queue_depth` requests are always under way; when one ends, the
next one starts. Alone, a request takes

  R₀ = overhead + (lookups + 1) · access + page · k/spread + bytes/link

(read the mapping, read the medium, move k = bytes/page pages over the flash
channels, of which `spread` = min(k, channels) work at once, then over the
link). With N under way it waits for what the others keep busy,

  R = (R₀ᵃ + ((N - 1) · D)ᵃ)^(1/a)         time per request at depth N: R / N

where D is the demand on the busiest part. Medium and channel go together (a die
is held until its channel is free) and their load is uneven, the more so the
fewer pages a request spreads:

  D = (((1 + imbalance/√k) · (D_mediumᑫ + D_channelᑫ)^(1/q))⁶ + D_link⁶)^(1/6)

N = 1 gives R₀, N → ∞ one request in D. Source of the structure: asymptotic
bounds of closed queueing networks (Denning and Buzen, 1978). What was chosen by
looking at simulator rows is listed in docs/memory_models.md.
"""

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp

from vrex_jax.typing import Float

__all__ = [
  "IMBALANCE",
  "QUEUE_SHARPNESS",
  "Demand",
  "LinkTiming",
  "demand",
  "link_bytes_per_s",
  "link_time_s",
]

QUEUE_SHARPNESS = 1.15
"""a. Status: fitted, with IMBALANCE, on the 30 random-read rows of MQSim by
`python experiments/validate_memory_models.py`."""
IMBALANCE = 0.81
"""Excess load of the busiest part when every request is one page. Fitted."""
_HELD_TOGETHER = 1.5
_LINK_SHARPNESS = 6.0


class LinkTiming(flax.struct.PyTreeNode):
  """Dynamic. An SSD behind PCIe, or another store; float leaves.

  Without a medium (CPU memory behind PCIe) `access_s`, `lookups` and
  `channel_s_per_byte` are 0, and `overhead_s` is the latency of a read.

  Attributes:
    link_bytes_per_s: of the link's lanes, packets included.
    packet_payload_bytes: data of a packet.
    packet_header_bytes: the rest of a packet.
    overhead_s: of a request, host and controller.
    access_s: of the medium, until a page can be moved.
    lookups: further accesses a request makes to find its data.
    units: parts of the medium that work independently (dies).
    page_bytes: moved by one access.
    channels: between medium and controller.
    channel_s_per_byte: time of one channel.
    queue_sharpness: a.
    imbalance: of the load on units and channels.
  """

  link_bytes_per_s: Float
  packet_payload_bytes: Float
  packet_header_bytes: Float
  overhead_s: Float
  access_s: Float
  lookups: Float
  units: Float
  page_bytes: Float
  channels: Float
  channel_s_per_byte: Float
  queue_sharpness: Float | float = QUEUE_SHARPNESS
  imbalance: Float | float = IMBALANCE

  @property
  def payload_bytes_per_s(self) -> Float:
    """What the link carries of data."""
    whole = self.packet_payload_bytes + self.packet_header_bytes
    return self.link_bytes_per_s * self.packet_payload_bytes / whole


class Demand(NamedTuple):
  """Dynamic. What one request asks for.

  Attributes:
    alone_s: R₀, its time when nothing else is under way.
    medium_s: mean time of a unit.
    channel_s: mean time of a channel.
    link_s: time of the link.
    busiest_s: D, time between requests when the queue is full.
  """

  alone_s: Float
  medium_s: Float
  channel_s: Float
  link_s: Float
  busiest_s: Float


def demand(
  params: LinkTiming, *, request_bytes: Float, link_s: Float
) -> Demand:
  """Demands of one random read.

  Args:
    params: of the store.
    request_bytes: f[...], > 0, contiguous.
    link_s: f[...], time its data keep the link busy.
  """
  pages = jnp.maximum(request_bytes / params.page_bytes, 1.0)
  page_s = params.channel_s_per_byte * jnp.minimum(
    request_bytes, params.page_bytes
  )
  spread = jnp.minimum(pages, params.channels)
  access_s = params.access_s
  alone_s = (
    params.overhead_s
    + (params.lookups + 1.0) * access_s
    + page_s * pages / spread
    + link_s
  )
  medium_s = (params.lookups * access_s + pages * (access_s + page_s)) / (
    params.units
  )
  channel_s = pages * page_s / params.channels
  uneven = 1.0 + params.imbalance / jnp.sqrt(pages)
  # In units of alone_s, so that sixth powers of seconds stay representable.
  held = (uneven * medium_s / alone_s) ** _HELD_TOGETHER
  held += (uneven * channel_s / alone_s) ** _HELD_TOGETHER
  both = held ** (_LINK_SHARPNESS / _HELD_TOGETHER)
  both += (link_s / alone_s) ** _LINK_SHARPNESS
  busiest_s = alone_s * both ** (1.0 / _LINK_SHARPNESS)
  return Demand(alone_s, medium_s, channel_s, link_s, busiest_s)


def link_time_s(
  params: LinkTiming,
  *,
  transferred_bytes: Float,
  request_bytes: Float,
  requests: Float,
  queue_depth: Float,
) -> Float:
  """Seconds until all requests are done.

  Args:
    params: of the store.
    transferred_bytes: f[...], all bytes that cross the link; more than
      requests · request_bytes if requests are padded.
    request_bytes: f[...], > 0, contiguous bytes of one.
    requests: f[...], ≥ 0; a fraction is an expected number.
    queue_depth: f[...], ≥ 1, requests under way at once.

  Returns:
    f[...]; 0 without a request.

  Example:
    >>> from vrex_jax.hwmodel import memory_devices
    >>> ssd = memory_devices.link("edgeTLC40us_g4x4")
    >>> one = link_time_s(
    ...   ssd,
    ...   transferred_bytes=512.0,
    ...   request_bytes=512.0,
    ...   requests=1.0,
    ...   queue_depth=64.0,
    ... )
    >>> print(f"{1e6 * float(one):.0f} us")
    81 us
  """
  some = jnp.where(requests > 0, requests, 1.0)
  # Of no request the size still counts: nothing may be asked of nothing.
  each_bytes = jnp.where(requests > 0, transferred_bytes / some, request_bytes)
  link_s = each_bytes / params.payload_bytes_per_s
  need = demand(params, request_bytes=request_bytes, link_s=link_s)
  depth = jnp.maximum(jnp.minimum(queue_depth, requests), 1.0)
  sharpness = params.queue_sharpness
  waiting = (depth - 1.0) * need.busiest_s / need.alone_s
  # Zero to a power that is differentiated has no logarithm.
  waits = waiting > 0
  power = jnp.where(waits, jnp.where(waits, waiting, 1.0) ** sharpness, 0.0)
  each_s = need.alone_s * (1.0 + power) ** (1.0 / sharpness)
  return jnp.where(requests > 0, requests * each_s / depth, 0.0)


def link_bytes_per_s(
  params: LinkTiming, *, request_bytes: Float, queue_depth: Float
) -> Float:
  """What an endless stream of requests gets.

  Args:
    params: of the store.
    request_bytes: f[...], > 0.
    queue_depth: f[...], ≥ 1.
  """
  endless = jnp.maximum(queue_depth, 1.0)
  total_bytes = endless * request_bytes
  return total_bytes / link_time_s(
    params,
    transferred_bytes=total_bytes,
    request_bytes=request_bytes,
    requests=endless,
    queue_depth=queue_depth,
  )
