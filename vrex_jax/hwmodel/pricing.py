"""Everything about one design point at once, and which parameter matters.

`price` puts workload, latency and energy together; it is what a table has a row
of. `elasticities` are percent of latency by percent of a parameter:

  e(x) = ∂ ln latency / ∂ ln x

Latency is homogeneous: all rates × k and all fixed times / k give latency / k,
so Σ e over rates - Σ e over fixed times = -1 (Euler), whatever the point.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax.hwmodel import energy
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import transfer
from vrex_jax.hwmodel import units
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = [
  "Priced",
  "Roofline",
  "Setting",
  "elasticities",
  "elasticity_sum",
  "price",
  "published_work",
  "roofline",
]


class Setting(NamedTuple):
  """Static and dynamic. What runs, apart from the platform.

  Attributes:
    model: video LLM.
    method: how it retrieves.
    batch: streams.
    kv_value_bytes: of a stored key or value number.
    frame_tokens: T of a frame.
  """

  model: config_lib.ModelConfig
  method: retrieval.Method
  batch: Float | float = 1.0
  kv_value_bytes: Float | float = 2.0
  frame_tokens: int = 10


class Priced(NamedTuple):
  """Dynamic. Seconds and joules of one event, and its counts."""

  work: workload.Work
  time: latency.Estimate
  energy_j: energy.Interval


class Roofline(NamedTuple):
  """Dynamic. Where an event lies under the roof of its platform.

  Attributes:
    intensity: operations by DRAM byte.
    ridge: intensity at which the roof bends.
    attained_flops_per_s: operations over the estimated latency.
    roof_flops_per_s: what the roof allows at this intensity.
  """

  intensity: Float
  ridge: Float
  attained_flops_per_s: Float
  roof_flops_per_s: Float


def published_work(
  setting: Setting,
  cached_tokens: Float | float,
  *,
  stage: str,
  chunk_tokens: int,
  law: Callable[[Float], Float] = residency.LAW,
) -> workload.Work:
  """Counts of one event of a published method."""
  done = retrieval.at_length(
    setting.method,
    setting.model.decoder,
    jnp.asarray(cached_tokens, float),
    stage=stage,
    chunk_tokens=chunk_tokens,
    law=law,
  )
  return workload.from_retrieval(
    setting.model,
    done,
    stage=stage,
    chunk_tokens=chunk_tokens,
    batch=setting.batch,
    kv_value_bytes=setting.kv_value_bytes,
  )


def price(
  platform: params.Platform,
  work: workload.Work,
  schedule: latency.Schedule,
  *,
  sharpness: Float | float | None = None,
  memory: transfer.MemoryModel = transfer.IDEAL,
) -> Priced:
  """Seconds and joules of one event."""
  spent = latency.estimate(
    platform, work, schedule, sharpness=sharpness, memory=memory
  )
  return Priced(work, spent, energy.event_j(platform, work, spent))


def roofline(platform: params.Platform, priced: Priced) -> Roofline:
  """Position under min(peak, intensity · delivered DRAM bandwidth)."""
  flops = 2.0 * priced.work.macs
  dram = platform.dram
  bandwidth = dram.bandwidth_bytes_per_s * dram.efficiency
  peak = platform.compute.peak_flops_per_s
  intensity = flops / priced.work.dram_bytes
  return Roofline(
    intensity=intensity,
    ridge=peak / bandwidth,
    attained_flops_per_s=flops / priced.time.latency_s,
    roof_flops_per_s=jnp.minimum(peak, intensity * bandwidth),
  )


def elasticities(
  function: Callable[[params.Platform], Float], platform: params.Platform
) -> params.Platform:
  """∂ ln f / ∂ ln x for every parameter x, as a platform of them.

  Args:
    function: platform -> a positive number, such as a latency.
    platform: where; array leaves.

  Example:
    >>> rate = params.PowerParameters(static_w=jnp.float32(2.0))
    >>> float(elasticities(lambda p: 1.0 / p.static_w**3, rate).static_w)
    -3.0
  """
  platform = params.as_arrays(platform)
  value, slope = jax.value_and_grad(function)(platform)
  return jax.tree.map(lambda g, x: g * x / value, slope, platform)


def elasticity_sum(elastic: params.Platform) -> Float:
  """Σ over rates - Σ over fixed times; -1 for a latency."""

  def signed(path, leaf):
    suffix = units.suffix_of(path[-1].name)
    if suffix in units.RATE_SUFFIXES:
      return leaf
    return -leaf if suffix == units.TIME_SUFFIX else jnp.zeros_like(leaf)

  terms = jax.tree_util.tree_map_with_path(signed, elastic)
  return functools.reduce(jnp.add, jax.tree.leaves(terms))
