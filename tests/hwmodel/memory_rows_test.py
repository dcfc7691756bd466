"""The tables: how many rows are used, what they hold, what is refused."""

import numpy as np
import pytest

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import dram
from vrex_jax.hwmodel import link
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_rows
from vrex_jax.hwmodel import sram

UNITS = ("_bytes_per_s", "_s_per_byte", "_bytes", "_s", "_j", "_w", "_m2", "_m")
PLAIN = {
  *("banks", "bank_groups", "ranks", "bank_queue_depth", "early_release"),
  *("limit_sharpness", "queue_sharpness", "imbalance"),
  *("lookups", "units", "channels"),
}


def test_usable_rows_are_as_many_as_the_tables_say():
  assert len(memory_rows.read_dram().efficiency) == 133
  assert len(memory_rows.read_link().bytes_per_s) == 30
  assert len(memory_rows.read_sram().read_j) == 54
  assert len(memory_rows.read_systolic().cycles) == 36


def test_no_run_is_counted_twice():
  rows = memory_rows.read_dram()
  keys = zip(
    rows.device,
    rows.address_map,
    rows.chunk_bytes,
    rows.queue_depth,
    rows.footprint_bytes,
    rows.sequential,
    strict=True,
  )
  assert len(set(keys)) == len(rows.efficiency)


def test_every_device_of_the_rows_is_known():
  dram, link = memory_rows.read_dram(), memory_rows.read_link()
  assert set(dram.device) == set(memory_devices.names("dram"))
  assert set(link.device) == set(memory_devices.names("link"))


def test_peaks_are_those_of_the_simulators():
  """B/s of one channel, as the tables' own peak_GBps columns have them."""
  peak = lambda name: float(memory_devices.dram(name).peak_bytes_per_s)
  assert peak("LPDDR5_6400_x16") == pytest.approx(12.8e9)
  assert peak("DDR4_3200AA_x8") == pytest.approx(25.6e9)
  assert peak("LPDDR4_8Gb_x16_2400") == pytest.approx(19.277108e9)
  assert peak("HBM2_8Gb_x128_1ch") == pytest.approx(32e9)


def test_units_are_si():
  rows = memory_rows.read_sram()
  assert np.all((rows.read_j > 1e-13) & (rows.read_j < 1e-9))
  assert np.all((rows.area_m2 > 1e-9) & (rows.area_m2 < 1e-5))
  assert set(rows.feature_m) == {22e-9, 32e-9}


def test_a_missing_table_is_one_sentence(tmp_path):
  with pytest.raises(InputError, match="dramsim3_kv_reads"):
    memory_rows.read_dram(tmp_path)


def test_a_table_without_a_column_names_it(tmp_path):
  (tmp_path / "cacti7_sram.csv").write_text("tech_um,size_B\n0.022,2048\n")
  with pytest.raises(InputError, match="no column width_B"):
    memory_rows.read_sram(tmp_path)


def test_an_unknown_device_lists_those_there_are():
  with pytest.raises(InputError, match="LPDDR5_6400_x16"):
    memory_devices.dram("DDR9")


@pytest.mark.parametrize("kind", ["dram", "link"])
def test_every_device_has_a_source_and_a_status(kind):
  for name, entry in memory_devices.entries(kind).items():
    assert entry["status"] in {"datasheet", "derived", "assumed"}, name
    assert len(entry["source"]) > 20, name
    fields = {*entry, *entry.get("clocks", {})}
    marked = {*entry.get("assumed", ()), *entry.get("derived", ())}
    assert marked <= fields, name


@pytest.mark.parametrize(
  "fields",
  [
    dram.DramTiming.__dataclass_fields__,
    link.LinkTiming.__dataclass_fields__,
    link.Demand._fields,
    sram.SramCosts._fields,
  ],
)
def test_every_number_has_its_unit_in_its_name_or_is_known_to_have_none(fields):
  for name in fields:
    assert name.endswith(UNITS) != (name in PLAIN), name
