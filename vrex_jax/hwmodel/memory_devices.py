"""Devices by name: `data/memory_devices.toml`, with source and status."""

import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from vrex_jax.errors import InputError
from vrex_jax.hwmodel.dram import DramTiming
from vrex_jax.hwmodel.link import LinkTiming

__all__ = ["DATA", "dram", "entries", "link", "names"]

DATA = pathlib.Path(__file__).resolve().parent / "data"
"""Folder of the tables that ship with the package."""
_NOTES = ("status", "source", "assumed", "derived")


def names(kind: str) -> list[str]:
  """Known devices.

  Args:
    kind: "dram" or "link".
  """
  return sorted(entries(kind))


def dram(name: str) -> DramTiming:
  """A channel of DRAM.

  Args:
    name: one of `names("dram")`.

  Raises:
    InputError: there is no such device.

  Example:
    >>> print(f"{dram('LPDDR5_6400_x16').peak_bytes_per_s / 1e9:.1f} GB/s")
    12.8 GB/s
  """
  entry = dict(_entry("dram", name))
  clock_s = entry.pop("clock_s")
  times: dict[str, Any] = {
    f"{k}_s": clock_s * v for k, v in entry.pop("clocks").items()
  }
  return DramTiming(**times, **_plain(entry))


def link(name: str) -> LinkTiming:
  """A store behind a link.

  Args:
    name: one of `names("link")`.

  Raises:
    InputError: there is no such device.
  """
  return LinkTiming(**_plain(_entry("link", name)))


def entries(kind: str) -> Mapping[str, Mapping[str, Any]]:
  """What the file says of every device, source and status included.

  Args:
    kind: "dram" or "link".
  """
  with open(DATA / "memory_devices.toml", "rb") as file:
    return tomllib.load(file)[kind]


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
  return {k: float(v) for k, v in entry.items() if k not in _NOTES}


def _entry(kind: str, name: str) -> Mapping[str, Any]:
  known = entries(kind)
  if name not in known:
    raise InputError(
      f"no {kind} device is called {name!r}: take one of"
      f" {', '.join(sorted(known))}"
    )
  return known[name]
