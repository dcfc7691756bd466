"""Sinks and a window at re-indexed positions, against numpy, without end.

The oracle recomputes every chunk's attention over the kept set, keys at their
rank and the chunk right after, from keys it keeps unrotated for ever. Text of
different lengths stands between the frames of the two streams.
"""

import jax
import numpy as np
import pytest

from tests import reference as reference_lib
from tests import stepping
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.baselines import streaming_llm as streaming_llm_lib

LENGTH, BATCH = 5, 2
CONFIG = testing.decoder_config(max_position_embeddings=16)
PARAMS = testing.decoder_parameters(CONFIG)


def lengths_of(chunks):
  """Valid tokens of every chunk, [chunks, B]: every tenth is a text."""
  random = np.random.default_rng(1)
  lengths = np.full((chunks, BATCH), LENGTH)
  lengths[9::10] = random.integers(0, LENGTH + 1, lengths[9::10].shape)
  lengths[9::10, 0] = np.maximum(lengths[9::10, 0], 1)
  return lengths


class Window:
  """One stream of the oracle."""

  def __init__(self, sinks, window):
    self.stream = reference_lib.Reference(CONFIG, PARAMS)
    self.sinks, self.window = sinks, window
    self.kept = 0

  def extend(self, hidden):
    past, length = np.arange(len(self.stream)), len(hidden)
    end = len(past) + length
    slots = past[(past < self.sinks) | (past >= end - self.window)]
    self.kept = len(slots)
    rank = np.arange(len(slots))
    part = reference_lib.Part(slots, rank, len(slots) + np.arange(length))
    parts = [[part]] * CONFIG.num_heads
    return self.stream.extend(hidden, lambda layer, query: parts)


@pytest.fixture(scope="module")
def setting():
  """One compiled step for all sizes: they are knobs."""
  config = stepping.config_of(LENGTH, decoder=CONFIG, batch=BATCH, capacity=32)
  policy = streaming_llm_lib.streaming_llm()
  step = stepping.chunk_step(config, policy, PARAMS)

  def start(sinks, window, position=0):
    state = stream_state.init(
      config,
      policy,
      PARAMS,
      knobs={"sink_tokens": sinks, "window_tokens": window},
      recent_tokens=0,
    )
    return state.replace(next_position=state.next_position + position)

  compact = jax.jit(lambda state: stream_state.compact(policy, state))
  return start, jax.jit(step), compact


@pytest.mark.parametrize(("sinks", "window"), [(4, 12), (0, 16), (3, 1)])
def test_a_stream_without_end_attends_to_the_kept_set(setting, sinks, window):
  """230 chunks, 1100 tokens, through 32 slots and a model of 16 positions."""
  start, step, compact = setting
  random = np.random.default_rng(0)
  state, compactions = start(sinks, window), 0
  streams = [Window(sinks, window) for _ in range(BATCH)]
  for lengths in lengths_of(230):
    hidden = random.standard_normal((BATCH, LENGTH, 32)).astype(np.float32)
    valid = np.arange(LENGTH)[None] < lengths[:, None]
    if int(state.cache.cursor) + LENGTH > 32:
      state = compact(state)
      compactions += 1
    state, out, event, _ = step(state, hidden, valid)
    for row, one in enumerate(streams):
      if lengths[row]:
        expected = one.extend(hidden[row, : lengths[row]])
        np.testing.assert_allclose(
          out[row, : lengths[row]], expected, atol=3e-5
        )
        attended = event.counts.past_attended[:, row]
        np.testing.assert_array_equal(attended, np.full((2, 2), one.kept))
    assert not np.any(event.overflow & trace_lib.Overflow.CACHE_FULL)
    if sinks + window <= 16:
      assert not np.any(event.overflow)
  assert compactions > 40
  np.testing.assert_array_equal(
    state.seen, [len(one.stream) for one in streams]
  )


def test_a_window_larger_than_the_model_is_told(setting):
  """Positions inside the kept set count, not those of the stream."""
  start, step, _ = setting
  state = start(4, 16)
  everything = np.ones((BATCH, LENGTH), bool)
  frames = np.random.default_rng(0).standard_normal((5, BATCH, LENGTH, 32))
  told = []
  for frame in frames.astype(np.float32):
    state, _, event, _ = step(state, frame, everything)
    told.append(np.all(event.overflow == trace_lib.Overflow.POSITION))
  # 5, 10, 15 fit in 16 positions; 15 + 5 and 4 + 16 do not.
  assert told == [False, False, False, True, True]


def test_a_stream_late_in_its_life_is_a_young_one(setting):
  """Only ranks count: a stream that starts at position 10 million."""
  start, step, _ = setting
  frames = np.random.default_rng(2).standard_normal((5, BATCH, LENGTH, 32))
  everything = np.ones((BATCH, LENGTH), bool)
  young, old = start(0, 16), start(0, 16, position=10_000_000)
  for frame in frames.astype(np.float32):
    young, out, *_ = step(young, frame, everything)
    old, late, *_ = step(old, frame, everything)
  np.testing.assert_allclose(late, out, atol=0.02)


def test_nothing_is_evicted_for_a_stream_that_receives_nothing(setting):
  """A neighbour's longer text, or a chunk that did not fit, moves no window."""
  start, step, _ = setting
  state = start(0, 10)
  frames = np.random.default_rng(3).standard_normal((4, BATCH, LENGTH, 32))
  for frame in frames[:3].astype(np.float32):
    state, *_ = step(state, frame, np.ones((BATCH, LENGTH), bool))
  before = np.asarray(state.cache.slots.valid).sum(axis=-1)
  valid = np.array([[True] * LENGTH, [False] * LENGTH])
  state, *_ = step(state, frames[3].astype(np.float32), valid)
  after = np.asarray(state.cache.slots.valid).sum(axis=-1)
  np.testing.assert_array_equal(before, 10)
  np.testing.assert_array_equal(after, 10)
