"""Cycles of the DRE against arithmetic on its widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import retrieval_engine
from vrex_jax.hwmodel import score_law
from vrex_jax.hwmodel import transfer

CLUSTERS = 1280  # 40960 tokens, 32 to a cluster
CYCLE_S = 1 / (8 * 800e6)  # of eight cores

times = jax.jit(retrieval_engine.times)
kvmu = jax.jit(
  retrieval_engine.kvmu, static_argnames=("contiguous", "sharpness", "memory")
)


@pytest.fixture(scope="module")
def platform():
  return params.as_arrays(points.platform(), jnp.float32)


@pytest.fixture(scope="module")
def layers():
  return points.work().layers


def test_hcu_takes_the_known_millisecond(platform, layers):
  """10 tokens × 32 / 16 cycles a cluster, 8 tables, 31 layers; and reloads."""
  compared = 31 * 8 * 10 * CLUSTERS * 32 / 16 * CYCLE_S
  assert compared == pytest.approx(1.0e-3, rel=0.02)
  reloads = 31 * 8 * (CLUSTERS - 1024) * 32 / 16 * CYCLE_S
  spent = float(jnp.sum(times(platform, layers).hcu_s))
  assert spent == pytest.approx(compared + reloads, rel=1e-3)


def test_tiling_costs_nothing_while_codes_fit(platform):
  """1024 codes of 4 B fill the memory: no reload well below, all above."""
  cycles = jax.jit(retrieval_engine.hcu_cycles)
  for tokens, reloaded in ((16384, 0), (65536, 1024)):
    layers = points.work(cached=tokens).layers
    plain = layers.comparisons * 32 / 16
    extra = (cycles(platform.engine, layers) - plain)[1]
    assert float(extra) == pytest.approx(8 * reloaded * 2, abs=32)


def test_wtu_passes_once_and_once_a_bucket(platform, layers):
  """40 rows a core × clusters / 16 × (1 + buckets): rows end alike."""
  alike = layers.replace(
    passes=3 * layers.scores, straggler_passes=3 * layers.scores
  )
  spent = float(jnp.sum(times(platform, alike).wtu_s))
  assert spent == pytest.approx(
    31 * 320 * CLUSTERS / 16 * 4 * CYCLE_S, rel=1e-4
  )
  assert spent == pytest.approx(0.5e-3, rel=0.02)


@pytest.mark.parametrize("rows", [1.0, 8.0, 40.0])
def test_rows_in_lockstep_wait_for_the_slowest(platform, layers, rows):
  """Never less than the mean's work, never more than the worst row's."""
  engine = platform.engine.replace(wtu_rows=jnp.float32(rows))
  cycles = functools.partial(retrieval_engine.wtu_cycles, cores=8.0)
  spent = jax.jit(cycles)(engine, layers)
  least = (layers.scores + layers.passes) / (16 * rows)
  most = (layers.scores + layers.straggler_passes) / (16 * rows)
  assert np.all(spent[1:] > least[1:])
  assert np.all(spent[1:] <= most[1:] * (1 + 1e-6))
  late = float(((spent - least) / (most - least))[1])
  assert late > 0.9 * {1.0: 0.07, 8.0: 0.4, 40.0: 0.7}[rows]


def test_expected_buckets_see_sixteen_percent():
  """V-Rex, Sec. V.B: 16 % of a row's scores, at a ratio of 0.3."""
  mean, worst = jax.jit(score_law.LAW.buckets)(0.3, 20.0, jnp.float32(320))
  assert float(score_law.LAW.seen(mean / 20)[1]) == pytest.approx(
    0.16, abs=0.01
  )
  assert mean < worst <= 20


def test_expected_buckets_grow_with_the_ratio():
  buckets = jax.jit(
    jax.vmap(lambda ratio: score_law.LAW.buckets(ratio, 20.0, jnp.float32(9)))
  )
  mean, worst = buckets(jnp.linspace(0.05, 0.95, 7))
  assert np.all(np.diff(mean) > 0)
  assert np.all(worst >= mean)
  assert np.all(mean <= 20)


def test_expected_buckets_against_drawn_scores():
  """The law's own scores, drawn; rows of 4000 leave at nearly one bucket."""
  random = np.random.default_rng(0)
  decay, number, ratio = score_law.LAW.decay_ratio, 20, 0.3
  uniform = random.uniform(size=(50, 4000))
  scores = -np.log(1 - uniform * (1 - np.exp(-decay))) / decay
  seen = scores >= 1 - (np.arange(1, number + 1) / number)[:, None, None]
  sums = (seen * scores).sum(-1) / scores.sum(-1)
  visited = 1 + (sums <= ratio).sum(0)
  mean, _ = jax.jit(score_law.LAW.buckets)(ratio, 20.0, jnp.float32(1))
  assert float(mean) == pytest.approx(visited.mean(), abs=0.6)


def test_a_request_moves_its_granularity_at_least(platform, layers):
  link = platform.link.replace(granularity_bytes=jnp.float32(4096))
  single = layers.replace(fetch_requests=layers.fetch_bytes / 512)
  moved = kvmu(link, single, contiguous=True).transferred_bytes
  np.testing.assert_allclose(moved, 8 * layers.fetch_bytes, rtol=1e-6)
  whole = kvmu(link, layers, contiguous=True).transferred_bytes
  np.testing.assert_allclose(whole, layers.fetch_bytes, rtol=1e-6)


def test_scattered_tokens_cost_what_the_ablation_says(platform, layers):
  together = kvmu(platform.link, layers, contiguous=True).time_s
  apart = kvmu(platform.link, layers, contiguous=False).time_s
  np.testing.assert_allclose(apart, together / 0.706, rtol=1e-5)


def test_a_memory_model_prices_requests_itself(platform, layers):
  """It gets bytes, sizes and depth, and no constant is put on top."""

  def link_time_s(
    link, *, transferred_bytes, request_bytes, requests, queue_depth
  ):
    del transferred_bytes
    return requests * link.latency_s / queue_depth + 0 * request_bytes

  memory = transfer.MemoryModel(link_time_s=link_time_s, prices_scatter=True)
  fetch = kvmu(platform.link, layers, contiguous=False, memory=memory)
  np.testing.assert_allclose(
    fetch.time_s, layers.fetch_requests * 80e-6 / 64, rtol=1e-6
  )


def test_there_is_no_engine_on_a_gpu(layers):
  with pytest.raises(ValueError, match="no retrieval engine"):
    retrieval_engine.times(points.platform("agx_orin"), layers)
