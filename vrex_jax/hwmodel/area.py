"""Square metres and full-load watts of a V-Rex chip from its unit figures.

  area  = Σ over blocks of units · area of one
  power = Σ over blocks of units · power of one, all busy

DPE, VPE and on-chip memory of the LXE; HCU, WTU and KVMU of the DRE, whose
memories are in their blocks. Every width scales linearly, which is an
assumption away from the paper's widths; the paper synthesised one core, and its
V-Rex8 and V-Rex48 are multiples of it.

Source: V-Rex (arXiv 2512.12284), Table III.
"""

from vrex_jax.hwmodel import cost
from vrex_jax.hwmodel import params
from vrex_jax.typing import Float

__all__ = ["Blocks", "blocks_area_m2", "blocks_power_w", "closure_w"]


class Blocks(cost.Additive):
  """Dynamic. One quantity by block; additive."""

  dpe: Float
  vpe: Float
  memory: Float
  hcu: Float
  wtu: Float
  kvmu: Float

  @property
  def engine_share(self) -> Float:
    """Of HCU, WTU and KVMU: the DRE."""
    return (self.hcu + self.wtu + self.kvmu) / self.total


def blocks_area_m2(platform: params.Platform) -> Blocks:
  """Area of all cores by block, m².

  Raises:
    ValueError: the platform has no unit figures.

  Example:
    >>> from vrex_jax.hwmodel import platforms
    >>> chip = blocks_area_m2(platforms.named("vrex8").platform)
    >>> share = 100 * chip.engine_share
    >>> print(f"{1e6 * chip.total:.1f} mm2, DRE {share:.2f} %")
    15.1 mm2, DRE 2.04 %
  """
  units, engine = _checked(platform)
  compute = platform.compute
  core = Blocks(
    dpe=_macs(compute) * units.dot_m2_per_mac,
    vpe=compute.vector_lanes * units.vector_m2_per_lane,
    memory=compute.memory_bytes * units.memory_m2_per_byte,
    hcu=_hcu_lanes(engine) * units.hcu_m2_per_lane,
    wtu=_wtu_lanes(engine) * units.wtu_m2_per_lane,
    kvmu=units.kvmu_m2,
  )
  return core * compute.cores


def blocks_power_w(platform: params.Platform) -> Blocks:
  """Power of all cores by block, W, everything busy.

  Raises:
    ValueError: the platform has no unit figures.

  Example:
    >>> from vrex_jax.hwmodel import platforms
    >>> chip = blocks_power_w(platforms.named("vrex8").platform)
    >>> print(f"{chip.total / 8:.3f} W, DRE {100 * chip.engine_share:.2f} %")
    2.609 W, DRE 2.19 %
  """
  units, engine = _checked(platform)
  compute = platform.compute
  macs_per_s = _macs(compute) * compute.clock_hz
  core = Blocks(
    dpe=macs_per_s * units.dot_j_per_mac,
    vpe=compute.vector_lanes * units.vector_w_per_lane,
    memory=compute.memory_bytes * units.memory_w_per_byte,
    hcu=_hcu_lanes(engine) * units.hcu_w_per_lane,
    wtu=_wtu_lanes(engine) * units.wtu_w_per_lane,
    kvmu=units.kvmu_w,
  )
  return core * compute.cores


def closure_w(platform: params.Platform) -> tuple[Float, Float]:
  """System power with everything busy: with the low and the high link energy.

  cores + DRAM at its delivered rate + link at its nominal rate + storage +
  static. This does not close: the paper's 35 W of V-Rex8 lies below the range.
  Eight full cores and 3 W a lane leave 2.1 W of it (30.4 W of V-Rex48's
  203.68 W) for DRAM and storage, less than any device figure: the printed power
  is an average, or one of its terms is optimistic.

  Example:
    >>> from vrex_jax.hwmodel import platforms
    >>> low, high = closure_w(platforms.named("vrex8").platform)
    >>> round(float(low)), round(float(high))
    (37, 49)
  """
  dram, link = platform.dram, platform.link
  fixed = (
    blocks_power_w(platform).total
    + dram.bandwidth_bytes_per_s * dram.efficiency * dram.access_j_per_byte
    + link.storage_w
    + platform.power.static_w
  )
  rate = link.bandwidth_bytes_per_s
  return (
    fixed + rate * link.low_j_per_byte,
    fixed + rate * link.high_j_per_byte,
  )


def _checked(
  platform: params.Platform,
) -> tuple[params.UnitParameters, params.EngineParameters]:
  if platform.units is None or platform.engine is None:
    raise ValueError(
      f"{platform.name} has no figures by unit; area and power by block need"
      " [units] and [engine]"
    )
  return platform.units, platform.engine


def _macs(compute: params.ComputeParameters) -> Float:
  return compute.dot_units * compute.dot_inputs


def _hcu_lanes(engine: params.EngineParameters) -> Float:
  return engine.hcu_rows * engine.hcu_width


def _wtu_lanes(engine: params.EngineParameters) -> Float:
  return engine.wtu_rows * engine.wtu_width
