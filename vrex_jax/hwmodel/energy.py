"""Joules of one event: counts × energy of an action, busy times × power.

  matrix   MACs × energy of a MAC
  core     (VPE + on-chip memory) power × arithmetic's busy seconds
  engine   HCU, WTU and KVMU power × their busy seconds
  dram     bytes over the bus × energy of an access
  link     bytes over the link × energy of a transfer     an interval
  storage  power × busy seconds of the link
  static   power × latency

The energy of a PCIe transfer is disputed by a factor of 50: 3 W a lane at gen 3
is 381 pJ/bit (V-Rex, Sec. VI.A), while AiF (ISCA 2025), which V-Rex cites,
takes 7.5. So every result is a pair, and a claim that holds at one end only is
none.

On a board that was measured as a whole (GPUs) the static power is the board's
and all other terms are zero.

Source: unit figures: V-Rex Table III; the sum: Accelergy (ICCAD 2019).
"""

from typing import NamedTuple

import jax.numpy as jnp

from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import cost
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import workload
from vrex_jax.typing import Float

__all__ = ["EnergyParts", "Interval", "event_j", "parts"]


class EnergyParts(cost.Additive):
  """Dynamic. Joules by where they go; additive."""

  matrix_j: Float
  core_j: Float
  engine_j: Float
  dram_j: Float
  link_j: Float
  storage_j: Float
  static_j: Float


class Interval(NamedTuple):
  """Dynamic. A result at both ends of the disputed link energy."""

  low: Float
  high: Float


def parts(
  platform: params.Platform,
  work: workload.Work,
  spent: latency.Estimate,
  *,
  link_j_per_byte: Float,
) -> EnergyParts:
  """Joules of one event at one link energy.

  Args:
    platform: parameters.
    work: counts of the event.
    spent: its seconds.
    link_j_per_byte: energy of a transfer.
  """
  busy = spent.resources
  units = platform.units
  zero = jnp.zeros_like(spent.latency_s)
  matrix = core = engine = zero
  if units is not None:
    power = area.blocks_power_w(platform)
    matrix = work.macs * units.dot_j_per_mac
    core = (power.vpe + power.memory) * busy.arithmetic_s
    engine = (
      power.hcu * spent.engine.hcu_s
      + power.wtu * spent.engine.wtu_s
      + power.kvmu * busy.link_s
    )
  return EnergyParts(
    matrix_j=matrix,
    core_j=core,
    engine_j=engine,
    dram_j=work.dram_bytes * platform.dram.access_j_per_byte,
    link_j=work.link_bytes * link_j_per_byte,
    storage_j=platform.link.storage_w * busy.link_s,
    static_j=platform.power.static_w * spent.latency_s,
  )


def event_j(
  platform: params.Platform, work: workload.Work, spent: latency.Estimate
) -> Interval:
  """Joules of one event, at both ends of the link energy."""
  link = platform.link
  at = lambda energy: parts(platform, work, spent, link_j_per_byte=energy).total
  return Interval(at(link.low_j_per_byte), at(link.high_j_per_byte))
