"""Seconds of one event on a platform: estimate, bounds, and where they go.

A stage on the cores takes the longer of its arithmetic and its DRAM traffic;
stages follow each other, prediction and fetch run beside (`pipeline`). The two
bounds need no such order:

  lower   every resource works all the time: the busiest one
  upper   nothing overlaps: the sum of all

Every second of the estimate belongs to one part (`Parts`): the cores' own work,
what the estimate would lose if prediction took no time, and the rest, which is
waiting for the link.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax.hwmodel import cost
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import pipeline
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import retrieval_engine
from vrex_jax.hwmodel import smooth
from vrex_jax.hwmodel import transfer
from vrex_jax.hwmodel import workload
from vrex_jax.typing import Float

__all__ = [
  "Estimate",
  "Parts",
  "Resources",
  "Schedule",
  "durations",
  "estimate",
  "schedule_of",
]


class Schedule(NamedTuple):
  """Static. How a method runs on a platform.

  Attributes:
    on_engine: predictions are made by the DRE, beside the cores; otherwise by
      software, on them.
    contiguous: what is fetched lies together.
  """

  on_engine: bool
  contiguous: bool


def schedule_of(
  method: retrieval.Method, platform: params.Platform, *, stage: str
) -> Schedule:
  """How a method runs on a platform: on its DRE, if it uses one and has it.

  Where it chooses nothing it fetches all, and all lies together.
  """
  if platform.engine is None:
    method = retrieval.without_engine(method)
  return Schedule(
    on_engine=method.prediction == "engine",
    contiguous=method.contiguous or not method.retrieves(stage),
  )


class Parts(cost.Additive):
  """Dynamic. Seconds by part; additive.

  Attributes:
    vision_s: tower and connector.
    dense_s: projections, feed-forward layers and head.
    attention_s: attention.
    prediction_s: choosing what the next layer attends to.
    fetch_s: bringing it.
    software_s: overhead of a GPU's software.
  """

  vision_s: Float
  dense_s: Float
  attention_s: Float
  prediction_s: Float
  fetch_s: Float
  software_s: Float


class Resources(NamedTuple):
  """Dynamic. Seconds each resource would be busy; f[] each."""

  arithmetic_s: Float
  dram_s: Float
  link_s: Float
  engine_s: Float
  software_s: Float


class Estimate(NamedTuple):
  """Dynamic. What one event takes; f[] each.

  Attributes:
    latency_s: the estimate.
    lower_s: everything overlapped.
    upper_s: nothing overlapped.
    busy: by part, whether anything waits for it or not.
    exposed: by part, what the estimate consists of; adds up to it.
    resources: busy seconds.
    engine: of HCU and WTU, summed over layers.
  """

  latency_s: Float
  lower_s: Float
  upper_s: Float
  busy: Parts
  exposed: Parts
  resources: Resources
  engine: retrieval_engine.EngineTime

  @property
  def hidden(self) -> Parts:
    """Busy, and nobody waits."""
    return jax.tree.map(jnp.subtract, self.busy, self.exposed)


class _Spans(NamedTuple):
  """Durations of the pipeline, and what is needed to say where they go."""

  durations: pipeline.Durations
  resources: Resources
  engine: retrieval_engine.EngineTime
  predict_core_s: Float  # [L], prediction's share of project_s
  software_s: Float  # [L], likewise


def estimate(
  platform: params.Platform,
  work: workload.Work,
  schedule: Schedule,
  *,
  sharpness: Float | float | None = None,
  memory: transfer.MemoryModel = transfer.IDEAL,
) -> Estimate:
  """Seconds of one event.

  Args:
    platform: parameters.
    work: counts of the event.
    schedule: how the method runs there.
    sharpness: p of smooth maxima; None for hard ones.
    memory: what request sizes do.

  Returns:
    Estimate.

  Raises:
    ValueError: `schedule.on_engine` on a platform without an engine.
  """
  spans = _spans(platform, work, schedule, sharpness, memory)
  times = spans.durations
  latency_s = pipeline.finish_s(times, sharpness=sharpness)
  unpredicted = times._replace(
    project_s=times.project_s - spans.predict_core_s,
    predict_s=jnp.zeros_like(times.predict_s),
  )
  without_s = pipeline.finish_s(unpredicted, sharpness=sharpness)
  total = jnp.sum
  dense_s = (
    total(unpredicted.project_s - spans.software_s)
    + total(times.feed_s)
    + times.head_s
  )
  busy = Parts(
    vision_s=times.vision_s,
    dense_s=dense_s,
    attention_s=total(times.attend_s),
    prediction_s=total(spans.predict_core_s) + total(times.predict_s),
    fetch_s=total(times.fetch_s),
    software_s=total(spans.software_s),
  )
  own_s = busy.total - busy.prediction_s - busy.fetch_s
  return Estimate(
    latency_s=latency_s,
    lower_s=jnp.max(jnp.stack(spans.resources)),
    upper_s=functools.reduce(jnp.add, spans.resources),
    busy=busy,
    exposed=busy.replace(
      prediction_s=latency_s - without_s, fetch_s=without_s - own_s
    ),
    resources=spans.resources,
    engine=jax.tree.map(total, spans.engine),
  )


def durations(
  platform: params.Platform,
  work: workload.Work,
  schedule: Schedule,
  *,
  sharpness: Float | float | None = None,
  memory: transfer.MemoryModel = transfer.IDEAL,
) -> pipeline.Durations:
  """What `estimate` gives the pipeline, for simulators of the same events."""
  return _spans(platform, work, schedule, sharpness, memory).durations


def _spans(
  platform: params.Platform,
  work: workload.Work,
  schedule: Schedule,
  sharpness: Float | float | None,
  memory: transfer.MemoryModel,
) -> _Spans:
  layers, compute = work.layers, platform.compute
  peak = compute.peak_flops_per_s
  arithmetic = lambda macs, share: 2.0 * macs / (peak * share)
  dense = lambda macs: arithmetic(macs, compute.dense_utilisation)
  kv_chunk = _fetch_chunk_bytes(layers)
  stream = lambda moved, chunk: transfer.dram_time_s(
    platform.dram, moved, chunk_bytes=chunk, memory=memory
  )
  whole = lambda moved: stream(moved, jnp.maximum(moved, 1.0))
  longer = lambda *terms: smooth.smooth_max(*terms, sharpness=sharpness)

  fetch = retrieval_engine.kvmu(
    platform.link,
    layers,
    contiguous=schedule.contiguous,
    sharpness=sharpness,
    memory=memory,
  )
  # A fetch passes the DRAM bus twice: written on arrival, read by attention.
  attend_dram_s = stream(
    layers.kv_read_bytes + layers.kv_write_bytes + fetch.transferred_bytes,
    kv_chunk,
  )
  predict_dram_s = whole(layers.table_bytes)
  engine, predict_s, on_cores_s = _prediction(platform, layers, schedule)
  macs_s = {
    name: dense(getattr(layers, f"{name}_macs"))
    for name in ("qkv", "predict", "attention", "feed")
  }
  weights_s = {
    "qkv": whole(layers.qkv_weight_bytes),
    "feed": whole(layers.feed_weight_bytes),
  }
  scores_s = longer(macs_s["predict"], predict_dram_s) + on_cores_s
  software_s = jnp.broadcast_to(
    platform.software.layer_s, layers.qkv_macs.shape
  )
  vision_macs_s = arithmetic(work.vision_macs, compute.vision_utilisation)
  vision_dram_s = whole(work.vision_weight_bytes)
  head_macs_s = dense(work.head_macs)
  head_dram_s = whole(work.head_weight_bytes)
  times = pipeline.Durations(
    vision_s=longer(vision_macs_s, vision_dram_s),
    project_s=longer(macs_s["qkv"], weights_s["qkv"]) + scores_s + software_s,
    predict_s=predict_s,
    attend_s=longer(macs_s["attention"], attend_dram_s),
    feed_s=longer(macs_s["feed"], weights_s["feed"]),
    fetch_s=fetch.time_s,
    head_s=longer(head_macs_s, head_dram_s),
  )
  resources = Resources(
    arithmetic_s=vision_macs_s + head_macs_s + jnp.sum(sum(macs_s.values())),
    dram_s=vision_dram_s
    + head_dram_s
    + jnp.sum(sum(weights_s.values()) + attend_dram_s + predict_dram_s),
    link_s=jnp.sum(fetch.time_s),
    engine_s=jnp.sum(predict_s),
    software_s=jnp.sum(software_s + on_cores_s),
  )
  return _Spans(times, resources, engine, scores_s, software_s)


def _prediction(
  platform: params.Platform,
  layers: workload.LayerWork,
  schedule: Schedule,
) -> tuple[retrieval_engine.EngineTime, Float, Float]:
  """Busy times of the DRE; seconds beside the cores; seconds on them."""
  nothing = jnp.zeros_like(layers.scores)
  if schedule.on_engine:
    engine = retrieval_engine.times(platform, layers)
    return engine, engine.total_s, nothing
  idle = retrieval_engine.EngineTime(nothing, nothing)
  return idle, nothing, platform.software.score_s * layers.scores


def _fetch_chunk_bytes(layers: workload.LayerWork) -> Float:
  """Contiguous bytes of keys and values in DRAM: those of one request.

  Where nothing is fetched all lies on the device, in order.
  """
  requests = jnp.maximum(layers.fetch_requests, 1.0)
  of_request = layers.fetch_bytes / requests
  chunk = jnp.where(of_request > 0, of_request, layers.kv_read_bytes)
  return jnp.maximum(chunk, 1.0)
