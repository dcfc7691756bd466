"""Time of requests to a store: close to a simulator, and its laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.hwmodel import link
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_rows

EDGE = "edgeTLC40us_g4x4"
BANDWIDTH = jax.jit(link.link_bytes_per_s)
TIME = jax.jit(link.link_time_s)


@functools.cache
def all_rows():
  """Devices with leaves f[rows], and the rows."""
  rows = memory_rows.read_link()
  devices = [memory_devices.link(name) for name in rows.device]
  stack = lambda *leaves: jnp.asarray(leaves)
  return jax.tree.map(stack, *devices), rows


def bandwidth(changed=lambda devices: devices, larger=1.0, deeper=1.0):
  devices, rows = all_rows()
  return np.asarray(
    BANDWIDTH(
      changed(devices),
      request_bytes=jnp.asarray(rows.request_bytes) * larger,
      queue_depth=jnp.asarray(rows.queue_depth) * deeper,
    )
  )


def read(device, *, size=16384.0, requests=100.0, depth=8.0, padding=1.0):
  """f[30]-shaped arguments, so that one compilation serves all tests."""
  shaped = lambda value: jnp.full(30, value)
  return float(
    TIME(
      jax.tree.map(shaped, device),
      transferred_bytes=shaped(size * requests * padding),
      request_bytes=shaped(size),
      requests=shaped(requests),
      queue_depth=shaped(depth),
    )[0]
  )


def test_mean_error_on_simulator_rows_is_below_four_per_cent():
  _, rows = all_rows()
  errors = np.abs(bandwidth() / rows.bytes_per_s - 1.0)
  assert errors.mean() < 0.04
  assert errors.max() < 0.15


def test_larger_requests_and_deeper_queues_are_never_slower():
  base = bandwidth()
  assert np.all(bandwidth(larger=1.3) > base)
  assert np.all(bandwidth(deeper=1.3) > base)


@pytest.mark.parametrize(
  "field", ["access_s", "overhead_s", "channel_s_per_byte", "imbalance"]
)
def test_a_slower_store_is_never_faster(field):
  slower = bandwidth(lambda d: d.replace(**{field: 1.2 * getattr(d, field)}))
  assert np.all(slower <= bandwidth() * (1 + 1e-6))
  assert np.any(slower < bandwidth() * (1 - 1e-4))


@pytest.mark.parametrize("field", ["link_bytes_per_s", "units", "channels"])
def test_more_of_everything_is_never_slower(field):
  faster = bandwidth(lambda d: d.replace(**{field: 1.2 * getattr(d, field)}))
  assert np.all(faster >= bandwidth() * (1 - 1e-6))


def test_one_small_request_is_bound_by_latency():
  """A mapping read, a data read, the overhead; a byte crosses for free."""
  device = memory_devices.link(EDGE)
  alone_s = read(device, size=1.0, requests=1.0, depth=64.0)
  assert alone_s == pytest.approx(2 * 40e-6 + 1e-6, rel=1e-4)


def test_many_large_requests_get_the_payload_of_the_link():
  device = memory_devices.link(EDGE)
  total_bytes = 2.0**24 * 1e4
  seconds = read(device, size=2.0**24, requests=1e4, depth=1e4)
  share = total_bytes / seconds / float(device.payload_bytes_per_s)
  assert 0.95 < share <= 1.0


def test_without_a_medium_only_the_link_is_left():
  """CPU memory behind PCIe: a latency, then the payload rate."""
  host = memory_devices.link(EDGE).replace(
    access_s=0.0, lookups=0.0, channel_s_per_byte=0.0
  )
  one = read(host, size=1e6, requests=1.0, depth=1.0)
  expected = 1e-6 + 1e6 / float(host.payload_bytes_per_s)
  assert one == pytest.approx(expected, rel=1e-5)


def test_all_rates_by_k_and_all_times_through_k_give_the_time_through_k():
  device = memory_devices.link("mqsim_default_MLC75us_g3x4")
  faster = device.replace(
    link_bytes_per_s=3.0 * device.link_bytes_per_s,
    overhead_s=device.overhead_s / 3.0,
    access_s=device.access_s / 3.0,
    channel_s_per_byte=device.channel_s_per_byte / 3.0,
  )
  assert read(faster) == pytest.approx(read(device) / 3.0, rel=1e-5)


def test_time_grows_with_requests_and_is_zero_without():
  device = memory_devices.link(EDGE)
  times = [read(device, requests=n) for n in (0.0, 0.5, 1.0, 4.0, 8.0, 100.0)]
  assert times[0] == 0.0
  assert np.all(np.diff(times) > 0)
  assert times[1] == pytest.approx(times[2] / 2, rel=1e-5)


def test_padding_costs_time_on_the_link():
  device = memory_devices.link(EDGE)
  sizes = {"size": 2.0**18, "depth": 64.0}
  assert read(device, padding=1.5, **sizes) > 1.3 * read(device, **sizes)


def test_gradients_are_those_of_central_differences():
  """By every parameter and argument, and finite with nothing to read."""
  with jax.enable_x64(True):
    device = memory_devices.link("mqsim_default_MLC75us_g3x4")
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.float64, device))
    start = jnp.log(jnp.stack([*leaves, 2e6, 20000.0, 90.0, 7.0]))

    def seconds(logarithms):
      *own, moved, size, requests, depth = jnp.exp(logarithms)
      return link.link_time_s(
        jax.tree.unflatten(structure, own),
        transferred_bytes=moved,
        request_bytes=size,
        requests=requests,
        queue_depth=depth,
      )

    steps = 1e-5 * jnp.eye(len(start))
    nothing = start.at[-2].set(-jnp.inf).at[-4].set(-jnp.inf)
    alone = start.at[-1].set(0.0)
    points = jnp.concatenate(
      [
        start[None],
        start[None] + steps,
        start[None] - steps,
        jnp.stack([nothing, alone]),
      ]
    )
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(seconds)))(points)
    above, below = jnp.split(values[1 : 1 + 2 * len(start)], 2)
    central = (above - below) / 2e-5
    np.testing.assert_allclose(slopes[0], central, rtol=1e-6, atol=1e-12)
    assert np.count_nonzero(slopes[0]) == len(start)
    assert np.all(np.isfinite(slopes))
    assert float(values[-2]) == 0.0


def test_nothing_from_a_store_without_a_medium_has_a_derivative():
  host = memory_devices.link(EDGE).replace(
    access_s=0.0, lookups=0.0, channel_s_per_byte=0.0
  )

  def seconds(device, moved, requests):
    return link.link_time_s(
      device,
      transferred_bytes=moved,
      request_bytes=jnp.float32(512.0),
      requests=requests,
      queue_depth=jnp.float32(8.0),
    )

  slopes = jax.jit(jax.grad(seconds, argnums=(0, 1, 2)))(host, 0.0, 0.0)
  for leaf in jax.tree.leaves(slopes):
    assert np.isfinite(leaf)
