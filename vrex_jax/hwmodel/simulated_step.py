"""A step of the decoder as tasks: what `latency` approximates, event by event.

Without any detail the tasks are the spans of `pipeline` and the simulation has
a closed form, `pipeline.finish_s` with hard maxima. Each detail replaces one
approximation (`Detail`):

  tiles      max(arithmetic, DRAM)   -> a stage is n tiles; the DRAM is at most
                                        two tiles ahead of the cores
  engine     expected cycles         -> whole tables and rows, dealt to cores
  requests   latency + bytes / rate  -> every request waits for one of Q places,
                                        then for its latency, then for the link
  arrivals   a fetch's DRAM writes   -> written as each request arrives, beside
             at attention               whatever else the DRAM does

Stages follow each other on the cores; layer l predicts for layer l + 1 as soon
as its projections are done, and the link fetches ahead. Durations are
picoseconds.

Source: V-Rex (arXiv 2512.12284), Sec. IV.A, Fig. 6, for the order.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import pipeline
from vrex_jax.hwmodel import simulated_engine
from vrex_jax.hwmodel import simulator
from vrex_jax.hwmodel import workload
from vrex_jax.typing import Float

__all__ = ["PLAIN", "Detail", "simulate", "simulate_spans"]

_AHEAD = 2
"""Tiles that may wait in the cores' memory: double buffering."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detail:
  """Static. What is simulated instead of approximated.

  Attributes:
    tiles: of a stage; None for stages that are one task.
    engine: whole tables and rows.
    requests: one by one over the link.
    arrivals: DRAM writes of a fetch when it arrives; needs `requests`.
    wicsum_ratio: share of a row's weighted sum to pass; with `engine`.
    seed: of the rows' buckets.
  """

  tiles: int | None = None
  engine: bool = False
  requests: bool = False
  arrivals: bool = False
  wicsum_ratio: float = 0.3
  seed: int = 0

  def __post_init__(self):
    if self.arrivals and not self.requests:
      raise ValueError(
        "arrivals is set without requests; a fetch arrives request by request:"
        " set requests too"
      )


PLAIN = Detail()


def simulate_spans(spans: pipeline.Durations) -> simulator.Timeline:
  """The events of `pipeline`, with durations rounded to picoseconds.

  Args:
    spans: seconds, of any number of layers.

  Example:
    >>> one = np.ones(2)
    >>> spans = pipeline.Durations(1.0, one, 0 * one, one, one,
    ...                            np.array([0, 5]), 0.0)
    >>> simulate_spans(spans).finish_ps  # 1 + 1, fetch₁ 5, att₁ 1, feed₁ 1
    9000000000000
  """
  step = _Step()
  layers = len(spans.project_s)
  ps = lambda values, layer: simulator.whole_ps(values[layer])
  before = step.add("cores", simulator.whole_ps(float(spans.vision_s)))
  predicted = None
  for layer in range(layers):
    fetch = step.add("link", ps(spans.fetch_s, layer), predicted)
    projected = step.add("cores", ps(spans.project_s, layer), before)
    predicted = step.add("engine", ps(spans.predict_s, layer), projected)
    attended = step.add("cores", ps(spans.attend_s, layer), projected, fetch)
    before = step.add("cores", ps(spans.feed_s, layer), attended)
  last = step.add("cores", simulator.whole_ps(float(spans.head_s)), before)
  return _until(step, last)


def simulate(
  platform: params.Platform,
  work: workload.Work,
  schedule: latency.Schedule,
  detail: Detail = PLAIN,
  *,
  tokens: int = 10,
) -> simulator.Timeline:
  """One event on a platform.

  Args:
    platform: parameters.
    work: counts of one event.
    schedule: how the method runs.
    detail: what is simulated.
    tokens: T, of a stream; with `engine`.

  Returns:
    The timeline, up to the end of the last layer and the head.
  """
  if detail == PLAIN:
    return simulate_spans(latency.durations(platform, work, schedule))
  step = _Detailed(platform, work, schedule, detail, tokens)
  return _until(step, step.build())


class _Step:
  """Dynamic. A list of tasks in the making."""

  def __init__(self):
    self.tasks: list[simulator.Task] = []

  def add(self, resource: str | None, duration: int, *after: int | None) -> int:
    """Appends a task; the index it has."""
    known = tuple(index for index in after if index is not None)
    self.tasks.append(simulator.Task(resource, duration, known))
    return len(self.tasks) - 1


def _until(step: _Step, last: int) -> simulator.Timeline:
  """Runs a step up to a task; a prediction for no layer ends nothing."""
  line = simulator.run(step.tasks)
  end = line.end_ps[last]
  return line._replace(end_ps=[min(one, end) for one in line.end_ps])


class _Detailed(_Step):
  """Dynamic. The step of one event with some details simulated."""

  def __init__(
    self,
    platform: params.Platform,
    work: workload.Work,
    schedule: latency.Schedule,
    detail: Detail,
    tokens: int,
  ):
    super().__init__()
    self.platform, self.work, self.detail = platform, work, detail
    self.tokens = tokens
    self.random = np.random.default_rng(detail.seed)
    self.spans = latency.durations(platform, work, schedule)
    self.schedule = schedule

  def build(self) -> int:
    """Lists all tasks; the one with which the event is done."""
    work, compute = self.work, self.platform.compute
    layers = len(np.asarray(work.layers.qkv_macs))
    before = self._stage(
      work.vision_macs,
      work.vision_weight_bytes,
      compute.vision_utilisation,
    )
    predicted: int | None = None
    for layer in range(layers):
      arrived = self._fetch(layer, predicted)
      projected = self._project(layer, before)
      predicted = self.add("engine", self._predict_ps(layer), projected)
      attended = self._attend(layer, projected, arrived)
      before = self._feed(layer, attended)
    return self._stage(
      work.head_macs, work.head_weight_bytes, compute.dense_utilisation, before
    )

  def _count(self, name: str, layer: int) -> float:
    return float(np.asarray(getattr(self.work.layers, name))[layer])

  def _project(self, layer: int, before: int) -> int:
    dense = self.platform.compute.dense_utilisation
    count, software = self._count, self.platform.software
    done = self._stage(
      count("qkv_macs", layer), count("qkv_weight_bytes", layer), dense, before
    )
    done = self._stage(
      count("predict_macs", layer), count("table_bytes", layer), dense, done
    )
    extra = float(software.layer_s)
    if not self.schedule.on_engine:
      extra += float(software.score_s) * count("scores", layer)
    return self.add("cores", simulator.whole_ps(extra), done)

  def _attend(self, layer: int, *after: int) -> int:
    count = self._count
    moved = count("kv_read_bytes", layer) + count("kv_write_bytes", layer)
    if not self.detail.arrivals:
      moved += self._moved_bytes(layer)
    return self._stage(
      count("attention_macs", layer),
      moved,
      self.platform.compute.dense_utilisation,
      *after,
    )

  def _feed(self, layer: int, before: int) -> int:
    return self._stage(
      self._count("feed_macs", layer),
      self._count("feed_weight_bytes", layer),
      self.platform.compute.dense_utilisation,
      before,
    )

  def _stage(
    self,
    macs: Float | float,
    moved_bytes: Float | float,
    utilisation: Float | float,
    *after: int,
  ) -> int:
    """Arithmetic beside DRAM traffic: in tiles, or the longer of both."""
    peak = float(self.platform.compute.peak_flops_per_s) * float(utilisation)
    cores = simulator.whole_ps(2.0 * float(macs) / peak)
    memory = self._dram_ps(float(moved_bytes))
    tiles = self.detail.tiles
    if tiles is None and not self.detail.arrivals:
      return self.add("cores", max(cores, memory), *after)
    if tiles is None:
      both = self.add("dram", memory, *after), self.add("cores", cores, *after)
      return self.add("cores", 0, *both)
    computed: list[int] = []
    for compute_ps, load_ps in zip(
      _pieces(cores, tiles), _pieces(memory, tiles), strict=True
    ):
      room = computed[-_AHEAD] if len(computed) >= _AHEAD else None
      loaded = self.add("dram", load_ps, *after, room)
      computed.append(self.add("cores", compute_ps, *after, loaded))
    return computed[-1]

  def _dram_ps(self, moved_bytes: float) -> int:
    dram = self.platform.dram
    rate = float(dram.bandwidth_bytes_per_s) * float(dram.efficiency)
    return simulator.whole_ps(moved_bytes / rate)

  def _moved_bytes(self, layer: int) -> float:
    least = float(self.platform.link.granularity_bytes)
    requests = self._count("fetch_requests", layer)
    return max(self._count("fetch_bytes", layer), requests * least)

  def _fetch(self, layer: int, predicted: int | None) -> int:
    """Transfer of a layer's fetch; the task after which it is there."""
    requests = math.ceil(self._count("fetch_requests", layer) - 1e-6)
    if not self.detail.requests or requests == 0:
      duration = simulator.whole_ps(np.asarray(self.spans.fetch_s)[layer])
      return self.add("link", duration, predicted)
    link = self.platform.link
    rate = float(link.bandwidth_bytes_per_s) * float(link.efficiency)
    if not self.schedule.contiguous:
      rate *= float(link.scattered_efficiency)
    total = self._moved_bytes(layer) / rate
    latency_ps = simulator.whole_ps(float(link.latency_s))
    depth = max(1, int(link.queue_depth))
    moves: list[int] = []
    stored: list[int] = []
    writes = _pieces(self._dram_ps(self._moved_bytes(layer)), requests)
    for index, move_ps in enumerate(
      _pieces(simulator.whole_ps(total), requests)
    ):
      place = moves[index - depth] if index >= depth else None
      asked = self.add(None, latency_ps, predicted, place)
      moves.append(self.add("link", move_ps, asked))
      if self.detail.arrivals:
        stored.append(self.add("dram", writes[index], moves[-1]))
    return self.add(None, 0, *(stored or moves))

  def _predict_ps(self, layer: int) -> int:
    engine, compute = self.platform.engine, self.platform.compute
    real = self.detail.engine and self.schedule.on_engine
    if engine is None or not real:
      return simulator.whole_ps(np.asarray(self.spans.predict_s)[layer])
    cores = max(1, round(float(compute.cores)))
    cycles = self._hcu(layer, engine, cores) + self._wtu(layer, engine, cores)
    return simulator.whole_ps(cycles / float(compute.clock_hz))

  def _hcu(
    self, layer: int, engine: params.EngineParameters, cores: int
  ) -> int:
    tables = round(self._count("live_tables", layer))
    codes = round(self._count("live_codes", layer))
    return simulated_engine.hcu_cycles(
      _pieces(codes, tables) if tables else [0],
      tokens=self.tokens,
      bits=workload.HASH_BITS,
      width=round(float(engine.hcu_width)),
      rows=round(float(engine.hcu_rows)),
      fit=int(float(engine.key_hash_bytes) * 8 / workload.HASH_BITS),
      cores=cores,
    )

  def _wtu(
    self, layer: int, engine: params.EngineParameters, cores: int
  ) -> int:
    rows = round(self._count("score_rows", layer))
    if rows == 0:
      return 0
    return simulated_engine.wtu_cycles(
      _pieces(round(self._count("scores", layer)), rows),
      simulated_engine.draw_buckets(
        self.random,
        rows,
        ratio=self.detail.wicsum_ratio,
        number=round(float(engine.wtu_buckets)),
      ),
      width=round(float(engine.wtu_width)),
      rows=round(float(engine.wtu_rows)),
      cores=cores,
    )


def _pieces(whole: int, number: int) -> Sequence[int]:
  """`number` whole pieces that add up and differ by one at most."""
  return [
    (index + 1) * whole // number - index * whole // number
    for index in range(number)
  ]
