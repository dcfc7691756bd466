"""Many design points in one `vmap`: latency, energy and area of each.

A design point is a platform with its own number in every leaf. The work is the
same for all; durations are computed layer by layer.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import workload
from vrex_jax.typing import Array, Float

__all__ = ["Results", "around", "evaluate", "points_per_s"]

_BLOCK = 512


class Results(NamedTuple):
  """Dynamic. One number a design point; f[points] each."""

  latency_s: Float
  low_j: Float
  high_j: Float
  area_m2: Float


def around(
  platform: params.Platform, key: Array, points: int, *, spread: float = 0.5
) -> params.Platform:
  """Random design points: every leaf × (1 + uniform(-spread, spread)).

  Shares of a peak (efficiency, utilisation) stay at most 1.

  Args:
    platform: the centre.
    key: of `jax.random`.
    points: how many.
    spread: below 1.

  Returns:
    The platform with leaves f[points].
  """
  leaves, tree = jax.tree.flatten(platform)
  keys = jax.random.split(key, len(leaves))
  names = params.leaf_names(platform)

  def one(leaf, key, name):
    factor = jax.random.uniform(
      key, (points,), minval=1 - spread, maxval=1 + spread
    )
    share = name.endswith(("efficiency", "utilisation"))
    return jnp.minimum(leaf * factor, 1.0) if share else leaf * factor

  return jax.tree.unflatten(
    tree, [one(*each) for each in zip(leaves, keys, names, strict=True)]
  )


def evaluate(
  designs: params.Platform,
  work: workload.Work,
  schedule: latency.Schedule,
  *,
  sharpness: float | None = None,
) -> Results:
  """Every design point; leaves of `designs` are f[points]."""

  def one(platform):
    priced = pricing.price(platform, work, schedule, sharpness=sharpness)
    return Results(
      priced.time.latency_s,
      *priced.energy_j,
      area.blocks_area_m2(platform).total,
    )

  return jax.vmap(one)(designs)


def points_per_s(
  platform: params.Platform,
  work: workload.Work,
  schedule: latency.Schedule,
  *,
  points: int,
  sharpness: float | None = None,
  rounds: int = 3,
) -> float:
  """Design points a second on this machine, compilation left out.

  Points are taken in blocks of 512, whose durations stay in a core's cache.

  Args:
    platform: centre of the points.
    work: counts of one event.
    schedule: how the method runs.
    points: rounded up to whole blocks.
    sharpness: of the maxima.
    rounds: the best of so many.
  """
  blocks = -(-points // _BLOCK)
  designs = around(platform, jax.random.key(0), blocks * _BLOCK)
  designs = jax.tree.map(
    lambda leaf: leaf.reshape(blocks, _BLOCK), params.as_arrays(designs)
  )
  run = (
    jax.jit(
      functools.partial(
        jax.lax.map,
        lambda block: evaluate(block, work, schedule, sharpness=sharpness),
      )
    )
    .lower(designs)
    .compile()
  )
  best = float("inf")
  for _ in range(rounds):
    start = time.perf_counter()
    jax.block_until_ready(run(designs))
    best = min(best, time.perf_counter() - start)
  return blocks * _BLOCK / best
