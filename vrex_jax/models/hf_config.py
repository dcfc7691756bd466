"""Reads config.json of a Hugging Face directory into static configurations.

A field the file leaves out has the value the reference class of that
`model_type` gives it (the tables below); a field that would change the
arithmetic in a way this package does not implement is refused by name.
"""

import pathlib
from collections.abc import Iterable

from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import hf_processor
from vrex_jax.models import json_fields

__all__ = [
  "SUPPORTED",
  "decoder_config",
  "end_ids",
  "model_config",
  "vision_config",
]

SUPPORTED = (
  "llava_onevision (a directory), or siglip / siglip_vision_model with llama"
  " or qwen2 (a TOML of parts)"
)
"""What `--checkpoint` can be, as shown in errors."""

_Raw = json_fields.RawConfig

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
  json_fields.refuse_other_values(raw, _DECODER_ONLY, source)
  _refuse_quantised(raw, source)
  raw = {**_DECODER_DEFAULTS[kind], **json_fields.present(raw)}
  hidden = json_fields.count(raw, "hidden_size", source)
  heads = json_fields.count(raw, "num_attention_heads", source)
  if "head_dim" not in raw and hidden % heads:
    raise InputError(
      f"{source} says hidden_size {hidden} and num_attention_heads {heads};"
      " the first must be a multiple of the second where head_dim is not"
      " given: check the file"
    )
  raw = {"head_dim": hidden // heads, "num_key_value_heads": heads, **raw}
  kv_heads = json_fields.count(raw, "num_key_value_heads", source)
  if heads % kv_heads:
    raise InputError(
      f"{source} says num_attention_heads {heads} and num_key_value_heads"
      f" {kv_heads}; the first must be a multiple of the second: check the"
      " file"
    )
  head_dim = json_fields.count(raw, "head_dim", source)
  if head_dim % 2:
    raise InputError(
      f"{source} gives a head_dim of {head_dim}; rotary embeddings need an"
      " even one: check the file"
    )
  return config_lib.DecoderConfig(
    vocab_size=json_fields.count(raw, "vocab_size", source),
    hidden_size=hidden,
    intermediate_size=json_fields.count(raw, "intermediate_size", source),
    num_layers=json_fields.count(raw, "num_hidden_layers", source),
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
    qkv_bias=kind == "qwen2",
    tie_embeddings=json_fields.flag(raw, "tie_word_embeddings", False, source),
    rms_norm_eps=json_fields.number(raw, "rms_norm_eps", source),
    max_position_embeddings=json_fields.count(
      raw, "max_position_embeddings", source
    ),
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
    raw = {
      "model_type": "siglip_vision_model",
      **json_fields.section(raw, source),
    }
    source = f"{source} (vision_config)"
  if raw.get("model_type") != "siglip_vision_model":
    raise InputError(
      f"{source} says model_type {raw.get('model_type')!r}; vision towers can"
      " be siglip or siglip_vision_model: use a SigLIP checkpoint"
    )
  json_fields.refuse_other_values(raw, _VISION_ONLY, source)
  _refuse_quantised(raw, source)
  raw = {**_VISION_DEFAULTS, **json_fields.present(raw)}
  hidden = json_fields.count(raw, "hidden_size", source)
  heads = json_fields.count(raw, "num_attention_heads", source)
  if hidden % heads:
    raise InputError(
      f"{source} says hidden_size {hidden} and num_attention_heads {heads};"
      " the first must be a multiple of the second: check the file"
    )
  return config_lib.VisionConfig(
    hidden_size=hidden,
    intermediate_size=json_fields.count(raw, "intermediate_size", source),
    num_layers=json_fields.count(raw, "num_hidden_layers", source),
    num_heads=heads,
    image_size=json_fields.count(raw, "image_size", source),
    patch_size=json_fields.count(raw, "patch_size", source),
    layer_norm_eps=json_fields.number(raw, "layer_norm_eps", source),
    use_head=json_fields.flag(raw, "vision_use_head", True, source),
    feature=feature,
  )


def model_config(directory: pathlib.Path) -> config_lib.ModelConfig:
  """The configuration of a LLaVA-OneVision directory.

  Args:
    directory: holds config.json and, better, a preprocessor file.

  Returns:
    The static configuration; frames are pooled to ceil(grid / 2) a side.

  Raises:
    InputError: as `decoder_config`, `vision_config` and
      `hf_processor.image_config`.
  """
  path = directory / "config.json"
  raw = json_fields.read_json(path)
  if raw.get("model_type") != "llava_onevision":
    raise InputError(
      f"{path} says model_type {raw.get('model_type')!r}; supported are"
      f" {SUPPORTED}: use one of these"
    )
  json_fields.refuse_other_values(raw, _ONEVISION_ONLY, str(path))
  _refuse_quantised(raw, str(path))
  text = {
    "model_type": "qwen2",
    **json_fields.section(raw, str(path), "text_config"),
  }
  # The reference class ties when either level says so.
  text["tie_word_embeddings"] = json_fields.flag(
    raw, "tie_word_embeddings", False, str(path)
  ) or json_fields.flag(text, "tie_word_embeddings", False, str(path))
  vision = vision_config(
    {
      "model_type": "siglip_vision_model",
      **json_fields.section(raw, str(path)),
    },
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
      bias=json_fields.flag(raw, "multimodal_projector_bias", True, str(path)),
    ),
    image=hf_processor.image_config(
      directory, size=vision.image_size, resize="stretch"
    ),
    template="llama3" if text["model_type"] == "llama" else "qwen2",
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
    raw = json_fields.read_json(path, required=False)
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
    **json_fields.mapping(raw, "rope_scaling", source),
    **json_fields.mapping(raw, "rope_parameters", source),
  }
  json_fields.refuse_other_values(
    scaling, {"partial_rotary_factor": 1.0}, source
  )
  bases = {
    "rope_theta": _DEFAULT_ROPE_THETA,
    **json_fields.present(raw),
    **scaling,
  }
  theta = json_fields.number(bases, "rope_theta", source)
  kind = scaling.get("rope_type", scaling.get("type", "default"))
  if kind == "default":
    return config_lib.RopeConfig(theta=theta)
  if kind == "linear":
    return config_lib.RopeConfig(
      theta=theta,
      scaling="linear",
      factor=json_fields.number(scaling, "factor", source),
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
      factor=json_fields.number(scaling, "factor", source),
      low_freq_factor=json_fields.number(scaling, "low_freq_factor", source),
      high_freq_factor=json_fields.number(scaling, "high_freq_factor", source),
      original_max_position_embeddings=json_fields.count(
        original, "original_max_position_embeddings", source
      ),
    )
  raise InputError(
    f"{source} says rope type {kind!r}; supported are default, linear and"
    " llama3: use a checkpoint with one of these"
  )


def _refuse_quantised(raw: _Raw, source: str) -> None:
  if raw.get("quantization_config"):
    raise InputError(
      f"{source} has a quantization_config; only float32, float16 and bfloat16"
      " weights are read: use the unquantised checkpoint"
    )


def _names(values: Iterable[str]) -> str:
  return ", ".join(sorted(values))
