"""Memories and links that can be bought, and what lies between two of them.

While it is searched a bandwidth is continuous; energy, storage power and area
go with it, linear in its logarithm between two classes. A finished design has
the bandwidth of a class.

Source: `data/interfaces.toml`, a source and a status for every number.
"""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax.hwmodel import units
from vrex_jax.typing import Float

__all__ = ["Classes", "at", "classes", "nearest", "offers"]


class Classes(NamedTuple):
  """Static. One kind of interface, slowest first.

  Attributes:
    names: of the classes.
    figures: field -> its number in every class, SI; one of them is
      `bandwidth_bytes_per_s`.
  """

  names: tuple[str, ...]
  figures: Mapping[str, np.ndarray]

  @property
  def bandwidth_bytes_per_s(self) -> np.ndarray:
    """Of every class, rising."""
    return self.figures["bandwidth_bytes_per_s"]


@functools.cache
def classes(kind: str) -> Classes:
  """All classes of a kind.

  Args:
    kind: "dram" or "link".

  Example:
    >>> classes("link").names[1]
    'PCIe 3.0 x4'
  """
  folder = resources.files("vrex_jax.codesign") / "data"
  text = (folder / "interfaces.toml").read_text(encoding="utf-8")
  entries: Sequence[Mapping[str, Any]] = tomllib.loads(text)[kind]
  names = tuple(entry["name"] for entry in entries)
  fields = [field for field in entries[0] if field != "name"]
  return Classes(
    names,
    {
      field: np.array(
        [
          units.to_si(field, entry[field]["value"], entry[field]["unit"])
          for entry in entries
        ]
      )
      for field in fields
    },
  )


def at(kind: str, bandwidth_bytes_per_s: Float) -> dict[str, Float]:
  """What an interface of any bandwidth would have.

  Args:
    kind: "dram" or "link".
    bandwidth_bytes_per_s: f[]; beyond the classes the outermost one's.

  Returns:
    Every figure but the bandwidth, f[] each.

  Example:
    >>> paper = at("link", jnp.float32(4e9))
    >>> round(float(paper["storage_w"]), 3)
    4.5
  """
  known = classes(kind)
  places = np.log(known.bandwidth_bytes_per_s)
  place = jnp.log(bandwidth_bytes_per_s)
  gone = jnp.clip((place - places[:-1]) / np.diff(places), 0.0, 1.0)
  return {
    field: values[0] + jnp.sum(np.diff(values) * gone)
    for field, values in known.figures.items()
    if field != "bandwidth_bytes_per_s"
  }


def nearest(kind: str, bandwidth_bytes_per_s: float) -> str:
  """Name of the class that is nearest in the logarithm of bandwidth."""
  known = classes(kind)
  apart = np.abs(np.log(known.bandwidth_bytes_per_s / bandwidth_bytes_per_s))
  return known.names[int(np.argmin(apart))]


def offers(kind: str, bandwidth_bytes_per_s: float) -> bool:
  """Is there a class of this bandwidth?

  Example:
    >>> offers("dram", 204.8e9), offers("dram", 1935e9)
    (True, False)
  """
  known = classes(kind).bandwidth_bytes_per_s
  return bool(np.any(np.isclose(known, bandwidth_bytes_per_s, rtol=1e-3)))
