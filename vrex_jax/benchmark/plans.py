"""What can be timed: decoder shapes, and one cell of a benchmark."""

import dataclasses
import math
from typing import Any

from vrex_jax import model_source
from vrex_jax import stream_state
from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import presets

__all__ = ["SHAPES", "Plan", "cell_fields", "model_config", "stream_config"]

SHAPES = ("wide", "qwen2_512", "onevision-0.5b", "llama3-8b", "smoke")
"""Decoders by name, as `--shape` spells it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Static. One cell of a benchmark.

  Attributes:
    shape: one of SHAPES.
    cache_tokens: past tokens of every stream.
    frame_tokens: T.
    batch: B.
    lookahead: 0 or 1.
    dtype: storage of weights and cache, "float32" or "bfloat16".
    with_vision: the step starts from pixels.
    seed: of weights, cache and frame.
  """

  shape: str
  cache_tokens: int
  frame_tokens: int
  batch: int = 1
  lookahead: int = 0
  dtype: str = "float32"
  with_vision: bool = False
  seed: int = 0


def cell_fields(plan: Plan) -> dict[str, Any]:
  """What names a cell in a record: the plan without its seed.

  Example:
    >>> plan = Plan(shape="wide", cache_tokens=1024, frame_tokens=10)
    >>> cell_fields(plan)["cache_tokens"]
    1024
  """
  fields = dataclasses.asdict(plan)
  del fields["seed"]
  return fields


def model_config(
  shape: str, frame_tokens: int, *, with_vision: bool = False
) -> config_lib.ModelConfig:
  """A video LLM around one of the decoders, almost without a vocabulary.

  With vision, presets keep their tower and the other shapes get the paper's,
  SigLIP-L/16-384; the connector pools to `frame_tokens`. Without, the tower is
  the smallest there is and nobody runs it.

  Args:
    shape: one of SHAPES.
    frame_tokens: T.
    with_vision: the step starts from pixels.

  Raises:
    InputError: the shape is unknown; or the connector has no square grid of
      `frame_tokens` tokens.

  Example:
    >>> model_config("wide", 10, with_vision=True).tokens_per_frame
    10
  """
  if shape not in SHAPES:
    raise InputError(
      f"unknown shape {shape!r}; it must be one of {', '.join(SHAPES)}: choose"
      " one of these"
    )
  if shape in presets.PRESETS:
    decoder, tower = presets.preset(shape).decoder, shape
  else:
    decoder = _DECODERS[shape]
    tower = "tiny" if shape == "smoke" else "llama3-8b"
  model = presets.preset(tower if with_vision else "tiny")
  connector = dataclasses.replace(model.connector, separator=None)
  if with_vision:
    connector = _pooled_to(connector, frame_tokens)
  return dataclasses.replace(
    model,
    name=shape,
    decoder=dataclasses.replace(
      decoder, vocab_size=64, max_position_embeddings=2**24
    ),
    connector=connector,
  )


def _pooled_to(
  connector: config_lib.ConnectorConfig, frame_tokens: int
) -> config_lib.ConnectorConfig:
  """The connector with another grid, and the pooled head where it is needed."""
  heads = (False, True) if connector.kind == "videollm_online" else (False,)
  for head in heads:
    grid = math.isqrt(frame_tokens - head)
    if grid and grid**2 + head == frame_tokens:
      return dataclasses.replace(
        connector, pooled_grid=grid, use_pooled_head=head
      )
  raise InputError(
    f"--frame_tokens is {frame_tokens}; with vision it must be the tokens of a"
    " square grid, and may be one more with the paper's connector: try 16 or"
    " 196"
  )


def stream_config(
  plan: Plan, decoder: config_lib.DecoderConfig
) -> stream_state.StreamConfig:
  """A stream with room for the past and one more frame."""
  return stream_state.StreamConfig(
    decoder=decoder,
    batch=plan.batch,
    capacity=plan.cache_tokens + plan.frame_tokens,
    frame_tokens=plan.frame_tokens,
    question_chunk=plan.frame_tokens,
    dtype=model_source.activation_dtype(plan.dtype),
    cache_dtype=model_source.storage_dtype(plan.dtype),
    lookahead=plan.lookahead,
  )


def _decoder(**fields: Any) -> config_lib.DecoderConfig:
  return config_lib.DecoderConfig(vocab_size=64, tie_embeddings=True, **fields)


_DECODERS = {
  "wide": _decoder(
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=8,
    num_heads=16,
    num_kv_heads=4,
    head_dim=128,
  ),
  "qwen2_512": _decoder(
    hidden_size=512,
    intermediate_size=1408,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    qkv_bias=True,
  ),
  "smoke": _decoder(
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    qkv_bias=True,
  ),
}
