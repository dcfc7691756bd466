"""Units: how they end a name, and how a platform file spells them.

SI inside the package. A factor is applied once, where a file is read or a
number is shown. GB is 10⁹ bytes and GiB 2³⁰ bytes, here and nowhere else.
"""

from vrex_jax.errors import InputError

__all__ = [
  "GB",
  "KIB",
  "MM2",
  "MS",
  "PJ_PER_BIT",
  "PLAIN_SUFFIXES",
  "RATE_SUFFIXES",
  "SUFFIX_UNITS",
  "TIME_SUFFIX",
  "suffix_of",
  "to_si",
]

GB = 1e9
KIB = 2.0**10
MS = 1e-3
MM2 = 1e-6
PJ_PER_BIT = 8e-12
"""Joules per byte of one picojoule per bit."""

SUFFIX_UNITS: dict[str, dict[str, float]] = {
  "_bytes_per_s": {
    "B/s": 1.0,
    "MB/s": 1e6,
    "GB/s": GB,
    "TB/s": 1e12,
    "GiB/s": 2.0**30,
  },
  "_flops_per_s": {"FLOPS": 1.0, "GFLOPS": 1e9, "TFLOPS": 1e12},
  "_j_per_byte": {
    "J/B": 1.0,
    "pJ/B": 1e-12,
    "pJ/bit": PJ_PER_BIT,
    "nJ/B": 1e-9,
  },
  "_j_per_mac": {"J/MAC": 1.0, "pJ/MAC": 1e-12},
  "_s_per_byte": {"s/B": 1.0, "ns/B": 1e-9},
  "_m2_per_mac": {"m2/MAC": 1.0, "um2/MAC": 1e-12},
  "_m2_per_byte": {"m2/B": 1.0, "mm2/KiB": MM2 / KIB, "um2/B": 1e-12},
  "_m2_per_lane": {"m2/lane": 1.0, "mm2/lane": MM2, "um2/lane": 1e-12},
  "_w_per_byte": {"W/B": 1.0, "mW/KiB": 1e-3 / KIB},
  "_w_per_lane": {"W/lane": 1.0, "mW/lane": 1e-3},
  "_bytes": {
    "B": 1.0,
    "KB": 1e3,
    "MB": 1e6,
    "GB": GB,
    "KiB": KIB,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
  },
  "_m2": {"m2": 1.0, "mm2": MM2, "um2": 1e-12},
  "_hz": {"Hz": 1.0, "MHz": 1e6, "GHz": 1e9},
  "_w": {"W": 1.0, "mW": 1e-3},
  "_j": {"J": 1.0, "mJ": 1e-3, "pJ": 1e-12},
  "_s": {"s": 1.0, "ms": MS, "us": 1e-6, "ns": 1e-9},
}
"""Suffix of a name -> how a file may spell its unit -> factor to SI.

Longer suffixes come first: the first that fits is meant."""

PLAIN_SUFFIXES = (
  "efficiency",
  "utilisation",
  "depth",
  "cores",
  "units",
  "inputs",
  "lanes",
  "rows",
  "width",
  "buckets",
  "macs",
  "comparisons",
  "codes",
  "tables",
  "scores",
  "passes",
  "requests",
  "tokens",
  "ratio",
  "share",
  "banks",
  "groups",
  "ranks",
  "channels",
  "lookups",
  "release",
  "sharpness",
  "imbalance",
)
"""Last words of names that are plain numbers: counts, quotients, exponents and
switches (unit 1)."""

RATE_SUFFIXES = ("_hz", "_bytes_per_s", "_flops_per_s")
TIME_SUFFIX = "_s"


def suffix_of(name: str) -> str:
  """The suffix that gives the unit of `name`; "" for a plain number.

  Raises:
    ValueError: the name tells no unit.

  Example:
    >>> suffix_of("bandwidth_bytes_per_s"), suffix_of("latency_s")
    ('_bytes_per_s', '_s')
  """
  if name.rsplit("_", maxsplit=1)[-1] in PLAIN_SUFFIXES:
    return ""
  for suffix in SUFFIX_UNITS:
    if name.endswith(suffix):
      return suffix
  raise ValueError(
    f"{name} tells no unit; it must end in one of {', '.join(SUFFIX_UNITS)} or"
    f" in one of the words {', '.join(PLAIN_SUFFIXES)}: rename it"
  )


def to_si(name: str, value: float, unit: str) -> float:
  """A number of a file in SI.

  Args:
    name: of the field; its suffix says what is measured.
    value: as written.
    unit: as written; "1" for a plain number.

  Raises:
    InputError: the unit is not one of the field's.

  Example:
    >>> to_si("bandwidth_bytes_per_s", 204.8, "GB/s")
    204800000000.0
  """
  suffix = suffix_of(name)
  known = SUFFIX_UNITS.get(suffix, {"1": 1.0})
  if unit not in known:
    raise InputError(
      f"{name} has the unit {unit!r}; it must be one of {', '.join(known)}:"
      " correct the file"
    )
  return value * known[unit]
