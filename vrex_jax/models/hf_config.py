"""Reads the JSON files of a Hugging Face directory into static configurations.

  config.json                        ─► DecoderConfig, VisionConfig, ModelConfig
  processor_config.json,
  video_preprocessor_config.json,
  preprocessor_config.json           ─► ImageConfig
  generation_config.json             ─► ids that end an answer

A field the file leaves out has the value the reference class of that
`model_type` gives it (the tables below); a field that would change the
arithmetic in a way this package does not implement is refused by name.
"""

import json
import pathlib
from typing import Any

from absl import logging

from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib

__all__ = [
  "SUPPORTED",
  "decoder_config",
  "end_ids",
  "image_config",
  "model_config",
  "read_json",
  "vision_config",
]

SUPPORTED = (
  "llava_onevision (a directory), or siglip / siglip_vision_model with llama"
  " or qwen2 (a TOML of parts)"
)
"""What `--checkpoint` can be, as shown in errors."""

_Raw = dict[str, Any]

_DECODER_DEFAULTS: dict[str, _Raw] = {
  "llama": {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
  },
  "qwen2": {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
  },
}

_VISION_DEFAULTS: _Raw = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "image_size": 224,
  "patch_size": 16,
  "layer_norm_eps": 1e-6,
}

_DEFAULT_ROPE_THETA = 10000.0

# Fields that change the arithmetic, and the only values implemented.
_DECODER_ONLY: _Raw = {
  "hidden_act": "silu",
  "attention_bias": False,
  "mlp_bias": False,
  "use_sliding_window": False,
  "partial_rotary_factor": 1.0,
}
_VISION_ONLY: _Raw = {
  "hidden_act": "gelu_pytorch_tanh",
  "num_channels": 3,
}
_ONEVISION_ONLY: _Raw = {
  "projector_hidden_act": "gelu",
  "vision_feature_layer": -1,
  "vision_feature_select_strategy": "full",
}


def read_json(path: pathlib.Path, *, required: bool = True) -> _Raw:
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


def decoder_config(raw: _Raw, *, source: str) -> config_lib.DecoderConfig:
  """A Llama or Qwen2 config.json (or `text_config`) as a DecoderConfig.

  Args:
    raw: the JSON object.
    source: file and section it came from, for messages.

  Returns:
    The static configuration; `head_dim` is D / N where the file gives none.

  Raises:
    InputError: another `model_type`, a field of the wrong type, heads that do
      not divide, an unknown rope type, or a feature that is not implemented.

  Example:
    >>> raw = {"model_type": "llama", "hidden_size": 64, "vocab_size": 8,
    ...        "num_attention_heads": 4, "rope_theta": 5e5}
    >>> config = decoder_config(raw, source="config.json")
    >>> config.head_dim, config.num_kv_heads, config.rope.theta
    (16, 4, 500000.0)
  """
  kind = raw.get("model_type")
  if kind not in _DECODER_DEFAULTS:
    raise InputError(
      f"{source} says model_type {kind!r}; decoders can be"
      f" {_names(_DECODER_DEFAULTS)}: use a checkpoint of one of these"
    )
  _refuse_other_values(raw, _DECODER_ONLY, source)
  _refuse_quantised(raw, source)
  raw = {**_DECODER_DEFAULTS[kind], **_present(raw)}
  hidden = _count(raw, "hidden_size", source)
  heads = _count(raw, "num_attention_heads", source)
  if "head_dim" not in raw and hidden % heads:
    raise InputError(
      f"{source} says hidden_size {hidden} and num_attention_heads {heads};"
      " the first must be a multiple of the second where head_dim is not"
      " given: check the file"
    )
  raw = {"head_dim": hidden // heads, "num_key_value_heads": heads, **raw}
  kv_heads = _count(raw, "num_key_value_heads", source)
  if heads % kv_heads:
    raise InputError(
      f"{source} says num_attention_heads {heads} and num_key_value_heads"
      f" {kv_heads}; the first must be a multiple of the second: check the"
      " file"
    )
  head_dim = _count(raw, "head_dim", source)
  if head_dim % 2:
    raise InputError(
      f"{source} gives a head_dim of {head_dim}; rotary embeddings need an"
      " even one: check the file"
    )
  return config_lib.DecoderConfig(
    vocab_size=_count(raw, "vocab_size", source),
    hidden_size=hidden,
    intermediate_size=_count(raw, "intermediate_size", source),
    num_layers=_count(raw, "num_hidden_layers", source),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    qkv_bias=kind == "qwen2",
    tie_embeddings=_flag(raw, "tie_word_embeddings", False, source),
    rms_norm_eps=_number(raw, "rms_norm_eps", source),
    max_position_embeddings=_count(raw, "max_position_embeddings", source),
    rope=_rope_config(raw, source),
  )


def vision_config(
  raw: _Raw, *, source: str, feature: str
) -> config_lib.VisionConfig:
  """A SigLIP config.json (or its `vision_config`) as a VisionConfig.

  Args:
    raw: the JSON object of a siglip_vision_model, or of a whole siglip model,
      whose text half is left alone.
    source: file and section it came from, for messages.
    feature: "last_hidden" or "post_norm", see `VisionConfig`.

  Returns:
    The static configuration.

  Raises:
    InputError: another `model_type`, a field of the wrong type, heads that do
      not divide, or a feature that is not implemented.
  """
  if raw.get("model_type") == "siglip":
    raw = {"model_type": "siglip_vision_model", **_section(raw, source)}
    source = f"{source} (vision_config)"
  if raw.get("model_type") != "siglip_vision_model":
    raise InputError(
      f"{source} says model_type {raw.get('model_type')!r}; vision towers can"
      " be siglip or siglip_vision_model: use a SigLIP checkpoint"
    )
  _refuse_other_values(raw, _VISION_ONLY, source)
  _refuse_quantised(raw, source)
  raw = {**_VISION_DEFAULTS, **_present(raw)}
  hidden = _count(raw, "hidden_size", source)
  heads = _count(raw, "num_attention_heads", source)
  if hidden % heads:
    raise InputError(
      f"{source} says hidden_size {hidden} and num_attention_heads {heads};"
      " the first must be a multiple of the second: check the file"
    )
  return config_lib.VisionConfig(
    hidden_size=hidden,
    intermediate_size=_count(raw, "intermediate_size", source),
    num_layers=_count(raw, "num_hidden_layers", source),
    num_heads=heads,
    image_size=_count(raw, "image_size", source),
    patch_size=_count(raw, "patch_size", source),
    layer_norm_eps=_number(raw, "layer_norm_eps", source),
    use_head=_flag(raw, "vision_use_head", True, source),
    feature=feature,
  )


def model_config(directory: pathlib.Path) -> config_lib.ModelConfig:
  """The configuration of a LLaVA-OneVision directory.

  Args:
    directory: holds config.json and, better, a preprocessor file.

  Returns:
    The static configuration; frames are pooled to ceil(grid / 2) a side.

  Raises:
    InputError: as `decoder_config`, `vision_config` and `image_config`.
  """
  path = directory / "config.json"
  raw = read_json(path)
  if raw.get("model_type") != "llava_onevision":
    raise InputError(
      f"{path} says model_type {raw.get('model_type')!r}; supported are"
      f" {SUPPORTED}: use one of these"
    )
  _refuse_other_values(raw, _ONEVISION_ONLY, str(path))
  _refuse_quantised(raw, str(path))
  text = {"model_type": "qwen2", **_section(raw, str(path), "text_config")}
  # The reference class ties when either level says so.
  text["tie_word_embeddings"] = _flag(
    raw, "tie_word_embeddings", False, str(path)
  ) or _flag(text, "tie_word_embeddings", False, str(path))
  vision = vision_config(
    {"model_type": "siglip_vision_model", **_section(raw, str(path))},
    source=f"{path} (vision_config)",
    feature="last_hidden",
  )
  return config_lib.ModelConfig(
    name=directory.resolve().name,
    decoder=decoder_config(text, source=f"{path} (text_config)"),
    vision=vision,
    connector=config_lib.ConnectorConfig(
      kind="onevision",
      pooled_grid=-(-vision.grid // 2),
      bias=_flag(raw, "multimodal_projector_bias", True, str(path)),
    ),
    image=image_config(directory, size=vision.image_size, resize="stretch"),
    template="llama3" if text["model_type"] == "llama" else "qwen2",
  )


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
  _refuse_other_values(raw, {"do_center_crop": False}, source)
  if _flag(raw, "do_resize", True, source):
    _check_size(raw.get("size"), size, source)
  scale = raw.get("rescale_factor", 1 / 255)
  if not _flag(raw, "do_rescale", True, source) or abs(scale * 255 - 1) > 1e-3:
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
  if not _flag(raw, "do_normalize", True, source):
    return config_lib.ImageConfig(
      size=size, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize
    )
  return config_lib.ImageConfig(
    size=size,
    mean=_three(raw, "image_mean", source),
    std=_three(raw, "image_std", source),
    resize=resize,
  )


def end_ids(directory: pathlib.Path) -> tuple[int, ...]:
  """Every token id the checkpoint's files name as the end of an answer.

  Args:
    directory: the checkpoint.

  Returns:
    Sorted ids from `eos_token_id` (a number or a list) of
    generation_config.json, config.json and its text_config.

  Raises:
    InputError: a file is broken or an id is no integer.
  """
  ids: set[int] = set()
  for name in ("generation_config.json", "config.json"):
    path = directory / name
    raw = read_json(path, required=False)
    for section in (raw, raw.get("text_config") or {}):
      value = section.get("eos_token_id")
      if value is None:
        continue
      for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, int):
          raise InputError(
            f"{path} gives eos_token_id {value!r}; it must be an integer or a"
            " list of integers: correct the file"
          )
        ids.add(one)
  return tuple(sorted(ids))


def _rope_config(raw: _Raw, source: str) -> config_lib.RopeConfig:
  """Both spellings: rope_theta + rope_scaling, or rope_parameters."""
  scaling = {
    **_mapping(raw, "rope_scaling", source),
    **_mapping(raw, "rope_parameters", source),
  }
  _refuse_other_values(scaling, {"partial_rotary_factor": 1.0}, source)
  bases = {"rope_theta": _DEFAULT_ROPE_THETA, **_present(raw), **scaling}
  theta = _number(bases, "rope_theta", source)
  kind = scaling.get("rope_type", scaling.get("type", "default"))
  if kind == "default":
    return config_lib.RopeConfig(theta=theta)
  if kind == "linear":
    return config_lib.RopeConfig(
      theta=theta, scaling="linear", factor=_number(scaling, "factor", source)
    )
  if kind == "llama3":
    original = {
      "original_max_position_embeddings": raw["max_position_embeddings"],
      **scaling,
      **{k: v for k, v in raw.items() if k.startswith("original_max")},
    }
    return config_lib.RopeConfig(
      theta=theta,
      scaling="llama3",
      factor=_number(scaling, "factor", source),
      low_freq_factor=_number(scaling, "low_freq_factor", source),
      high_freq_factor=_number(scaling, "high_freq_factor", source),
      original_max_position_embeddings=_count(
        original, "original_max_position_embeddings", source
      ),
    )
  raise InputError(
    f"{source} says rope type {kind!r}; supported are default, linear and"
    " llama3: use a checkpoint with one of these"
  )


def _processor_section(directory: pathlib.Path) -> tuple[_Raw, str] | None:
  """The first preprocessor settings found, with the file they came from."""
  nested = directory / "processor_config.json"
  processor = read_json(nested, required=False)
  if "video_processor" in processor:
    return _section(processor, str(nested), "video_processor"), str(nested)
  for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
    path = directory / name
    if path.is_file():
      return read_json(path), str(path)
  if "image_processor" in processor:
    return _section(processor, str(nested), "image_processor"), str(nested)
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


def _refuse_other_values(raw: _Raw, allowed: _Raw, source: str) -> None:
  for name, only in allowed.items():
    value = raw.get(name)
    if value is not None and value != only:
      raise InputError(
        f"{source} says {name} {value!r}; only {only!r} is implemented: use a"
        " checkpoint with that value"
      )


def _refuse_quantised(raw: _Raw, source: str) -> None:
  if raw.get("quantization_config"):
    raise InputError(
      f"{source} has a quantization_config; only float32, float16 and bfloat16"
      " weights are read: use the unquantised checkpoint"
    )


def _present(raw: _Raw) -> _Raw:
  """Without fields written as null, which mean the default."""
  return {name: value for name, value in raw.items() if value is not None}


def _section(raw: _Raw, source: str, name: str = "vision_config") -> _Raw:
  if not isinstance(raw.get(name), dict):
    raise InputError(
      f"{source} has no {name} object; it must describe that part of the model:"
      " copy the file again"
    )
  return raw[name]


def _mapping(raw: _Raw, name: str, source: str) -> _Raw:
  value = raw.get(name) or {}
  if not isinstance(value, dict) or any(
    isinstance(entry, dict) for entry in value.values()
  ):
    raise InputError(
      f"{source} gives {name} {value!r}; it must be one flat object for all"
      " layers: use a checkpoint of that form"
    )
  return value


def _count(raw: _Raw, name: str, source: str) -> int:
  value = raw.get(name)
  if not isinstance(value, int) or isinstance(value, bool) or value < 1:
    raise InputError(
      f"{source} says {name} {value!r}; it must be a positive integer: correct"
      " the file"
    )
  return value


def _number(raw: _Raw, name: str, source: str) -> float:
  value = raw.get(name)
  if not isinstance(value, int | float) or isinstance(value, bool):
    raise InputError(
      f"{source} says {name} {value!r}; it must be a number: correct the file"
    )
  return float(value)


def _flag(raw: _Raw, name: str, default: bool, source: str) -> bool:
  value = raw.get(name)
  value = default if value is None else value
  if not isinstance(value, bool):
    raise InputError(
      f"{source} says {name} {value!r}; it must be true or false: correct the"
      " file"
    )
  return value


def _three(raw: _Raw, name: str, source: str) -> tuple[float, float, float]:
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


def _names(values: Any) -> str:
  return ", ".join(sorted(values))
