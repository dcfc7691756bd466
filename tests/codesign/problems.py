"""A small co-design problem with shares in closed form."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import objective
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import start
from vrex_jax.codesign import turn
from vrex_jax.hwmodel import platforms
from vrex_jax.models import presets
from vrex_jax.typing import Float

LAYERS, HEADS = 2, 2
BASE = platforms.named("vrex8").platform
LIMITS = objective.Limits(15.12e-6, 35.0, 0.03)


class Shares(NamedTuple):
  kept: Float
  mass: Float
  groups: Float
  run_tokens: Float
  buckets: Float
  worst_buckets: Float


def lookup(choice, ratio):
  """kept = Th_r, mass = √Th_r, 8 or 32 tokens a cluster."""
  whole = jnp.ones_like(ratio)
  size = jnp.array([8.0, 32.0, 32.0, 32.0])[choice]
  return Shares(
    ratio,
    jnp.sqrt(ratio + 1e-6),
    whole / size,
    whole * size,
    2.0 + 8.0 * ratio,
    4.0 + 10.0 * ratio,
  )


def problem(**changes):
  """At 4096 cached tokens, so that a simulation is quick."""
  fields = {
    "stream": turn.Stream(
      model=presets.preset("llama3-8b"), cached_tokens=4096.0
    ),
    "base": BASE,
    "lookup": lookup,
    "exact": lookup,
    "drop": lambda mass, kept, groups: 0.05 * jnp.mean(1.0 - mass),
    "choices": turn.Choice(
      np.array([32.0, 32.0, 64.0, 32.0]), np.array([0.0, 0.0, 0.0, 1.0])
    ),
  }
  return objective.Problem(**{**fields, **changes})


def paper(ratio: float = 0.3) -> space_lib.Design:
  return start.of_sizes(BASE, layers=LAYERS, kv_heads=HEADS, ratio=ratio)
