"""Reads JSON objects field by field; what is wrong is said with its file."""

import json
import pathlib
from typing import Any

from vrex_jax.errors import InputError

__all__ = [
  "RawConfig",
  "count",
  "flag",
  "mapping",
  "number",
  "present",
  "read_json",
  "refuse_other_values",
  "section",
]

RawConfig = dict[str, Any]
"""A JSON object as it was read."""


def read_json(path: pathlib.Path, *, required: bool = True) -> RawConfig:
  """The object in a JSON file; {} when it is absent and not required.

  Args:
    path: the file.
    required: refuse an absent file.

  Returns:
    The top-level object.

  Raises:
    InputError: absent and required, not JSON, or not an object.
  """
  if not path.is_file():
    if required:
      raise InputError(
        f"{path} does not exist; a Hugging Face directory holds"
        f" {path.name}: give the directory save_pretrained wrote"
      )
    return {}
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, OSError) as error:
    raise InputError(
      f"{path} is not readable JSON ({error}): copy the file again"
    ) from None
  if not isinstance(content, dict):
    raise InputError(
      f"{path} holds a {type(content).__name__}; it must be one JSON object:"
      " copy the file again"
    )
  return content


def refuse_other_values(
  raw: RawConfig, allowed: RawConfig, source: str
) -> None:
  """Refuses fields that ask for something that is not implemented.

  Args:
    raw: the object.
    allowed: field -> the one value implemented, which is also the default.
    source: file the object came from, for messages.

  Raises:
    InputError: a field has another value.
  """
  for name, only in allowed.items():
    value = raw.get(name)
    if value is not None and value != only:
      raise InputError(
        f"{source} says {name} {value!r}; only {only!r} is implemented: use a"
        " checkpoint with that value"
      )


def present(raw: RawConfig) -> RawConfig:
  """Without fields written as null, which mean the default."""
  return {name: value for name, value in raw.items() if value is not None}


def section(
  raw: RawConfig, source: str, name: str = "vision_config"
) -> RawConfig:
  """An object inside the object; it must be there."""
  if not isinstance(raw.get(name), dict):
    raise InputError(
      f"{source} has no {name} object; it must describe that part of the model:"
      " copy the file again"
    )
  return raw[name]


def mapping(raw: RawConfig, name: str, source: str) -> RawConfig:
  """An object of plain values inside the object; {} when absent."""
  value = raw.get(name) or {}
  if not isinstance(value, dict) or any(
    isinstance(entry, dict) for entry in value.values()
  ):
    raise InputError(
      f"{source} gives {name} {value!r}; it must be one flat object for all"
      " layers: use a checkpoint of that form"
    )
  return value


def count(raw: RawConfig, name: str, source: str) -> int:
  """A field that must be a positive integer.

  Example:
    >>> count({"layers": 2}, "layers", "config.json")
    2
  """
  value = raw.get(name)
  if not isinstance(value, int) or isinstance(value, bool) or value < 1:
    raise InputError(
      f"{source} says {name} {value!r}; it must be a positive integer: correct"
      " the file"
    )
  return value


def number(raw: RawConfig, name: str, source: str) -> float:
  """A field that must be a number."""
  value = raw.get(name)
  if not isinstance(value, int | float) or isinstance(value, bool):
    raise InputError(
      f"{source} says {name} {value!r}; it must be a number: correct the file"
    )
  return float(value)


def flag(raw: RawConfig, name: str, default: bool, source: str) -> bool:
  """A field that must be true or false, with a default for absent and null."""
  value = raw.get(name)
  value = default if value is None else value
  if not isinstance(value, bool):
    raise InputError(
      f"{source} says {name} {value!r}; it must be true or false: correct the"
      " file"
    )
  return value
