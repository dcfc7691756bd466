"""The host's side: capacity, compaction, undone questions, records.

Two small streams: `full`, recorded, in 48 slots, and two streams side by side
under an evicting policy in 40.
"""

import re

import chex
import jax
import numpy as np
import pytest

from tests import stepping
from vrex_jax import driver as driver_lib
from vrex_jax import errors
from vrex_jax import observing
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.baselines import full as full_lib
from vrex_jax.baselines import sliding_window as sliding_window_lib

LENGTH, CHUNK, MAX_TOKENS = 5, 8, 3


def driver_of(policy, *, batch, capacity, record=False, block_frames):
  config = stepping.config_of(
    LENGTH,
    question_chunk=CHUNK,
    batch=batch,
    capacity=capacity,
    observe=observing.record_chunk if record else None,
  )
  params = testing.decoder_parameters(config.decoder)
  driver, _ = testing.start(
    config, policy, params, block_frames=block_frames, max_tokens=MAX_TOKENS
  )
  return driver


@pytest.fixture(scope="module")
def kept():
  """`full`, one stream, 48 slots, recorded."""
  return driver_of(
    full_lib.full(), batch=1, capacity=48, record=True, block_frames=4
  )


@pytest.fixture(scope="module")
def evicting():
  """Two frames and the prompt, two streams, 40 slots."""
  policy = sliding_window_lib.sliding_window(frames=2)
  return driver_of(policy, batch=2, capacity=40, block_frames=2)


def begin(driver):
  state = stream_state.init(driver.config, driver.policy, driver.params)
  return driver_lib.Run(state)


def frames_of(driver, count, seed=1):
  return testing.hidden_frames(driver.config, count, seed=seed)


def feed(driver, run, frames):
  times = run.frames / 2 + np.arange(len(frames)) / 2
  return driver_lib.feed_frames(driver, run, frames, times)


def question(driver, length):
  return [list(range(1, length + 1))] * driver.config.batch


def test_frames_that_do_not_fit_are_refused_before_anything_is_lost(kept):
  """40 tokens held, 15 more wanted: 55 slots would do."""
  run = feed(kept, begin(kept), frames_of(kept, 8))
  before = jax.tree.map(np.array, run.state)
  with pytest.raises(errors.InputError, match="--capacity is 48") as told:
    feed(kept, run, frames_of(kept, 3))
  message = str(told.value)
  assert "40 hold tokens" in message
  assert "after 8 frames" in message
  assert "raise it to at least 55" in message
  assert "policy that evicts" in message
  chex.assert_trees_all_equal(jax.tree.map(np.array, run.state), before)
  run = feed(kept, run, frames_of(kept, 1))
  assert run.cursor == 45


def test_the_last_slot_can_be_used(kept):
  run = feed(kept, begin(kept), frames_of(kept, 8))
  run, _ = driver_lib.ask(kept, run, question(kept, 8 - MAX_TOKENS))
  assert run.cursor == 40
  trace = driver_lib.finish_trace(kept, run)
  assert trace_lib.check(trace) == []
  with pytest.raises(errors.InputError, match="at least 49"):
    driver_lib.ask(kept, run, question(kept, 9 - MAX_TOKENS))
  with pytest.raises(errors.InputError, match="at least 49"):
    driver_lib.ask(
      kept, run, question(kept, 7 - MAX_TOKENS), keep=True, resume=[1, 2]
    )


def test_a_question_longer_than_the_cache_is_refused(kept):
  run = feed(kept, begin(kept), frames_of(kept, 1))
  for text in (
    lambda: driver_lib.ask(kept, run, question(kept, 60)),
    lambda: driver_lib.feed_text(kept, run, question(kept, 60)),
  ):
    with pytest.raises(errors.InputError, match="raise it to at least"):
      text()
  assert feed(kept, run, frames_of(kept, 1)).cursor == 2 * LENGTH


def test_a_later_block_that_does_not_fit_leaves_the_earlier_ones(kept):
  """Blocks of four: two fit, the third is refused with its own numbers."""
  with pytest.raises(errors.InputError, match=r"after 8 frames 40 hold"):
    feed(kept, begin(kept), frames_of(kept, 12))


@pytest.mark.parametrize("tokens", [[[]], [[1]]])
def test_an_empty_text_is_refused(kept, evicting, tokens):
  run = feed(kept, begin(kept), frames_of(kept, 1))
  if not tokens[0]:
    with pytest.raises(errors.InputError, match="the prompt is empty"):
      driver_lib.feed_text(kept, run, tokens)
    with pytest.raises(errors.InputError, match="the question is empty"):
      driver_lib.ask(kept, run, tokens)
    return
  # Every stream of a batch is asked something; a prompt may be one stream's.
  run = driver_lib.feed_text(evicting, begin(evicting), [[1, 2], []])
  with pytest.raises(errors.InputError, match="the question is empty"):
    driver_lib.ask(evicting, run, [[1], []])


def test_records_hold_every_event_s_queries_and_keys(kept):
  run = driver_lib.feed_text(kept, begin(kept), question(kept, 10))
  run = feed(kept, run, frames_of(kept, 5))
  run, reply = driver_lib.ask(kept, run, question(kept, 3), keep=True)
  trace = driver_lib.finish_trace(kept, run)
  assert len(run.observations) == len(trace) == 2 + 5 + 1 + MAX_TOKENS
  decoder = kept.config.decoder
  lengths = [CHUNK] * 2 + [LENGTH] * 5 + [CHUNK] + [1] * MAX_TOKENS
  for record, length, stage in zip(
    run.observations, lengths, trace.stage, strict=True
  ):
    layers, width = decoder.num_layers, decoder.head_dim
    chex.assert_shape(
      record.query, (layers, 1, decoder.num_heads, length, width)
    )
    chex.assert_shape(
      record.key, (layers, 1, decoder.num_kv_heads, length, width)
    )
    assert np.all(record.kind == stage)
    assert all(isinstance(leaf, np.ndarray) for leaf in record)
  # Laid end to end, the valid ones are what the cache holds.
  valid = np.concatenate([record.valid[0] for record in run.observations])
  total = int(valid.sum())
  assert total == run.cursor == 10 + 25 + 3 + len(reply.tokens[0])
  for name, held in (
    ("key", run.state.cache.key[:, 0, :, :total]),
    ("position", run.state.cache.slots.position[0, :total]),
    ("frame", run.state.cache.slots.frame[0, :total]),
    ("kind", run.state.cache.slots.kind[0, :total]),
  ):
    if name == "key":
      rows = [record.key[:, 0] for record in run.observations]
      joined = np.concatenate(rows, axis=2)[:, :, valid]
    else:
      rows = [getattr(record, name)[0] for record in run.observations]
      joined = np.concatenate(rows)[valid]
    np.testing.assert_array_equal(joined, held)


def test_undone_records_and_events_stay_in_the_account(kept):
  """What was computed was computed, whether or not it stays in the cache."""
  run = feed(kept, begin(kept), frames_of(kept, 2))
  run, reply = driver_lib.ask(kept, run, question(kept, 3))
  steps = len(reply.tokens[0])
  assert len(run.observations) == len(driver_lib.finish_trace(kept, run))
  assert len(run.observations) == 2 + 1 + steps
  assert run.cursor == int(run.state.cache.cursor) == 2 * LENGTH


def test_blocks_are_timed_and_counted(kept):
  run = feed(kept, begin(kept), frames_of(kept, 7))
  assert [block.frames for block in run.blocks] == [4, 3]
  assert all(block.wall_s > 0 for block in run.blocks)
  assert run.frames == 7
  assert run.time_s == 3.0
  run, reply = driver_lib.ask(kept, run, question(kept, 2))
  assert reply.ttft_s > 0
  assert reply.tpot_s > 0
  assert set(kept.compile_s) == {"prompt", "frame", "question", "answer"}


PROMPT = ([1, 2, 3, 4], [5])


def test_compaction_makes_room_and_changes_nothing(evicting):
  """15 frames of 5 through 40 slots; counts by hand."""
  run = driver_lib.feed_text(evicting, begin(evicting), PROMPT)
  cursors = []
  frames = frames_of(evicting, 15)
  for index in range(15):
    run = feed(evicting, run, frames[index : index + 1])
    cursors.append(run.cursor)
  assert max(cursors) <= 40
  assert any(np.diff(cursors) < 0)
  trace = driver_lib.finish_trace(evicting, run)
  frame = trace.stage == trace_lib.STAGES.index("frame")
  prompt = np.array([4, 1])[None, None, :, None]
  index = np.arange(15).reshape(-1, 1, 1, 1)
  shape = (15, 2, 2, 2)
  seen = np.broadcast_to(prompt + LENGTH * index, shape)
  attended = np.broadcast_to(prompt + LENGTH * np.minimum(index, 2), shape)
  np.testing.assert_array_equal(trace.counts["past_seen"][frame], seen)
  for name in ("past_held", "past_attended", "past_loaded"):
    np.testing.assert_array_equal(trace.counts[name][frame], attended)
  assert trace_lib.retrieval_ratio(trace)["frame"] == pytest.approx(
    attended.sum() / seen.sum()
  )
  assert trace_lib.check(trace) == []


def prefilled(driver, count=9):
  run = driver_lib.feed_text(driver, begin(driver), PROMPT)
  return feed(driver, run, frames_of(driver, count))


def test_an_undone_question_brings_back_what_it_had_evicted(evicting):
  long, short = [list(range(14)), [9]], [[3, 4], [5, 6, 7]]
  run, before = driver_lib.ask(evicting, prefilled(evicting), short)
  run, _ = driver_lib.ask(evicting, run, long)
  run, after = driver_lib.ask(evicting, run, short)
  np.testing.assert_array_equal(before.logits, after.logits)
  more = frames_of(evicting, 3, seed=2)
  asked = feed(evicting, run, more)
  silent = feed(evicting, prefilled(evicting), more)
  chex.assert_trees_all_equal(
    asked.state.replace(cache=None), silent.state.replace(cache=None)
  )
  _, one = driver_lib.ask(evicting, asked, short)
  _, other = driver_lib.ask(evicting, silent, short)
  # The cursors may differ, so may the order of summation.
  np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)


def test_what_an_evictor_has_no_room_for_leaves_the_stream_alive(evicting):
  """14 slots held: 24 + 3 tokens do not fit in 40, 23 + 3 do."""
  run = prefilled(evicting)
  with pytest.raises(errors.InputError) as told:
    driver_lib.ask(evicting, run, [[1] * 24, [2]])
  number = re.search(r"raise it to at least (\d+)", str(told.value))
  assert number is not None
  assert int(number[1]) == 14 + 24 + MAX_TOKENS
  assert "policy that evicts" not in str(told.value)
  _, reply = driver_lib.ask(evicting, run, [[1] * 23, [2]])
  _, expected = driver_lib.ask(evicting, prefilled(evicting), [[1] * 23, [2]])
  np.testing.assert_array_equal(reply.logits, expected.logits)


def test_streams_of_a_batch_may_ask_different_lengths(evicting):
  """Kept: each stream goes on from its own position, with its own frames."""
  run = prefilled(evicting)
  run, reply = driver_lib.ask(
    evicting, run, [[1] * 9, [2]], keep=True, resume=[7]
  )
  seen = np.asarray(run.state.seen)
  answers = [len(tokens) for tokens in reply.tokens]
  np.testing.assert_array_equal(
    seen, [4 + 45 + 9 + answers[0] + 1, 1 + 45 + 1 + answers[1] + 1]
  )
  np.testing.assert_array_equal(run.state.next_position, seen)
  run = feed(evicting, run, frames_of(evicting, 1))
  trace = driver_lib.finish_trace(evicting, run)
  # The text came with frame 8, which is still within the window.
  held = trace.counts["past_held"][-1, 0, :, 0]
  texts = np.array([9 + answers[0] + 1, 1 + answers[1] + 1])
  np.testing.assert_array_equal(held, [4, 1] + texts + 2 * LENGTH)
