"""Compiled programs of a stream: every stage, before the first frame.

Each stage is lowered and compiled once, ahead of time, with the state donated;
a compiled program refuses other shapes, so a run cannot compile again.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vrex_jax import answering
from vrex_jax import policy as policy_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax.typing import Parameters

__all__ = ["Driver", "compile_stream"]


@dataclasses.dataclass(frozen=True)
class Driver:
  """Static. Compiled programs of one stream, model and policy.

  Attributes:
    config: shapes of the stream.
    policy: the policy.
    params: model parameters on the device.
    block_frames: F, frames of one scan.
    max_tokens: longest answer.
    programs: compiled stages by name.
    compile_s: seconds each took to lower and compile.
  """

  config: stream_state.StreamConfig
  policy: policy_lib.KVPolicy
  params: Parameters
  block_frames: int
  max_tokens: int
  programs: dict[str, Callable[..., Any]]
  compile_s: dict[str, float]


def compile_stream(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  state: stream_state.StreamState,
  embed_frame: stream.EmbedFrame,
  frame: jax.ShapeDtypeStruct,
  *,
  block_frames: int = 8,
  max_tokens: int = 64,
  stop_ids: tuple[int, ...] = (),
  stages: Sequence[str] = policy_lib.STAGES,
  report: Callable[[str], None] = lambda stage: None,
) -> Driver:
  """Compiles every stage a run will use, once.

  Args:
    config: shapes of the stream.
    policy: the policy.
    params: model parameters.
    state: the stream's first state; only its shapes are read.
    embed_frame: vision tower and connector.
    frame: shape and dtype of one frame of all streams, [B, ...].
    block_frames: F, frames of one scan; 1 for live use.
    max_tokens: longest answer.
    stop_ids: token ids that end an answer.
    stages: stages to compile; "question" and "answer" may be left out, and
      "given" added: one token of an answer that is not decoded but given.
    report: called with each stage's name before it is compiled.

  Returns:
    The driver.
  """
  batch = config.batch
  shape = jax.ShapeDtypeStruct
  flag = shape((), bool)
  block = shape((block_frames, *frame.shape), frame.dtype)
  logits = shape((batch, config.decoder.vocab_size), jnp.float32)
  heat, key = shape((), jnp.float32), jax.eval_shape(jax.random.key, 0)

  def text(
    stage: str, length: int
  ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    tokens = shape((batch, length), jnp.int32)
    valid = shape((batch, length), bool)

    def program(params_, state_, tokens_, valid_, first, last):
      return stream.prefill_tokens(
        config, policy, params_, state_, tokens_, valid_,
        stage=stage, first=first, last=last,
      )  # fmt: skip

    return program, (params, state, tokens, valid, flag, flag)

  def frames(params_, state_, block_, live):
    return stream.prefill_frames(
      config, policy, embed_frame, params_, state_, block_, live
    )

  def answer(params_, state_, logits_, heat_, key_):
    return answering.answer(
      config, policy, params_, state_, logits_,
      max_tokens=max_tokens, stop_ids=stop_ids, temperature=heat_, key=key_,
    )  # fmt: skip

  wanted: dict[str, tuple[Callable[..., Any], Any]] = {
    "prompt": text("prompt", config.question_chunk),
    "frame": (frames, (params, state, block, shape((block_frames,), bool))),
    "question": text("question", config.question_chunk),
    "answer": (answer, (params, state, logits, heat, key)),
    "given": text("answer", 1),
  }
  programs: dict[str, Callable[..., Any]] = {}
  compile_s: dict[str, float] = {}
  for stage, (function, arguments) in wanted.items():
    if stage not in stages:
      continue
    report(stage)
    begun = time.perf_counter()
    jitted = jax.jit(function, donate_argnums=1)
    programs[stage] = jitted.lower(*arguments).compile()
    compile_s[stage] = time.perf_counter() - begun
  helpers: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "snapshot": (stream_state.snapshot, (state,), ()),
  }
  saved = jax.eval_shape(stream_state.snapshot, state)
  helpers["restore"] = (stream_state.restore, (state, saved), 0)
  if policy.needs.evicts:
    compact = functools.partial(stream_state.compact, policy)
    helpers["compact"] = (compact, (state,), 0)
    helpers["held"] = (stream_state.slots_held, (state,), ())
  for name, (function, arguments, donated) in helpers.items():
    jitted = jax.jit(function, donate_argnums=donated)
    programs[name] = jitted.lower(*arguments).compile()
  return Driver(
    config, policy, params, block_frames, max_tokens, programs, compile_s
  )
