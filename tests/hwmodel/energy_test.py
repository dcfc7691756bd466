"""Joules: linear in what is counted, an interval where it is disputed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.hwmodel import energy


@pytest.fixture(scope="module")
def spent():
  return points.priced()


def parts(spent, platform, link):
  return energy.parts(
    platform, spent.work, spent.time, link_j_per_byte=jnp.float32(link)
  )


def test_the_sum_is_what_counts_and_seconds_cost(spent):
  """Term by term, at 381 pJ/bit."""
  platform = points.platform()
  made = parts(spent, platform, 381 * 8e-12)
  work, time = spent.work, spent.time
  assert float(made.link_j) == pytest.approx(
    float(work.link_bytes) * 381 * 8e-12, rel=1e-5
  )
  assert float(made.matrix_j) == pytest.approx(
    float(work.macs) * 0.7054e-12, rel=1e-5
  )
  assert float(made.static_j) == pytest.approx(
    2.0 * float(time.latency_s), rel=1e-5
  )
  assert float(made.total) == pytest.approx(
    float(spent.energy_j.high), rel=1e-5
  )


def test_the_dispute_is_an_interval(spent):
  low, high = map(float, spent.energy_j)
  bits = 8 * float(spent.work.link_bytes)
  assert high - low == pytest.approx(bits * (381 - 7.5) * 1e-12, rel=1e-4)
  assert low > 0


def test_flexgen_pays_the_known_joules_on_the_link():
  """All of 40K at 3 W a lane: 16.4 J; 17.5 J at 4 GB/s and 5.24 GB, 13 W."""
  spent = points.priced("flexgen", on="vrex8")
  joules = float(spent.work.link_bytes) * 381 * 8e-12
  assert joules == pytest.approx(40960 * 131072 * 3.048e-9, rel=1e-3)


def test_a_board_that_was_measured_whole_pays_for_time_only():
  spent = points.priced("flexgen", on="agx_orin")
  assert float(spent.energy_j.low) == pytest.approx(
    40 * float(spent.time.latency_s), rel=1e-5
  )
  assert spent.energy_j.low == spent.energy_j.high


def test_faster_rates_leave_counted_energy_alone(spent):
  """Twice the clock of everything: time halves, matrix and DRAM energy stay."""
  from vrex_jax.hwmodel import params

  platform = params.as_arrays(points.platform().replace(name=""), jnp.float32)
  faster = points.price(
    params.speed_up(platform, 2.0), spent.work, points.schedule()
  )
  assert float(faster.time.latency_s) == pytest.approx(
    float(spent.time.latency_s) / 2, rel=1e-5
  )
  one, two = (parts(each, points.platform(), 1e-9) for each in (spent, faster))
  for name in ("matrix_j", "dram_j", "link_j"):
    assert getattr(one, name) == getattr(two, name)
  assert all(np.all(leaf >= 0) for leaf in jax.tree.leaves(one))
