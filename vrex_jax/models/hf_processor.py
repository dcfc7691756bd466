"""How frames are prepared, from a checkpoint's preprocessor file."""

import pathlib
from typing import Any

from absl import logging

from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import json_fields

__all__ = ["image_config"]


def image_config(
  directory: pathlib.Path, *, size: int, resize: str
) -> config_lib.ImageConfig:
  """Mean, deviation and size of the frames, from the preprocessor's file.

  Looked up in the order of the reference implementation: the video section of
  processor_config.json, video_preprocessor_config.json, then the image ones.
  Where none exists, mean and deviation are 0.5 (SigLIP) and a warning is
  logged. `do_pad` of these files pads lists of image tiles, which frames of a
  video are not: it does not choose `resize`.

  Args:
    directory: the checkpoint.
    size: side of the vision tower's input in pixels.
    resize: "stretch" or "pad", see `ImageConfig`.

  Returns:
    The static configuration.

  Raises:
    InputError: the file asks for a size the tower does not take, or for a
      step that is not implemented (centre crop, another scale).
  """
  found = _processor_section(directory)
  if found is None:
    logging.warning(
      "%s has no preprocessor file; frames are normalised with mean and"
      " deviation 0.5, SigLIP's values",
      directory,
    )
    return config_lib.ImageConfig(size=size, resize=resize)
  raw, source = found
  json_fields.refuse_other_values(raw, {"do_center_crop": False}, source)
  if json_fields.flag(raw, "do_resize", True, source):
    _check_size(raw.get("size"), size, source)
  scale = raw.get("rescale_factor", 1 / 255)
  if (
    not json_fields.flag(raw, "do_rescale", True, source)
    or abs(scale * 255 - 1) > 1e-3
  ):
    raise InputError(
      f"{source} does not scale bytes by 1/255; no other scale is implemented:"
      " check do_rescale and rescale_factor"
    )
  if raw.get("resample", 3) != 3:
    logging.warning(
      "%s asks for resample %s; frames are resized bicubically (3)",
      source,
      raw["resample"],
    )
  if not json_fields.flag(raw, "do_normalize", True, source):
    return config_lib.ImageConfig(
      size=size, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize
    )
  return config_lib.ImageConfig(
    size=size,
    mean=_three(raw, "image_mean", source),
    std=_three(raw, "image_std", source),
    resize=resize,
  )


def _processor_section(
  directory: pathlib.Path,
) -> tuple[json_fields.RawConfig, str] | None:
  """The first preprocessor settings found, with the file they came from."""
  nested = directory / "processor_config.json"
  processor = json_fields.read_json(nested, required=False)
  if "video_processor" in processor:
    return json_fields.section(processor, str(nested), "video_processor"), str(
      nested
    )
  for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
    path = directory / name
    if path.is_file():
      return json_fields.read_json(path), str(path)
  if "image_processor" in processor:
    return json_fields.section(processor, str(nested), "image_processor"), str(
      nested
    )
  return None


def _check_size(value: Any, size: int, source: str) -> None:
  """A missing size is the tower's; any other must be the tower's square."""
  sides = (size, size) if value is None else (value, value)
  if isinstance(value, dict):
    sides = (value.get("height"), value.get("width"))
  if sides != (size, size):
    raise InputError(
      f"{source} resizes to {value}; the vision tower takes height {size} and"
      f" width {size}: correct the file"
    )


def _three(
  raw: json_fields.RawConfig, name: str, source: str
) -> tuple[float, float, float]:
  value = raw.get(name, [0.5] * 3)
  if (
    not isinstance(value, list)
    or len(value) != 3
    or not all(isinstance(one, int | float) for one in value)
  ):
    raise InputError(
      f"{source} gives {name} {value!r}; it must be three numbers: correct the"
      " file"
    )
  return float(value[0]), float(value[1]), float(value[2])
