"""Capacity by hand: what a run needs, what it gets, and what is refused.

The tiny model has 16 tokens a frame and a byte is a token, so every number
can be counted from the texts.
"""

import dataclasses
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax import model_source
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import session_plan
from vrex_jax.baselines import full as full_lib
from vrex_jax.baselines import sliding_window as sliding_window_lib
from vrex_jax.tasks import render

FRAME = 16
FULL = full_lib.full()
EVICTING = sliding_window_lib.sliding_window(frames=2)
QUESTIONS = (
  questions_lib.Question(1.0, "what?"),
  questions_lib.Question(2.0, "and what is it doing?"),
)
AROUND = len("\nQuestion: \nAnswer:")
ASKED = [AROUND + 5, AROUND + 21]
RESUME = len("\n")


@pytest.fixture(scope="module")
def model():
  return model_source.load_model(None, "tiny", dtype="float32", seed=0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  """12 frames at 2 frames per second."""
  path = tmp_path_factory.mktemp("clip") / "a.mp4"
  render.write_mp4(path, np.zeros((12, 32, 48, 3), np.uint8), fps=2)
  return str(path)


def source(expected=10, **changes):
  return session_plan.Source(
    path="a.mp4", fps=2.0, expected=expected, **changes
  )


def plan(model, policy=FULL, video=None, questions=(), **options):
  return session_plan.plan_stream(
    model,
    policy,
    source() if video is None else video,
    questions,
    session_plan.Options(**options),
  )


# Capacity of a policy that keeps everything.


def test_full_gets_a_slot_for_every_token(model):
  assert plan(model).config.capacity == 10 * FRAME
  prompted = plan(model, system="Be brief.")
  assert prompted.text.prompt == list(b"Be brief.\n")
  assert prompted.config.capacity == 10 + 10 * FRAME


def test_questions_that_are_undone_share_the_room_of_the_longest(model):
  planned = plan(model, questions=QUESTIONS, max_tokens=7)
  assert [len(ids) for ids in planned.text.questions] == ASKED
  assert planned.config.capacity == 10 * FRAME + max(ASKED) + 7


def test_questions_that_are_kept_add_up_with_what_closes_them(model):
  planned = plan(model, questions=QUESTIONS, max_tokens=7, keep_questions=True)
  assert planned.text.resume == list(b"\n")
  assert planned.config.capacity == 10 * FRAME + sum(ASKED) + 2 * (7 + RESUME)


def test_too_small_a_capacity_is_refused_with_the_number_that_does(model):
  for options in ({}, {"keep_questions": True}, {"system": "Be brief."}):
    needed = plan(model, questions=QUESTIONS, **options).config.capacity
    with pytest.raises(errors.InputError) as told:
      plan(model, questions=QUESTIONS, capacity=needed - 1, **options)
    message = str(told.value)
    assert f"--capacity is {needed - 1}; 10 frames of 16 tokens" in message
    assert "under policy full" in message
    number = re.search(r"raise it to (\d+)", message)
    assert number is not None
    enough = int(number[1])
    assert enough == needed
    planned = plan(model, questions=QUESTIONS, capacity=enough, **options)
    assert planned.config.capacity == enough


def test_a_larger_capacity_is_the_user_s(model):
  assert plan(model, capacity=5000).config.capacity == 5000


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("quest(budget=1600)", "budget is 1600; .* 160 slots of the cache"),
    ("infinigenp(budget=1600)", "budget is 1600; .* 160 slots of the cache"),
    ('rekv + per_layer(9, "full")', "layers has 9; the model's are 0 to"),
  ],
)
def test_a_policy_that_cannot_begin_is_refused_before_others_run(
  model, text, sentence
):
  with pytest.raises(errors.InputError, match=sentence):
    plan(model, policy_syntax.make_policy(text))


def test_every_policy_is_planned_with_its_defaults(model):
  for name in policy_lib.POLICIES:
    plan(model, policy_syntax.make_policy(name))


# Capacity of a policy that evicts.


def test_an_evicting_policy_gets_no_more_than_its_bound(model):
  bound = session_plan.EVICTING_CAPACITY
  talk = max(ASKED) + 64
  for expected, block, wanted in (
    (10, None, 10 * FRAME + talk),
    (5000, None, bound + 8 * FRAME + talk),
    (5000, 3, bound + 3 * FRAME + talk),
    (None, None, bound + 8 * FRAME + talk),
  ):
    planned = plan(
      model, EVICTING, source(expected), QUESTIONS, block_frames=block
    )
    assert planned.config.capacity == wanted


def test_an_evicting_policy_may_have_less_than_the_stream(model):
  assert plan(model, EVICTING, capacity=40).config.capacity == 40


# Streams without an end.


def test_keeping_everything_of_an_endless_stream_is_refused(model):
  with pytest.raises(errors.InputError) as told:
    plan(model, FULL, source(None))
  message = str(told.value)
  assert "no known end and policy full keeps everything" in message
  assert "--max_frames or --capacity" in message


def test_no_capacity_is_enough_for_a_loop(model):
  for options in ({}, {"capacity": 10**6}):
    with pytest.raises(errors.InputError) as told:
      plan(model, FULL, source(None, loop=True), **options)
    message = str(told.value)
    assert "no known end and policy full keeps everything" in message
    assert "give --max_frames, or choose a policy that evicts" in message
    assert "--capacity" not in message
  assert plan(model, EVICTING, source(None, loop=True), capacity=99)


def test_an_endless_stream_may_have_a_capacity(model):
  assert plan(model, FULL, source(None), capacity=640).config.capacity == 640


def test_a_live_source_is_answered_frame_by_frame(model):
  blocks = [
    plan(model, EVICTING, source(None, live=live), block_frames=given)
    for live in (False, True)
    for given in (None, 4)
  ]
  assert [one.options.block_frames for one in blocks] == [8, 4, 1, 4]


# What else a plan settles.


def test_a_question_after_the_end_is_refused_where_the_end_is_known(model):
  late = (questions_lib.Question(5.5, "late?"),)
  with pytest.raises(errors.InputError, match=r"the stream ends at 5 s"):
    plan(model, questions=late)
  assert plan(model, EVICTING, source(None), late).questions == late


def test_the_stream_has_the_options_and_the_model_s_shapes(model):
  config = plan(
    model,
    dtype="bfloat16",
    question_chunk=32,
    lookahead=1,
    lookahead_query="next",
    record=True,
  ).config
  assert config.decoder == model.config.decoder
  assert (config.frame_tokens, config.grid) == (FRAME, (4, 4))
  assert config.question_chunk == 32
  assert (config.lookahead, config.lookahead_query) == (1, "next")
  assert config.observe is observing.record_chunk
  assert config.cache_dtype == jnp.bfloat16
  assert config.dtype == model_source.activation_dtype("bfloat16")


def test_a_cache_that_does_not_fit_into_memory_is_refused(model, monkeypatch):
  config = plan(model).config
  decoder = config.decoder
  bytes_a_slot = (
    2 * 4 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim
  )
  needed = config.num_slots * bytes_a_slot
  monkeypatch.setattr(model_source, "_free_bytes", lambda: needed)
  plan(model)
  monkeypatch.setattr(model_source, "_free_bytes", lambda: needed - 1)
  with pytest.raises(errors.InputError, match="a KV cache of 160 slots needs"):
    plan(model)
  plan(model, dtype="bfloat16")


@pytest.mark.parametrize(
  ("policy", "expected", "changes", "remedy"),
  [
    (FULL, 10, {"max_tokens": 10**6}, "lower --max_tokens, or shorten"),
    (EVICTING, 10, {"max_tokens": 10**6}, "lower --max_tokens, or shorten"),
    (FULL, 10**6, {}, "lower --fps, give --max_frames, use --dtype=bfloat16"),
    (FULL, 10, {"capacity": 10**6}, "lower --capacity, or use --dtype"),
    (EVICTING, 10**6, {}, "give a smaller --capacity or --block_frames"),
  ],
)
def test_the_flag_that_made_a_cache_too_large_is_named(
  model, monkeypatch, policy, expected, changes, remedy
):
  monkeypatch.setattr(model_source, "_free_bytes", lambda: 0)
  with pytest.raises(errors.InputError) as told:
    plan(model, policy, source(expected), QUESTIONS, **changes)
  assert f"GiB are free: {remedy}" in str(told.value)
  cut = source(expected, max_frames=expected)
  with pytest.raises(errors.InputError) as told:
    plan(model, policy, cut, QUESTIONS, **changes)
  remedy = remedy.replace("--fps, give --max_frames", "--max_frames")
  assert f"GiB are free: {remedy}" in str(told.value)


# The source.


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"fps": 2.0}, 12),
    ({"fps": 4.0}, 24),
    ({"fps": 0.4}, 3),
    ({"fps": 0.01}, 1),
    ({"fps": 2.0, "max_frames": 5}, 5),
    ({"fps": 2.0, "max_frames": 50}, 12),
    ({"fps": 2.0, "loop": True}, None),
    ({"fps": 2.0, "loop": True, "max_frames": 50}, 50),
  ],
)
def test_a_file_s_frames_are_known_beforehand(clip, options, expected):
  found = session_plan.find_source(clip, **options)
  assert found == session_plan.Source(
    path=clip, expected=expected, duration_s=6.0, **options
  )
  assert not found.live


@pytest.mark.parametrize(
  ("options", "end_s"),
  [
    ({"fps": 2.0}, 6.0),
    ({"fps": 0.4}, 6.0),
    ({"fps": 0.01}, 6.0),
    ({"fps": 2.0, "max_frames": 5}, 2.5),
    ({"fps": 0.4, "max_frames": 3}, 6.0),
    ({"fps": 2.0, "loop": True}, None),
    ({"fps": 2.0, "loop": True, "max_frames": 50}, 25.0),
  ],
)
def test_the_end_is_the_video_s_or_that_of_the_last_frame_asked_for(
  model, clip, options, end_s
):
  found = session_plan.find_source(clip, **options)
  assert found.end_s == end_s
  if end_s is None:
    return
  just = (questions_lib.Question(end_s, "last?"),)
  assert plan(model, EVICTING, found, just).questions == just
  late = (questions_lib.Question(end_s + 0.1, "late?"),)
  with pytest.raises(
    errors.InputError, match=f"the stream ends at {end_s:g} s"
  ):
    plan(model, EVICTING, found, late)


@pytest.fixture
def pipe(tmp_path):
  path = tmp_path / "pipe"
  os.mkfifo(path)
  return str(path)


def test_a_pipe_is_live_and_is_not_opened(pipe):
  """Opening it would wait for a writer for ever."""
  found = session_plan.find_source(pipe, fps=2.0)
  assert (found.live, found.expected) == (True, None)
  assert session_plan.find_source(pipe, fps=2.0, max_frames=3).expected == 3


def test_a_pipe_cannot_be_looped(pipe):
  with pytest.raises(errors.InputError) as told:
    session_plan.find_source(pipe, fps=2.0, loop=True, max_frames=3)
  assert "a pipe, which can be read only once" in str(told.value)
  assert "leave out --loop" in str(told.value)


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"fps": 0.0}, "--fps is 0; it must be above 0"),
    ({"fps": -1.0}, "--fps is -1; it must be above 0"),
    ({"fps": float("nan")}, "--fps is nan"),
    ({"fps": float("inf")}, "--fps is inf"),
    ({"fps": 1e308}, "--fps is 1e+308; it must be above 0 and at most 1000000"),
    ({"max_frames": 0}, "--max_frames is 0; it must be at least 1"),
    ({"max_frames": -3}, "--max_frames is -3"),
  ],
)
def test_rates_and_limits_that_make_no_stream_are_refused(
  clip, changes, sentence
):
  with pytest.raises(errors.InputError) as told:
    session_plan.find_source(clip, **{"fps": 2.0, **changes})
  assert sentence in str(told.value)
  with pytest.raises(errors.InputError):
    dataclasses.replace(source(), **changes)


def test_what_is_empty_is_refused_for_that():
  with pytest.raises(errors.InputError, match="/dev/null, which is empty"):
    session_plan.find_source("/dev/null", fps=2.0)


def test_what_is_no_video_is_refused(tmp_path):
  with pytest.raises(errors.InputError, match="there is no file"):
    session_plan.find_source(str(tmp_path / "none.mp4"), fps=2.0)
