"""Simulator rows that ship with the package, and which of them can be used.

`data/README.md` says where they come from. Every reader returns columns as
float64 arrays of one length; what is left out, and why, is in `UNUSABLE`.
"""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.hwmodel.dram import AddressMap
from vrex_jax.hwmodel.memory_devices import DATA

__all__ = [
  "UNUSABLE",
  "DramRows",
  "LinkRows",
  "SramRows",
  "SystolicRows",
  "read_dram",
  "read_link",
  "read_sram",
  "read_systolic",
]

UNUSABLE = {
  "dramsim3, HBM2_8Gb_x128 with 8 channels": (
    "the driver offers one request a clock, which caps them at a quarter of the"
    " peak: the injector is measured, not the DRAM"
  ),
  "dramsim3 and ramulator2, pattern cluster": (
    "the same run as the scatter row of that chunk"
  ),
  "mqsim, pattern STREAMING": (
    "neighbouring requests share a page and its mapping, which the model of"
    " random reads does not know"
  ),
  "scalesim, bandwidth other than CALC": (
    "stall cycles do not change from 8 to 256 words a cycle: a defect of the"
    " tool (SCALE-Sim issues 27 and 130)"
  ),
}
"""Rows that are not used -> why."""

_MAPS = {
  "RoBaRaCoCh": AddressMap.COLUMN_LOW,
  "MOP4CLXOR": AddressMap.GROUP_LOW,
  "ChRaBaRoCo": AddressMap.BANK_HIGH,
}
_DEVICES = {
  "LPDDR4_8Gb_x16_2400": "LPDDR4_8Gb_x16_2400",
  "DDR4_8Gb_x8_3200": "DDR4_8Gb_x8_3200",
  "HBM2_1ch": "HBM2_8Gb_x128_1ch",
}
_MIB = 2.0**20
_DRAMSIM_FOOTPRINT = 1024 * _MIB
_DRAMSIM_QUEUE = 32.0


class DramRows(NamedTuple):
  """Static. Reads of random chunks, and of one endless chunk."""

  device: list[str]
  address_map: list[AddressMap]
  chunk_bytes: np.ndarray
  queue_depth: np.ndarray
  footprint_bytes: np.ndarray
  sequential: np.ndarray  # b: the chunk is the footprint
  efficiency: np.ndarray


class LinkRows(NamedTuple):
  """Static. Random reads of an SSD."""

  device: list[str]
  request_bytes: np.ndarray
  queue_depth: np.ndarray
  bytes_per_s: np.ndarray


class SramRows(NamedTuple):
  """Static. Scratch memories; energies of one access of `width_bytes`."""

  feature_m: np.ndarray
  size_bytes: np.ndarray
  width_bytes: np.ndarray
  read_j: np.ndarray
  write_j: np.ndarray
  leakage_w: np.ndarray
  area_m2: np.ndarray


class SystolicRows(NamedTuple):
  """Static. Matrix products [rows, inner] x [inner, columns] on an array."""

  dataflow: list[str]
  rows: np.ndarray
  inner: np.ndarray
  columns: np.ndarray
  array_height: np.ndarray
  array_width: np.ndarray
  cycles: np.ndarray


def read_dram(folder: pathlib.Path = DATA) -> DramRows:
  """Usable rows of DRAMsim3 and Ramulator 2.

  Args:
    folder: that holds the tables.

  Raises:
    InputError: a table is missing or lacks a column.
  """
  entries = []
  for row in _read(folder, "dramsim3_kv_reads.csv", _CHUNKS, _DRAMSIM):
    if row["pattern"] == "cluster" or row["config"] not in _DEVICES:
      continue
    entries.append(
      (
        _DEVICES[row["config"]],
        AddressMap.COLUMN_LOW,
        row,
        _DRAMSIM_QUEUE,
        _DRAMSIM_FOOTPRINT,
      )
    )
  for row in _read(folder, "ramulator2_kv_reads.csv", _CHUNKS, _RAMULATOR):
    if row["pattern"] == "cluster":
      continue
    entries.append(
      (
        row["standard"],
        _MAPS[row["mapper"]],
        row,
        float(row["read_queue"]),
        float(row["footprint_MB"]) * _MIB,
      )
    )
  rows = [entry[2] for entry in entries]
  sequential = np.array([row["pattern"] == "seq" for row in rows])
  ranges = np.array([entry[4] for entry in entries])
  return DramRows(
    [entry[0] for entry in entries],
    [entry[1] for entry in entries],
    np.where(sequential, ranges, _column(rows, "chunk_bytes")),
    np.array([entry[3] for entry in entries]),
    ranges,
    sequential,
    _column(rows, "efficiency"),
  )


def read_link(folder: pathlib.Path = DATA) -> LinkRows:
  """Usable rows of MQSim.

  Args:
    folder: that holds the table.

  Raises:
    InputError: the table is missing or lacks a column.
  """
  rows = _read(folder, "mqsim_kv_reads.csv", _LINK)
  rows = [row for row in rows if row["pattern"] == "RANDOM_UNIFORM"]
  return LinkRows(
    [row["config"] for row in rows],
    *(_column(rows, name) for name in _LINK[2:]),
  )


def read_sram(folder: pathlib.Path = DATA) -> SramRows:
  """All rows of CACTI 7, in SI.

  Args:
    folder: that holds the table.

  Raises:
    InputError: the table is missing or lacks a column.
  """
  rows = _read(folder, "cacti7_sram.csv", tuple(_SRAM))
  return SramRows(*(_column(rows, n) * unit for n, unit in _SRAM.items()))


def read_systolic(folder: pathlib.Path = DATA) -> SystolicRows:
  """Usable rows of SCALE-Sim.

  Args:
    folder: that holds the table.

  Raises:
    InputError: the table is missing or lacks a column.
  """
  rows = _read(folder, "scalesim_gemm.csv", _SYSTOLIC)
  rows = [row for row in rows if row["bw_words_per_cycle"] == "CALC"]
  return SystolicRows(
    [row["dataflow"] for row in rows],
    *(_column(rows, name) for name in _SYSTOLIC[2:]),
  )


_CHUNKS = ("pattern", "chunk_bytes", "efficiency")
_DRAMSIM = ("config",)
_RAMULATOR = ("standard", "mapper", "read_queue", "footprint_MB")
_LINK = ("config", "pattern", "req_bytes", "queue_depth", "bandwidth_Bps")
_SRAM = {
  "tech_um": 1e-6,
  "size_B": 1.0,
  "width_B": 1.0,
  "read_nJ": 1e-9,
  "write_nJ": 1e-9,
  "leak_mW": 1e-3,
  "area_mm2": 1e-6,
}
_SYSTOLIC = (
  "dataflow",
  "bw_words_per_cycle",
  "M",
  "K",
  "N",
  "R",
  "C",
  "total_cycles",
)

Row = Mapping[str | Any, str | Any]


def _read(
  folder: pathlib.Path, name: str, *needed: tuple[str, ...]
) -> Sequence[Row]:
  path = folder / name
  try:
    with open(path, newline="", encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
  except OSError as error:
    raise InputError(
      f"{path} cannot be read ({error.strerror}); the folder must hold the"
      " simulator tables: leave the folder out for those of the package"
    ) from None
  columns = set(rows[0]) if rows else set()
  missing = [one for group in needed for one in group if one not in columns]
  if missing:
    raise InputError(
      f"{path} has no column {missing[0]}; it must be a table as in the"
      " package: see vrex_jax/hwmodel/data/README.md"
    )
  return rows


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
  return np.array([float(row[name]) for row in rows])
