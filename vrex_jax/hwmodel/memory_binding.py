"""The validated memory models as what prices bytes (`transfer.MemoryModel`).

`memory` gives shares of a peak; platform files give what long streams get of a
peak, fitted or measured (`dram.efficiency`, `link.efficiency`). Taking both as
they are would count what timing explains twice. So only the ratio to a long
stream is taken from the models:

  DRAM   share(chunk, depth) / share(long, depth)
  link   time(requests) · rate(long) / (bandwidth · efficiency)

A long stream then costs what the platform file says, and sizes and queues what
the models say beside it. `scattered_efficiency`, which stands for short
requests without a model, is not used.

Which device stands for which platform is an assumption (`DEVICES`); the papers
of the platforms name none of them.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import dram as dram_lib
from vrex_jax.hwmodel import link as link_lib
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import transfer
from vrex_jax.typing import Float

__all__ = ["DEVICES", "Devices", "validated"]

_LONG_BYTES = 2.0**20
"""A request beyond which neither model changes."""


class Devices(NamedTuple):
  """Static. Devices of `memory_devices` that stand for a platform's.

  Attributes:
    dram: one channel.
    address_map: of it. With `GROUP_LOW` longer chunks are never slower, and the
      fitted efficiency of V-Rex8 stays below what its timing allows.
    link: the SSD; None for CPU memory, which has no medium.
  """

  dram: str
  address_map: dram_lib.AddressMap
  link: str | None


_EDGE = Devices(
  "LPDDR5_6400_x16", dram_lib.AddressMap.GROUP_LOW, "edgeTLC40us_g4x4"
)
_SERVER = Devices("HBM2_8Gb_x128_1ch", dram_lib.AddressMap.GROUP_LOW, None)
DEVICES = {
  "vrex8": _EDGE,
  "agx_orin": _EDGE,
  "vrex48": _SERVER,
  "a100": _SERVER,
}
"""By name of the platform."""


@functools.cache
def validated(name: str) -> transfer.MemoryModel:
  """The memory model of a platform; one object a name, so programs are shared.

  Args:
    name: of DEVICES.

  Raises:
    InputError: nobody said which devices the platform has.

  Example:
    >>> import jax.numpy as jnp
    >>> from vrex_jax.hwmodel import platforms
    >>> link = platforms.named("vrex8").platform.link
    >>> spent = lambda size: float(transfer.fetch_time_s(
    ...   link, transferred_bytes=jnp.float32(2**26),
    ...   requests=jnp.float32(2**26 / size), memory=validated("vrex8")))
    >>> spent(512.0) > 5 * spent(16384.0) > 5 * spent(2.0**20)
    True
  """
  if name not in DEVICES:
    raise InputError(
      f"no memory devices are known for the platform {name!r}; it must be one"
      f" of {', '.join(DEVICES)}: give its file one of them as a base, or use"
      " --memory ideal"
    )
  devices = DEVICES[name]
  timing = memory_devices.dram(devices.dram)
  return transfer.MemoryModel(
    dram_efficiency=functools.partial(_dram_share, timing, devices.address_map),
    link_time_s=functools.partial(_link_time_s, devices.link),
    prices_scatter=True,
  )


def _dram_share(
  timing: dram_lib.DramTiming,
  address_map: dram_lib.AddressMap,
  dram: params.DramParameters,
  *,
  chunk_bytes: Float,
  queue_depth: Float,
) -> Float:
  """Of what a long stream gets; a chunk is taken to lie in one channel."""
  del dram
  share = functools.partial(
    dram_lib.dram_efficiency,
    timing,
    queue_depth=queue_depth,
    address_map=address_map,
  )
  return share(chunk_bytes=chunk_bytes) / share(
    chunk_bytes=jnp.full_like(chunk_bytes, _LONG_BYTES)
  )


def _store(
  device: str | None, link: params.LinkParameters
) -> link_lib.LinkTiming:
  """The device behind the platform's own lanes."""
  if device is not None:
    return memory_devices.link(device).replace(
      link_bytes_per_s=link.bandwidth_bytes_per_s
    )
  ssd = memory_devices.link("edgeTLC40us_g4x4")
  return ssd.replace(
    link_bytes_per_s=link.bandwidth_bytes_per_s,
    overhead_s=link.latency_s,
    access_s=0.0,
    lookups=0.0,
    channel_s_per_byte=0.0,
  )


def _link_time_s(
  device: str | None,
  link: params.LinkParameters,
  *,
  transferred_bytes: Float,
  request_bytes: Float,
  requests: Float,
  queue_depth: Float,
) -> Float:
  store = _store(device, link)
  spent_s = link_lib.link_time_s(
    store,
    transferred_bytes=transferred_bytes,
    request_bytes=request_bytes.clip(1.0),
    requests=requests,
    queue_depth=queue_depth,
  )
  long_rate = link_lib.link_bytes_per_s(
    store, request_bytes=jnp.asarray(_LONG_BYTES), queue_depth=queue_depth
  )
  return spent_s * long_rate / (link.bandwidth_bytes_per_s * link.efficiency)
