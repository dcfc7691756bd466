"""ReSV's knobs, on one compiled step: what each does to what is attended.

Eight frames of a scene fill the cache exactly, without and with look-ahead.
"""

import types

import chex
import jax
import numpy as np
import pytest

from tests import stepping
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib

BATCH, LENGTH = 2, 5
CAPACITY, ROOM = 40, 24


def make(text, lookahead=0):
  config = stepping.config_of(
    LENGTH, batch=BATCH, capacity=CAPACITY, lookahead=lookahead
  )
  policy = policy_syntax.make_policy(text)
  params = testing.decoder_parameters(config.decoder)
  return types.SimpleNamespace(
    config=config,
    policy=policy,
    jitted=jax.jit(stepping.chunk_step(config, policy, params)),
    start=lambda **knobs: stream_state.init(
      config, policy, params, knobs={**policy.knobs, **knobs}
    ),
  )


def run(made, frames, **knobs):
  """Outputs [F, B, T, D], events, the last state."""
  return stepping.run_frames(made.jitted, made.start(**knobs), frames)


@pytest.fixture(scope="module")
def made():
  """`full` and ReSV, without and with look-ahead; eight frames fill it."""
  scene = types.SimpleNamespace(
    full=make("full"),
    own=make(f"resv(table_capacity={ROOM}, sink_tokens=0)"),
    ahead=make(f"resv(table_capacity={ROOM}, sink_tokens=0)", lookahead=1),
  )
  scene.frames = stepping.scene_frames(scene.full.config, 9)
  scene.expected = run(scene.full, scene.frames[:8])[0]
  return scene


@pytest.mark.parametrize("which", ["own", "ahead"])
@pytest.mark.parametrize("threshold", [0, 7, 33])
@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_a_ratio_of_one_is_full(made, which, threshold, ratio):
  knobs = {"wicsum_ratio": ratio, "hamming_threshold": threshold}
  outputs, events, _ = run(getattr(made, which), made.frames[:8], **knobs)
  np.testing.assert_allclose(outputs, made.expected, rtol=0, atol=1e-5)
  counts = events.counts
  np.testing.assert_array_equal(counts.past_loaded, counts.past_seen)
  assert not np.any(events.overflow)
  if threshold in (0, 33):  # 40 clusters in a table of 24, or one
    assert np.any(counts.overflow) == (threshold == 0)


def test_look_ahead_leaves_layer_zero_alone(made):
  """Layer 0 attends to everything; layer 1 is asked with layer 0's query."""
  knobs = {"wicsum_ratio": 0.0, "hamming_threshold": 0}
  _, events, _ = run(made.ahead, made.frames[:8], **knobs)
  loaded, seen = events.counts.past_loaded, events.counts.past_seen
  np.testing.assert_array_equal(loaded[:, 0], seen[:, 0])
  assert np.all(loaded[4:, 1] < seen[4:, 1])
  assert not np.any(events.counts.groups_scored[:, 0])


def test_a_ratio_of_its_own_for_every_stage_layer_and_head(made):
  """Everything in layer 1, head 0; the best cluster elsewhere."""
  layers, heads = 2, 2
  ratio = np.zeros((len(policy_lib.STAGES), layers, heads), np.float32)
  knobs = {"hamming_threshold": 0}
  base, events, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio, **knobs)
  assert np.all(events.counts.past_loaded[4:] < events.counts.past_seen[4:])
  ratio[policy_lib.STAGES.index("frame"), 1, 0] = 1.0
  _, events, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio, **knobs)
  everything = events.counts.past_loaded[4:] == events.counts.past_seen[4:]
  assert everything[:, 1, :, 0].all()
  everything[:, 1, :, 0] = False
  assert not everything.any()
  # What holds for other stages does not reach a frame.
  ratio[:] = 1.0
  ratio[policy_lib.STAGES.index("frame")] = 0.0
  same, _, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio, **knobs)
  np.testing.assert_array_equal(same, base)


def test_text_may_have_a_ratio_of_its_own(made):
  """It is of questions and answers, whatever the shape of the other."""
  state = made.own.start(wicsum_ratio=np.array([[0.1], [0.2]]), text_ratio=0.02)
  (first, second) = np.asarray(state.policy.wicsum_ratio)
  np.testing.assert_array_equal(first, second)
  ratios = dict(zip(policy_lib.STAGES, first, strict=True))
  for stage in ("question", "answer"):
    assert np.all(ratios[stage] == np.float32(0.02))
  for stage in ("prompt", "frame"):
    expected = np.float32([[0.1, 0.1], [0.2, 0.2]])
    np.testing.assert_array_equal(ratios[stage], expected)
  # None is the other's.
  state = made.own.start(wicsum_ratio=0.1)
  assert np.all(np.asarray(state.policy.wicsum_ratio) == np.float32(0.1))


def test_a_higher_ratio_loads_no_less(made):
  """In layer 0 of every frame: its queries and keys stay the same."""
  previous = np.zeros(())
  for ratio in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
    _, events, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio)
    loaded = events.counts.past_loaded[:, 0]
    assert np.all(loaded >= previous)
    previous = loaded
  np.testing.assert_array_equal(previous, events.counts.past_seen[:, 0])


def test_knobs_do_not_recompile(made):
  ratios = (0.2, np.float32(0.7), np.full((4, 2, 2), 0.1))
  for ratio, threshold in zip(ratios, (1, 5, 20), strict=True):
    knobs = {"wicsum_ratio": ratio, "hamming_threshold": threshold}
    run(made.own, made.frames[:2], **knobs)
  assert made.own.jitted._cache_size() == 1


def test_streams_of_a_batch_do_not_meet(made):
  outputs, events, state = run(made.own, made.frames[:8], hamming_threshold=9)
  swapped, others, turned = run(
    made.own, made.frames[:8, ::-1], hamming_threshold=9
  )
  np.testing.assert_allclose(swapped[:, ::-1], outputs, rtol=0, atol=1e-5)
  chex.assert_trees_all_equal(
    jax.tree.map(lambda leaf: leaf[:, :, ::-1], others.counts), events.counts
  )
  np.testing.assert_array_equal(
    np.asarray(turned.policy.table.member)[::-1], state.policy.table.member
  )


def test_a_cache_that_is_exactly_full(made):
  """Eight frames of five fill 40 slots; the ninth leaves the table as it is."""
  knobs = {"hamming_threshold": 33, "wicsum_ratio": 0.3}
  _, events, state = run(made.own, made.frames[:8], **knobs)
  assert not np.any(events.overflow)
  assert int(state.cache.cursor) == CAPACITY
  member = np.asarray(state.policy.table.member)
  assert np.all(member[..., :CAPACITY] >= 0)
  before = jax.tree.map(np.array, state.policy)
  state, _, event, _ = made.own.jitted(state, made.frames[8])
  assert np.all(event.overflow & trace_lib.Overflow.CACHE_FULL)
  assert not np.any(event.counts.keys_hashed)
  assert not np.any(event.counts.overflow)
  chex.assert_trees_all_equal(jax.tree.map(np.asarray, state.policy), before)


def test_a_full_table_is_told_and_its_tokens_are_attended(made):
  """24 clusters, every token alone: the fifth frame of five is too many."""
  knobs = {"hamming_threshold": 0, "wicsum_ratio": 0.0}
  _, events, state = run(made.own, made.frames[:8], **knobs)
  assert np.all(state.policy.table.num == ROOM)
  told_ = events.counts.overflow == trace_lib.Overflow.TABLE_FULL
  assert not np.any(told_[:4])
  assert np.all(told_[4:])
  loaded, seen = events.counts.past_loaded[5:], events.counts.past_seen[5:]
  # All but the 24 are attended, and at least the best of the 24.
  assert np.all(loaded >= seen - ROOM + 1)
  assert np.all(loaded < seen)
  trace = trace_lib.from_events(
    events, time_s=np.zeros(8), retrieves=np.ones((4, 2), bool), rows_per_head=1
  )
  (sentence,) = trace_lib.check(trace)
  assert "At frame 4, layer 0, stream 0 (frame stage; 4 events" in sentence
  assert "a table of the policy was full: raise its capacity" in sentence
