"""Modelled seconds and joules of every setting of a sweep, by `vmap`.

  curves at a threshold ─► ratios by layer ─► another model, by relative depth
                        ─► work of a frame and of a token ─► a platform

Assumptions, which whoever prints the figures says: another model would choose
alike (`hwmodel.ratios`); what was chosen at layer l is priced as if it had been
chosen one layer earlier; of what is attended, the share that `residency.LAW`
gives at the paper's own ratio is fetched, as the recording held everything.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax.codesign import curves as curves_lib
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import ratios
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = ["Costs", "fetched_share", "of_curves", "ratios_of"]

_METHOD = retrieval.METHODS["resv"]


class Costs(NamedTuple):
  """Dynamic. Modelled figures of every choice and ratio.

  nan where the recording has no such stage, or the memory is too small.
  """

  frame_latency_s: Float  # [Z, ratios]
  frame_energy_low_j: Float  # [Z, ratios]
  frame_energy_high_j: Float  # [Z, ratios]
  token_latency_s: Float  # [Z, ratios]
  token_energy_low_j: Float  # [Z, ratios]
  token_energy_high_j: Float  # [Z, ratios]


def fetched_share(cache_tokens: Float | float) -> Float:
  """Fetched, of what is attended, at a cache length: f[], at most 1.

  The law of residency at the ratio it was fitted at.
  """
  wanted = _METHOD.frame_ratio * jnp.asarray(cache_tokens, float)
  return jnp.minimum(
    residency.LAW(jnp.asarray(cache_tokens, float)) / wanted, 1
  )


def ratios_of(
  point: curves_lib.Point,
  stage: str,
  *,
  fetched: Float | float,
  contiguous: bool = True,
) -> ratios.Ratios:
  """A point of the curves as quotients by layer, means over its heads.

  Args:
    point: of `curves.at`.
    stage: one of `curves.STAGES`.
    fetched: share of what is attended that is not on the device.
    contiguous: clusters lie together; else tokens are asked for one by one.
  """
  own = lambda array: jnp.mean(array[curves_lib.STAGES.index(stage)], axis=-1)
  kept = own(point.kept)
  run_tokens = own(point.run_tokens)
  return ratios.Ratios(
    attended=kept,
    fetched=jnp.full_like(kept, fetched),
    run_tokens=run_tokens if contiguous else jnp.ones_like(run_tokens),
    groups=own(point.groups),
    hashes=jnp.ones_like(kept),
    buckets=own(point.buckets),
    worst_buckets=own(point.worst_buckets),
  )


def of_curves(
  curves: curves_lib.Curves,
  platform: params.Platform,
  model: config_lib.ModelConfig,
  *,
  cache_tokens: int,
  batch: int = 1,
) -> Costs:
  """Prices every choice at every ratio of the grid, all heads alike.

  Args:
    curves: of a recording.
    platform: where.
    model: that is priced.
    cache_tokens: S.
    batch: streams.

  Raises:
    InputError: not even the first choice at the least ratio fits the memory.
  """
  schedules = {
    stage: latency.schedule_of(_METHOD, platform, stage=stage)
    for stage in ("frame", "answer")
  }
  chunks = {"frame": model.connector.tokens_per_frame, "answer": 1}
  arrays = params.as_arrays(platform.replace(name=""), jnp.float32)

  def work(index, ratio, stage):
    shape = curves.kept.shape[1:-1]
    point = curves_lib.at(curves, index, jnp.full(shape, ratio))
    done = ratios.from_ratios(
      ratios_of(
        point,
        stage,
        fetched=fetched_share(cache_tokens),
        contiguous=schedules[stage].contiguous,
      ),
      model.decoder,
      float(cache_tokens),
      chunk_tokens=chunks[stage],
    )
    return workload.from_retrieval(
      model, done, stage=stage, chunk_tokens=chunks[stage], batch=float(batch)
    )

  def price(index, ratio):
    figures = []
    for stage, schedule in schedules.items():
      done = work(index, ratio, stage)
      one = pricing.price(arrays, done, schedule)
      fits = done.held_bytes <= arrays.dram.capacity_bytes
      figures += [
        jnp.where(fits, figure, jnp.nan)
        for figure in (one.time.latency_s, one.energy_j.low, one.energy_j.high)
      ]
    return Costs(*figures)

  workload.check_fits(
    jax.jit(work, static_argnums=2)(0, curves.grid[0], "frame"),
    float(platform.dram.capacity_bytes),
    platform.name,
  )
  over_ratios = jax.vmap(price, in_axes=(None, 0))
  over_choices = jax.vmap(over_ratios, in_axes=(0, None))
  index = jnp.arange(len(curves.choices), dtype=jnp.int32)
  return jax.jit(over_choices)(index, curves.grid)
