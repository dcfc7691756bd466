"""Laws of the stream, on three streams side by side under `full`.

The reference is `tests/reference.py`: one stream at a time, float64, an
explicit list of past tokens. Prompts and questions differ in length between
streams, so that padding, holes and the shared cursor are always in play.
"""

import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference as reference_lib
from vrex_jax import answering
from vrex_jax import driver as driver_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.baselines import full as full_lib
from vrex_jax.models import decoder as decoder_lib

BATCH, FRAME_TOKENS, CHUNK, CAPACITY, MAX_TOKENS = 3, 5, 8, 200, 6
PROMPTS = ([1, 2, 3], list(range(11)), [7])
QUESTIONS = ([5, 6], list(range(20, 30)), [9] * 17)
FRAMES = 7


def references(scene):
  """The three streams after prompt and frames, by the reference."""
  streams = []
  for row in range(BATCH):
    one = reference_lib.Reference(scene.config.decoder, scene.params)
    one.tokens(PROMPTS[row])
    for frame in scene.frames[:FRAMES, row]:
      one.extend(frame)
    streams.append(one)
  return streams


def greedy(one, question, stop_ids=()):
  """Answer of one stream by running the reference again and again."""
  one = one.copy()
  logits, answer = one.tokens(question), []
  while len(answer) < MAX_TOKENS and logits.argmax() not in stop_ids:
    answer.append(int(logits.argmax()))
    logits = one.tokens(answer[-1:])
  return answer


@pytest.fixture(scope="module")
def scene():
  """Compiled programs and what they are to be compared with."""
  config = stream_state.StreamConfig(
    decoder=testing.decoder_config(max_position_embeddings=150),
    batch=BATCH,
    capacity=CAPACITY,
    frame_tokens=FRAME_TOKENS,
    question_chunk=CHUNK,
  )
  made = types.SimpleNamespace(
    config=config,
    params=testing.decoder_parameters(config.decoder),
    frames=testing.hidden_frames(config, 42),
  )
  made.streams = references(made)
  free = [
    greedy(one, question)
    for one, question in zip(made.streams, QUESTIONS, strict=True)
  ]
  # Two stop ids: stream 0 meets one after one token, stream 2 after two.
  made.stop_ids = (free[0][1], free[2][2])
  made.driver, _ = testing.start(
    config,
    full_lib.full(),
    made.params,
    block_frames=4,
    max_tokens=MAX_TOKENS,
    stop_ids=made.stop_ids,
  )
  return made


def begin(scene):
  state = stream_state.init(scene.config, scene.driver.policy, scene.params)
  return driver_lib.Run(state)


def prefilled(scene):
  run = driver_lib.feed_text(scene.driver, begin(scene), PROMPTS)
  return driver_lib.feed_frames(
    scene.driver, run, scene.frames[:FRAMES], np.arange(FRAMES) / 2
  )


def close(found, expected):
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_stream_is_batch(scene):
  """Frame by frame over a growing cache = one pass over everything at once."""
  _, reply = driver_lib.ask(scene.driver, prefilled(scene), QUESTIONS)
  module = decoder_lib.Decoder(scene.config.decoder)
  variables = {"params": scene.params["decoder"]}
  embed = lambda ids: np.asarray(
    module.apply(variables, jnp.asarray(ids), method="embed")
  )
  rows = [
    np.concatenate(
      [
        embed(PROMPTS[row]),
        scene.frames[:FRAMES, row].reshape(-1, 32),
        embed(QUESTIONS[row]),
      ]
    )
    for row in range(BATCH)
  ]
  longest = max(map(len, rows))
  hidden = np.stack(
    [np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows]
  )
  logits = jax.jit(module.apply)(variables, hidden)
  expected = [logits[row, len(rows[row]) - 1] for row in range(BATCH)]
  close(reply.logits, expected)


def test_each_stream_of_a_batch_is_that_stream_alone(scene):
  """Whatever its neighbours' lengths are."""
  _, reply = driver_lib.ask(scene.driver, prefilled(scene), QUESTIONS)
  expected = [
    one.copy().tokens(question)
    for one, question in zip(scene.streams, QUESTIONS, strict=True)
  ]
  close(reply.logits, expected)


def test_greedy_answers_are_argmaxes_and_stop_at_any_stop_id(scene):
  _, reply = driver_lib.ask(scene.driver, prefilled(scene), QUESTIONS)
  expected = [
    greedy(one, question, scene.stop_ids)
    for one, question in zip(scene.streams, QUESTIONS, strict=True)
  ]
  assert reply.tokens == expected
  assert [len(answer) for answer in expected] == [1, MAX_TOKENS, 2]
  assert reply.stopped == [True, False, True]


@pytest.mark.parametrize("lengths", [(1, 7, 8), (9, 16, 17)])
def test_padding_of_a_question_chunk_changes_nothing(scene, lengths):
  questions = [list(range(30, 30 + length)) for length in lengths]
  _, reply = driver_lib.ask(scene.driver, prefilled(scene), questions)
  expected = [
    one.copy().tokens(question)
    for one, question in zip(scene.streams, questions, strict=True)
  ]
  close(reply.logits, expected)


def stopping(one, stop_ids):
  """A one-token question that is answered with a stop id at once."""
  questions = ([token] for token in range(64))
  return next(
    question for question in questions if not greedy(one, question, stop_ids)
  )


def test_an_answer_may_stop_before_its_first_token(scene):
  questions = [stopping(one, scene.stop_ids) for one in scene.streams]
  run = prefilled(scene)
  begun = run.cursor
  run, reply = driver_lib.ask(scene.driver, run, questions, keep=True)
  assert reply.tokens == [[], [], []]
  assert reply.stopped == [True, True, True]
  assert np.isnan(reply.tpot_s)
  assert run.cursor == begun + 1


def stored(state):
  """Keys and values of live slots, zeros elsewhere: what a stream is."""
  cache = jax.tree.map(np.asarray, state.cache)
  live = cache.slots.valid & (np.arange(cache.key.shape[3]) < cache.cursor)
  live = live[None, :, None, :, None]
  return np.where(live, cache.key, 0), np.where(live, cache.value, 0)


def test_undone_questions_leave_no_trace(scene):
  """Bit-equal: the next question, and a stream that goes on, see nothing."""
  others = ([1] * 20, [2], [3] * 9)
  asked = prefilled(scene)
  asked, before = driver_lib.ask(scene.driver, asked, QUESTIONS)
  for question in (others, others[::-1], [[4]] * BATCH):
    asked, between = driver_lib.ask(scene.driver, asked, question)
    assert np.any(between.logits != before.logits)
  asked, after = driver_lib.ask(scene.driver, asked, QUESTIONS)
  np.testing.assert_array_equal(before.logits, after.logits)
  assert before.tokens == after.tokens
  more = scene.frames[FRAMES : FRAMES + 2]
  asked = driver_lib.feed_frames(scene.driver, asked, more, [4, 5])
  silent = driver_lib.feed_frames(scene.driver, prefilled(scene), more, [4, 5])
  assert asked.cursor == silent.cursor
  for one, other in zip(stored(asked.state), stored(silent.state), strict=True):
    np.testing.assert_array_equal(one, other)
  chex.assert_trees_all_equal(
    asked.state.replace(cache=None), silent.state.replace(cache=None)
  )


def test_a_kept_question_is_part_of_the_past(scene):
  """As if question, answer and closing text had stood in the stream."""
  closing = [60, 61]
  run = prefilled(scene)
  run, reply = driver_lib.ask(
    scene.driver, run, QUESTIONS, keep=True, resume=closing
  )
  more = scene.frames[FRAMES : FRAMES + 2]
  run = driver_lib.feed_frames(scene.driver, run, more, [4, 5])
  run, again = driver_lib.ask(scene.driver, run, QUESTIONS[::-1])
  expected = []
  for row, one in enumerate(references(scene)):
    one.tokens(QUESTIONS[row] + reply.tokens[row] + closing)
    for frame in more[:, row]:
      one.extend(frame)
    expected.append(one.tokens(QUESTIONS[2 - row]))
    assert int(run.state.seen[row]) == len(one) - len(QUESTIONS[2 - row])
  close(again.logits, expected)


def test_blocks_of_any_size_are_frame_by_frame(scene):
  """One frame a call, blocks of four with a short last one: bit-equal."""
  blocks = prefilled(scene)
  single = driver_lib.feed_text(scene.driver, begin(scene), PROMPTS)
  for index in range(FRAMES):
    single = driver_lib.feed_frames(
      scene.driver, single, scene.frames[index : index + 1], [index / 2]
    )
  chex.assert_trees_all_equal(single.state, blocks.state)
  whole, parts = (
    driver_lib.finish_trace(scene.driver, run) for run in (blocks, single)
  )
  chex.assert_trees_all_equal(whole, parts)


def test_the_scan_is_the_live_step(scene):
  """Another program, without the scan: equal up to rounding."""
  step = jax.jit(
    lambda state, frame: stream.prefill_frame(
      scene.config,
      scene.driver.policy,
      testing.embed_hidden,
      scene.params,
      state,
      frame,
    ),
    donate_argnums=0,
  )
  run = driver_lib.feed_text(scene.driver, begin(scene), PROMPTS)
  state = run.state
  for frame in scene.frames[:FRAMES]:
    state, event, record = step(state, frame)
    assert record is None
  scanned = prefilled(scene).state
  for one, other in zip(stored(state), stored(scanned), strict=True):
    close(one, other)
  chex.assert_trees_all_equal(state.cache.slots, scanned.cache.slots)
  assert int(event.frame[0]) == FRAMES - 1


def test_sampling_follows_the_seed(scene):
  def answers(temperature, seed):
    run = prefilled(scene)
    _, reply = driver_lib.ask(
      scene.driver, run, QUESTIONS, temperature=temperature, seed=seed
    )
    return reply.tokens

  assert answers(2.0, 1) == answers(2.0, 1)
  assert len({str(answers(2.0, seed)) for seed in range(4)}) > 1
  assert answers(1e-4, 3) == answers(0.0, 4)


def test_drawn_tokens_follow_the_softmax(scene):
  """Share of each first token over many draws, against softmax(logits / T)."""
  logits = np.zeros((BATCH, 64), np.float32)
  logits[:, :3] = np.log([[6.0, 3.0, 1.0]]) * 2.0
  logits[:, 3:] = -100.0
  draw = jax.jit(
    jax.vmap(lambda key: answering._sample(jnp.asarray(logits), key, 2.0))
  )
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
  for token, share in enumerate((0.6, 0.3, 0.1)):
    found = (drawn == token).mean(axis=0)
    np.testing.assert_allclose(found, share, atol=4 * 0.5 / 4000**0.5)


def test_full_attends_to_everything_it_has_seen(scene):
  run, _ = driver_lib.ask(scene.driver, prefilled(scene), QUESTIONS)
  trace = driver_lib.finish_trace(scene.driver, run)
  assert trace_lib.retrieval_ratio(trace) == {
    "frame": 1.0,
    "question": 1.0,
    "answer": 1.0,
  }
  names = [trace_lib.STAGES[stage] for stage in trace.stage]
  assert names == (
    ["prompt"] * 2 + ["frame"] * FRAMES + ["question"] * 3 + ["answer"] * 6
  )
  seen = trace.counts["past_seen"][:, 0, :, 0]
  chunks = trace.counts["chunk_tokens"][:, 0, :, 0]
  np.testing.assert_array_equal(seen[0], [0, 0, 0])
  np.testing.assert_array_equal(seen, np.cumsum(chunks, 0) - chunks)
  asked = [
    [min(8, max(0, len(question) - 8 * piece)) for question in QUESTIONS]
    for piece in range(3)
  ]
  np.testing.assert_array_equal(chunks[9:12], asked)
  np.testing.assert_array_equal(chunks[12:].sum(axis=0), [1, 6, 2])
  for name in ("past_held", "past_attended", "past_loaded"):
    np.testing.assert_array_equal(trace.counts[name], trace.counts["past_seen"])
  for name in ("past_fetched", "past_exposed", "fetch_runs"):
    assert not np.any(trace.counts[name])
  assert trace_lib.check(trace) == []
  np.testing.assert_array_equal(trace.time_s[2:9], np.arange(FRAMES) / 2)
  np.testing.assert_array_equal(trace.time_s[9:], 3.0)
  np.testing.assert_array_equal(
    trace.frame[:, 0], [-1, -1, *range(FRAMES), *[FRAMES - 1] * 9]
  )


def frames_program(scene, state, frames):
  """The compiled block of four, past the driver's checks."""
  live = np.ones(len(frames), bool)
  state, events, _ = scene.driver.programs["frame"](
    scene.params, state, frames, live
  )
  trace = trace_lib.from_events(
    events,
    time_s=np.zeros(len(frames)),
    retrieves=np.ones((4, 2), bool),
    rows_per_head=1,
  )
  return state, trace


def test_a_full_cache_drops_the_chunk_and_says_so(scene):
  """40 frames of 5 fill 200 slots exactly; the 41st is not stored."""
  state = begin(scene).state
  for start in range(0, 40, 4):
    state, trace = frames_program(scene, state, scene.frames[start : start + 4])
    assert not np.any(trace.overflow & trace_lib.Overflow.CACHE_FULL)
  assert int(state.cache.cursor) == CAPACITY
  kept = jax.tree.map(np.array, (state.cache, state.next_position, state.seen))
  state, trace = frames_program(scene, state, scene.frames[38:42])
  assert np.all(trace.overflow & trace_lib.Overflow.CACHE_FULL)
  cache, position, seen = kept
  np.testing.assert_array_equal(
    state.cache.key[:, :, :, :CAPACITY], cache.key[:, :, :, :CAPACITY]
  )
  np.testing.assert_array_equal(
    state.cache.value[:, :, :, :CAPACITY], cache.value[:, :, :, :CAPACITY]
  )
  np.testing.assert_array_equal(state.cache.slots.valid, cache.slots.valid)
  assert int(state.cache.cursor) == CAPACITY
  np.testing.assert_array_equal(state.next_position, position)
  np.testing.assert_array_equal(state.seen, seen)
  (sentence,) = [text for text in trace_lib.check(trace) if "capacity" in text]
  assert "frame 40" in sentence
  assert "layer 0" in sentence
  assert "not stored: raise the capacity" in sentence


def test_a_position_past_the_model_is_told(scene):
  """150 positions: 30 frames are within, the 31st is not."""
  state = begin(scene).state
  for start in range(0, 28, 4):
    state, trace = frames_program(scene, state, scene.frames[start : start + 4])
    assert not np.any(trace.overflow)
  _, trace = frames_program(scene, state, scene.frames[28:32])
  assert not np.any(trace.overflow[:2])
  assert np.all(trace.overflow[2:] == trace_lib.Overflow.POSITION)
  (sentence,) = trace_lib.check(trace)
  assert "frame 30" in sentence
  assert "max_position_embeddings" in sentence
  assert "streaming_llm" in sentence


def test_a_value_that_is_not_finite_is_told_for_its_stream(scene):
  frames = scene.frames[:4].copy()
  frames[2, 1, 3, 5] = np.inf
  _, trace = frames_program(scene, begin(scene).state, frames)
  wrong = trace.overflow == trace_lib.Overflow.NON_FINITE
  assert not np.any(wrong[:2])
  assert np.all(wrong[2:, :, 1])
  assert not np.any(wrong[:, :, [0, 2]])
  (sentence,) = trace_lib.check(trace)
  assert "frame 2, layer 0, stream 1" in sentence
  assert "checkpoint" in sentence


def test_logits_that_are_not_finite_are_told_where_a_stream_has_tokens(scene):
  """A broken head alone: hidden states are finite, and frames have no head."""
  decoder = dict(scene.params["decoder"])
  decoder["lm_head"] = jax.tree.map(
    lambda leaf: leaf.at[..., 7].set(jnp.nan), decoder["lm_head"]
  )
  params = {**scene.params, "decoder": decoder}
  broken = dataclasses.replace(scene.driver, params=params)
  for driver, wrong in ((scene.driver, False), (broken, True)):
    run = driver_lib.feed_text(driver, begin(scene), PROMPTS)
    run = driver_lib.feed_frames(driver, run, scene.frames[:4], np.arange(4))
    run, _ = driver_lib.ask(driver, run, QUESTIONS)
    trace = driver_lib.finish_trace(driver, run)
    told = trace.overflow == trace_lib.Overflow.NON_FINITE
    text = trace.stage != trace_lib.STAGES.index("frame")
    has_tokens = trace.counts["chunk_tokens"][:, :, :, 0] > 0
    assert not np.all(has_tokens[text])  # some streams are padded
    np.testing.assert_array_equal(
      told, wrong & text[:, None, None] & has_tokens
    )
    sentences = trace_lib.check(trace)
    assert len(sentences) == int(wrong)
    assert all("not finite" in sentence for sentence in sentences)
