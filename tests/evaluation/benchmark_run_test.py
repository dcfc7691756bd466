"""A benchmark's clips through the stream, with one set of programs."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import films
from tests.tasks import benchmark_files as files
from vrex_jax import errors
from vrex_jax import model_source
from vrex_jax import policy_syntax
from vrex_jax import session_frames
from vrex_jax import session_plan
from vrex_jax import video
from vrex_jax.evaluation import benchmark_cells
from vrex_jax.evaluation import benchmark_report
from vrex_jax.evaluation import benchmark_run
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import presets
from vrex_jax.models import prompt
from vrex_jax.models import video_llm
from vrex_jax.tasks import benchmark_items
from vrex_jax.tasks import benchmarks

FPS, SECONDS = 2, 6
OPTIONS = session_plan.Options(block_frames=4, max_tokens=3, system="")
FULL = policy_syntax.make_policy("full")


@pytest.fixture(scope="module")
def model():
  """Random weights, one layer each of tower and decoder."""
  tiny = presets.preset("tiny")
  config = dataclasses.replace(
    tiny,
    decoder=dataclasses.replace(
      tiny.decoder, num_layers=1, tie_embeddings=False
    ),
    vision=dataclasses.replace(tiny.vision, num_layers=1),
  )
  params = video_llm.random_parameters(config, jax.random.key(3))
  loaded = model_source.load_model(None, "tiny", dtype="float32", seed=0)
  return loaded._replace(config=config, params=params)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Two benchmarks in one folder, each with videos of random pictures."""
  folder = tmp_path_factory.mktemp("data")
  files.write_json(folder / "coin.json", files.COIN)
  random = np.random.default_rng(0)
  (folder / "videos").mkdir()
  for name in ("a1", "v1"):
    shape = (FPS * SECONDS, 32, 32, 3)
    pictures = list(random.integers(0, 255, shape, np.uint8))
    films.write(folder / "videos" / f"{name}.mp4", pictures, fps=FPS)
  files.write_json(folder / "rvs" / "rvs.json", files.RVS)
  return folder


def clips_of(data):
  """A step and a procedure of COIN, and a stream with two questions."""
  coin = benchmarks.read_benchmark("coin", data)
  wanted = ("a1/step/1", "a1/procedure/0")
  rvs = benchmarks.read_benchmark("rvs_ego", data / "rvs")
  return [clip for clip in coin if clip.name in wanted] + rvs


@pytest.fixture(scope="module")
def done(model, data):
  clips = clips_of(data)
  videos = benchmark_items.find_videos(data, clips)
  sources = benchmark_run.clip_sources(clips, videos, FPS)
  plans = benchmark_run.plan_clips(model, FULL, clips, sources, OPTIONS)
  records, told = [], []
  benchmark_run.run_policy(
    model, FULL, clips, plans, records.append, told.append
  )
  return types.SimpleNamespace(
    clips=clips, sources=sources, plans=plans, records=records, told=told
  )


def test_frames_are_those_of_the_clip_up_to_its_last_question(done):
  bounds = {
    clip.name: (source.first_frame, source.max_frames)
    for clip, source in zip(done.clips, done.sources, strict=True)
  }
  assert bounds == {
    "a1/step/1": (4, 3),  # 2.0 to 3.0 s, both in it
    "a1/procedure/0": (1, 3),  # 0.2 to 1.4 s, both rounded up
    "v1": (0, 9),  # the last question is asked at 4 s
  }
  assert [record["frames"] for record in done.records] == [3, 3, 9]
  assert sum(done.told) == 15


def test_questions_are_answered_when_they_are_asked(done):
  times = [[one["time_s"] for one in each["answers"]] for each in done.records]
  assert times == [[1.5], [3.0], [1.5, 4.0]]
  assert len({plan.config for plan in done.plans}) == 1


def test_a_question_that_comes_first_is_answered_as_by_the_decoder(
  model, data, done
):
  clip = next(clip for clip in done.clips if clip.name == "a1/step/1")
  source = done.sources[done.clips.index(clip)]
  frames = video.read_frames(
    source.path, fps=FPS, max_frames=3, first_frame=source.first_frame
  )
  samples = list(session_frames.samples(frames, model))
  assert [sample.time_s for sample in samples] == [2.0, 2.5, 3.0]
  pixels = np.stack([sample.pixels for sample in samples])
  opening, closing = prompt.question_before_tokens(
    model.template, model.tokenizer, clip.items[0].text, ""
  )
  module = decoder_lib.Decoder(model.config.decoder, jnp.float32)

  @jax.jit
  def likeliest(params):
    variables = {"params": params["decoder"]}
    embed = lambda ids: module.apply(
      variables, jnp.asarray([ids], jnp.int32), method="embed"
    )
    seen, _ = video_llm.embed_frame_tokens(
      model.config, params, pixels, np.zeros(len(pixels), bool)
    )
    parts = [
      embed(opening),
      seen.reshape(1, -1, seen.shape[-1]),
      embed(closing),
    ]
    logits = module.apply(variables, jnp.concatenate(parts, axis=1))
    return jnp.argmax(logits[0, -1])

  said = done.records[done.clips.index(clip)]["answers"][0]["said"]
  first = model.tokenizer.decode([int(likeliest(model.params))])
  assert said.startswith(first)
  assert first


def test_rows_count_answers_by_task_and_by_video(done):
  records = [dict(record) for record in done.records]
  procedure, step, stream = records
  step["answers"] = [{**step["answers"][0], "right": 1.0}]
  procedure["answers"] = [{**procedure["answers"][0], "right": 0.0}]
  worse = [{**one, "policy": "window"} for one in (step, procedure, stream)]
  worse[0]["answers"] = [{**step["answers"][0], "right": 0.0}]
  rows = benchmark_report.rows_of(
    "coin", ["full", "window", "other"], records + worse
  )
  full, window = rows
  assert tuple(full) == benchmark_report.FIELDS
  assert full["accuracy"] == pytest.approx(1 / 3)  # of one step and two steps
  assert full["accuracy_by_group"]["step"]["accuracy"] == 1.0
  assert full["accuracy_by_group"]["procedure"]["asked"] == 2
  assert np.isnan(full["accuracy_by_group"]["open"]["accuracy"])
  assert (full["videos"], full["questions"]) == (2, 4)
  assert window["minus_full"]["difference"] == pytest.approx(-1 / 3)
  assert full["retrieval_ratio"]["frame"] == 1.0
  text = benchmark_report.table(rows)
  assert "word F1 %" in text
  assert len(benchmark_report.flat_rows(rows)) == 2 * 4
  lines = benchmark_report.predictions("full", records)
  assert [line["id"] for line in lines][-1] == "v1/1"
  assert set(lines[0]) >= {"id", "question", "answer", "pred"}
  assert lines[-1]["answer"] == "a man"


def test_categories_are_means_of_tasks_and_the_total_of_categories():
  """OVO-Bench counts so; questions of large tasks would weigh more."""
  asked = {"a/x": [1, 1, 1, 0], "a/y": [0], "b/z": [1]}
  record = {
    "policy": "full", "clip": "c", "video": "v", "frames": 1, "kv_bytes": 1,
    "retrieval_ratio": {}, "past_seen": {}, "frame_ms": [1.0],
    "compile_s": {}, "overflow": [],
    "answers": [
      {"task": task, "right": right, "asked": 1, "word_f1": None}
      for task, ones in asked.items()
      for right in ones
    ],
  }  # fmt: skip
  (row,) = benchmark_report.rows_of("ovo", ["full"], [record])
  assert row["accuracy"] == pytest.approx(4 / 6)
  assert row["accuracy_by_category"] == {"a": 0.375, "b": 1.0}
  assert row["accuracy_mean"] == pytest.approx((0.375 + 1.0) / 2)


def test_what_has_a_record_is_not_streamed_again(model, done, monkeypatch):
  def compiled(*arguments):
    raise AssertionError("nothing is left to be streamed")

  monkeypatch.setattr(benchmark_run.session, "compile_policy", compiled)
  written = []
  records = list(done.records)
  benchmark_cells.evaluate(
    model,
    [FULL],
    done.clips,
    done.sources,
    OPTIONS,
    records,
    lambda kept: written.append(len(kept)),
    stopped=lambda: False,
  )
  assert written == [3]
  with pytest.raises(AssertionError, match="nothing is left"):
    benchmark_cells.evaluate(
      model, [FULL], done.clips, done.sources, OPTIONS, records[:2],
      lambda kept: written.append(len(kept)), stopped=lambda: False,
    )  # fmt: skip
  assert written == [3, 2]


def test_records_are_read_back_and_damage_is_told(done, tmp_path):
  assert benchmark_cells.records_left(str(tmp_path)) == []
  texts = benchmark_cells.files(["full", "other"], done.records)
  assert sorted(texts) == ["answers.jsonl", "predictions_1.jsonl"]
  path = tmp_path / benchmark_cells.ANSWERS
  path.write_text(texts["answers.jsonl"])
  assert benchmark_cells.records_left(str(tmp_path)) == done.records
  path.write_text(texts["answers.jsonl"][:-9])
  with pytest.raises(errors.InputError, match="cannot be read"):
    benchmark_cells.records_left(str(tmp_path))


def test_records_have_the_fields_that_are_taken_over(done):
  for record in done.records:
    assert tuple(record) == benchmark_run.RECORD_FIELDS
    for answer in record["answers"]:
      assert tuple(answer) == benchmark_run.ANSWER_FIELDS


def test_tasks_and_videos_can_be_chosen(done):
  chosen = benchmark_run.choose(done.clips, ["open"], None)
  assert [clip.name for clip in chosen] == ["v1"]
  first = benchmark_run.choose(done.clips, [], 1)
  assert {clip.video for clip in first} == {"a1"}
  with pytest.raises(errors.InputError, match="has open, procedure, step"):
    benchmark_run.choose(done.clips, ["steps"], None)


def test_a_clip_behind_the_end_of_its_video_is_refused(data):
  clip = clips_of(data)[0]._replace(start_s=99.0, end_s=100.0)
  videos = benchmark_items.find_videos(data, [clip])
  with pytest.raises(errors.InputError, match=r"ends at 6 s and clip .* 99 s"):
    benchmark_run.clip_sources([clip], videos, FPS)


def test_the_shipped_model_has_no_words_for_it(done):
  shipped = model_source.load_model(None, None, dtype="float32", seed=0)
  with pytest.raises(errors.InputError, match="has no words for"):
    benchmark_run.check_vocabulary(shipped, done.clips, "(shipped)")
