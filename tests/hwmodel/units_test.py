"""Units are in names: every float field of the hardware model tells its own."""

import importlib
import inspect
import pkgutil

import flax.struct
import pytest

from vrex_jax import hwmodel
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import units

# Values that hold others, or are named by a block or a mathematical symbol.
HOLDERS = {
  "Platform",
  "Work.layers",
  "Estimate",
  "Priced",
  "EngineParameters",
}
WITHOUT_UNIT = {
  "Blocks",  # one quantity by block: the function that returns it says which
  "Interval",
  "SramTable",  # coefficients of a regression on logarithms
  "Roofline.intensity",
  "Roofline.ridge",
  "Retrieval.candidates",
  "Retrieval.hashes",
  "Retrieval.reads_table",
}


def classes():
  """Pytrees of floats that the modules of hwmodel define."""
  for module in pkgutil.iter_modules(hwmodel.__path__):
    loaded = importlib.import_module(f"vrex_jax.hwmodel.{module.name}")
    for name, value in vars(loaded).items():
      own = inspect.isclass(value) and value.__module__ == loaded.__name__
      if own and issubclass(value, flax.struct.PyTreeNode):
        yield name, value


def fields():
  return [
    (name, field.name)
    for name, value in classes()
    for field in value.__dataclass_fields__.values()
    if field.type in ("Float", "Float | float", "Float | np.ndarray")
    or "Float" in str(field.type)
    or "Array" in str(field.type)
  ]


def test_every_float_field_ends_in_its_unit():
  known = {*HOLDERS, *WITHOUT_UNIT}
  silent = []
  for owner, field in fields():
    if owner in known or f"{owner}.{field}" in known or owner == "Ratios":
      continue
    try:
      units.suffix_of(field)
    except ValueError:
      silent.append(f"{owner}.{field}")
  assert silent == []
  assert len(fields()) > 80


def test_a_field_without_a_unit_is_seen():
  with pytest.raises(ValueError, match="tells no unit"):
    units.suffix_of("latency")


@pytest.mark.parametrize(
  ("name", "value", "unit", "si"),
  [
    ("capacity_bytes", 1, "GB", 1e9),
    ("capacity_bytes", 1, "GiB", 2**30),
    ("memory_bytes", 384, "KiB", 393216),
    ("clock_hz", 800, "MHz", 8e8),
    ("low_j_per_byte", 7.5, "pJ/bit", 6e-11),
    ("kvmu_m2", 0.01, "mm2", 1e-8),
    ("efficiency", 0.5, "1", 0.5),
  ],
)
def test_conversion(name, value, unit, si):
  assert units.to_si(name, value, unit) == pytest.approx(si, rel=1e-12)


def test_a_unit_of_another_quantity_is_refused():
  with pytest.raises(InputError, match="must be one of B/s"):
    units.to_si("bandwidth_bytes_per_s", 1.0, "GB")


def test_rates_and_times_of_a_platform_are_known():
  """What scales with the clock of the world, and what against it."""
  names = [
    field
    for part in (
      params.ComputeParameters,
      params.DramParameters,
      params.LinkParameters,
      params.SoftwareParameters,
    )
    for field in part.__dataclass_fields__
  ]
  suffixes = {name: units.suffix_of(name) for name in names}
  assert {n for n in names if suffixes[n] in units.RATE_SUFFIXES} == {
    "clock_hz",
    "bandwidth_bytes_per_s",
  }
  assert {n for n in names if suffixes[n] == units.TIME_SUFFIX} == {
    "latency_s",
    "layer_s",
    "score_s",
  }
