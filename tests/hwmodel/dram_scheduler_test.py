"""The scheduler: cases counted by hand, and a simulator's rows."""

import numpy as np
import pytest

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import dram
from vrex_jax.hwmodel import dram_scheduler
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_fresh
from vrex_jax.hwmodel import memory_rows

CLOCK_S = 0.625e-9
DDR4 = memory_devices.dram("DDR4_3200AA_x8")
NO_REFRESH = DDR4.replace(refresh_interval_s=1.0)


def scheduled(device=NO_REFRESH, **changes):
  settings = {"chunk_bytes": 64, "queue_depth": 32, "bursts": 600, **changes}
  return dram_scheduler.simulate(device, clock_s=CLOCK_S, **settings)


def test_single_bursts_are_bound_by_four_activations_in_a_window():
  assert scheduled(queue_depth=64) == pytest.approx(4 * 4 / 34, rel=0.04)


def test_one_row_is_bound_by_the_pause_in_a_bank_group():
  """The range is a chunk, a chunk is a row: opened once, then tCCD_L each."""
  share = scheduled(chunk_bytes=8192, footprint_bytes=8192)
  assert share == pytest.approx(4 / 8, rel=0.02)


def test_groups_in_turn_fill_the_bus():
  share = scheduled(
    chunk_bytes=2**20,
    footprint_bytes=2**20,
    address_map=dram.AddressMap.GROUP_LOW,
  )
  assert share > 0.95


def test_refresh_takes_its_share():
  sequential = {
    "chunk_bytes": 2**26,
    "footprint_bytes": 2**26,
    "address_map": dram.AddressMap.GROUP_LOW,
    "bursts": 8000,
  }
  lost = 1 - scheduled(DDR4, **sequential) / scheduled(**sequential)
  assert lost == pytest.approx(560 / 12480, abs=0.02)


def test_another_controller_is_refused():
  with pytest.raises(InputError, match="one rank"):
    scheduled(memory_devices.dram("DDR4_8Gb_x8_3200"))


def test_rows_of_ramulator_are_met():
  case = memory_fresh.scheduler_case(memory_rows.read_dram(), every=12)
  _, predicted = case.candidates[0].fit(np.ones(len(case.observed), bool))
  errors = np.abs(predicted / case.observed - 1.0)
  assert len(errors) >= 8
  assert errors.mean() < 0.04


def test_the_model_holds_on_devices_no_one_looked_at():
  case = memory_fresh.fresh_case(16, seed=1)
  _, predicted = case.candidates[0].fit(np.ones(len(case.observed), bool))
  assert np.mean(np.abs(predicted / case.observed - 1.0)) < 0.10
