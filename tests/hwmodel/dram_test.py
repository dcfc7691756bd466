"""DRAM efficiency: close to simulators, and the laws it must keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.hwmodel import dram
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_rows

MAPS = list(dram.AddressMap)
COMPILED = jax.jit(dram.dram_efficiency, static_argnames="address_map")


@functools.cache
def all_rows():
  """Devices with leaves f[rows], and the rows."""
  rows = memory_rows.read_dram()
  devices = [memory_devices.dram(name) for name in rows.device]
  stack = lambda *leaves: jnp.asarray(leaves)
  return jax.tree.map(stack, *devices), rows


def predict(changed=None, scale=1.0):
  """f[rows] from the constants of the package."""
  devices, rows = all_rows()
  if changed is not None:
    devices = changed(devices)
  own = [one.value for one in rows.address_map]
  result = np.empty(len(own))
  for address_map in MAPS:
    every = COMPILED(
      devices,
      chunk_bytes=jnp.asarray(rows.chunk_bytes),
      queue_depth=jnp.asarray(rows.queue_depth) * scale,
      address_map=address_map,
      footprint_bytes=jnp.asarray(rows.footprint_bytes),
    )
    mine = np.array(own) == address_map.value
    result[mine] = np.asarray(every)[mine]
  return result


def test_mean_error_on_simulator_rows_is_below_four_per_cent():
  _, rows = all_rows()
  errors = np.abs(predict() / rows.efficiency - 1.0)
  assert errors.mean() < 0.04
  assert np.median(errors) < 0.03


def test_no_device_and_no_map_is_worse_than_six_per_cent():
  _, rows = all_rows()
  errors = np.abs(predict() / rows.efficiency - 1.0)
  for labels in (rows.device, rows.address_map):
    names = np.array([str(label) for label in labels])
    for name in set(names):
      assert errors[names == name].mean() < 0.06, name


def test_only_quotients_of_times_matter():
  """All times times k: the same share of a peak that is 1/k as high."""

  def slower(devices):
    names = [name for name in vars(devices) if name.endswith("_s")]
    return devices.replace(**{n: 3.0 * getattr(devices, n) for n in names})

  np.testing.assert_allclose(predict(slower), predict(), rtol=1e-5)


def test_a_deeper_queue_is_never_worse():
  deeper = predict(scale=1.25)
  assert np.all(deeper >= predict() * (1 - 1e-6))


@pytest.mark.parametrize(
  "field",
  [
    "activate_s",
    "precharge_s",
    "row_cycle_s",
    "activate_to_activate_s",
    "four_activate_s",
    "refresh_s",
  ],
)
def test_a_slower_device_is_never_better(field):
  slower = predict(lambda d: d.replace(**{field: 1.2 * getattr(d, field)}))
  assert np.all(slower <= predict() * (1 + 1e-6))
  assert np.any(slower < predict() * (1 - 1e-4))


def test_shares_are_shares():
  values = predict()
  assert np.all((values > 0) & (values <= 1))


def test_an_endless_queue_without_refresh_or_groups_reaches_the_peak():
  device = memory_devices.dram("LPDDR5_6400_x16").replace(
    refresh_s=1e-15,
    same_group_s=2.5e-9,
    bank_groups=16.0,
    limit_sharpness=64.0,
  )
  share = COMPILED(device, chunk_bytes=2048.0, queue_depth=1e6)
  assert float(share) > 0.98


def test_a_single_request_is_bound_by_latency():
  """One burst at a time: tRP + tRCD + tCCD_L each, were no bank ever closed."""
  device = memory_devices.dram("DDR4_3200AA_x8").replace(
    early_release=0.0, refresh_s=1e-12, refresh_interval_s=1.0
  )
  share = COMPILED(device, chunk_bytes=64.0, queue_depth=1.0)
  assert float(share) == pytest.approx(4 / (22 + 22 + 8), rel=0.05)


def test_a_part_of_a_burst_is_paid_whole():
  device = memory_devices.dram("DDR4_3200AA_x8")
  whole = COMPILED(device, chunk_bytes=64.0, queue_depth=32.0)
  part = COMPILED(device, chunk_bytes=16.0, queue_depth=32.0)
  assert float(part) == pytest.approx(float(whole) / 4, rel=1e-5)


def test_turning_the_bus_costs_its_time():
  device = memory_devices.dram("LPDDR5_6400_x16").replace(turnaround_s=1e-8)
  share = lambda turns: float(
    COMPILED(
      device,
      chunk_bytes=8192.0,
      queue_depth=32.0,
      turnarounds_per_burst=turns,
    )
  )
  assert share(0.1) < share(0.01) < share(0.0)


def test_a_row_is_opened_for_as_many_bursts_as_a_chunk_has_in_it():
  device = memory_devices.dram("DDR4_3200AA_x8")
  opened = lambda size, way: float(
    dram.footprint(device, chunk_bytes=size, address_map=way).opened
  )
  assert opened(512.0, dram.AddressMap.COLUMN_LOW) == 8
  assert opened(2.0**20, dram.AddressMap.COLUMN_LOW) == 128  # a row
  assert opened(512.0, dram.AddressMap.GROUP_LOW) == 2  # over four groups
  assert opened(4096.0, dram.AddressMap.GROUP_LOW) == 4  # over all banks


ENDS = {
  "chunk": (1.0, 32.0, 2048.0, 2.0**40, 32.0, 2.0**40),
  "depth": (1.0, 1.0, 1e6, 1e6, 1e6, 1.0),
}


# COLUMN_LOW takes the path of BANK_HIGH, all banks in reach.
@pytest.mark.parametrize("address_map", MAPS[1:])
def test_gradients_are_those_of_central_differences(address_map):
  """By every parameter, away from corners; finite at the ends of all ranges."""
  with jax.enable_x64(True):
    device = jax.tree.map(
      jnp.float64, memory_devices.dram("LPDDR5_6400_x16")
    ).replace(
      ranks=jnp.float64(1.5),
      turnaround_s=jnp.float64(1e-8),
      four_activate_s=jnp.float64(22e-9),
    )
    leaves, structure = jax.tree.flatten(device)
    base = jnp.stack([*leaves, 700.0, 20.0, 2.0**29])

    def share(logarithms):
      *device_leaves, chunk, depth, extent = jnp.exp(logarithms)
      return dram.dram_efficiency(
        jax.tree.unflatten(structure, device_leaves),
        chunk_bytes=chunk,
        queue_depth=depth,
        address_map=address_map,
        footprint_bytes=extent,
        turnarounds_per_burst=0.02,
      )

    # By logarithms, so that one step suits all; zero has no logarithm.
    base = jnp.log(jnp.maximum(base, 1e-30))
    steps = 1e-5 * jnp.eye(len(base))
    ends = jnp.tile(base, (len(ENDS["chunk"]), 1))
    ends = ends.at[:, -3].set(jnp.log(jnp.array(ENDS["chunk"])))
    ends = ends.at[:, -2].set(jnp.log(jnp.array(ENDS["depth"])))
    points = jnp.concatenate(
      [base[None], base[None] + steps, base[None] - steps, ends]
    )
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(share)))(points)
    above, below = jnp.split(values[1 : 1 + 2 * len(base)], 2)
    np.testing.assert_allclose(slopes[0], (above - below) / 2e-5, atol=1e-8)
    assert np.count_nonzero(slopes[0]) > 10
    assert np.all(np.isfinite(values))
    assert np.all(np.isfinite(slopes))


def test_single_precision_is_finite_at_the_ends_too():
  """Two ranks and an endless queue: concurrency far beyond what matters."""
  device = jax.tree.map(jnp.float32, memory_devices.dram("DDR4_8Gb_x8_3200"))
  share = lambda d, chunk, depth: jnp.sum(
    dram.dram_efficiency(d, chunk_bytes=chunk, queue_depth=depth)
  )
  ends = jnp.array(ENDS["chunk"]), jnp.array(ENDS["depth"])
  slopes = jax.jit(jax.grad(share, argnums=(0, 1, 2)))(device, *ends)
  for leaf in jax.tree.leaves(slopes):
    assert np.all(np.isfinite(leaf))
