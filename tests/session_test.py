"""A policy on a video, from the file to the result.

The tiny model with one layer each of tower and decoder, 16 tokens a frame, on
a film of 12 frames at 2 a second. The reference is the decoder in one pass
over everything at once, without a cache.
"""

import dataclasses
import signal
import struct
import types

import jax
import pytest

from tests import films
from tests import sessions
from vrex_jax import errors
from vrex_jax import interrupt
from vrex_jax import model_source
from vrex_jax import programs
from vrex_jax import questions as questions_lib
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import trace as trace_lib
from vrex_jax.baselines import sliding_window as sliding_window_lib
from vrex_jax.models import presets
from vrex_jax.models import video_llm
from vrex_jax.tasks import render

FRAMES, FRAME, FPS = sessions.FRAMES, sessions.FRAME, sessions.FPS
BLOCK, MAX_TOKENS = sessions.BLOCK, sessions.MAX_TOKENS
OPTIONS, FULL = sessions.OPTIONS, sessions.FULL
Told, stream = sessions.Told, sessions.stream
FEW_SLOTS = dataclasses.replace(OPTIONS, capacity=9 * FRAME, record=False)
FRAMES_ALONE = dataclasses.replace(OPTIONS, system=None)
QUESTIONS = questions_lib.parse_questions(["1: what?", "0: first?", "6: last?"])
WINDOW = sliding_window_lib.sliding_window(frames=2)


@pytest.fixture(scope="module")
def model():
  tiny = presets.preset("tiny")
  config = dataclasses.replace(
    tiny,
    # A head of its own: a tied one says the last token again.
    decoder=dataclasses.replace(
      tiny.decoder, num_layers=1, tie_embeddings=False
    ),
    vision=dataclasses.replace(tiny.vision, num_layers=1),
  )
  loaded = model_source.load_model(None, "tiny", dtype="float32", seed=0)
  params = video_llm.random_parameters(config, jax.random.key(3))
  return loaded._replace(config=config, params=params)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
  path = tmp_path_factory.mktemp("film") / "a.mp4"
  config = render.RenderConfig(
    seconds=FRAMES / FPS, fps=FPS, width=64, height=48
  )
  frames, _ = render.render_scene(config, 0)
  render.write_mp4(path, frames, FPS)
  return str(path)


@pytest.fixture(scope="module", autouse=True)
def compile_once():
  """Programs depend on what they are compiled for, not on the run."""
  compile_stream = programs.compile_stream
  drivers = {}

  def remembered(config, policy, *arguments, stages, report, **options):
    key = (config, policy.name, *sorted(options.items()))
    if not set(stages) <= set(drivers[key].compile_s if key in drivers else ()):
      drivers[key] = compile_stream(
        config, policy, *arguments, stages=stages, report=report, **options
      )
    return drivers[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(programs, "compile_stream", remembered)
    yield


# The whole film, three questions, undone.


@pytest.fixture(scope="module")
def asked(model, film):
  """The run most tests look at, in exactly the slots it was given."""
  told = Told()
  source = session_plan.find_source(film, fps=FPS)
  plan = session_plan.plan_stream(model, FULL, source, QUESTIONS, OPTIONS)
  result = session.stream_policy(model, FULL, plan, told.progress())
  return types.SimpleNamespace(plan=plan, told=told, result=result)


def test_every_frame_is_streamed_once(asked):
  row, frames = asked.result.row, asked.result.frames
  assert row["frames"] == len(frames) == FRAMES
  assert [one["frame"] for one in frames] == list(range(FRAMES))
  assert [one["time_s"] for one in frames] == [i / FPS for i in range(FRAMES)]
  assert [one["past_seen"] for one in frames] == [
    len(b"Be brief.\n") + FRAME * index for index in range(FRAMES)
  ]
  assert not asked.result.interrupted
  assert row["vision_ms"] > 0
  assert row["decode_ms"] > 0
  assert row["overflow"] == []


def test_questions_are_asked_after_the_last_frame_at_or_before(asked):
  """Frame 0 at 0 s, frame 2 at 1 s, the last frame before the end at 6 s."""
  stages = [trace_lib.STAGES[stage] for stage in asked.result.trace.stage]
  answer = ["question", *["answer"] * MAX_TOKENS]
  assert stages == [
    "prompt",
    *["frame"] * 1,
    *answer,
    *["frame"] * 2,
    *answer,
    *["frame"] * 9,
    *answer,
  ]
  assert [one["time_s"] for one in asked.result.row["answers"]] == [0, 1, 6]


def test_undone_questions_take_no_slot_in_the_end(asked):
  held = len(b"Be brief.\n") + FRAMES * FRAME
  longest = max(map(len, asked.plan.text.questions)) + MAX_TOKENS
  assert asked.result.row["cached_tokens"] == held
  assert asked.result.capacity == held + longest


def test_answers_are_the_decoder_s_without_a_cache(asked, model, film):
  answer = sessions.oracle(model, sessions.pixels_of(model, film), asked.plan)
  for index, seen in enumerate((1, 3, 12)):
    told = asked.result.row["answers"][index]
    expected = answer(seen, index)
    assert told["tokens"] == expected
    assert told["answer"] == model.tokenizer.decode(expected)


def test_progress_is_told_in_order(asked):
  answers = [
    (question, one["answer"], len(one["tokens"]))
    for question, one in zip(
      QUESTIONS, asked.result.row["answers"], strict=True
    )
  ]
  assert asked.told.said == [
    "begin",
    1,
    answers[0],
    2,
    answers[1],
    4,
    4,
    1,
    answers[2],
  ]
  (note,) = asked.told.notes
  stages = ["prompt", "frame", "question", "answer"]
  assert asked.told.compiling == stages
  assert all(text in note for text in ("compiled full", *stages))


def test_kept_questions_stay(model, film, asked):
  source = session_plan.find_source(film, fps=FPS, max_frames=4)
  options = dataclasses.replace(
    OPTIONS, keep_questions=True, capacity=asked.result.capacity
  )
  questions = QUESTIONS[:2]
  result = stream(
    model, film, questions=questions, source=source, options=options
  )
  talk = sum(map(len, asked.plan.text.questions[:2])) + 2 * (MAX_TOKENS + 1)
  held = len(b"Be brief.\n") + 4 * FRAME + talk
  assert result.row["cached_tokens"] == held
  assert result.row["answers"][0] == asked.result.row["answers"][0]
  seen = [one["past_seen"] for one in result.frames]
  assert seen[3] == held - FRAME


def test_every_question_is_drawn_with_the_next_seed(model, film, asked):
  twice = questions_lib.parse_questions(["1: what?", "1: what?"])
  source = session_plan.find_source(film, fps=FPS, max_frames=3)
  drawn = []
  for seed in (0, 0, 1):
    options = dataclasses.replace(
      OPTIONS, temperature=2.0, seed=seed, capacity=asked.result.capacity
    )
    row = stream(
      model, film, questions=twice, source=source, options=options
    ).row
    drawn.append([one["tokens"] for one in row["answers"]])
  assert drawn[0] == drawn[1]
  assert drawn[0][0] != drawn[0][1]
  assert drawn[2][0] == drawn[0][1]


def test_recorded_chunks_are_the_events(asked):
  assert len(asked.result.records) == len(asked.result.trace)


def test_an_evicting_policy_loops_through_few_slots(model, film):
  """Five times the film in the room of nine frames."""
  source = session_plan.find_source(film, fps=FPS, loop=True, max_frames=60)
  result = stream(model, film, WINDOW, source=source, options=FEW_SLOTS)
  assert result.row["frames"] == 60
  assert result.records == ()
  assert result.row["cached_tokens"] == len(b"Be brief.\n") + 2 * FRAME
  assert result.row["overflow"] == []
  assert [one["time_s"] for one in result.frames] == [
    i / FPS for i in range(60)
  ]


# Ctrl-C.


def test_ctrl_c_ends_the_stream_after_the_block(model, film, asked):
  told = Told(on_frames=lambda count: signal.raise_signal(signal.SIGINT))
  late = questions_lib.parse_questions(["5: never"])
  options = dataclasses.replace(OPTIONS, capacity=asked.result.capacity)
  with interrupt.graceful() as stopped:
    result = stream(
      model, film, questions=late, told=told, options=options, stopped=stopped
    )
  assert result.interrupted
  assert result.row["frames"] == len(result.frames) == BLOCK
  assert result.row["answers"] == []
  assert result.row["vision_ms"] is None
  assert told.said == ["begin", BLOCK]
  assert "interrupted after 4 frames" in told.notes[-1]


def test_ctrl_c_at_a_question_keeps_its_answer_and_the_frame_at_hand(
  model, film, asked
):
  """The frame that came after the question is decoded, so it is streamed."""
  told = Told(on_frames=lambda count: signal.raise_signal(signal.SIGINT))
  with interrupt.graceful() as stopped, pytest.raises(KeyboardInterrupt):
    # The second one interrupts as usual.
    stream(model, film, questions=QUESTIONS, told=told, stopped=stopped)
  told = Told()
  pressed = told.progress()._replace(
    answer=lambda *answer: signal.raise_signal(signal.SIGINT)
  )
  with interrupt.graceful() as stopped:
    result = session.stream_policy(model, FULL, asked.plan, pressed, stopped)
  assert result.interrupted
  assert result.row["frames"] == 2
  first, *more = result.row["answers"]
  assert more == []
  assert first == asked.result.row["answers"][0]


def test_ctrl_c_before_the_first_frame_leaves_no_result(model, film, asked):
  del asked  # its programs are compiled
  told = Told()
  with pytest.raises(interrupt.StoppedError):
    stream(model, film, questions=QUESTIONS, told=told, stopped=lambda: True)
  assert (told.said, told.notes) == ([], [])


def test_ctrl_c_while_compiling_ends_before_the_next_stage(
  model, film, monkeypatch
):
  begun = []
  pressed = lambda: len(begun) == 2

  def compile_stream(*_, stages, report, **__):
    for stage in stages:
      report(stage)
      begun.append(stage)

  monkeypatch.setattr(programs, "compile_stream", compile_stream)
  with pytest.raises(interrupt.StoppedError):
    stream(model, film, questions=QUESTIONS, stopped=pressed)
  assert begun == ["prompt", "frame"]


def test_ctrl_c_after_the_last_frame_leaves_out_what_comes_after(
  model, film, asked
):
  done = []
  told = Told(on_frames=done.append)
  options = dataclasses.replace(OPTIONS, capacity=asked.result.capacity)
  result = stream(
    model,
    film,
    told=told,
    options=options,
    questions=QUESTIONS,
    stopped=lambda: sum(done) == FRAMES,
  )
  assert result.interrupted
  assert result.row["frames"] == FRAMES
  assert len(result.row["answers"]) == 2


# Files that are not as long as they say.


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
  """12 frames at 2 a second, of which the file declares 4 seconds."""
  path = tmp_path_factory.mktemp("longer") / "longer.mkv"
  films.write_numbers(path, FRAMES, fps=2)
  content = path.read_bytes()
  duration = b"\x44\x89\x88"  # Matroska's Duration: eight bytes, milliseconds
  assert content.count(duration) == 1
  start = content.index(duration) + len(duration)
  changed = content[:start] + struct.pack(">d", 4000.0) + content[start + 8 :]
  path.write_bytes(changed)
  return str(path)


def test_a_film_longer_than_it_says_is_refused_by_a_full_cache(model, longer):
  told = Told()
  with pytest.raises(errors.InputError) as caught:
    stream(model, longer, told=told, options=FRAMES_ALONE)
  message = str(caught.value)
  assert "goes on after the 4 s that it declares" in message
  assert f"the cache of {8 * FRAME} slots was planned" in message
  assert "give --max_frames 8, or a larger --capacity" in message
  assert told.said == ["begin", 4, 4]


def test_its_remedies_work(model, longer, asked):
  source = session_plan.find_source(longer, fps=FPS, max_frames=8)
  fewer = stream(model, longer, source=source, options=FRAMES_ALONE)
  assert fewer.row["frames"] == 8
  larger = dataclasses.replace(OPTIONS, capacity=asked.result.capacity)
  assert stream(model, longer, options=larger).row["frames"] == FRAMES
  evicted = stream(model, longer, WINDOW, options=FEW_SLOTS)
  assert evicted.row["frames"] == FRAMES


def test_a_question_after_an_unknown_end_is_told_at_the_end(model, film, asked):
  source = session_plan.Source(path=film, fps=FPS, live=True)
  options = dataclasses.replace(OPTIONS, capacity=asked.result.capacity)
  late = questions_lib.parse_questions(["7: late?"])
  with pytest.raises(errors.InputError, match="the stream ends at 6 s"):
    stream(model, film, source=source, questions=late, options=options)


def test_the_end_is_the_video_s_and_not_the_next_sample_s(model, film, asked):
  """One sample in ten seconds, of a film of six."""
  source = session_plan.Source(path=film, fps=0.1, live=True)
  options = dataclasses.replace(OPTIONS, capacity=asked.result.capacity)
  late = questions_lib.parse_questions(["9: late?"])
  with pytest.raises(errors.InputError, match="the stream ends at 6 s"):
    stream(model, film, source=source, questions=late, options=options)
  source = dataclasses.replace(source, max_frames=1)
  result = stream(model, film, source=source, questions=late, options=options)
  assert result.row["frames"] == len(result.row["answers"]) == 1


def test_a_film_that_breaks_off_is_an_input_error(model, tmp_path):
  config = render.RenderConfig(seconds=20, fps=4, width=64, height=48)
  frames, _ = render.render_scene(config, 0)
  whole = films.write(tmp_path / "whole.mkv", list(frames), fps=4)
  cut = films.cut(whole, whole.stat().st_size // 2)
  with pytest.raises(errors.InputError, match="breaks off after"):
    stream(model, str(cut), WINDOW, options=FEW_SLOTS)
