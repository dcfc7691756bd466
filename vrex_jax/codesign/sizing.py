"""From a design to the platform it is: what goes with a size.

  clock      voltage rises with it, V / V₀ = (1 + f / f₀) / 2, so that energy by
             operation goes with V² and power by unit with f V²
  trees      of more inputs than a head of the vision tower is wide are partly
             empty in its attention
  memories   of the engine lie in its lanes' area; what they differ from the
             paper's is priced as core memory
  bandwidth  brings energy, storage power and area of its class (`interfaces`)
  static     half of the paper's stands for leakage of its area, half for its
             DRAM

All four laws equal the platform itself at the platform's own sizing; away from
it they are assumptions. Sizes that no term of the latency model rewards are
bounded below by what they must hold (`needs`).

Source: figures of the blocks: V-Rex (arXiv 2512.12284), Table III. V(f) is the
usual linear approximation; the paper gives one point, 0.8 V at 800 MHz.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import interfaces
from vrex_jax.codesign import space as space_lib
from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import smooth
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = ["Sized", "apply"]

_VALUE_BYTES = 2.0
"""bf16, as everything on chip."""
_SHARPNESS = 16.0


class Sized(NamedTuple):
  """Dynamic. A chip of a design.

  Attributes:
    platform: what the hardware model prices.
    area_m2: blocks, and interfaces beyond the paper's.
    core_needs_bytes: what the core memories together must hold.
  """

  platform: params.Platform
  area_m2: Float
  core_needs_bytes: Float


def apply(
  base: params.Platform,
  design: space_lib.Design,
  model: config_lib.ModelConfig,
) -> Sized:
  """The platform of a design.

  Args:
    base: the platform that is sized anew; what no design says stays.
    design: sizes.
    model: of the vision tower and the trees' filling.
  """
  base_engine, base_units = base.engine, base.units
  if base_engine is None or base_units is None:
    raise ValueError(f"{base.name} has no engine or no units")
  speed = design.clock_hz / base.compute.clock_hz
  squared_volts = (0.5 * (1.0 + speed)) ** 2
  engine = params.EngineParameters(
    **{
      name: getattr(design, name)
      for name in params.EngineParameters.__dataclass_fields__
    }
  )
  extra_memory = engine.memory_bytes - base_engine.memory_bytes
  compute = base.compute.replace(
    cores=design.cores,
    clock_hz=design.clock_hz,
    dot_units=design.dot_units,
    dot_inputs=design.dot_inputs,
    vector_lanes=design.vector_lanes,
    memory_bytes=design.memory_bytes + extra_memory,
    vision_utilisation=base.compute.vision_utilisation
    * _filled(model, base.compute.dot_inputs)
    / _filled(model, design.dot_inputs),
  )
  chip = base.replace(
    compute=compute,
    engine=engine,
    units=_at_clock(base_units, speed, squared_volts),
  )
  dram, link, interface_m2 = _interfaces(base, design)
  area_m2 = area.blocks_area_m2(chip).total
  grown = area_m2 / area.blocks_area_m2(base).total
  bigger = design.capacity_bytes / base.dram.capacity_bytes
  static_w = base.power.static_w * (0.5 * grown * squared_volts + 0.5 * bigger)
  return Sized(
    platform=chip.replace(
      dram=dram, link=link, power=params.PowerParameters(static_w=static_w)
    ),
    area_m2=area_m2 + interface_m2,
    core_needs_bytes=_needs(design, model),
  )


def _at_clock(
  units: params.UnitParameters, speed: Float, squared_volts: Float
) -> params.UnitParameters:
  """Energy by operation × V², power by unit × f V²; areas stay."""
  changed = {}
  for name in units.__dataclass_fields__:
    value = getattr(units, name)
    if name == "dot_j_per_mac":
      value = value * squared_volts
    elif "_w" in name:
      value = value * speed * squared_volts
    changed[name] = value
  return params.UnitParameters(**changed)


def _filled(model: config_lib.ModelConfig, inputs: Float | float) -> Float:
  """Time of the vision tower on trees of some inputs, over that on full ones.

  Products of attention have rows as wide as a head; on a tree of more inputs
  the rest is empty.
  """
  tower = model.vision
  macs, _ = workload.vision_counts(model)
  patches = tower.grid**2
  attention = tower.num_layers * 2.0 * patches**2 * tower.hidden_size / macs
  head = tower.hidden_size / tower.num_heads
  wide = jnp.maximum(jnp.asarray(inputs, float) / head, 1.0)
  return 1.0 + attention * (wide - 1.0)


def _interfaces(
  base: params.Platform, design: space_lib.Design
) -> tuple[params.DramParameters, params.LinkParameters, Float]:
  """DRAM and link of a design, and their area beyond the base's.

  Where the base's own bandwidth is of no class it stays as it is.
  """
  dram = base.dram.replace(
    bandwidth_bytes_per_s=design.dram_bytes_per_s,
    capacity_bytes=design.capacity_bytes,
  )
  link = base.link.replace(
    bandwidth_bytes_per_s=design.link_bytes_per_s,
    queue_depth=design.link_depth,
  )
  extra_m2 = jnp.zeros(())
  if interfaces.offers("dram", float(base.dram.bandwidth_bytes_per_s)):
    found = interfaces.at("dram", design.dram_bytes_per_s)
    extra_m2 += found.pop("extra_m2")
    dram = dram.replace(**found)
  if interfaces.offers("link", float(base.link.bandwidth_bytes_per_s)):
    found = interfaces.at("link", design.link_bytes_per_s)
    extra_m2 += found.pop("extra_m2")
    link = link.replace(**found)
  return dram, link, extra_m2


def _needs(design: space_lib.Design, model: config_lib.ModelConfig) -> Float:
  """Bytes that the core memories must hold at once.

  Activations of the widest moment of the vision tower, in and out, or what the
  storage has under way, whichever is more; and two tiles of weights a core.
  With the paper's sizes this is four fifths of what there is.
  """
  tower = model.vision
  activations = 2.0 * tower.grid**2 * tower.hidden_size * _VALUE_BYTES
  staged = design.link_depth * design.request_bytes
  tiles = 2.0 * design.dot_units * design.dot_inputs * _VALUE_BYTES
  held = smooth.smooth_max(
    jnp.full_like(staged, np.float32(activations)),
    staged,
    sharpness=_SHARPNESS,
  )
  return held + design.cores * tiles
