"""A trained model as a Hugging Face directory, in LLaVA-OneVision's layout.

config.json                shapes
generation_config.json     the token that ends an answer
model.safetensors          weights, named as transformers names them
tokenizer.json             words ─► ids
tokenizer_config.json      special tokens, for transformers
preprocessor_config.json   mean, deviation and size of frames
prompt_template.toml       the chat format (`models.prompt.load_template`)
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tomli_w

from vrex_jax.models import config as config_lib
from vrex_jax.models import key_layout
from vrex_jax.models import prompt
from vrex_jax.tasks import rooms_words
from vrex_jax.typing import Parameters

__all__ = ["FILES", "config_json", "export"]

FILES = (
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "preprocessor_config.json",
  "prompt_template.toml",
  "tokenizer.json",
  "tokenizer_config.json",
)


def export(
  config: config_lib.ModelConfig,
  params: Parameters,
  template: prompt.PromptTemplate,
  directory: pathlib.Path,
) -> list[pathlib.Path]:
  """Writes a model of the rooms task; each file is replaced whole.

  Args:
    config: the model's shape: an "onevision" connector without a separator.
    params: its parameters; written in their own dtype.
    template: its chat format.
    directory: created if need be.

  Returns:
    The files.

  Raises:
    ValueError: the layout has no place for what the shape asks.
  """
  writers: dict[str, Callable[[pathlib.Path], Any]] = {
    "config.json": _json(config_json(config)),
    "generation_config.json": _json({"eos_token_id": rooms_words.STOP}),
    "model.safetensors": lambda path: _write_tensors(params, path),
    "preprocessor_config.json": _json(_preprocessor(config.image)),
    "prompt_template.toml": _text(tomli_w.dumps(_fields(template))),
    "tokenizer.json": _text(rooms_words.tokenizer_json()),
    "tokenizer_config.json": _json(_tokenizer_config()),
  }
  directory.mkdir(parents=True, exist_ok=True)
  for name in FILES:
    beside = directory / (name + ".part")
    writers[name](beside)
    os.replace(beside, directory / name)
  return [directory / name for name in FILES]


def config_json(config: config_lib.ModelConfig) -> dict[str, Any]:
  """What config.json holds, so that `hf_config.model_config` gives `config`.

  Raises:
    ValueError: the layout has no place for what the shape asks.
  """
  decoder, vision = config.decoder, config.vision
  fits = (
    config.connector.kind == "onevision"
    and config.connector.separator is None
    and config.connector.pooled_grid == -(-vision.grid // 2)
    and vision.feature == "last_hidden"
    and decoder.rope == config_lib.RopeConfig(theta=decoder.rope.theta)
  )
  if not fits:
    raise ValueError(
      f"the shape of {config.name} is not LLaVA-OneVision's: export models with"
      " its connector, its vision feature and plain rotary positions"
    )
  return {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "model_type": "llava_onevision",
    "image_token_index": decoder.vocab_size - 1,
    "video_token_index": decoder.vocab_size - 2,
    "multimodal_projector_bias": config.connector.bias,
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": decoder.tie_embeddings,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "text_config": {
      "model_type": "qwen2" if decoder.qkv_bias else "llama",
      "vocab_size": decoder.vocab_size,
      "hidden_size": decoder.hidden_size,
      "intermediate_size": decoder.intermediate_size,
      "num_hidden_layers": decoder.num_layers,
      "num_attention_heads": decoder.num_heads,
      "num_key_value_heads": decoder.num_kv_heads,
      "head_dim": decoder.head_dim,
      "hidden_act": "silu",
      "rms_norm_eps": decoder.rms_norm_eps,
      "max_position_embeddings": decoder.max_position_embeddings,
      "tie_word_embeddings": decoder.tie_embeddings,
      "bos_token_id": rooms_words.START,
      "eos_token_id": rooms_words.STOP,
      "rope_theta": decoder.rope.theta,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": decoder.rope.theta,
      },
    },
    "vision_config": {
      "model_type": "siglip_vision_model",
      "hidden_size": vision.hidden_size,
      "intermediate_size": vision.intermediate_size,
      "num_hidden_layers": vision.num_layers,
      "num_attention_heads": vision.num_heads,
      "num_channels": 3,
      "image_size": vision.image_size,
      "patch_size": vision.patch_size,
      "hidden_act": "gelu_pytorch_tanh",
      "layer_norm_eps": vision.layer_norm_eps,
      "vision_use_head": vision.use_head,
    },
  }


def _preprocessor(image: config_lib.ImageConfig) -> dict[str, Any]:
  return {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(image.mean),
    "image_std": list(image.std),
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": image.size, "width": image.size},
  }


def _tokenizer_config() -> dict[str, Any]:
  return {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<start>",
    "eos_token": "<stop>",
    "pad_token": "<pad>",
  }


def _fields(template: prompt.PromptTemplate) -> dict[str, Any]:
  return {
    "name": template.name,
    "begin": template.begin,
    "system_turn": template.system_turn,
    "stream_open": template.stream_open,
    "question": template.question,
    "resume": template.resume,
    "stop_tokens": list(template.stop_tokens),
    "system": template.system,
  }


def _write_tensors(params: Parameters, path: pathlib.Path) -> None:
  from safetensors import numpy as safetensors_numpy

  tensors: dict[str, np.ndarray] = {}
  for where, leaf in jax.tree_util.tree_leaves_with_path(params):
    source = key_layout.tensor_source(tuple(key.key for key in where))
    if source.third is not None:
      raise ValueError(
        "the pooling head's projections are fused in files, which is not"
        " written: export models without it"
      )
    array = np.asarray(leaf).transpose(np.argsort(source.axes))
    tensors[source.name] = np.ascontiguousarray(array)
  path.write_bytes(safetensors_numpy.save(tensors, metadata={"format": "pt"}))


def _json(value: Any) -> Callable[[pathlib.Path], Any]:
  return _text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def _text(text: str) -> Callable[[pathlib.Path], Any]:
  return lambda path: path.write_text(text, encoding="utf-8")
