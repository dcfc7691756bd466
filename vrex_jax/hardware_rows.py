"""Hardware rows: a method on a platform, as metrics.json holds and people read.

Two sources of work, one kind of row:

  published   a method's printed ratios at a cache length
  trace       the counts of a run, or its ratios on another model

A row's frame is the mean of its events; a published row has one event.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import ratios
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import traced_work
from vrex_jax.hwmodel import transfer
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib

__all__ = [
  "FIELDS",
  "Events",
  "Point",
  "flat",
  "published",
  "row",
  "traced",
  "transferred",
]

FIELDS = (
  "platform",
  "policy",
  "cache_tokens",
  "batch",
  "frame_latency_s",
  "token_latency_s",
  "frame_energy_j",
  "breakdown_s",
  "exposed_s",
  "bound_lower_s",
  "bound_upper_s",
  "frames_per_s",
  "first_token_s",
  "token_energy_j",
  "fetched_bytes",
  "roofline",
  "elasticities",
)
"""Fields of a hardware row, in order; see docs/notation.md."""


class Events(NamedTuple):
  """Work of the stages of a row; leaves have a leading axis of events.

  Attributes:
    frame: of frames.
    question: of a question's chunk; None where there is none.
    answer: of generated tokens; None likewise.
  """

  frame: workload.Work
  question: workload.Work | None
  answer: workload.Work | None


class Point(NamedTuple):
  """What a row is of.

  Attributes:
    policy: as written.
    cache_tokens: past of the (last) event.
    batch: streams.
    events: work.
    method: where it predicts, and whether what it fetches lies together.
  """

  policy: str
  cache_tokens: int
  batch: int
  events: Events
  method: retrieval.Method


@functools.partial(
  jax.jit, static_argnames=("setting", "stage", "chunk_tokens")
)
def _published(
  cached, batch, setting, stage, chunk_tokens, kv_value_bytes, law
):
  work = pricing.published_work(
    setting._replace(batch=batch, kv_value_bytes=kv_value_bytes),
    cached,
    stage=stage,
    chunk_tokens=chunk_tokens,
    law=law,
  )
  return jax.tree.map(lambda leaf: leaf[None], work)


@functools.partial(jax.jit, static_argnames=("schedule", "sharpness", "memory"))
def _priced(platform, work, schedule, sharpness, memory):
  """Every event of a stage, and where it lies under the roof."""

  def one(event):
    priced = pricing.price(
      platform, event, schedule, sharpness=sharpness, memory=memory
    )
    return priced.time, priced.energy_j, pricing.roofline(platform, priced)

  return jax.vmap(one)(work)


@functools.partial(jax.jit, static_argnames=("schedule", "sharpness", "memory"))
def _elastic(platform, work, schedule, sharpness, memory):
  def mean_s(platform):
    one = lambda event: (
      latency.estimate(
        platform, event, schedule, sharpness=sharpness, memory=memory
      ).latency_s
    )
    return jnp.mean(jax.vmap(one)(work))

  return pricing.elasticities(mean_s, platform)


def published(
  model: config_lib.ModelConfig,
  method: retrieval.Method,
  *,
  cache_tokens: int,
  batch: int,
  kv_value_bytes: float,
  frame_tokens: int,
  resident_tokens: int | None = None,
  engine: bool = True,
) -> Point:
  """A published method over a past of a given length.

  Args:
    model: video LLM.
    method: of `retrieval.METHODS`.
    cache_tokens: S.
    batch: streams.
    kv_value_bytes: of a stored number.
    frame_tokens: T of a frame.
    resident_tokens: window on the device; None for the fitted law.
    engine: the platform has a DRE.
  """
  if not engine:
    method = retrieval.without_engine(method)
  setting = pricing.Setting(model, method)
  law: Callable[[Any], Any] = residency.LAW
  if resident_tokens is not None:
    law = residency.ResidentWindow(
      ratio=method.frame_ratio, window_tokens=float(resident_tokens)
    )
  work = functools.partial(
    _published,
    jnp.float32(cache_tokens),
    jnp.float32(batch),
    setting,
    kv_value_bytes=jnp.float32(kv_value_bytes),
    law=law,
  )
  events = Events(
    frame=work(stage="frame", chunk_tokens=frame_tokens),
    question=work(stage="question", chunk_tokens=paper.QUESTION_TOKENS),
    answer=work(stage="answer", chunk_tokens=1),
  )
  return Point(method.name, cache_tokens, batch, events, method)


def traced(
  model: config_lib.ModelConfig,
  trace: trace_lib.StreamTrace,
  policy: str,
  *,
  kv_value_bytes: float,
) -> Point:
  """The counts of a run, event by event, on the model that ran.

  Raises:
    InputError: the trace is of another model, or has no frame.
  """
  work = functools.partial(
    traced_work.from_trace, model, trace, kv_value_bytes=kv_value_bytes
  )
  has = lambda stage: bool(np.any(trace.stage == trace_lib.STAGES.index(stage)))
  events = Events(
    frame=work(stage="frame"),
    question=work(stage="question") if has("question") else None,
    answer=work(stage="answer") if has("answer") else None,
  )
  seen = trace.counts["past_seen"]
  return Point(
    policy, int(seen.max()), seen.shape[2], events, retrieval.METHODS["resv"]
  )


def transferred(
  model: config_lib.ModelConfig,
  trace: trace_lib.StreamTrace,
  policy: str,
  *,
  cache_tokens: int,
  batch: int,
  kv_value_bytes: float,
  frame_tokens: int,
) -> Point:
  """Ratios of a run on another model, by relative depth of its layers.

  A run that held everything on the device tells nothing of fetches; then the
  law of fetched tokens that was fitted to V-Rex8 does.

  Raises:
    InputError: the trace has no frame with a past.
  """
  held = not trace.counts["past_fetched"].any()
  stages = {
    "frame": frame_tokens,
    "question": paper.QUESTION_TOKENS,
    "answer": 1,
  }

  def work(stage):
    if not np.any(trace.stage == trace_lib.STAGES.index(stage)):
      return None
    done = ratios.from_ratios(
      ratios.ratios_of(trace, stage),
      model.decoder,
      float(cache_tokens),
      chunk_tokens=stages[stage],
      law=residency.LAW if held else None,
    )
    made = workload.from_retrieval(
      model,
      done,
      stage=stage,
      chunk_tokens=stages[stage],
      batch=float(batch),
      kv_value_bytes=kv_value_bytes,
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], made)

  frame = work("frame")
  if frame is None:
    raise InputError(
      "the trace has no frame event; frames are what is priced: give the trace"
      " of a longer run"
    )
  events = Events(frame, work("question"), work("answer"))
  return Point(policy, cache_tokens, batch, events, retrieval.METHODS["resv"])


def row(
  platform: params.Platform,
  point: Point,
  *,
  sharpness: float | None = None,
  elastic_sharpness: float | None = None,
  memory: transfer.MemoryModel = transfer.IDEAL,
) -> dict[str, Any]:
  """Prices a point on a platform.

  Args:
    platform: parameters.
    point: what runs.
    sharpness: of the estimate; None for hard maxima.
    elastic_sharpness: of the latency whose elasticities are given; without it
      they are left out.
    memory: what access and request sizes do.

  Raises:
    InputError: the work does not fit the platform's memory.
  """
  plan = functools.partial(latency.schedule_of, point.method, platform)
  for work in point.events:
    if work is not None:
      workload.check_fits(
        work,
        float(platform.dram.capacity_bytes),
        platform.name,
        what=f"{point.policy}, a batch of {point.batch} over"
        f" {point.cache_tokens} cached tokens,",
      )
  # Without its name, which is static, platforms of one kind share a program.
  arrays = params.as_arrays(platform.replace(name=""), jnp.float32)
  priced = lambda stage: _means(
    _priced(
      arrays,
      getattr(point.events, stage),
      plan(stage=stage),
      sharpness,
      memory,
    )
  )
  time, energy, roof = priced("frame")
  slopes = {}
  if elastic_sharpness is not None:
    elastic = _elastic(
      arrays,
      point.events.frame,
      plan(stage="frame"),
      elastic_sharpness,
      memory,
    )
    names, leaves = params.leaf_names(elastic), jax.tree.leaves(elastic)
    slopes = dict(zip(names, map(float, leaves), strict=True))
  token = first = None
  token_energy = None
  if point.events.answer is not None:
    answered, spent, _ = priced("answer")
    token, token_energy = answered.latency_s, [spent.low, spent.high]
  if point.events.question is not None:
    first = priced("question")[0].latency_s
  values = (
    platform.name,
    point.policy,
    point.cache_tokens,
    point.batch,
    time.latency_s,
    token,
    [energy.low, energy.high],
    _parts(time.busy),
    _parts(time.exposed),
    time.lower_s,
    time.upper_s,
    point.batch / time.latency_s,
    first,
    token_energy,
    float(jnp.mean(point.events.frame.link_bytes)),
    roof._asdict(),
    slopes,
  )
  return dict(zip(FIELDS, values, strict=True))


def _means(priced: Any) -> Any:
  return jax.tree.map(lambda leaf: float(jnp.mean(leaf)), priced)


def _parts(parts: latency.Parts) -> dict[str, float]:
  return {
    name.removesuffix("_s"): getattr(parts, name)
    for name in parts.__dataclass_fields__
  }


def flat(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rows of plain numbers, as CSV takes them."""
  lines = []
  for one in rows:
    line: dict[str, Any] = {}
    for name, value in one.items():
      if name == "elasticities":
        continue
      if isinstance(value, Mapping):
        stem = name.removesuffix("_s")
        line |= {f"{stem}_{key}": item for key, item in value.items()}
      elif name.endswith("energy_j"):
        low, high = value or (None, None)
        line |= {f"{name[:-2]}_low_j": low, f"{name[:-2]}_high_j": high}
      else:
        line[name] = value
    lines.append(line)
  return lines
