"""Constants nobody knows well, as one value that a verdict is taken over.

Each is a factor of the platform file's number (1 in the centre) or a place
between two ends (0.5 in the centre):

  constant              low   high   why
  link_energy           0     1      place in the logarithm between `low_` and
                                     `high_j_per_byte`, a factor of 50
  dram_efficiency       0.85  1.15   fitted to one printed figure
  vision_utilisation    0.7   1.4    fitted together with the law of fetches
  link_efficiency       0.85  1.2    fitted to one printed figure
  dram_energy           0.6   1.2    vendors span 4 to 8 pJ/bit
  static_power          0.5   2      assumed
  storage_power         0.7   1.5    of another SSD
  residency             0     1      place between the law of fetches fitted to
                                     V-Rex8 and fetching all that is chosen
                                     outside the window

A claim about two designs is a claim only if it holds with the same constants in
both, whichever of the band they are.

Source: docs/hardware_model.md, "What is a fit"; the widths are ours.
"""

import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.hwmodel import params
from vrex_jax.typing import Float

__all__ = [
  "BAND",
  "CENTRE",
  "Constants",
  "applied",
  "corners",
  "ends",
  "link_j_per_byte",
]


class Constants(flax.struct.PyTreeNode):
  """Dynamic. See above; f[] each."""

  link_energy: Float | float = 0.5
  dram_efficiency: Float | float = 1.0
  vision_utilisation: Float | float = 1.0
  link_efficiency: Float | float = 1.0
  dram_energy: Float | float = 1.0
  static_power: Float | float = 1.0
  storage_power: Float | float = 1.0
  residency: Float | float = 0.0


CENTRE = Constants()
BAND: dict[str, tuple[float, float]] = {
  "link_energy": (0.0, 1.0),
  "dram_efficiency": (0.85, 1.15),
  "vision_utilisation": (0.7, 1.4),
  "link_efficiency": (0.85, 1.2),
  "dram_energy": (0.6, 1.2),
  "static_power": (0.5, 2.0),
  "storage_power": (0.7, 1.5),
  "residency": (0.0, 1.0),
}
"""Least and most of every constant."""


def applied(platform: params.Platform, known: Constants) -> params.Platform:
  """A platform with these constants; shares of a peak stay at most 1."""
  capped = lambda share: jnp.minimum(share, 1.0)
  dram, link, compute = platform.dram, platform.link, platform.compute
  return platform.replace(
    compute=compute.replace(
      vision_utilisation=capped(
        compute.vision_utilisation * known.vision_utilisation
      )
    ),
    dram=dram.replace(
      efficiency=capped(dram.efficiency * known.dram_efficiency),
      access_j_per_byte=dram.access_j_per_byte * known.dram_energy,
    ),
    link=link.replace(
      efficiency=capped(link.efficiency * known.link_efficiency),
      storage_w=link.storage_w * known.storage_power,
    ),
    power=params.PowerParameters(
      static_w=platform.power.static_w * known.static_power
    ),
  )


def link_j_per_byte(link: params.LinkParameters, known: Constants) -> Float:
  """Energy of a transfer at a place of its disputed interval.

  low · (high / low)^place: in the centre the geometric mean.
  """
  ratio = link.high_j_per_byte / link.low_j_per_byte
  return link.low_j_per_byte * ratio**known.link_energy


def corners() -> Constants:
  """Every corner of the band, and its centre last: f[2⁸ + 1] each.

  Example:
    >>> corners().residency.shape
    (257,)
  """
  table = np.array(list(itertools.product(*BAND.values())))
  return _stacked([*table, _centre()])


def ends() -> Constants:
  """One constant at a time at either end, and the centre last: f[17] each."""
  rows = []
  for index, name in enumerate(BAND):
    for value in BAND[name]:
      row = _centre()
      row[index] = value
      rows.append(row)
  return _stacked([*rows, _centre()])


def _centre() -> np.ndarray:
  return np.array([getattr(CENTRE, name) for name in BAND])


def _stacked(rows: list[np.ndarray]) -> Constants:
  columns = np.stack(rows, axis=1)
  return jax.tree.map(
    jnp.asarray, Constants(**dict(zip(BAND, columns, strict=True)))
  )
