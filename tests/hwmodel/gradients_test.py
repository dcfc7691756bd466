"""Derivatives of latency and energy by every parameter of a platform.

In float64, at random interior points, all in one compiled function.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from tests.hwmodel import points
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import units

POINTS = 1000
SHARPNESS = 8.0
STEP = 1e-4
# By name of the leaf: -1 where more of it is never slower, 1 never faster.
FASTER = (
  "compute.cores", "compute.clock_hz", "compute.dot_units",
  "compute.dot_inputs", "compute.vector_lanes", "compute.dense_utilisation",
  "compute.vision_utilisation", "dram.bandwidth_bytes_per_s",
  "dram.efficiency", "link.bandwidth_bytes_per_s", "link.efficiency",
  "engine.hcu_width", "engine.hcu_rows", "engine.wtu_width",
  "engine.key_hash_bytes",
)  # fmt: skip
SLOWER = (
  "link.latency_s", "link.granularity_bytes", "software.layer_s",
  "software.score_s",
)  # fmt: skip


class Setup:
  """The functions, compiled once, and where they are looked at."""

  def __init__(self):
    platform = points.platform()
    # Times that are zero on V-Rex would have no relative derivative.
    software = platform.software.replace(layer_s=1e-4, score_s=1e-9)
    platform = platform.replace(software=software)
    self.names = params.leaf_names(platform)
    leaves, self.tree = jax.tree.flatten(platform)
    self.centre = np.array([float(leaf) for leaf in leaves])
    random = np.random.default_rng(0)
    # One interior box around every number; shares stay below 1.
    factor = random.uniform(0.5, 1.1, (POINTS, len(leaves)))
    self.at = np.log(self.centre * factor)
    work = jax.tree.map(
      lambda leaf: np.asarray(leaf, np.float64), points.work()
    )
    plan = points.schedule()

    def both(logarithms):
      # The work is one event of a past that makes all parts count.
      design = jax.tree.unflatten(self.tree, list(jnp.exp(logarithms)))
      priced = pricing.price(design, work, plan, sharpness=SHARPNESS)
      return jnp.log(jnp.stack([priced.time.latency_s, priced.energy_j.high]))

    self.both = both
    self.many = jax.jit(jax.vmap(both))
    self.slopes = jax.jit(jax.vmap(jax.jacrev(both)))


@pytest.fixture(scope="module")
def setup():
  with jax.enable_x64(True):
    yield Setup()


@pytest.fixture(scope="module")
def slopes(setup):
  return np.asarray(setup.slopes(setup.at))  # [points, 2, leaves]


def test_central_differences_agree(setup, slopes):
  """At 1000 points, elasticities of latency and energy: 1e-6."""
  for index in range(len(setup.names)):
    step = np.zeros(len(setup.names))
    step[index] = STEP
    ahead, behind = setup.many(setup.at + step), setup.many(setup.at - step)
    differences = np.asarray(ahead - behind) / (2 * STEP)
    np.testing.assert_allclose(
      slopes[:, :, index],
      differences,
      rtol=1e-6,
      atol=1e-6,
      err_msg=setup.names[index],
    )


def test_all_are_finite_and_most_are_not_zero(setup, slopes):
  assert np.all(np.isfinite(slopes))
  silent = np.abs(slopes).max(axis=(0, 1)) == 0
  expected = {
    # Nothing that is priced here depends on them.
    "compute.memory_bytes", "dram.capacity_bytes", "dram.queue_depth",
    "link.queue_depth", "link.scattered_efficiency", "link.low_j_per_byte",
    "software.score_s", "engine.hash_bytes", "engine.score_bytes",
    "engine.count_bytes", "engine.wtu_buckets", "units.dot_m2_per_mac",
    "units.vector_m2_per_lane", "units.memory_m2_per_byte",
    "units.hcu_m2_per_lane", "units.wtu_m2_per_lane", "units.kvmu_m2",
  }  # fmt: skip
  expected.discard("compute.memory_bytes")  # its power counts
  assert {n for n, s in zip(setup.names, silent, strict=True) if s} == expected


def test_signs(setup, slopes):
  """More of a rate is never slower, more of a fixed time never faster."""
  of = dict(zip(setup.names, slopes[:, 0].T, strict=True))
  for name in FASTER:
    assert np.all(of[name] <= 1e-12), name
  for name in SLOWER:
    assert np.all(of[name] >= -1e-12), name


def test_euler(setup, slopes):
  """Σ over rates - Σ over fixed times = -1 at every point."""
  sign = np.zeros(len(setup.names))
  for index, name in enumerate(setup.names):
    suffix = units.suffix_of(name.split(".")[1])
    sign[index] = (suffix in units.RATE_SUFFIXES) - (
      suffix == units.TIME_SUFFIX
    )
  np.testing.assert_allclose(slopes[:, 0] @ sign, -1.0, rtol=1e-9)


def test_all_rates_twice_and_all_times_half_is_half_the_latency(setup):
  platform = jax.tree.unflatten(setup.tree, list(setup.centre))
  faster = params.speed_up(platform, 2.0)
  log = lambda p: jnp.log(jnp.stack(jax.tree.leaves(p)))
  rows = np.repeat(np.stack([log(faster), log(platform)]), POINTS // 2, axis=0)
  value = setup.many(rows)[:, 0]
  change = float(value[0] - value[-1])
  assert change == pytest.approx(-np.log(2.0), abs=1e-12)


def test_the_sum_rule_has_a_function(setup, slopes):
  elastic = jax.tree.unflatten(setup.tree, list(slopes[0, 0]))
  assert float(pricing.elasticity_sum(elastic)) == pytest.approx(-1, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_jax_s_own_check_of_orders_one_and_two(setup, mode):
  latency = jax.jit(lambda x: setup.both(x)[0])
  test_util.check_grads(
    latency, (setup.at[0],), order=2, modes=[mode], eps=1e-4, rtol=1e-4
  )
