"""The same checkpoint in torch and transformers: what parity is measured with.

Shared by the scripts beside it and by the parity tests; torch and transformers
are in the extra `parity`, and are imported by the functions. Parts of a model
that transformers has no class for (the paper's connector, a LoRA merge) are
written out in torch, apart from the JAX code they check.
"""

import importlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vrex_jax import parity
from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import parts as parts_lib

__all__ = ["import_reference", "reference_values", "whole_video_logits"]


class _Model(NamedTuple):
  """Dynamic. A loaded reference: language model, and vision as a function."""

  language: Any
  vision: Callable[[Any], dict[str, Any]] | None


def import_reference() -> tuple[Any, Any]:
  """Torch and transformers, with their chatter switched off.

  Raises:
    InputError: one of them is not installed.
  """
  try:
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
  except ImportError as error:
    raise InputError(
      f"the parity check needs torch and transformers ({error}): pip install"
      " -e '.[parity]'"
    ) from None
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  return torch, transformers


def reference_values(
  path: pathlib.Path,
  inputs: parity.Inputs,
  *,
  config: config_lib.ModelConfig | None,
  dtype: str = "float32",
) -> parity.Values:
  """Every stage of the reference model on the given inputs.

  Args:
    path: a LLaVA-OneVision or text model directory, or a TOML of parts.
    inputs: frames and token ids.
    config: the video model's (mean, deviation, pooling); None for a text
      model.
    dtype: "float32" or "bfloat16", of weights and activations.

  Returns:
    See `parity.Values`.

  Raises:
    InputError: torch or transformers is missing.
  """
  torch, _ = import_reference()
  with torch.inference_mode():
    model = _load(path, config, getattr(torch, dtype))
    return _run(model, inputs, config)


def whole_video_logits(
  path: pathlib.Path, inputs: parity.Inputs, *, config: config_lib.ModelConfig
) -> np.ndarray:
  """LLaVA-OneVision's own forward pass on a whole video, newline included.

  Args:
    path: a LLaVA-OneVision directory.
    inputs: frames and token ids.
    config: its configuration.

  Returns:
    Logits f32[prompt + F * T + 1 + question, vocabulary].
  """
  torch, transformers = import_reference()
  kind = transformers.LlavaOnevisionForConditionalGeneration
  model = kind.from_pretrained(path, local_files_only=True).float().eval()
  pixels = _pixels(inputs.frames, config.image, model.lm_head.weight)
  length = len(pixels) * config.tokens_per_frame + 1
  video = [model.config.video_token_id] * length
  ids = torch.tensor([inputs.prompt + video + inputs.question])
  with torch.inference_mode():
    out = model(input_ids=ids, pixel_values_videos=pixels[None])
  return out.logits[0].numpy()


def _run(
  model: _Model, inputs: parity.Inputs, config: config_lib.ModelConfig | None
) -> parity.Values:
  torch, _ = import_reference()
  found: dict[str, Any] = {}
  embed = model.language.get_input_embeddings()
  text = lambda ids: embed(torch.tensor(ids, dtype=torch.long))
  chunks = [text(inputs.prompt)]
  separator = []
  if config is not None and config.connector.separator is not None:
    separator = [config.connector.separator]
  if model.vision is not None and config is not None:
    found = model.vision(_pixels(inputs.frames, config.image, embed.weight))
    for index, tokens in enumerate(found["tokens"]):
      apart = text(separator if index else [])
      chunks.append(torch.cat([apart, tokens]))
  chunks.append(text(inputs.question))
  found["logits"] = model.language(
    inputs_embeds=torch.cat(chunks)[None]
  ).logits[0]
  found["stream"], found["answer"] = _stream(model.language, chunks, inputs)
  return {
    stage: value.float().numpy() if value.is_floating_point() else value.numpy()
    for stage, value in found.items()
  }


def _stream(language: Any, chunks: list[Any], inputs: parity.Inputs) -> Any:
  """Chunk by chunk over one cache, then greedy decoding."""
  torch, _ = import_reference()
  cache = None
  ends = []
  for chunk in chunks:
    if not len(chunk):
      ends.append(torch.zeros(language.config.get_text_config().vocab_size))
      continue
    out = language(
      inputs_embeds=chunk[None], past_key_values=cache, use_cache=True
    )
    cache = out.past_key_values
    ends.append(out.logits[0, -1])
  answer = []
  logits = ends[-1]
  for _ in range(inputs.new_tokens):
    answer.append(logits.argmax())
    out = language(
      input_ids=answer[-1][None, None], past_key_values=cache, use_cache=True
    )
    logits = out.logits[0, -1]
  return torch.stack([ends[0], ends[-1]]), torch.stack(answer).int()


def _pixels(frames: Any, image: config_lib.ImageConfig, like: Any) -> Any:
  """u8[F, size, size, 3] -> normalised [F, 3, size, size]."""
  torch, _ = import_reference()
  mean = np.asarray(image.mean, np.float32)
  std = np.asarray(image.std, np.float32)
  scaled = (np.asarray(frames, np.float32) / 255 - mean) / std
  return torch.from_numpy(scaled).permute(0, 3, 1, 2).to(like.dtype)


def _load(
  path: pathlib.Path, config: config_lib.ModelConfig | None, dtype: Any
) -> _Model:
  _, transformers = import_reference()
  options = {"dtype": dtype, "local_files_only": True}
  if path.suffix == ".toml":
    if config is None:
      raise ValueError("a model of parts needs its configuration")
    return _load_parts(parts_lib.read_parts(path), config, options)
  if config is None:
    kind = transformers.AutoModelForCausalLM
    return _Model(kind.from_pretrained(path, **options).eval(), None)
  kind = transformers.LlavaOnevisionForConditionalGeneration
  model = kind.from_pretrained(path, **options).eval()

  def vision(pixels):
    hidden = model.model.vision_tower(pixels, output_hidden_states=True)
    video = model.model.get_video_features(pixels[None], return_dict=True)
    # The last token is image_newline, which a stream leaves out.
    tokens = video.pooler_output[0, :-1]
    return {
      "vision": hidden.hidden_states[-1],
      "tokens": tokens.reshape(len(pixels), -1, tokens.shape[-1]),
    }

  return _Model(model, vision)


def _load_parts(
  parts: parts_lib.Parts, config: config_lib.ModelConfig, options: Any
) -> _Model:
  torch, transformers = import_reference()
  language = transformers.AutoModelForCausalLM.from_pretrained(
    parts.decoder, **options
  ).eval()
  tower = transformers.SiglipVisionModel.from_pretrained(
    parts.vision, **options
  ).eval()
  saved = {}
  if parts.adapter is not None:
    saved = _merge_adapter(language, parts.adapter)
  if parts.connector is not None:
    saved = _read(parts.connector)
  weights = {
    tuple(name.split(".")[-2:]): value.to(options["dtype"])
    for name, value in saved.items()
  }
  first, second = (
    ("0", "2")
    if ("0", "weight") in weights
    else (
      "linear_1",
      "linear_2",
    )
  )
  functional = torch.nn.functional

  def linear(x, name):
    return functional.linear(x, weights[name, "weight"], weights[name, "bias"])

  def vision(pixels):
    out = tower(pixels)
    features = out.last_hidden_state
    side = math.isqrt(features.shape[1])
    grid = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    pooled = functional.adaptive_avg_pool2d(grid, config.connector.pooled_grid)
    tokens = pooled.flatten(2).permute(0, 2, 1)
    found = {"vision": features}
    if config.connector.use_pooled_head:
      found["pooled"] = out.pooler_output
      tokens = torch.cat([out.pooler_output[:, None], tokens], dim=1)
    hidden = functional.gelu(linear(tokens, first))
    return {**found, "tokens": linear(hidden, second)}

  return _Model(language, vision)


def _merge_adapter(language: Any, directory: pathlib.Path) -> dict[str, Any]:
  """Adds B A to every weight in place; returns the connector's tensors."""
  settings = json.loads((directory / "adapter_config.json").read_text())
  rank = settings["r"]
  root = math.sqrt(rank) if settings.get("use_rslora") else rank
  tensors = _read(directory / "adapter_model.safetensors")
  connector = {}
  for name, value in tensors.items():
    module = name.removeprefix("base_model.model.").replace(".base_layer", "")
    if module.startswith(("connector.", "model.connector.")):
      connector[module] = value
    elif ".lora_" not in name:
      target = language.get_parameter(module)
      target.copy_(value.to(target))
  for name, value in tensors.items():
    module, found, _ = name.partition(".lora_A.weight")
    if found:
      product = tensors[f"{module}.lora_B.weight"].float() @ value.float()
      update = settings["lora_alpha"] / root * product
      weight = language.get_submodule(
        module.removeprefix("base_model.model.")
      ).weight
      weight.copy_((weight.float() + update).to(weight))
  return connector


def _read(path: pathlib.Path) -> dict[str, Any]:
  return importlib.import_module("safetensors.torch").load_file(path)
