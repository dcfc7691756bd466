"""Weights of a local Hugging Face checkpoint, loaded with no conversion step.

  DIR with config.json ────────────► LLaVA-OneVision, all three key layouts
  parts.toml ─► SigLIP, decoder,
                connector, adapter ─► the paper's VideoLLM-Online shape

Tensors are checked and read by `parameter_reader`, named by `key_layout`; the
configuration comes from `hf_config` and `hf_processor`.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import hf_config
from vrex_jax.models import hf_processor
from vrex_jax.models import json_fields
from vrex_jax.models import lora
from vrex_jax.models import parameter_reader
from vrex_jax.models import parts as parts_lib
from vrex_jax.models import prompt
from vrex_jax.models import tensor_files
from vrex_jax.models import tokenizer as tokenizer_lib
from vrex_jax.models import video_llm
from vrex_jax.typing import Parameters, PyTree

__all__ = [
  "TEMPLATE_FILE",
  "Checkpoint",
  "DecoderCheckpoint",
  "load",
  "load_decoder",
]

TEMPLATE_FILE = "prompt_template.toml"
"""Chat format of a directory's model, where it is not its family's."""
_HEAD = "lm_head.weight"
_EMBEDDING = "language_model.embed_tokens.weight"


class Checkpoint(NamedTuple):
  """A video LLM ready to stream.

  Attributes:
    config: static description of the model.
    params: {"vision", "connector", "decoder"}, arrays on the default device.
    tokenizer: the checkpoint's.
    template: prompt template of its family.
    stop_ids: every token id that ends an answer.
  """

  config: config_lib.ModelConfig
  params: Parameters
  tokenizer: tokenizer_lib.Tokenizer
  template: prompt.PromptTemplate
  stop_ids: tuple[int, ...]


class DecoderCheckpoint(NamedTuple):
  """A text model on its own.

  Attributes:
    config: static description of the decoder.
    params: parameters of `decoder.Decoder`.
    end_ids: token ids its files name as the end of an answer.
  """

  config: config_lib.DecoderConfig
  params: Parameters
  end_ids: tuple[int, ...]


def load(path: str | pathlib.Path, *, dtype: str = "float32") -> Checkpoint:
  """Loads a LLaVA-OneVision directory or a TOML of parts.

  Args:
    path: a directory with config.json, safetensors (whole or in shards),
      tokenizer.json, a preprocessor file and, where its chat format is not that
      of its family, prompt_template.toml; or a TOML file (`models.parts`).
    dtype: "float32" or "bfloat16", dtype of every parameter.

  Returns:
    Configuration, parameters, tokenizer, prompt template and stop ids.

  Raises:
    InputError: anything about the files that keeps the model from being what
      its configuration says; nothing has been read then.
  """
  if not str(path):
    raise InputError(
      "--checkpoint is empty; it must be a Hugging Face directory or a .toml of"
      " parts: leave it out for random weights"
    )
  path = pathlib.Path(path)
  kind = _parameter_dtype(dtype)
  if path.suffix == ".toml":
    return _load_parts(parts_lib.read_parts(path), kind)
  if not path.is_dir():
    raise InputError(
      f"--checkpoint is {path}; it must be a Hugging Face directory or a .toml"
      " of parts: check the path"
    )
  config = hf_config.model_config(path)
  tokenizer = tokenizer_lib.load_tokenizer(path)
  own = path / TEMPLATE_FILE
  template = prompt.load_template(str(own) if own.exists() else config.template)
  entries = parameter_reader.canonical_entries(
    tensor_files.list_tensors(path), "onevision", path
  )
  config = dataclasses.replace(
    config, decoder=_settle_head(config.decoder, entries)
  )
  return Checkpoint(
    config=config,
    params=parameter_reader.read_tree(
      video_llm.parameter_shapes(config, kind), entries, source=path
    ),
    tokenizer=tokenizer,
    template=template,
    stop_ids=prompt.stop_ids(template, tokenizer, hf_config.end_ids(path)),
  )


def load_decoder(
  directory: str | pathlib.Path, *, dtype: str = "float32"
) -> DecoderCheckpoint:
  """Loads a Llama or Qwen2 text model.

  Args:
    directory: holds config.json and safetensors.
    dtype: "float32" or "bfloat16".

  Returns:
    Configuration, parameters of `Decoder` and end-of-answer ids.

  Raises:
    InputError: as `load`.
  """
  directory = pathlib.Path(directory)
  kind = _parameter_dtype(dtype)
  config = _read_decoder_config(directory)
  entries = parameter_reader.canonical_entries(
    tensor_files.list_tensors(directory), "decoder", directory
  )
  config = _settle_head(config, entries)
  shapes = {"decoder": _decoder_shapes(config, kind)}
  return DecoderCheckpoint(
    config=config,
    params=parameter_reader.read_tree(shapes, entries, source=directory)[
      "decoder"
    ],
    end_ids=hf_config.end_ids(directory),
  )


def _load_parts(parts: parts_lib.Parts, dtype: np.dtype) -> Checkpoint:
  parts_lib.check_paths(parts)
  tokenizer = tokenizer_lib.load_tokenizer(parts.decoder)
  adapter = lora.read_adapter(parts.adapter) if parts.adapter else None
  entries = _part_entries(parts, adapter)
  config = _parts_config(parts, tokenizer)
  config = dataclasses.replace(
    config, decoder=_settle_head(config.decoder, entries, adapter)
  )
  template = prompt.load_template(config.template)
  if parts.system is not None:
    template = dataclasses.replace(template, system=parts.system)
  return Checkpoint(
    config=config,
    params=parameter_reader.read_tree(
      video_llm.parameter_shapes(config, dtype),
      entries,
      source=parts.path,
      adapter=adapter,
    ),
    tokenizer=tokenizer,
    template=template,
    stop_ids=prompt.stop_ids(
      template, tokenizer, hf_config.end_ids(parts.decoder)
    ),
  )


def _parts_config(
  parts: parts_lib.Parts, tokenizer: tokenizer_lib.Tokenizer
) -> config_lib.ModelConfig:
  """The paper's shape: pooled head and grid, separator, padded frames."""
  vision = hf_config.vision_config(
    json_fields.read_json(parts.vision / "config.json"),
    source=str(parts.vision / "config.json"),
    feature="post_norm",
  )
  if parts.use_pooled_head and not vision.use_head:
    raise InputError(
      f"{parts.vision} has no pooling head (vision_use_head is false); the"
      " pooled token needs it: set [connector] use_pooled_head = false"
    )
  if parts.pooled_grid > vision.grid:
    raise InputError(
      f"{parts.path} says pooled_grid {parts.pooled_grid}; the tower has"
      f" {vision.grid} patches a side: choose at most that"
    )
  separator = None
  if parts.separator:
    ids = tokenizer.encode(parts.separator)
    if len(ids) != 1:
      raise InputError(
        f"{parts.path} says separator {parts.separator!r}; the tokenizer makes"
        f" {len(ids)} tokens of it and it must be one: choose another"
      )
    separator = ids[0]
  raw = json_fields.read_json(parts.decoder / "config.json")
  family = {"llama": "videollm_online"}.get(raw.get("model_type", ""), "qwen2")
  return config_lib.ModelConfig(
    name=parts.path.stem,
    decoder=_read_decoder_config(parts.decoder),
    vision=vision,
    connector=config_lib.ConnectorConfig(
      kind="videollm_online",
      pooled_grid=parts.pooled_grid,
      use_pooled_head=parts.use_pooled_head,
      separator=separator,
    ),
    image=hf_processor.image_config(
      parts.vision, size=vision.image_size, resize="pad"
    ),
    template=parts.template or family,
  )


def _part_entries(
  parts: parts_lib.Parts, adapter: lora.Adapter | None
) -> parameter_reader.Entries:
  """Tensors of all parts; what the adapter saved replaces the base's."""
  entries = {
    **parameter_reader.canonical_entries(
      tensor_files.list_tensors(parts.vision), "vision", parts.vision
    ),
    **parameter_reader.canonical_entries(
      tensor_files.list_tensors(parts.decoder), "decoder", parts.decoder
    ),
  }
  if adapter is not None:
    entries.update(adapter.replacements)
  if parts.connector is not None:
    entries.update(
      parameter_reader.canonical_entries(
        tensor_files.list_file(parts.connector), "connector", parts.connector
      )
    )
  return entries


def _read_decoder_config(directory: pathlib.Path) -> config_lib.DecoderConfig:
  path = directory / "config.json"
  return hf_config.decoder_config(json_fields.read_json(path), source=str(path))


def _settle_head(
  config: config_lib.DecoderConfig,
  entries: parameter_reader.Entries,
  adapter: lora.Adapter | None = None,
) -> config_lib.DecoderConfig:
  """Decides whether the output head is tied, from the tensors themselves.

  As the reference implementation: a head on disk that equals the embedding is
  the embedding; one that differs is used, whatever config.json says. `entries`
  loses a redundant head.
  """
  if not config.tie_embeddings:
    return config
  touched = {_HEAD, _EMBEDDING} & (
    set() if adapter is None else {*adapter.updates, *adapter.replacements}
  )
  if adapter is not None and touched:
    raise InputError(
      f"{adapter.directory} changes {', '.join(sorted(touched))}, which this"
      " model ties to each other: merge the adapter with PEFT and give the"
      " merged directory"
    )
  if _HEAD not in entries or _EMBEDDING not in entries:
    return config
  if tensor_files.same_values(entries[_HEAD], entries[_EMBEDDING]):
    del entries[_HEAD]
    return config
  logging.warning(
    "config.json ties the output head to the embedding, but %s holds a head of"
    " its own, which is used",
    entries[_HEAD].path,
  )
  return dataclasses.replace(config, tie_embeddings=False)


def _decoder_shapes(
  config: config_lib.DecoderConfig, dtype: np.dtype
) -> PyTree:
  module = decoder_lib.Decoder(config, param_dtype=dtype)

  def run(decoder, tokens):
    return decoder(decoder.embed(tokens))

  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(
    lambda key, tokens: module.init(key, tokens, method=run), key, tokens
  )["params"]


def _parameter_dtype(dtype: str) -> np.dtype:
  try:
    kind = jnp.dtype(dtype)
  except TypeError:
    kind = None
  if kind not in (jnp.float32, jnp.bfloat16):
    raise InputError(
      f"dtype is {dtype}; parameters are kept as float32 or bfloat16: choose"
      " one of these"
    )
  return kind
