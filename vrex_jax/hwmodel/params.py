"""Parameters of a platform: float leaves, SI units, one class a part.

Every class here is dynamic: a pytree whose leaves are floats (or arrays of one
shape, under `vmap`), so that a result has a derivative by each of them. Names
end in their unit (`units.suffix_of`); a plain number has none.

  rates         _hz, _bytes_per_s, _flops_per_s     twice as large: faster
  fixed times   _s                                  twice as large: slower

All rates × k and all fixed times / k give every latency / k (docs/
hardware_model.md).
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax.hwmodel import units
from vrex_jax.typing import Float

__all__ = [
  "STATUSES",
  "ComputeParameters",
  "CpuParameters",
  "DramParameters",
  "EngineParameters",
  "LinkParameters",
  "Platform",
  "PowerParameters",
  "SoftwareParameters",
  "Sourced",
  "UnitParameters",
  "as_arrays",
  "leaf_names",
  "speed_up",
]

STATUSES = ("measured", "datasheet", "paper", "derived", "assumed")
"""How a number is known. paper: printed in the V-Rex paper; derived: arithmetic
on printed numbers, which includes what was fitted to them."""


class Sourced(NamedTuple):
  """One number as a platform file gives it.

  Attributes:
    value: in `unit`.
    unit: as spelt in `units.SUFFIX_UNITS`, or "1".
    status: one of STATUSES.
    source: document and place, or the arithmetic.
  """

  value: float
  unit: str
  status: str
  source: str


class ComputeParameters(flax.struct.PyTreeNode):
  """Dynamic. Cores of MAC trees (V-Rex DPE), or what a GPU has of them.

  Attributes:
    cores: V-Rex cores, or streaming multiprocessors.
    clock_hz: of the cores.
    dot_units: dot products a core makes in one cycle (N_DPE-h).
    dot_inputs: pairs of inputs of each (N_DPE-w).
    vector_lanes: lanes of the vector unit (VPE); counted in the peak.
    memory_bytes: on-chip memory of one core, without the retrieval engine's.
    dense_utilisation: of the peak, by decoder layers and attention.
    vision_utilisation: of the peak, by tower and connector.
  """

  cores: Float
  clock_hz: Float
  dot_units: Float
  dot_inputs: Float
  vector_lanes: Float
  memory_bytes: Float
  dense_utilisation: Float
  vision_utilisation: Float

  @property
  def peak_flops_per_s(self) -> Float:
    """Two operations a MAC, all units busy."""
    lanes = self.dot_units * self.dot_inputs + self.vector_lanes
    return 2.0 * self.cores * lanes * self.clock_hz


class DramParameters(flax.struct.PyTreeNode):
  """Dynamic. Memory of the accelerator.

  Attributes:
    bandwidth_bytes_per_s: peak.
    efficiency: delivered share of the peak, beyond what timing explains.
    capacity_bytes: of the device.
    queue_depth: requests in flight.
    access_j_per_byte: energy of an access.
  """

  bandwidth_bytes_per_s: Float
  efficiency: Float
  capacity_bytes: Float
  queue_depth: Float
  access_j_per_byte: Float


class LinkParameters(flax.struct.PyTreeNode):
  """Dynamic. The way to where old KV lies: PCIe, and an SSD or CPU memory.

  Attributes:
    bandwidth_bytes_per_s: nominal.
    efficiency: delivered share of it for long requests.
    scattered_efficiency: share of that which is left without
      cluster-contiguous placement (no KVMU).
    latency_s: from a request to its first byte.
    queue_depth: requests in flight.
    granularity_bytes: least a request moves.
    low_j_per_byte: transfer energy, lower end of what is claimed.
    high_j_per_byte: upper end.
    storage_w: power of the storage while it delivers.
  """

  bandwidth_bytes_per_s: Float
  efficiency: Float
  scattered_efficiency: Float
  latency_s: Float
  queue_depth: Float
  granularity_bytes: Float
  low_j_per_byte: Float
  high_j_per_byte: Float
  storage_w: Float


class SoftwareParameters(flax.struct.PyTreeNode):
  """Dynamic. What a GPU's software adds; zero on V-Rex.

  Attributes:
    layer_s: of every decoder layer, whatever it computes.
    score_s: of every score that a selection compares in software: hashing,
      sorting and set operations included.
  """

  layer_s: Float
  score_s: Float


class EngineParameters(flax.struct.PyTreeNode):
  """Dynamic. The DRE of one core: HCU, WTU, and memories of both.

  Attributes:
    hcu_rows: XOR accumulators (N_HCU-h).
    hcu_width: bits each compares in a cycle (N_HCU-w).
    wtu_rows: rows of scores handled in lockstep (N_WTU-h).
    wtu_width: scores of a row in a cycle (N_WTU-w).
    wtu_buckets: equal ranges between a row's lowest and highest score.
    hash_bytes: memory of the current frame's codes.
    key_hash_bytes: memory of the clusters' codes; beyond it the HCU tiles.
    score_bytes: memory of one row's scores.
    count_bytes: memory of the clusters' token counts.
  """

  hcu_rows: Float
  hcu_width: Float
  wtu_rows: Float
  wtu_width: Float
  wtu_buckets: Float
  hash_bytes: Float
  key_hash_bytes: Float
  score_bytes: Float
  count_bytes: Float

  @property
  def memory_bytes(self) -> Float:
    """On-chip memory of the engine of one core."""
    return (
      self.hash_bytes
      + self.key_hash_bytes
      + self.score_bytes
      + self.count_bytes
    )


class UnitParameters(flax.struct.PyTreeNode):
  """Dynamic. Area and power of one unit of each block, at the core's clock.

  Attributes:
    dot_m2_per_mac: DPE.
    dot_j_per_mac: DPE.
    vector_m2_per_lane: VPE.
    vector_w_per_lane: VPE.
    memory_m2_per_byte: on-chip memory with its periphery.
    memory_w_per_byte: likewise.
    hcu_m2_per_lane: a bit of an XOR accumulator.
    hcu_w_per_lane: likewise.
    wtu_m2_per_lane: a score of a WTU row.
    wtu_w_per_lane: likewise.
    kvmu_m2: one a core.
    kvmu_w: likewise.
  """

  dot_m2_per_mac: Float
  dot_j_per_mac: Float
  vector_m2_per_lane: Float
  vector_w_per_lane: Float
  memory_m2_per_byte: Float
  memory_w_per_byte: Float
  hcu_m2_per_lane: Float
  hcu_w_per_lane: Float
  wtu_m2_per_lane: Float
  wtu_w_per_lane: Float
  kvmu_m2: Float
  kvmu_w: Float


class PowerParameters(flax.struct.PyTreeNode):
  """Dynamic. Power that flows whatever is computed.

  Attributes:
    static_w: of the whole platform. Where a board was only measured as a whole
      it is that, and nothing is added for what the board does.
  """

  static_w: Float


class CpuParameters(flax.struct.PyTreeNode):
  """Dynamic. What this package's own step is made of on one core (`cpu`).

  Attributes:
    panel_bytes_per_s: reading kernels in panels, as if arithmetic were free.
    panel_flops_per_s: arithmetic on them, as if reading were free.
    plain_bytes_per_s: the same of plain kernels; reading includes packing.
    plain_flops_per_s: likewise.
    attend_bytes_per_s: the same of the products of attention.
    attend_flops_per_s: likewise.
    held_bytes_per_s: the same of products over what was gathered just before.
    held_flops_per_s: likewise.
    search_row_s: finding a row's threshold, what does not grow with scores.
    search_score_s: of it for every score of a table that stays in the cache.
    search_far_score_s: of one that does not.
    gather_bytes_per_s: copying rows of the cache from random places.
    copy_bytes_per_s: copying what lies together; read once, written once.
    score_s: softmax of one score.
    weigh_s: one term of a masked sum that stays in the cache.
    merge_s: one number of a group's results added to its row.
    slot_s: finding one chosen slot in a bitmap.
    lookup_s: one slot looks its cluster up.
    compare_s: one pair of hash codes.
    operation_s: one operation of a program that does next to nothing.
  """

  panel_bytes_per_s: Float
  panel_flops_per_s: Float
  plain_bytes_per_s: Float
  plain_flops_per_s: Float
  attend_bytes_per_s: Float
  attend_flops_per_s: Float
  held_bytes_per_s: Float
  held_flops_per_s: Float
  search_row_s: Float
  search_score_s: Float
  search_far_score_s: Float
  gather_bytes_per_s: Float
  copy_bytes_per_s: Float
  score_s: Float
  weigh_s: Float
  merge_s: Float
  slot_s: Float
  lookup_s: Float
  compare_s: Float
  operation_s: Float


class Platform(flax.struct.PyTreeNode):
  """Dynamic. All that is known of a machine.

  Attributes:
    compute: cores.
    dram: memory.
    link: way to offloaded KV.
    software: what a GPU's software adds.
    power: static.
    engine: the DRE; None on a machine without.
    units: area and power by unit; None where only the board is known.
    cpu: of a CPU that was calibrated; None elsewhere.
    name: static.
  """

  compute: ComputeParameters
  dram: DramParameters
  link: LinkParameters
  software: SoftwareParameters
  power: PowerParameters
  engine: EngineParameters | None = None
  units: UnitParameters | None = None
  cpu: CpuParameters | None = None
  name: str = flax.struct.field(pytree_node=False, default="")


def as_arrays(platform: Platform, dtype: Any = None) -> Platform:
  """The same with array leaves, as `grad`, `jvp` and `vmap` want them."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), platform)


def leaf_names(platform: Platform) -> list[str]:
  """Names of all leaves, "part.field", in the order of `jax.tree.leaves`."""
  paths = jax.tree_util.tree_flatten_with_path(platform)[0]
  return [".".join(str(key.name) for key in path) for path, _ in paths]


def speed_up(platform: Platform, factor: Float | float) -> Platform:
  """All rates × factor, all fixed times / factor.

  Example:
    >>> half = speed_up(SoftwareParameters(layer_s=4.0, score_s=0.0), 2.0)
    >>> half.layer_s
    2.0
  """

  def change(path, leaf):
    suffix = units.suffix_of(path[-1].name)
    if suffix in units.RATE_SUFFIXES:
      return leaf * factor
    return leaf / factor if suffix == units.TIME_SUFFIX else leaf

  return jax.tree_util.tree_map_with_path(change, platform)
