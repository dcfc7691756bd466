"""The DRE of V-Rex: what HCU, WTU and KVMU need for counts.

  HCU   compares a token's hash code with all codes of a table, w bits of h
        codes a cycle. Codes beyond its memory (1024 of 32 bits) are loaded
        anew for every frame, through the same w bits: tiling.
  WTU   one pass over a row's scores (sum, lowest, highest), then one for every
        bucket until the early exit; w scores of h rows a cycle. Rows in
        lockstep wait for the slowest of them.
  KVMU  fetches what is selected and not resident, in pieces: a cluster each
        where clusters lie together, else whatever lies together by chance.

Work is spread evenly over the cores; the KV heads of a layer, or its rows, are
there to be spread.

Source: V-Rex (arXiv 2512.12284), Sec. V.B, V.C, Figs. 10-12; sharing between
cores and the load of tiles are not stated there.
"""

from typing import NamedTuple

import jax.numpy as jnp

from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import score_law
from vrex_jax.hwmodel import smooth
from vrex_jax.hwmodel import transfer
from vrex_jax.hwmodel import workload
from vrex_jax.typing import Float

__all__ = ["EngineTime", "Fetch", "hcu_cycles", "kvmu", "times", "wtu_cycles"]

CODE_BYTES = workload.HASH_BITS / 8


class EngineTime(NamedTuple):
  """Dynamic. Seconds each unit is busy; f[L]."""

  hcu_s: Float
  wtu_s: Float

  @property
  def total_s(self) -> Float:
    """A layer is clustered, then thresholded."""
    return self.hcu_s + self.wtu_s


class Fetch(NamedTuple):
  """Dynamic. One layer's transfer; f[L]."""

  transferred_bytes: Float
  time_s: Float


def hcu_cycles(
  engine: params.EngineParameters, layers: workload.LayerWork
) -> Float:
  """Cycles of all HCUs together, f[L].

  comparisons · P / (w h)  +  tables · excess(codes in a table - fit) · P / w

  with P hash bits and fit = key-hash memory / 4 B.
  """
  bits = float(workload.HASH_BITS)
  fit = engine.key_hash_bytes / CODE_BYTES
  compared = layers.comparisons * bits / (engine.hcu_width * engine.hcu_rows)
  in_table = layers.live_codes / jnp.maximum(layers.live_tables, 1.0)
  loaded = layers.live_tables * smooth.excess(in_table, fit)
  return compared + loaded * bits / engine.hcu_width


def wtu_cycles(
  engine: params.EngineParameters,
  layers: workload.LayerWork,
  *,
  cores: Float | float,
) -> Float:
  """Cycles of all WTUs together, f[L].

  (scores + passes in lockstep) / (w h)

  Rows of one core that go in lockstep (h of them) take the passes of the
  slowest, expected to lie z(h) / z(m) of the way from the mean of all m rows to
  their slowest (`score_law.largest_normal`). A core's sum over its g groups of
  rows is what it takes, and the slowest core is z(cores) / (z(m) √g) of that
  way behind.
  """
  rows = jnp.maximum(layers.score_rows, 2.0)
  way = layers.straggler_passes - layers.passes
  reach = lambda number: (
    score_law.largest_normal(number) / score_law.largest_normal(rows)
  )
  groups = jnp.maximum(rows / (cores * engine.wtu_rows), 1.0)
  late = jnp.minimum(
    reach(engine.wtu_rows) + reach(cores) / jnp.sqrt(groups), 1
  )
  looked_at = layers.scores + layers.passes + late * way
  return looked_at / (engine.wtu_width * engine.wtu_rows)


def times(platform: params.Platform, layers: workload.LayerWork) -> EngineTime:
  """Seconds of HCU and WTU in every layer, f[L] each.

  Raises:
    ValueError: the platform has no engine.
  """
  if platform.engine is None:
    raise ValueError(f"{platform.name} has no retrieval engine")
  cores = platform.compute.cores
  rate = cores * platform.compute.clock_hz
  return EngineTime(
    hcu_s=hcu_cycles(platform.engine, layers) / rate,
    wtu_s=wtu_cycles(platform.engine, layers, cores=cores) / rate,
  )


def kvmu(
  link: params.LinkParameters,
  layers: workload.LayerWork,
  *,
  contiguous: bool,
  sharpness: Float | float | None = None,
  memory: transfer.MemoryModel = transfer.IDEAL,
) -> Fetch:
  """The fetch of every layer.

  A request moves at least the link's granularity. Without cluster-contiguous
  placement, and with a memory model that does not know what scattered requests
  cost, the time is what the paper's ablation says it is
  (`scattered_efficiency`).

  Args:
    link: parameters.
    layers: counts; fetched bytes and the pieces they come in.
    contiguous: pieces are clusters (or longer).
    sharpness: of the maximum.
    memory: what request sizes do.
  """
  moved = smooth.smooth_max(
    layers.fetch_bytes,
    layers.fetch_requests * link.granularity_bytes,
    sharpness=sharpness,
  )
  time_s = transfer.fetch_time_s(
    link,
    transferred_bytes=moved,
    requests=layers.fetch_requests,
    memory=memory,
  )
  if not contiguous and not memory.prices_scatter:
    time_s = time_s / link.scattered_efficiency
  return Fetch(moved, time_s)
