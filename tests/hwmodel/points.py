"""The points of the tests: the paper's model on its platforms, priced."""

import functools

import jax
import jax.numpy as jnp

from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import retrieval
from vrex_jax.models import presets

MODEL = presets.preset("llama3-8b")
FRAME_TOKENS = 10


@functools.cache
def platform(name="vrex8"):
  return platforms.named(name).platform


@functools.partial(jax.jit, static_argnames=("method", "stage"))
def _work(cached, batch, value_bytes, law, *, method, stage):
  how = retrieval.METHODS[method]
  return pricing.published_work(
    pricing.Setting(MODEL, how, batch, value_bytes),
    cached,
    stage=stage,
    chunk_tokens=FRAME_TOKENS if stage == "frame" else 1,
    law=law,
  )


def work(
  method="resv",
  cached=40960.0,
  *,
  stage="frame",
  batch=1.0,
  value_bytes=2.0,
  law=residency.LAW,
):
  """Counts of one event; compiled once a method and stage."""
  return _work(
    float(cached), batch, value_bytes, law, method=method, stage=stage
  )


def schedule(method="resv", name="vrex8", stage="frame"):
  how = retrieval.METHODS[method]
  return latency.schedule_of(how, platform(name), stage=stage)


@functools.partial(jax.jit, static_argnames=("schedule", "sharpness"))
def price(platform, work, schedule, sharpness=None):
  return pricing.price(platform, work, schedule, sharpness=sharpness)


def priced(
  method="resv", cached=40960, *, on="vrex8", stage="frame", **options
):
  """One event; compiled once a platform structure and schedule."""
  return price(
    # Without its name, which is static, all GPUs share a program.
    params.as_arrays(platform(on).replace(name=""), jnp.float32),
    work(method, cached, stage=stage, **options),
    schedule(method, on, stage),
  )
