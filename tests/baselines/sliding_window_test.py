"""A window of frames: in little room for ever, the same as in plenty."""

import jax
import numpy as np
import pytest

from tests import reference as reference_lib
from tests import stepping
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax.baselines import sliding_window as sliding_window_lib

LENGTH, BATCH, FRAMES = 5, 2, 210


def run(policy, capacity, frames, prompt=None):
  """Outputs of every frame, and how often the cache was compacted."""
  config = stepping.config_of(LENGTH, batch=BATCH, capacity=capacity)
  params = testing.decoder_parameters(config.decoder)
  step = stepping.chunk_step(config, policy, params)
  jitted = jax.jit(step, static_argnums=3, donate_argnums=0)
  compact = jax.jit(lambda state: stream_state.compact(policy, state))
  state = stream_state.init(config, policy, params)
  everything = np.ones((BATCH, LENGTH), bool)
  if prompt is not None:
    state, *_ = jitted(state, frames[0], prompt, "prompt")
  outputs, counts, compactions = [], [], 0
  for frame in frames:
    if int(state.cache.cursor) + LENGTH > capacity:
      state = compact(state)
      compactions += 1
    state, out, event, _ = jitted(state, frame, everything, "frame")
    outputs.append(out)
    counts.append((event.counts, event.overflow))
  outputs, counts = jax.device_get((outputs, counts))
  overflow = np.stack([bits for _, bits in counts])
  return np.stack(outputs), [one for one, _ in counts], overflow, compactions


FRAMES_OF_ALL = np.random.default_rng(0).standard_normal(
  (FRAMES, BATCH, LENGTH, 32)
)
FRAMES_OF_ALL = FRAMES_OF_ALL.astype(np.float32)


def test_little_room_for_ever_is_plenty_of_room():
  """210 frames through 24 slots, compacted, and through 1100, never."""
  policy = sliding_window_lib.sliding_window(frames=3)
  small, _, overflow, compactions = run(policy, 24, FRAMES_OF_ALL)
  big, _, _, never = run(policy, 1100, FRAMES_OF_ALL)
  assert (compactions > 100, never) == (True, 0)
  assert not np.any(overflow)
  np.testing.assert_allclose(small, big, atol=1e-5)


@pytest.mark.parametrize("keep_prompt", [True, False])
def test_the_window_is_the_last_frames_and_the_prompt(keep_prompt):
  """Original positions; prompts of 4 and 2 tokens."""
  window = 2
  policy = sliding_window_lib.sliding_window(
    frames=window, keep_prompt=keep_prompt
  )
  prompt = np.arange(LENGTH)[None] < np.array([[4], [2]])
  frames = FRAMES_OF_ALL[:8]
  outputs, counts, _, _ = run(policy, 30, frames, prompt)
  config = testing.decoder_config()
  params = testing.decoder_parameters(config)
  for row, size in enumerate((4, 2)):
    one = reference_lib.Reference(config, params)
    one.extend(frames[0, row][:size])
    for index, frame in enumerate(frames):
      past = np.arange(len(one))
      # The prompt counts as frame -1: it leaves when the window is full.
      kept = past >= size + LENGTH * max(index - window, 0)
      kept |= (past < size) & (keep_prompt or index < window)
      chosen = [[reference_lib.Part(past[kept])]] * config.num_heads
      expected = one.extend(frame[row], lambda layer, query, c=chosen: c)
      np.testing.assert_allclose(outputs[index, row], expected, atol=2e-5)
      held = counts[index].past_held[:, row]
      np.testing.assert_array_equal(held, np.full((2, 2), kept.sum()))
