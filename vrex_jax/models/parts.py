"""A video LLM assembled from parts that a small TOML file names.

The paper's model is published in pieces: a SigLIP tower, a Llama, a connector
and a LoRA adapter. Paths are relative to the TOML file:

  [vision]
  directory = "siglip-large-patch16-384"
  [decoder]
  directory = "llama-3-8b-instruct"
  [connector]
  file = "connector.safetensors"   # left out: the adapter holds it
  pooled_grid = 3                  # the defaults: 1 + 3 × 3 tokens a frame,
  use_pooled_head = true           # a comma between frames
  separator = ","
  [adapter]                        # optional, a PEFT LoRA directory
  directory = "adapter"
  [prompt]                         # optional
  template = "videollm_online"     # a name or a TOML file
  system = "…"
"""

import dataclasses
import pathlib
import tomllib
from typing import Any

from vrex_jax.errors import InputError

__all__ = ["Parts", "check_paths", "read_parts"]

# section -> key -> type
_KEYS: dict[str, dict[str, type]] = {
  "vision": {"directory": str},
  "decoder": {"directory": str},
  "connector": {
    "file": str,
    "pooled_grid": int,
    "use_pooled_head": bool,
    "separator": str,
  },
  "adapter": {"directory": str},
  "prompt": {"template": str, "system": str},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """Static. What a parts file says, with absolute paths.

  Attributes:
    path: the TOML file.
    vision: SigLIP directory.
    decoder: Llama or Qwen2 directory, with the tokenizer.
    connector: safetensors file; None when the adapter holds the connector.
    adapter: PEFT directory, or None.
    pooled_grid: side of the pooled patch grid.
    use_pooled_head: put the pooled head output before the grid tokens.
    separator: text of the token between frames; empty for none.
    template: prompt template name or path; None for the decoder family's.
    system: system text; None for the template's.
  """

  path: pathlib.Path
  vision: pathlib.Path
  decoder: pathlib.Path
  connector: pathlib.Path | None = None
  adapter: pathlib.Path | None = None
  pooled_grid: int = 3
  use_pooled_head: bool = True
  separator: str = ","
  template: str | None = None
  system: str | None = None


def read_parts(path: pathlib.Path) -> Parts:
  """Reads a parts file.

  Args:
    path: the TOML file.

  Returns:
    What it says; whether the directories can be loaded is not looked at.

  Raises:
    InputError: absent, not TOML, an unknown or mistyped key, or a part that
      is not named.
  """
  if not path.is_file():
    raise InputError(
      f"{path} does not exist; a TOML of parts names the directories of a"
      " model: check the path"
    )
  try:
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(
      f"{path} is not valid TOML ({error}): correct the file"
    ) from None
  _check_keys(raw, path)
  connector = raw.get("connector", {})
  prompt = raw.get("prompt", {})
  template = prompt.get("template")
  if template is not None and template.endswith(".toml"):
    template = str(path.parent / template)
  given = {
    name: connector[name]
    for name in ("pooled_grid", "use_pooled_head", "separator")
    if name in connector
  }
  parts = Parts(
    path=path,
    vision=_required(raw, "vision", path),
    decoder=_required(raw, "decoder", path),
    connector=_optional(raw, "connector", "file", path),
    adapter=_optional(raw, "adapter", "directory", path),
    template=template,
    system=prompt.get("system"),
    **given,
  )
  if parts.connector is None and parts.adapter is None:
    raise InputError(
      f"{path} names no connector; its weights are in a safetensors file or in"
      ' an adapter: write [connector] file = "…" or [adapter] directory = "…"'
    )
  if parts.pooled_grid < 1:
    raise InputError(
      f"{path} says pooled_grid {parts.pooled_grid}; it must be at least 1:"
      " VideoLLM-Online has 3"
    )
  return parts


def check_paths(parts: Parts) -> None:
  """Refuses parts that are not there, all in one sentence.

  Raises:
    InputError: a directory or file that is named does not exist.
  """
  missing = [
    f"{part} {named}"
    for part, named, found in (
      ("vision", parts.vision, parts.vision.is_dir()),
      ("decoder", parts.decoder, parts.decoder.is_dir()),
      ("connector", parts.connector, (parts.connector or parts.path).is_file()),
      ("adapter", parts.adapter, (parts.adapter or parts.path.parent).is_dir()),
    )
    if not found
  ]
  if missing:
    raise InputError(
      f"{parts.path} names what does not exist: {', '.join(missing)}; paths are"
      " relative to the TOML file: correct them"
    )


def _check_keys(raw: dict[str, Any], path: pathlib.Path) -> None:
  known = ", ".join(
    f"[{section}] {key}" for section, keys in _KEYS.items() for key in keys
  )
  for section, content in raw.items():
    if section not in _KEYS or not isinstance(content, dict):
      raise InputError(
        f"{path} has {section!r}; known are {known}: remove or rename it"
      )
    for key, value in content.items():
      if key not in _KEYS[section]:
        raise InputError(
          f"{path} has [{section}] {key}; known are {known}: remove or rename"
          " it"
        )
      if type(value) is not _KEYS[section][key]:
        raise InputError(
          f"{path} says [{section}] {key} = {value!r}; it must be of type"
          f" {_KEYS[section][key].__name__}: correct the file"
        )


def _required(
  raw: dict[str, Any], section: str, path: pathlib.Path
) -> pathlib.Path:
  found = _optional(raw, section, "directory", path)
  if found is None:
    raise InputError(
      f"{path} names no {section}; it must say where that part is: write"
      f' [{section}] directory = "…"'
    )
  return found


def _optional(
  raw: dict[str, Any], section: str, key: str, path: pathlib.Path
) -> pathlib.Path | None:
  name = raw.get(section, {}).get(key)
  return None if name is None else path.parent / name
