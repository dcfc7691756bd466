"""A cost adds, scales, has a zero, and is the sum of its parts."""

import jax
import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.hwmodel import area


@pytest.fixture(scope="module")
def two():
  return points.work(cached=4096), points.work(cached=8192)


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_works_add_and_scale(two):
  one, other = two
  close(one + other, other + one)
  close(one + one, 2.0 * one)
  close(one + one.zeros(), one)
  assert float((one + other).macs) == pytest.approx(
    float(one.macs) + float(other.macs), rel=1e-6
  )


def test_a_batch_multiplies_all_but_weights(two):
  one, four = two[0], points.work(cached=4096, batch=4.0)
  weights = ("qkv_weight_bytes", "feed_weight_bytes")
  for name, value in vars(one.layers).items():
    factor = 1.0 if name in weights else 4.0
    np.testing.assert_allclose(
      getattr(four.layers, name), factor * value, rtol=1e-6
    )
  assert four.vision_macs == pytest.approx(4 * one.vision_macs)
  assert four.vision_weight_bytes == one.vision_weight_bytes


def test_totals_are_sums_of_parts():
  time = points.priced().time
  assert float(time.exposed.total) == pytest.approx(
    float(time.latency_s), rel=1e-6
  )
  blocks = area.blocks_area_m2(points.platform())
  assert float(blocks.total) == pytest.approx(sum(vars(blocks).values()))
