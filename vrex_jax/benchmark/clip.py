"""A past that is a real clip: embedded once, streamed as often as needed."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vrex_jax import resize
from vrex_jax import stream_state
from vrex_jax import video
from vrex_jax.benchmark import cell
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import step as step_lib
from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import video_llm
from vrex_jax.typing import Float, Frame, Parameters

__all__ = ["clip_past", "embed_pictures", "read_pictures"]


def read_pictures(
  source: str, image: config_lib.ImageConfig, *, fps: float, most: int
) -> list[Frame]:
  """Sampled pictures of one pass over a clip, resized for the model.

  Args:
    source: path or URL.
    image: input preparation.
    fps: samples per second.
    most: stop after this many.

  Raises:
    InputError: see `video.read_frames`.
  """
  frames = video.read_frames(source, fps=fps, max_frames=most)
  with contextlib.closing(frames):
    return [
      resize.resize(frame.pixels, image.size, image.resize) for frame in frames
    ]


def embed_pictures(
  model: config_lib.ModelConfig,
  params: Parameters,
  pictures: Sequence[Frame],
  *,
  dtype: Any,
) -> Float:
  """Tokens of every picture: f[F, T, D].

  Args:
    model: the video LLM.
    params: its parameters.
    pictures: at least one.
    dtype: of activations.
  """
  embed = jax.jit(
    lambda params_, frames: video_llm.embed_frames(
      model, params_, frames, dtype=dtype
    )
  )
  return jnp.concatenate([embed(params, one[None]) for one in pictures])


def clip_past(
  plan: plans.Plan, model: config_lib.ModelConfig, tokens: Float, *, loop: bool
) -> cell.Past:
  """A past prefilled from embedded pictures, under the policy itself.

  All streams of a batch see the same clip. The decoder runs for every frame:
  unlike a random past, this takes the time of a real stream.

  Args:
    plan: the cell; cache_tokens is a multiple of frame_tokens.
    model: the video LLM.
    tokens: f[F, T, D], from `embed_pictures`.
    loop: play the pictures again and again.

  Raises:
    InputError: the pictures do not reach `plan.cache_tokens` without a loop.
  """
  needed = plan.cache_tokens // plan.frame_tokens
  if needed > len(tokens) and not loop:
    raise InputError(
      f"--cache_tokens is {plan.cache_tokens} and the clip has only"
      f" {len(tokens)} frames of {plan.frame_tokens} tokens; {needed} are"
      " needed: add --loop"
    )

  def past(config, policy, params, state):
    batched = jnp.broadcast_to(
      tokens[:, None], (len(tokens), plan.batch, *tokens.shape[1:])
    )
    program = step_lib.compile_step(
      config, model, policy, params, state, batched[0]
    )
    for index in range(needed):
      state, _, _ = program.call(params, state, batched[index % len(tokens)])
    if policy.needs.evicts:
      compact = lambda state_: stream_state.compact(policy, state_)
      state = jax.jit(compact, donate_argnums=0)(state)
    return state

  return past
