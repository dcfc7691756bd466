"""Platforms by name, or as a TOML file of one's own.

A file has a table for each part of `params.Platform`, and in it one line for
each number: value, unit, status and source, none of which may be left out.

  name = "my_chip"
  base = "vrex8"                         # optional: all that is not said below
  [dram]
  bandwidth_bytes_per_s = { value = 273, unit = "GB/s", status = "datasheet",
                            source = "…" }

(on one line in the file). `engine`, `units` and `cpu` may be absent as a whole.
A file with a base says only what differs from it.
"""

import math
import pathlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import tomli_w

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import units

__all__ = ["PLATFORMS", "Description", "describe", "named", "read", "write"]

PLATFORMS = ("vrex8", "vrex48", "agx_orin", "a100")
"""Platforms that ship with the package."""

_PARTS: dict[str, Any] = {
  "compute": params.ComputeParameters,
  "dram": params.DramParameters,
  "link": params.LinkParameters,
  "software": params.SoftwareParameters,
  "power": params.PowerParameters,
  "engine": params.EngineParameters,
  "units": params.UnitParameters,
  "cpu": params.CpuParameters,
}
_OPTIONAL = ("engine", "units", "cpu")
_SHARES = ("efficiency", "utilisation")
_RANGE_SI = (1e-20, 1e20)
"""Of what is not zero: products of several numbers stay within float32."""
_MAY_BE_ZERO = (
  "vector_lanes",
  "memory_bytes",
  "latency_s",
  "layer_s",
  "score_s",
  "low_j_per_byte",
  "high_j_per_byte",
  "access_j_per_byte",
  "storage_w",
  "static_w",
)


class Description(NamedTuple):
  """A platform and where its numbers come from.

  Attributes:
    platform: in SI.
    numbers: part -> field -> the number as its file gives it.
    base: of PLATFORMS, the one it is or started from; "" if there is none.
  """

  platform: params.Platform
  numbers: dict[str, dict[str, params.Sourced]]
  base: str = ""


def named(name: str) -> Description:
  """A platform that ships with the package, or that a file describes.

  Args:
    name: one of PLATFORMS, or the path of a TOML file.

  Raises:
    InputError: neither, or the file has a mistake.

  Example:
    >>> named("vrex8").platform.dram.bandwidth_bytes_per_s
    204800000000.0
  """
  if name in PLATFORMS:
    folder = resources.files("vrex_jax.hwmodel") / "chips"
    text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    return describe(_parse(text, name), name)._replace(base=name)
  if name.endswith(".toml"):
    return read(pathlib.Path(name))
  raise InputError(
    f"unknown platform {name!r}; it must be one of {', '.join(PLATFORMS)} or a"
    " .toml file: choose one, or describe it (docs/hardware_model.md)"
  )


def read(path: pathlib.Path) -> Description:
  """Reads a platform file.

  Raises:
    InputError: it cannot be read, or has a mistake.
  """
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f"{path} cannot be read ({error}); a platform is a TOML file: check the"
      " path"
    ) from None
  return describe(_parse(text, str(path)), str(path))


def describe(
  table: Mapping[str, Any], origin: str, *, depth: int = 0
) -> Description:
  """A platform from parsed TOML.

  Args:
    table: as in the module's docstring.
    origin: the file, for messages.
    depth: files already followed by `base`.

  Raises:
    InputError: a key, unit, status, source or value is missing or wrong.
  """
  unknown = set(table) - {*_PARTS, "name", "base"}
  if unknown:
    raise InputError(
      f"{origin}: unknown key {sorted(unknown)[0]!r}; a platform has name,"
      f" base, {', '.join(_PARTS)}: correct or remove it"
    )
  name = table.get("name")
  if not isinstance(name, str) or not name:
    raise InputError(
      f"{origin}: name is {name!r}; a platform needs one, as text: add"
      ' name = "my_chip"'
    )
  numbers: dict[str, dict[str, params.Sourced]] = {}
  if "base" in table:
    numbers = _base_numbers(table["base"], origin, depth)
  for part in _PARTS:
    if part in table:
      given = _numbers(table[part], part, origin)
      numbers[part] = {**numbers.get(part, {}), **given}
  platform = _platform(name, numbers, origin)
  return Description(platform, numbers, table.get("base", ""))


def write(description: Description, path: pathlib.Path) -> None:
  """Writes a platform file that `read` reads back, without its base."""
  text = [f"name = {tomli_w.dumps({'_': description.platform.name})[4:]}"]
  for part, numbers in description.numbers.items():
    text.append(f"[{part}]")
    for field, number in numbers.items():
      cells = tomli_w.dumps(number._asdict()).strip().replace("\n", ", ")
      text.append(f"{field} = {{ {cells} }}")
    text.append("")
  path.write_text("\n".join(text), encoding="utf-8")


def _parse(text: str, origin: str) -> dict[str, Any]:
  try:
    return tomllib.loads(text)
  except tomllib.TOMLDecodeError as error:
    raise InputError(
      f"{origin} is not TOML ({error}); a platform file is: correct that line"
    ) from None


def _base_numbers(
  base: Any, origin: str, depth: int
) -> dict[str, dict[str, params.Sourced]]:
  if base not in PLATFORMS:
    raise InputError(
      f"{origin}: base is {base!r}; it must be one of {', '.join(PLATFORMS)}:"
      " choose one, or leave it out and give every number"
    )
  if depth > len(PLATFORMS):
    raise InputError(
      f"{origin}: base {base!r} leads in a circle; a base must end somewhere:"
      " remove one"
    )
  folder = resources.files("vrex_jax.hwmodel") / "chips"
  text = (folder / f"{base}.toml").read_text(encoding="utf-8")
  found = describe(_parse(text, base), base, depth=depth + 1)
  return {part: dict(numbers) for part, numbers in found.numbers.items()}


def _numbers(table: Any, part: str, origin: str) -> dict[str, params.Sourced]:
  fields = _PARTS[part].__dataclass_fields__
  if not isinstance(table, Mapping):
    raise InputError(
      f"{origin}: {part} is {table!r}; it must be a table: write [{part}]"
    )
  for field in table:
    if field not in fields:
      raise InputError(
        f"{origin}: unknown key {part}.{field}; [{part}] has"
        f" {', '.join(fields)}: correct or remove it"
      )
  return {
    field: _number(entry, f"{part}.{field}", origin)
    for field, entry in table.items()
  }


def _number(entry: Any, where: str, origin: str) -> params.Sourced:
  """One line of a file, checked."""
  keys = params.Sourced._fields
  if not isinstance(entry, Mapping) or set(entry) - set(keys):
    raise InputError(
      f"{origin}: {where} is {entry!r}; a number is written"
      ' { value = 1.0, unit = "1", status = "assumed", source = "why" }'
    )
  missing = [key for key in keys if entry.get(key) in (None, "")]
  if missing:
    raise InputError(
      f"{origin}: {where} has no {missing[0]}; every number has value, unit,"
      f" status and source: add {missing[0]}"
    )
  value, field = entry["value"], where.split(".")[1]
  for key in keys[1:]:
    if not isinstance(entry[key], str):
      raise InputError(
        f"{origin}: {where} has the {key} {entry[key]!r}; it must be text: put"
        " it in quotes"
      )
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not math.isfinite(value):
    raise InputError(
      f"{origin}: {where} is {value!r}; a value must be a finite number:"
      " correct it"
    )
  least = 0.0 if field in _MAY_BE_ZERO else math.nextafter(0.0, 1.0)
  if value < least:
    raise InputError(
      f"{origin}: {where} is {value:g}; it must be"
      f" {'0 or more' if least == 0 else 'above 0'}: correct it"
    )
  if field.endswith(_SHARES) and value > 1:
    raise InputError(
      f"{origin}: {where} is {value:g}; a share of a peak is at most 1:"
      " correct it"
    )
  if entry["status"] not in params.STATUSES:
    raise InputError(
      f"{origin}: {where} has the status {entry['status']!r}; it must be one"
      f" of {', '.join(params.STATUSES)}: correct it"
    )
  try:
    in_si = units.to_si(field, float(value), entry["unit"])
  except InputError as error:
    raise InputError(f"{origin}: {where.split('.')[0]}.{error}") from None
  low, high = _RANGE_SI
  if in_si and not low <= in_si <= high:
    raise InputError(
      f"{origin}: {where} is {value:g} {entry['unit']}; in SI a number must be"
      f" from {low:g} to {high:g}: correct value or unit"
    )
  return params.Sourced(**{**entry, "value": float(value)})


def _platform(
  name: str, numbers: Mapping[str, Mapping[str, params.Sourced]], origin: str
) -> params.Platform:
  parts = {}
  for part, kind in _PARTS.items():
    given = numbers.get(part)
    if given is None and part in _OPTIONAL:
      continue
    for field in kind.__dataclass_fields__:
      if field not in (given or {}):
        raise InputError(
          f"{origin}: {part}.{field} is missing; a platform without a base"
          f" needs every number of [{part}]: add it, or a base"
        )
    parts[part] = kind(
      **{
        field: units.to_si(field, number.value, number.unit)
        for field, number in (given or {}).items()
      }
    )
  return params.Platform(name=name, **parts)
