"""The memory side of the hardware model: one place to import it from.

  dram.py      share of its peak a DRAM channel delivers
  link.py      time of requests to an SSD or to CPU memory
  sram.py      energy, leakage and area of on-chip memories
  systolic.py  cycles of a matrix product on a systolic array

Devices by name are in `memory_devices.py`, simulator rows in `memory_rows.py`,
fits and cross-validation in `memory_fit.py`. See docs/memory_models.md.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from vrex_jax.hwmodel import dram as dram_lib
from vrex_jax.hwmodel import link as link_lib
from vrex_jax.hwmodel.dram import AddressMap
from vrex_jax.hwmodel.dram import DramTiming
from vrex_jax.hwmodel.dram import dram_efficiency
from vrex_jax.hwmodel.link import LinkTiming
from vrex_jax.hwmodel.link import link_bytes_per_s
from vrex_jax.hwmodel.link import link_time_s
from vrex_jax.hwmodel.sram import SramCosts
from vrex_jax.hwmodel.sram import SramTable
from vrex_jax.hwmodel.sram import fit_sram
from vrex_jax.hwmodel.sram import sram_costs
from vrex_jax.hwmodel.systolic import Dataflow
from vrex_jax.hwmodel.systolic import systolic_cycles
from vrex_jax.typing import Float

__all__ = [
  "AddressMap",
  "Dataflow",
  "DramTiming",
  "LinkTiming",
  "MemoryFunctions",
  "SramCosts",
  "SramTable",
  "bind",
  "dram_efficiency",
  "fit_sram",
  "link_bytes_per_s",
  "link_time_s",
  "sram_costs",
  "systolic_cycles",
]


class MemoryFunctions(NamedTuple):
  """Static. What a latency model asks of memory, devices already chosen.

  Attributes:
    dram_efficiency: (*, chunk_bytes, queue_depth) -> share of the peak.
    link_time_s: (*, transferred_bytes, request_bytes, requests, queue_depth)
      -> seconds.
  """

  dram_efficiency: Callable[..., Float]
  link_time_s: Callable[..., Float]


def bind(
  dram: DramTiming,
  link: LinkTiming,
  *,
  address_map: AddressMap = AddressMap.COLUMN_LOW,
) -> MemoryFunctions:
  """The two functions a latency model needs, for one platform.

  Derivatives by the devices' parameters are taken through `dram` and `link`.

  Args:
    dram: one channel of the platform's memory.
    link: its store of old keys and values.
    address_map: of the memory.

  Example:
    >>> from vrex_jax.hwmodel import memory_devices
    >>> functions = bind(
    ...   memory_devices.dram("LPDDR5_6400_x16"),
    ...   memory_devices.link("edgeTLC40us_g4x4"),
    ... )
    >>> share = functions.dram_efficiency(chunk_bytes=8192.0, queue_depth=32.0)
    >>> 0.7 < float(share) < 0.8
    True
  """
  return MemoryFunctions(
    functools.partial(dram_lib.dram_efficiency, dram, address_map=address_map),
    functools.partial(link_lib.link_time_s, link),
  )
