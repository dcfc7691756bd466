"""Runs of the script that are kept: their files, their rows, Ctrl-C."""

import csv
import functools
import json
import os
import re
import threading
import tomllib
import types

import numpy as np
import pytest

from tests import films
from tests import scripts
from tests.experiments import stream_video_runs
from tests.parity import references
from vrex_jax import record
from vrex_jax import trace as trace_lib

FILM = stream_video_runs.FILM
FRAMES = stream_video_runs.FRAMES
WINDOW = stream_video_runs.WINDOW
WINDOW_SLUG = stream_video_runs.WINDOW_SLUG
WINDOW_NAME = "sliding_window(frames=2, keep_prompt=True)"
STOPPING = "\nstopping after what is under way; Ctrl-C again ends at once\n"
TINY_TOKENS = 16
STORED_TOKENS = 9
GOOD = [
  FILM,
  "--checkpoint=good/onevision_odd",
  "--template=plain",
  "--capacity=512",
  "--record",
]
ASKED = [
  *GOOD,
  "--question=3: second?",
  "--question=0: first?",
  "--max_tokens=2",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with a film, a checkpoint and a pipe; the runs are in it."""
  folder = tmp_path_factory.mktemp("stream_video")
  stream_video_runs.write_film(folder)
  references.copy("onevision_odd", folder / "good")
  os.mkfifo(folder / "pipe")
  return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  return stream_video_runs.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def run(repository, place, environment):
  """Runs the script once for each list of arguments, in `place`."""
  return functools.partial(
    stream_video_runs.run, repository, place, environment
  )


def read_run(folder):
  with (folder / "frames.csv").open(newline="") as file:
    frames = list(csv.DictReader(file))
  return types.SimpleNamespace(
    files=sorted(path.name for path in folder.iterdir()),
    config=tomllib.loads((folder / "config.toml").read_text()),
    metrics=json.loads((folder / "metrics.json").read_text()),
    frames=frames,
  )


@pytest.fixture(scope="module")
def first(run, place):
  """Two policies, recorded; and a cache that is too small, refused."""
  done, refused = run(
    [*GOOD, f"--policy=full | {WINDOW}", "--out=runs/a", "--hardware=vrex8"],
    [FILM, "--max_frames=3", "--capacity=10"],
  )
  assert done.code == 0, done
  kept = read_run(place / "runs" / "a")
  traces = [
    trace_lib.load(place / "runs" / "a" / name)
    for name in ("trace.npz", f"trace_{WINDOW_SLUG}.npz")
  ]
  with np.load(place / "runs" / "a" / "record.npz") as stored:
    kept.record = dict(stored)
  return types.SimpleNamespace(
    done=done, refused=refused, traces=traces, **vars(kept)
  )


def flags_of(config):
  """A run's config.toml as arguments again."""
  arguments = []
  for name, value in config.items():
    if name == "planned":
      continue
    values = value if isinstance(value, list) else [value]
    arguments += [f"--{name}={one}" for one in values]
  return arguments


def feed(pipe, content):
  """Writes to a pipe from a thread, which waits for its reader."""

  def write():
    with pipe.open("wb") as file:
      file.write(content)

  thread = threading.Thread(target=write, daemon=True)
  thread.start()
  return thread


@pytest.fixture(scope="module")
def later(run, place, first):
  """After the first: in its place with questions, from a pipe, sized; again."""
  slots = re.search(r"raise it to (\d+)", first.refused.stderr)
  assert slots is not None
  (place / "runs" / "a" / "notes.txt").write_text("mine")
  matroska = films.write_numbers(place / "pipe.mkv", FRAMES, fps=2)
  writer = feed(place / "pipe", matroska.read_bytes())
  window = f"--policy={WINDOW}"
  done = run(
    [*ASKED, window, "--out=runs/a"],
    ["--video=pipe", *GOOD[1:], window, "--block_frames=8", "--out=runs/pipe"],
    [FILM, "--max_frames=3", f"--capacity={slots[1]}", "--out=runs/sized"],
  )
  writer.join(timeout=10)
  kept = read_run(place / "runs" / "a")
  done += run(flags_of({**kept.config, "out": "runs/again"}))
  names = ("a", "pipe", "sized", "again")
  for one in done:
    assert (one.code, one.stderr) == (0, ""), one
  kept = {name: read_run(place / "runs" / name) for name in names}
  for name, one in zip(names, done, strict=True):
    kept[name].stdout = one.stdout
  return kept


def test_a_run_is_kept_in_its_files(first):
  names = [
    "config.toml",
    "frames.csv",
    "metrics.json",
    "record.npz",
    f"record_{WINDOW_SLUG}.npz",
    "trace.npz",
    f"trace_{WINDOW_SLUG}.npz",
  ]
  assert first.files == first.metrics["files"] == names
  assert "written to runs/a: " + ", ".join(names) in first.done.stdout
  assert first.metrics["schema"] == record.SCHEMA
  assert first.metrics["interrupted"] is False
  assert first.metrics["run"]["command"].startswith("python stream_video.py")


def test_rows_have_the_schema_and_the_film_s_numbers(first):
  full, window = first.metrics["rows"]
  for row in (full, window):
    assert tuple(row) == record.STREAMING_FIELDS
    assert row["frames"] == FRAMES
    assert row["overflow"] == []
    assert row["answers"] == []
    assert set(row["compile_s"]) == {"frame"}
  assert full["policy"] == "full"
  assert full["cached_tokens"] == FRAMES * STORED_TOKENS
  assert full["retrieval_ratio"]["frame"] == 1.0
  assert full["retrieval_ratio_by_layer"]["frame"] == [1.0] * 2
  assert window["cached_tokens"] == 2 * STORED_TOKENS
  assert window["retrieval_ratio_by_layer"]["frame"] == (
    [window["retrieval_ratio"]["frame"]] * 2
  )
  assert window["retrieval_ratio"]["frame"] == pytest.approx(
    sum(min(index, 2) for index in range(FRAMES)) / sum(range(FRAMES))
  )


def test_what_ran_is_priced_on_the_platform_that_was_named(first):
  """The model that ran, its own counts: microjoules, not a large model's."""
  rows = first.metrics["hardware"]
  assert [row["policy"] for row in rows] == ["full", WINDOW_NAME]
  assert {row["platform"] for row in rows} == {"vrex8"}
  full, window = rows
  assert full["cache_tokens"] == (FRAMES - 1) * STORED_TOKENS
  assert 0 < window["frame_latency_s"] <= full["frame_latency_s"] < 1e-2
  assert full["token_latency_s"] is None  # nothing was asked
  assert "modelled: platform, policy" in first.done.stdout
  assert "vrex8 full" in first.done.stdout


def test_nothing_is_modelled_when_nobody_wants_it(later):
  assert later["sized"].metrics["hardware"] == []
  assert "modelled" not in later["sized"].stdout


def test_frames_traces_and_records_are_of_the_same_events(first):
  assert [int(row["frame"]) for row in first.frames] == [*range(FRAMES)] * 2
  assert first.frames[0]["retrieval_ratio"] == ""  # it has no past
  frames = np.reshape(first.frames, (2, FRAMES))
  for rows, trace in zip(frames, first.traces, strict=True):
    seen = trace.counts["past_seen"][trace.stage == 1]
    assert [int(row["past_seen"]) for row in rows] == seen[:, 0, 0, 0].tolist()
    times = trace.time_s[trace.stage == 1]
    assert [float(row["time_s"]) for row in rows] == times.tolist()
  tokens = first.record["event"]
  assert first.record["query"].shape == (2, 1, 7, len(tokens), 4)
  assert first.record["key"].shape == (2, 1, 1, len(tokens), 4)
  assert tokens.max() + 1 == len(first.traces[0])


def test_a_person_is_told_what_happened(first, later):
  assert first.done.stderr == ""  # no progress bar off a terminal
  for text in (
    "model  checkpoint good/onevision_odd",
    "compiled full: frame ",
    f"{FRAMES * STORED_TOKENS}",
    "tokens held at the end",
  ):
    assert text in first.done.stdout
  for text in ("  0.0 s  first?  ", "  3.0 s  second?  "):
    assert text in later["a"].stdout


def test_a_run_in_the_same_place_leaves_only_its_own_files(first, later):
  gone = {f"record_{WINDOW_SLUG}.npz", f"trace_{WINDOW_SLUG}.npz"}
  assert later["a"].files == sorted({*first.files, "notes.txt"} - gone)
  assert "files of the run before: " in later["a"].stdout
  assert len(later["a"].metrics["rows"]) == 1
  hashes = [one.metrics["run"]["config_hash"] for one in (first, later["a"])]
  assert hashes[0] != hashes[1]


def test_answers_are_in_the_row_in_the_order_they_were_asked(later):
  (row,) = later["a"].metrics["rows"]
  assert [one["question"] for one in row["answers"]] == ["first?", "second?"]
  assert [one["time_s"] for one in row["answers"]] == [0.0, 3.0]
  assert all(len(one["tokens"]) <= 2 for one in row["answers"])
  assert set(row["compile_s"]) == {"frame", "question", "answer"}
  assert row["cached_tokens"] == 2 * STORED_TOKENS


def test_config_repeats_the_run(later):
  one, again = later["a"], later["again"]
  assert again.config == {**one.config, "out": "runs/again"}
  hashes = [run.metrics["run"]["config_hash"] for run in (one, again)]
  assert hashes[0] == hashes[1]
  assert again.files == one.metrics["files"]
  counts = ("frame", "time_s", "tokens", "past_attended", "retrieval_ratio")
  for row, other in zip(one.frames, again.frames, strict=True):
    assert [row[name] for name in counts] == [other[name] for name in counts]
  answers = [run.metrics["rows"][0]["answers"] for run in (one, again)]
  assert answers[0] == answers[1]


def test_a_pipe_is_streamed_to_its_end(later):
  (row,) = later["pipe"].metrics["rows"]
  assert row["frames"] == FRAMES
  assert later["pipe"].config["video"] == "pipe"


def test_the_capacity_that_was_asked_for_is_enough(later):
  sized = later["sized"]
  (row,) = sized.metrics["rows"]
  assert (row["frames"], row["cached_tokens"]) == (3, 3 * TINY_TOKENS)
  assert sized.config["capacity"] == 3 * TINY_TOKENS
  assert row["overflow"] == []
  assert sized.files == [
    "config.toml",
    "frames.csv",
    "metrics.json",
    "trace.npz",
  ]


def test_random_weights_are_said_to_be_random(first, later):
  assert "RANDOM weights" in later["sized"].stdout
  assert later["sized"].config["preset"] == "tiny"
  assert "RANDOM" not in first.done.stdout
  assert "preset" not in first.config


@pytest.fixture
def press_ctrl_c(repository, place, environment):
  """Runs the script and presses Ctrl-C so long after a line of it."""

  script = repository / stream_video_runs.SCRIPT

  def press(said, arguments, *, after_s=0.0):
    return scripts.run_until(
      said,
      script,
      scripts.random_weights(arguments),
      folder=place,
      env=environment,
      after_s=after_s,
    )

  return press


def test_ctrl_c_keeps_what_was_done(press_ctrl_c, place, later):
  del later  # its programs are compiled
  policies = f"--policy={WINDOW} | streaming_llm"
  arguments = [*ASKED, "--loop", policies, "--out=runs/stopped"]
  code, text, stderr = press_ctrl_c("first?", arguments)
  assert (code, stderr) == (0, STOPPING), text
  assert "not run: streaming_llm" in text
  kept = read_run(place / "runs" / "stopped")
  assert kept.metrics["interrupted"] is True
  (row,) = kept.metrics["rows"]
  assert row["frames"] >= 1
  assert f"interrupted after {row['frames']} frames" in text
  assert len(kept.frames) == row["frames"]
  assert row["answers"][0]["question"] == "first?"
  assert "trace.npz" in kept.files


def test_ctrl_c_while_another_policy_compiles_keeps_those_before(
  press_ctrl_c, place, later
):
  del later
  policies = "--policy=sliding_window(frames=2) | sliding_window(frames=7)"
  arguments = [*ASKED, "--question=6: last?", policies, "--out=runs/half"]
  # By then the first policy has no work left that Ctrl-C might cut short.
  code, text, stderr = press_ctrl_c("last?", arguments, after_s=0.3)
  assert (code, stderr) == (0, STOPPING), text
  assert "not run: sliding_window(frames=7" in text
  kept = read_run(place / "runs" / "half")
  assert kept.metrics["interrupted"] is True
  (row,) = kept.metrics["rows"]
  assert (row["frames"], len(row["answers"])) == (FRAMES, 3)


def test_ctrl_c_before_the_first_frame_writes_nothing(press_ctrl_c, place):
  arguments = [FILM, "--policy=sliding_window(frames=5)", "--out=runs/none"]
  code, text, stderr = press_ctrl_c("model ", arguments, after_s=0.3)
  # On a slow machine the model is still being made, and there is no run to end.
  assert (code, stderr.removeprefix(STOPPING)) == (130, "interrupted\n"), text
  assert not (place / "runs" / "none").exists()
