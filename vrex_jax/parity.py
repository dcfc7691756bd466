"""Does this package compute what transformers computes? Stage by stage.

`our_values` runs a loaded checkpoint through the same functions a stream uses;
`experiments/torch_reference.py` runs the same files through torch, outside the
package. `compare` says how far apart they are.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import answering
from vrex_jax import stream as stream_lib
from vrex_jax import stream_state as state_lib
from vrex_jax.baselines import full as full_lib
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import connector as connector_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import video_llm
from vrex_jax.models import vision as vision_lib
from vrex_jax.typing import Array, Float, Parameters

__all__ = ["Difference", "Inputs", "Values", "compare", "our_values"]

_NO_STOPS: tuple[int, ...] = ()

Values = dict[str, np.ndarray]
"""Values by stage.

vision f32[F, patches, width of the tower]; pooled f32[F, width] where the
connector reads it; tokens f32[F, T, D] without separators; logits
f32[length, vocabulary] of prompt, frames and question in one pass; stream
f32[2, vocabulary], after the prompt and after the question of a frame-by-frame
prefill; answer i32[new_tokens], greedy.
"""


class Inputs(NamedTuple):
  """What both sides compute on.

  Attributes:
    frames: u8[F, size, size, 3], already resized; None for a text model.
    prompt: token ids before the frames.
    question: token ids after them, at least one.
    new_tokens: length of the greedy answer; stop ids do not end it.
  """

  frames: np.ndarray | None
  prompt: list[int]
  question: list[int]
  new_tokens: int = 8


class Difference(NamedTuple):
  """How far one stage is from its reference.

  Attributes:
    stage: name of the stage.
    largest: largest absolute difference; for answers, the number of tokens
      from the first one that differs.
    scale: largest absolute value of the reference.
    agrees: within tolerance.
  """

  stage: str
  largest: float
  scale: float
  agrees: bool


def compare(
  ours: Values,
  reference: Values,
  *,
  tolerance: float,
  relative: bool = False,
) -> list[Difference]:
  """Differences of every stage of the reference.

  Args:
    ours: values by stage.
    reference: values by stage, all of which must be in `ours`.
    tolerance: largest absolute difference that agrees.
    relative: multiply the tolerance by the reference's scale where that is
      above 1, as large models need, whose activations reach hundreds.

  Returns:
    One entry a stage, in the reference's order.

  Example:
    >>> one = {"logits": np.array([1.0, 2.0])}
    >>> compare({"logits": np.array([1.0, 2.5])}, one, tolerance=0.1)
    [Difference(stage='logits', largest=0.5, scale=2.0, agrees=False)]
  """
  found = []
  for stage, wanted in reference.items():
    got = ours[stage]
    if got.shape != wanted.shape:
      raise ValueError(
        f"{stage} has shape {got.shape} and its reference {wanted.shape}; they"
        " must be equal: compare on the same inputs"
      )
    if stage == "answer":
      wrong = np.flatnonzero(got != wanted)
      largest = float(len(wanted) - wrong[0]) if wrong.size else 0.0
      found.append(Difference(stage, largest, 0.0, not wrong.size))
      continue
    largest = float(np.max(np.abs(got - wanted), initial=0.0))
    scale = float(np.max(np.abs(wanted), initial=0.0))
    limit = tolerance * (max(1.0, scale) if relative else 1.0)
    found.append(Difference(stage, largest, scale, bool(largest <= limit)))
  return found


def our_values(
  checkpoint: checkpoint_lib.Checkpoint | checkpoint_lib.DecoderCheckpoint,
  inputs: Inputs,
  *,
  dtype: str = "float32",
  question_chunk: int = 16,
  stream: bool = True,
) -> Values:
  """Every stage of our model: see `Values`.

  Args:
    checkpoint: what `checkpoint.load` or `load_decoder` returned.
    inputs: frames and token ids.
    dtype: dtype of activations.
    question_chunk: T of a text chunk of the stream; the last one is padded.
    stream: also prefill frame by frame and answer; else leave out "stream" and
      "answer".

  Returns:
    The reference's stages, computed here.
  """
  kind = jnp.dtype(dtype)
  found: dict[str, Array] = {}
  if isinstance(checkpoint, checkpoint_lib.Checkpoint):
    decoder = checkpoint.config.decoder
    params = checkpoint.params
    found = _vision_values(checkpoint.config, params, inputs.frames, kind)
    model = checkpoint.config
  else:
    decoder, params = checkpoint.config, {"decoder": checkpoint.params}
    model = None
  found["logits"] = _one_shot(
    decoder, model, params, inputs, found.get("tokens"), kind
  )
  if stream:
    found["stream"], found["answer"] = _stream(
      decoder, model, params, inputs, kind, question_chunk
    )
  return {
    stage: np.asarray(value, np.int32 if stage == "answer" else np.float32)
    for stage, value in found.items()
  }


def _vision_values(
  config: config_lib.ModelConfig, params: Parameters, frames: Any, dtype: Any
) -> dict[str, Array]:
  tower = vision_lib.SiglipTower(config.vision, dtype)
  connector = connector_lib.Connector(
    config.connector, config.vision.grid, config.decoder.hidden_size, dtype
  )

  @jax.jit
  def run(params, frames):
    pixels = video_llm.normalise(frames, config.image)
    features, pooled = tower.apply({"params": params["vision"]}, pixels)
    tokens = connector.apply({"params": params["connector"]}, features, pooled)
    return features, pooled, tokens

  features, pooled, tokens = run(params, jnp.asarray(frames))
  found = {"vision": features, "tokens": tokens}
  if config.connector.use_pooled_head:
    found["pooled"] = pooled
  return found


def _one_shot(
  decoder: config_lib.DecoderConfig,
  model: config_lib.ModelConfig | None,
  params: Parameters,
  inputs: Inputs,
  tokens: Float | None,
  dtype: Any,
) -> Array:
  """Prompt, frames and question in one causal pass: logits of every token."""
  module = decoder_lib.Decoder(decoder, dtype)
  variables = {"params": params["decoder"]}
  text = lambda ids: module.apply(
    variables, jnp.asarray(ids, jnp.int32)[None], method="embed"
  )[0]
  chunks = [text(inputs.prompt)]
  for index, frame in enumerate(tokens if tokens is not None else ()):
    separator = None if model is None else model.connector.separator
    if index and separator is not None:
      chunks.append(text([separator]))
    chunks.append(frame)
  chunks.append(text(inputs.question))
  return jax.jit(module.apply)(variables, jnp.concatenate(chunks)[None])[0]


def _stream(
  decoder: config_lib.DecoderConfig,
  model: config_lib.ModelConfig | None,
  params: Parameters,
  inputs: Inputs,
  dtype: Any,
  question_chunk: int,
) -> tuple[Array, Array]:
  """Frame by frame through the cache: two rows of logits and the answer."""
  frame_tokens = 1 if model is None else model.tokens_per_frame
  num_frames = 0 if inputs.frames is None else len(inputs.frames)
  length = len(inputs.prompt) + len(inputs.question) + inputs.new_tokens
  config = state_lib.StreamConfig(
    decoder=decoder,
    capacity=length + num_frames * frame_tokens + 2 * question_chunk,
    frame_tokens=frame_tokens,
    question_chunk=question_chunk,
    dtype=dtype,
    cache_dtype=dtype,
  )
  policy = full_lib.full()
  state = state_lib.init(config, policy, params)
  state, before = _prefill_text(
    config, policy, params, state, inputs.prompt, "prompt"
  )
  if model is not None and inputs.frames is not None:

    def embed(params, frame, first):
      return video_llm.embed_frame_tokens(
        model, params, frame, first, dtype=dtype
      )

    step = jax.jit(
      functools.partial(stream_lib.prefill_frame, config, policy, embed)
    )
    for frame in inputs.frames:
      state, _, _ = step(params, state, jnp.asarray(frame)[None])
  state, after = _prefill_text(
    config, policy, params, state, inputs.question, "question"
  )
  _, answer, _ = jax.jit(
    functools.partial(
      answering.answer,
      config,
      policy,
      max_tokens=inputs.new_tokens,
      stop_ids=_NO_STOPS,
    )
  )(params, state, after)
  return jnp.concatenate([before, after]), answer.tokens[0]


def _prefill_text(
  config: state_lib.StreamConfig,
  policy: Any,
  params: Parameters,
  state: state_lib.StreamState,
  ids: list[int],
  stage: str,
) -> tuple[state_lib.StreamState, Float]:
  """Chunks of text; logits f32[1, vocabulary] after the last, zeros if none."""
  step = jax.jit(
    functools.partial(stream_lib.prefill_tokens, config, policy, stage=stage)
  )
  logits = jnp.zeros((1, config.decoder.vocab_size))
  size = config.question_chunk
  for start in range(0, len(ids), size):
    part = ids[start : start + size]
    padded = jnp.asarray([part + [0] * (size - len(part))], jnp.int32)
    valid = (jnp.arange(size) < len(part))[None]
    state, logits, _, _ = step(
      params,
      state,
      padded,
      valid,
      first=start == 0,
      last=start + size >= len(ids),
    )
  return state, logits
