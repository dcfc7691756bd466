"""DRAM rows that no one looked at: devices drawn at random, then scheduled.

Structure and constants of `dram.py` come from five devices. Here times, banks,
groups and rows are drawn from ranges that JEDEC's DDR4, DDR5, LPDDR5, HBM and
GDDR6 span, and `dram_scheduler.py` says what such a channel delivers. How close
it is to Ramulator 2.1 itself is a case of its own.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.hwmodel import dram as dram_lib
from vrex_jax.hwmodel import dram_scheduler
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_fit
from vrex_jax.hwmodel import memory_rows

__all__ = ["fresh_case", "scheduler_case"]

_BURSTS = 4000
_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)


class _Fresh(NamedTuple):
  device: dram_lib.DramTiming  # times in clocks
  address_map: dram_lib.AddressMap
  chunk_bytes: int
  queue_depth: int
  footprint_bytes: int


def fresh_case(count: int, *, seed: int) -> memory_fit.Case:
  """The model, with the constants of the package, on drawn rows.

  Args:
    count: of rows, each with a device of its own.
    seed: of the draw.
  """
  generator = random.Random(seed)
  drawn = [_draw(generator) for _ in range(count)]
  observed = np.array(
    [
      dram_scheduler.simulate(
        row.device,
        clock_s=1.0,
        chunk_bytes=row.chunk_bytes,
        queue_depth=row.queue_depth,
        address_map=row.address_map,
        footprint_bytes=row.footprint_bytes,
        bursts=_BURSTS,
        seed=index,
      )
      for index, row in enumerate(drawn)
    ]
  )
  model = _predict(drawn, dram_lib.dram_efficiency)
  limits = _predict(drawn, memory_fit.rate_limits)
  return memory_fit.Case(
    "DRAM efficiency, fresh",
    observed,
    {
      "map": [row.address_map.value for row in drawn],
      "depth": [row.queue_depth for row in drawn],
    },
    [
      memory_fit.Candidate("model", (), 0, lambda mask: ((), model)),
      memory_fit.Candidate("rate limits", (), 0, lambda mask: ((), limits)),
    ],
  )


def scheduler_case(
  rows: memory_rows.DramRows, *, every: int = 4
) -> memory_fit.Case:
  """The scheduler on rows of Ramulator 2.1.

  Args:
    rows: of all simulators.
    every: one in so many is scheduled.
  """
  entries = memory_devices.entries("dram")
  chosen = [
    index
    for index, name in enumerate(rows.device)
    if entries[name]["early_release"] and index % every == 0
  ]
  scheduled = np.array(
    [
      dram_scheduler.simulate(
        memory_devices.dram(rows.device[index]),
        clock_s=entries[rows.device[index]]["clock_s"],
        chunk_bytes=int(rows.chunk_bytes[index]),
        queue_depth=int(rows.queue_depth[index]),
        address_map=rows.address_map[index],
        footprint_bytes=int(rows.footprint_bytes[index]),
        bursts=_BURSTS,
      )
      for index in chosen
    ]
  )
  return memory_fit.Case(
    "DRAM efficiency, Ramulator 2.1",
    rows.efficiency[chosen],
    {},
    [
      memory_fit.Candidate("scheduler", (), 0, lambda mask: ((), scheduled)),
    ],
  )


def _draw(generator: random.Random) -> _Fresh:
  """One device and one pattern; every range is stated here."""
  burst = generator.choice([2, 4, 8])
  same_group = round(burst * generator.choice([1.5, 2.0]))
  activate = generator.randint(4, 9) * burst
  held = round(activate * generator.uniform(1.6, 2.6))
  apart = round(burst * generator.choice([1.0, 1.5, 2.0]))
  interval = generator.randint(1500, 3200) * burst
  groups = generator.choice([4, 8])
  burst_bytes = generator.choice([32, 64])
  numbers: dict[str, Any] = {
    "burst_bytes": burst_bytes,
    "row_bytes": generator.choice([1024, 2048, 4096, 8192]),
    "capacity_bytes": 2**31,
    "burst_s": burst,
    "same_group_s": same_group,
    "activate_s": activate,
    "precharge_s": activate,
    "row_cycle_s": activate + held,
    "read_to_precharge_s": same_group + generator.randint(0, 2 * burst),
    "activate_to_activate_s": apart,
    "four_activate_s": round(apart * generator.uniform(4.0, 8.0)),
    "refresh_s": round(interval * generator.uniform(0.03, 0.09)),
    "refresh_interval_s": interval,
    "turnaround_s": 0,
    "banks": groups * 4,
    "bank_groups": groups,
    "ranks": 1,
    "bank_queue_depth": 0,
    "early_release": 1,
  }
  return _Fresh(
    dram_lib.DramTiming(**numbers),
    generator.choice(list(dram_lib.AddressMap)),
    burst_bytes * 2 ** generator.randint(0, 9),
    generator.choice(_DEPTHS),
    2 ** generator.randint(28, 31),
  )


def _predict(drawn: list[_Fresh], efficiency: Callable[..., Any]) -> np.ndarray:
  as_array = lambda *leaves: jnp.asarray(leaves, float)
  devices = jax.tree.map(as_array, *(row.device for row in drawn))
  compiled = jax.jit(efficiency, static_argnames="address_map")
  predictions = np.empty(len(drawn))
  for address_map in dram_lib.AddressMap:
    every = compiled(
      devices,
      chunk_bytes=as_array(*(row.chunk_bytes for row in drawn)),
      queue_depth=as_array(*(row.queue_depth for row in drawn)),
      address_map=address_map,
      footprint_bytes=as_array(*(row.footprint_bytes for row in drawn)),
    )
    own = np.array([row.address_map is address_map for row in drawn])
    predictions[own] = np.asarray(every)[own]
  return predictions
