"""Streams of the tiny decoder fed chunk by chunk: shapes, step, frames."""

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import testing

__all__ = ["chunk_step", "config_of", "run_frames", "scene_frames"]


def config_of(frame_tokens, *, question_chunk=None, decoder=None, **changes):
  """Shapes of a stream; chunks of text are as long as frames unless told."""
  return stream_state.StreamConfig(
    decoder=decoder or testing.decoder_config(),
    frame_tokens=frame_tokens,
    question_chunk=question_chunk or frame_tokens,
    **changes,
  )


def chunk_step(config, policy, params):
  """(state, hidden, …) -> (state, output, event, record): one chunk's step."""

  def step(state, hidden, valid=None, stage="frame", first=False):
    if valid is None:
      valid = jnp.ones(hidden.shape[:2], bool)
    return stream.prefill_chunk(
      config,
      policy,
      params["decoder"],
      state,
      hidden,
      valid,
      stage=stage,
      first=first,
      last=False,
    )

  return step


def run_frames(step, state, frames):
  """Outputs [F, B, T, D], events with a leading axis F, the last state."""
  results = []
  for frame in frames:
    state, output, event, _ = step(state, frame)
    results.append((output, event))
  outputs, events = jax.tree.map(
    lambda *leaves: np.stack(leaves), *jax.device_get(results)
  )
  return outputs, events, state


def scene_frames(config, count):
  """One scene with noise, so that keys come back: f32[F, B, T, D]."""
  base = testing.hidden_frames(config, 1, seed=5)
  return base + 0.5 * testing.hidden_frames(config, count, seed=6)
