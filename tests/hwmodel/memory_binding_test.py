"""The memory models in the platform's prices: nothing is counted twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import memory_binding
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import transfer

LONG = 2.0**20
dram_time_s = jax.jit(transfer.dram_time_s, static_argnames="memory")
fetch_time_s = jax.jit(transfer.fetch_time_s, static_argnames="memory")


def test_every_platform_that_ships_has_devices():
  assert set(memory_binding.DEVICES) == set(platforms.PLATFORMS)


@pytest.mark.parametrize("name", ["vrex8", "a100"])  # an SSD, and CPU memory
def test_long_streams_cost_what_the_platform_file_says(name):
  """Fitted or measured efficiency, once; a latency more or less on the link."""
  platform, memory = points.platform(name), memory_binding.validated(name)
  moved = jnp.float32(2.0**33)
  for priced in (transfer.IDEAL, memory):
    spent = dram_time_s(platform.dram, moved, chunk_bytes=moved, memory=priced)
    rate = platform.dram.bandwidth_bytes_per_s * platform.dram.efficiency
    assert float(spent) == pytest.approx(2.0**33 / rate, rel=1e-3)
    spent = fetch_time_s(
      platform.link,
      transferred_bytes=moved,
      requests=moved / LONG,
      memory=priced,
    )
    rate = platform.link.bandwidth_bytes_per_s * platform.link.efficiency
    assert float(spent) == pytest.approx(2.0**33 / rate, rel=0.02)


def test_short_requests_are_slower_the_shorter_they_are():
  link = points.platform().link
  sizes = np.array([512.0, 4096.0, 16384.0, LONG], np.float32)
  spent = fetch_time_s(
    link,
    transferred_bytes=jnp.full(4, 2.0**30),
    requests=jnp.asarray(2.0**30 / sizes),
    memory=memory_binding.validated("vrex8"),
  )
  assert np.all(np.diff(spent) < 0)
  assert spent[0] > 20 * spent[3]  # tokens one by one
  assert spent[2] < 1.5 * spent[3]  # clusters


def test_one_object_a_platform_so_that_programs_are_shared():
  assert memory_binding.validated("vrex8") is memory_binding.validated("vrex8")
  assert memory_binding.validated("vrex8").prices_scatter


def test_an_unknown_platform_is_told_the_way_out():
  with pytest.raises(InputError, match="use --memory ideal"):
    memory_binding.validated("my_chip")
