"""Writes the tiny checkpoints and reference values that the test suite reads.

  python experiments/make_parity_references.py --out tests/parity/data

Every model is random, 2 layers deep and saved by transformers itself, in
bfloat16 to halve the files; the reference values come from its float32
computation of those weights. CPU, under a minute, a few hundred kB. Running it
again with the versions in `versions.json` writes the same bytes; with others,
values that move by more than the tests' tolerance are a finding.

Needs the extra `parity` (torch, transformers) and `hf` (tokenizers).
"""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import torch_reference
from absl import flags

from vrex_jax import command
from vrex_jax import parity
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint
from vrex_jax.models import hf_config

_OUT = flags.DEFINE_string("out", "tests/parity/data", "folder to write to")

# Models with a tokenizer have its 256 bytes and special tokens.
_VOCABULARY = 272
_SMALL_VOCABULARY = 96
_SPECIAL = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<image>",
  "<video>",
  "<|begin_of_text|>",
  "<|end_of_text|>",
  "<|start_header_id|>",
  "<|end_header_id|>",
  "<|eot_id|>",
)
_NEW_TOKENS = 6
_NUM_FRAMES = 2
# Greedy answers must not hang on rounding: best and second best logit differ
# by at least this much at every step; nor may they repeat one token.
_MARGIN = 0.05
_DISTINCT = 4
_ATTEMPTS = 100

_DECODER: dict[str, Any] = {
  "vocab_size": _VOCABULARY,
  "hidden_size": 24,
  "intermediate_size": 32,
  "num_hidden_layers": 2,
  "max_position_embeddings": 256,
  "eos_token_id": 7,
  "bos_token_id": None,
}
_LLAMA3_ROPE = {
  "rope_type": "llama3",
  "rope_theta": 500.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}

TEXT_MODELS: dict[str, dict[str, Any]] = {
  "llama_group1": {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "vocab_size": _SMALL_VOCABULARY,
  },
  "llama_group4": {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "tie_word_embeddings": False,
    "rope_parameters": _LLAMA3_ROPE,
  },
  "qwen2_group2": {
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": _SMALL_VOCABULARY,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
  },
  "qwen2_group7": {
    "model_type": "qwen2",
    "hidden_size": 28,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "vocab_size": _SMALL_VOCABULARY,
    "rope_parameters": {
      "rope_type": "linear",
      "rope_theta": 10000.0,
      "factor": 2.0,
    },
  },
}

_VISION = {
  "model_type": "siglip_vision_model",
  "hidden_size": 24,
  "intermediate_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "patch_size": 4,
}

# name -> (image size, text model): 4 x 4 and 5 x 5 patches.
ONEVISION_MODELS: dict[str, tuple[int, str]] = {
  "onevision_even": (16, "qwen2_group2"),
  "onevision_odd": (20, "qwen2_group7"),
}

PARTS_IMAGE_SIZE = 24
PARTS_DECODER = "llama_group4"


def main(argv: list[str]) -> None:
  del argv
  out = pathlib.Path(_OUT.value)
  torch, transformers = torch_reference.import_reference()
  out.mkdir(parents=True, exist_ok=True)
  _write_tokenizer(out)
  for name, fields in TEXT_MODELS.items():
    _write_text_model(out / name, fields)
  for name, (size, text) in ONEVISION_MODELS.items():
    _write_onevision(out / name, size, text)
  _write_parts(out / "parts")
  versions = {
    "torch": torch.__version__.split("+")[0],
    "transformers": transformers.__version__,
  }
  _write_json(out / "versions.json", versions)
  total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
  print(f"{out}: {total / 1e3:.0f} kB")


def _write_text_model(directory: pathlib.Path, fields: dict[str, Any]) -> None:
  _, transformers = torch_reference.import_reference()
  fields = {**_DECODER, **fields}
  kind = fields.pop("model_type")
  config = transformers.AutoConfig.for_model(kind, **fields)
  model = transformers.AutoModelForCausalLM.from_config(config)
  _save(model, directory)
  _write_reference(directory, None, None)


def _write_onevision(directory: pathlib.Path, size: int, text: str) -> None:
  _, transformers = torch_reference.import_reference()
  vision = {**_VISION, "image_size": size, "vision_use_head": False}
  config = transformers.LlavaOnevisionConfig(
    vision_config=vision,
    text_config={
      **_DECODER,
      **TEXT_MODELS[text],
      "vocab_size": _VOCABULARY,
    },
    image_token_index=259,
    video_token_index=260,
    image_grid_pinpoints=[[size, size]],
    tie_word_embeddings=TEXT_MODELS[text]["tie_word_embeddings"],
  )
  _save(transformers.LlavaOnevisionForConditionalGeneration(config), directory)
  _write_json(
    directory / "preprocessor_config.json",
    {
      "do_rescale": True,
      "image_mean": [0.5, 0.4, 0.3],
      "image_std": [0.5, 0.25, 0.2],
      "resample": 3,
      "rescale_factor": 1 / 255,
      "size": {"height": size, "width": size},
    },
  )
  _write_reference(
    directory,
    hf_config.model_config(directory),
    _frames(size),
  )


def _write_parts(directory: pathlib.Path) -> None:
  """SigLIP with its pooling head, a connector and a LoRA adapter."""
  _, transformers = torch_reference.import_reference()
  vision = {**_VISION, "image_size": PARTS_IMAGE_SIZE}
  vision.pop("model_type")
  tower = transformers.SiglipVisionModel(
    transformers.SiglipVisionConfig(**vision)
  )
  _save(tower, directory / "siglip")
  decoder = directory.parent / PARTS_DECODER
  _write_connector_and_adapter(directory, decoder)
  toml = directory / "parts.toml"
  toml.write_text(
    f'[vision]\ndirectory = "siglip"\n'
    f'[decoder]\ndirectory = "../{PARTS_DECODER}"\n'
    '[connector]\nfile = "connector.safetensors"\n'
    '[adapter]\ndirectory = "adapter"\n'
  )
  (decoder / "tokenizer.json").write_bytes(
    (directory.parent / "tokenizer.json").read_bytes()
  )
  config = checkpoint.load(toml).config
  (decoder / "tokenizer.json").unlink()
  _write_reference(toml, config, _frames(PARTS_IMAGE_SIZE))


def _write_connector_and_adapter(
  directory: pathlib.Path, decoder: pathlib.Path
) -> None:
  from safetensors.torch import save_file

  width, hidden, rank = _VISION["hidden_size"], _DECODER["hidden_size"], 3
  raw = json.loads((decoder / "config.json").read_text())
  heads = raw["num_attention_heads"] * raw["head_dim"]
  connector = {
    "connector.0.weight": (hidden, width),
    "connector.0.bias": (hidden,),
    "connector.2.weight": (hidden, hidden),
    "connector.2.bias": (hidden,),
  }
  layers = "base_model.model.model.layers"
  targets = {
    f"{layers}.0.self_attn.q_proj": (heads, hidden),
    f"{layers}.1.self_attn.o_proj": (hidden, heads),
    f"{layers}.1.mlp.down_proj": (hidden, raw["intermediate_size"]),
    "base_model.model.lm_head": (_VOCABULARY, hidden),
  }
  factors = {}
  for module, (rows, columns) in targets.items():
    factors[f"{module}.lora_A.weight"] = (rank, columns)
    factors[f"{module}.lora_B.weight"] = (rows, rank)
  _write_json(
    directory / "adapter" / "adapter_config.json",
    {
      "peft_type": "LORA",
      "base_model_name_or_path": PARTS_DECODER,
      "bias": "none",
      "fan_in_fan_out": False,
      "lora_alpha": 6,
      "modules_to_save": None,
      "r": rank,
      "target_modules": "model.*(q_proj|o_proj|down_proj)|lm_head$",
      "task_type": "CAUSAL_LM",
      "use_rslora": True,
    },
  )
  for path, shapes in (
    (directory / "connector.safetensors", connector),
    (directory / "adapter" / "adapter_model.safetensors", factors),
  ):
    tensors = {name: _random(name, shape) for name, shape in shapes.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _save(model: Any, directory: pathlib.Path) -> None:
  """Random weights that make every part matter, saved as bfloat16."""
  torch, _ = torch_reference.import_reference()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(_random(name, tuple(parameter.shape)))
  model.to(torch.bfloat16).save_pretrained(directory)


def _random(name: str, shape: tuple[int, ...]) -> Any:
  """Normal, seeded by the name; scales near 1, matrices of unit gain."""
  torch, _ = torch_reference.import_reference()
  draws = np.random.RandomState(_seed(name)).standard_normal(shape)
  if "norm" in name and name.endswith("weight"):
    draws = 1 + 0.2 * draws
  elif name.endswith("bias"):
    draws = 0.2 * draws
  elif name.endswith("embed_tokens.weight"):
    # Small beside what the layers add, or a tied head repeats its input.
    draws = 0.3 * draws
  elif "embed" not in name and "probe" not in name:
    draws /= np.sqrt(np.prod(shape[1:]))
  return torch.from_numpy(draws).to(torch.bfloat16)


def _text_inputs(name: str) -> parity.Inputs:
  draw = np.random.RandomState(_seed(name)).randint
  return parity.Inputs(
    frames=None,
    prompt=[int(one) for one in draw(0, _SMALL_VOCABULARY, 5)],
    question=[int(one) for one in draw(0, _SMALL_VOCABULARY, 9)],
    new_tokens=_NEW_TOKENS,
  )


def _seed(name: str) -> int:
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def _frames(size: int) -> np.ndarray:
  draw = np.random.RandomState(size).randint
  return draw(0, 256, (_NUM_FRAMES, size, size, 3)).astype(np.uint8)


def _write_reference(
  path: pathlib.Path, config: Any, frames: np.ndarray | None
) -> None:
  """Inputs and values, for the first question whose answer is decisive."""
  directory = path.parent if path.suffix else path
  for attempt in range(_ATTEMPTS):
    inputs = _text_inputs(f"{directory.name} {attempt}")._replace(frames=frames)
    values = torch_reference.reference_values(path, inputs, config=config)
    margin = _smallest_margin(path, config, inputs, values)
    answer = [int(one) for one in values["answer"]]
    if margin >= _MARGIN and len(set(answer)) >= _DISTINCT:
      break
  else:
    raise InputError(
      f"{path} gave no answer of {_DISTINCT} tokens decided by {_MARGIN};"
      " tests need one: raise _ATTEMPTS"
    )
  print(f"{directory.name}: question {attempt}, margin {margin:.3f}, {answer}")
  given = {
    "prompt": np.asarray(inputs.prompt, np.int32),
    "question": np.asarray(inputs.question, np.int32),
  }
  if frames is not None:
    given["frames"] = frames
  np.savez_compressed(
    directory / "reference.npz",
    allow_pickle=False,
    **{f"given_{name}": value for name, value in given.items()},
    **{f"value_{name}": value for name, value in values.items()},
  )


def _smallest_margin(
  path: pathlib.Path,
  config: Any,
  inputs: parity.Inputs,
  values: parity.Values,
) -> float:
  """Lead of the best logit over the second, over all tokens of the answer."""
  answer = [int(one) for one in values["answer"]]
  longer = inputs._replace(question=inputs.question + answer[:-1], new_tokens=1)
  logits = torch_reference.reference_values(path, longer, config=config)
  best = np.sort(logits["logits"][-len(answer) :], axis=-1)
  return float(np.min(best[:, -1] - best[:, -2]))


def _write_tokenizer(out: pathlib.Path) -> None:
  """Byte-level, without merges: 256 bytes and the special tokens."""
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers

  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {letter: index for index, letter in enumerate(alphabet)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(list(_SPECIAL))
  tokenizer.save(str(out / "tokenizer.json"), pretty=False)


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
  command.run(main)
