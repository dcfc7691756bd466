"""The script as a user runs it: a table of mistakes, and runs that are kept."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import types
import wave

import av
import numpy as np
import pytest
from PIL import Image

from tests import scripts
from tests.parity import references
from vrex_jax import record
from vrex_jax import trace as trace_lib
from vrex_jax.tasks import render

MODULES = (
  "absl.app",
  "av",
  "tqdm",
  "vrex_jax.baselines.full",
  "vrex_jax.baselines.sliding_window",
  "vrex_jax.command",
  "vrex_jax.session",
)
FRAMES = 12
TINY_TOKENS = 16
STORED_TOKENS = 9
WINDOW = "sliding_window(frames=2)"
WINDOW_SLUG = "2_sliding_window_frames_2_keep_prompt_true"


def write_film(path, frames=FRAMES):
  random = np.random.default_rng(0)
  pictures = random.integers(0, 255, (frames, 32, 48, 3), np.uint8)
  render.write_mp4(path, pictures, fps=2)


def write_sound(path):
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(8000)
    file.writeframes(bytes(8000))


def write_checkpoints(folder):
  """A good one, and one each of damaged and foreign directories."""
  references.copy("onevision_odd", folder / "good")
  for name in ("foreign", "corrupt", "pickle"):
    path = references.copy("onevision_odd", folder / name)
    weights = path / "model.safetensors"
    if name == "foreign":
      references.edit_json(path / "config.json", model_type="gpt2")
    elif name == "corrupt":
      weights.write_bytes(weights.read_bytes()[:-100])
    else:
      weights.rename(path / "pytorch_model.bin")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with everything the cases name; they run in it."""
  folder = tmp_path_factory.mktemp("stream_video")
  write_film(folder / "film.mp4")
  cut = (folder / "film.mp4").read_bytes()
  (folder / "cut.mp4").write_bytes(cut[: len(cut) // 2])
  write_sound(folder / "sound.wav")
  (folder / "text.txt").write_text("these are words\n" * 50)
  (folder / "folder").mkdir()
  os.mkfifo(folder / "pipe")
  write_checkpoints(folder)
  (folder / "taken" / "metrics.json").mkdir(parents=True)
  for name in ("record.npz", f"trace_{WINDOW_SLUG}.npz"):
    (folder / f"taken by {name}" / name).mkdir(parents=True)
  (folder / "dangling").symlink_to(folder / "nowhere")
  Image.new("RGB", (48, 32)).save(folder / "still.png")
  return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Programs compiled quickly, and once for all runs."""
  return scripts.environment(
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp("compiled")),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  )


@pytest.fixture(scope="module")
def run(repository, place, environment):
  """Runs the script once for each list of arguments, in `place`."""

  def run_all(*cases):
    return scripts.run_each(
      repository / "experiments" / "stream_video.py",
      cases,
      folder=place,
      modules=MODULES,
      env=environment,
    )

  return run_all


# Mistakes: name -> (arguments, what the sentence says).

FILM = "--video=film.mp4"
MISTAKES = {
  "no video": ([], "--video is missing"),
  "empty video": (["--video="], "there is no file ''"),
  "no such file": (["--video=no.mp4"], "there is no file no.mp4"),
  "directory": (["--video=folder"], "folder is a directory"),
  "text file": (["--video=text.txt"], "text.txt is"),
  "sound alone": (["--video=sound.wav"], "no moving pictures but only audio"),
  "cut short": (["--video=cut.mp4"], "get a complete copy"),
  "still picture": (["--video=still.png"], "still.png is a still picture"),
  "null device": (["--video=/dev/null"], "/dev/null, which is empty"),
  "empty pipe": (["--video=pipe:0"], "pipe:0, which is empty"),
  "late question": (
    [FILM, "--question=7: late?"],
    "asked at 7 s, but the stream ends at 6 s",
  ),
  "late question, short stream": (
    [FILM, "--max_frames=4", "--question=3: late?"],
    "the stream ends at 2 s",
  ),
  "late question, seldom sampled": (
    [FILM, "--fps=0.01", "--question=99: late?"],
    "the stream ends at 6 s",
  ),
  "question without time": ([FILM, "--question=what?"], "'seconds: text'"),
  "question in minutes": ([FILM, "--question=0:05: what?"], "not minutes"),
  "question in Latin-1": ([FILM, "--question=0: \udce9"], "is not UTF-8"),
  "system in Latin-1": (
    [FILM, "--template=qwen2", "--system=\udce9"],
    "'--system=\\udce9' is not UTF-8",
  ),
  "unknown policy": ([FILM, "--policy=ful"], "(did you mean full?)"),
  "unknown policy argument": (
    [FILM, "--policy=sliding_window(frame=2)"],
    "(did you mean frames?)",
  ),
  "argument twice": (
    [FILM, "--policy=sliding_window(frames=2, frames=3)"],
    "each argument once",
  ),
  "positional argument": (
    [FILM, "--policy=sliding_window(2)"],
    "has an argument without a name",
  ),
  "bad value": ([FILM, "--policy=sliding_window(frames=0)"], "frames is 0"),
  "no policy": ([FILM, "--policy=full |"], "must name at least one policy"),
  "unknown flag": ([FILM, "--polcy=full"], "polcy"),
  "stray argument": ([FILM, "stray"], "'stray' is not a flag"),
  "fps 0": ([FILM, "--fps=0"], "--fps is 0; it must be above 0"),
  "fps nan": ([FILM, "--fps=nan"], "--fps is nan; it must be above 0"),
  "fps word": ([FILM, "--fps=fast"], "fast"),
  "fps large": ([FILM, "--fps=1e308"], "--fps is 1e+308"),
  "many tokens": (
    [FILM, "--question=0: a", f"--max_tokens={10**12}"],
    "lower --max_tokens",
  ),
  "many frames": ([FILM, "--fps=1e6"], "lower --fps, give --max_frames"),
  "seed too large": ([FILM, f"--seed={2**31}"], "seed"),
  "seed negative": ([FILM, "--seed=-1"], "seed"),
  "max_frames 0": ([FILM, "--max_frames=0"], "--max_frames is 0"),
  "small capacity": ([FILM, "--max_frames=3", "--capacity=10"], "raise it to"),
  "unknown preset": ([FILM, "--preset=huge"], "unknown preset 'huge'"),
  "preset beside checkpoint": (
    [FILM, "--preset=tiny", "--checkpoint=foreign/onevision_odd"],
    "--preset is tiny beside --checkpoint",
  ),
  "empty checkpoint": ([FILM, "--checkpoint="], "Hugging Face directory"),
  "no such checkpoint": ([FILM, "--checkpoint=none"], "none"),
  "foreign checkpoint": (
    [FILM, "--checkpoint=foreign/onevision_odd"],
    "'gpt2'; supported are llava_onevision",
  ),
  "corrupt checkpoint": (
    [FILM, "--checkpoint=corrupt/onevision_odd"],
    "not a whole safetensors file",
  ),
  "pickle checkpoint": (
    [FILM, "--checkpoint=pickle/onevision_odd"],
    "pytorch_model.bin is a pickle file",
  ),
  "unknown template": ([FILM, "--template=none"], "--template is 'none'"),
  "temperature nan": ([FILM, "--temperature=nan"], "--temperature is nan"),
  "temperature inf": ([FILM, "--temperature=inf"], "--temperature is inf"),
  "temperature -1": ([FILM, "--temperature=-1"], "temperature=-1"),
  "question_chunk": ([FILM, "--question_chunk=100000"], "question_chunk"),
  "max_tokens 0": ([FILM, "--max_tokens=0"], "max_tokens"),
  "pipe and two policies": (
    ["--video=pipe", f"--policy=full | {WINDOW}"],
    "names 2 policies: name one",
  ),
  "pipe in a loop": (["--video=pipe", "--loop"], "leave out --loop"),
  "endless": ([FILM, "--loop"], "no known end and policy full keeps"),
  "endless with capacity": (
    [FILM, "--loop", "--capacity=200"],
    "give --max_frames, or choose a policy that evicts",
  ),
  "endless pipe": (["--video=pipe"], "no known end and policy full keeps"),
}

# Mistakes about --out itself.
PLACES = {
  "record without out": ([FILM, "--record"], "--record is given without --out"),
  "out empty": ([FILM, "--out="], "--out is empty"),
  "out file": ([FILM, "--out=text.txt"], "'text.txt', which is a file"),
  "out dangling": ([FILM, "--out=dangling"], "a link that leads nowhere"),
  "out below a file": ([FILM, "--out=text.txt/run"], "cannot be written"),
  "out long": ([FILM, "--out=" + "x" * 300], "cannot be written"),
  "out long, below": (
    [FILM, f"--out=new/{'x' * 300}/run"],
    "cannot be written",
  ),
  "out taken": ([FILM, "--out=taken"], "where metrics.json is a folder"),
  "out taken by record": (
    [FILM, "--record", "--out=taken by record.npz"],
    "where record.npz is a folder",
  ),
  "out taken by second policy": (
    [
      FILM,
      f"--policy=full | {WINDOW}",
      f"--out=taken by trace_{WINDOW_SLUG}.npz",
    ],
    f"where trace_{WINDOW_SLUG}.npz is a folder",
  ),
  "profile empty": ([FILM, "--profile="], "--profile is empty"),
  "cache file": (
    [FILM, "--compilation_cache=text.txt"],
    "--compilation_cache is 'text.txt', which is a file",
  ),
  "cache proc": (
    [FILM, "--compilation_cache=/proc/x"],
    "--compilation_cache is '/proc/x', which cannot be written",
  ),
  "out proc": ([FILM, "--out=/proc/x"], "cannot be written"),
  "profile file": ([FILM, "--profile=text.txt"], "--profile is 'text.txt'"),
}


@pytest.fixture(scope="module")
def mistaken(run, place):
  """How every mistake ended, by name, and what lay in the folder after."""
  before = listing(place)
  cases = [[*arguments, "--out=run"] for arguments, _ in MISTAKES.values()]
  cases += [arguments for arguments, _ in PLACES.values()]
  done = run(*cases)
  after = [
    name for name in listing(place) if not re.fullmatch(r"\d+\.\w+", name)
  ]
  ended = dict(zip([*MISTAKES, *PLACES], done, strict=True))
  return types.SimpleNamespace(ended=ended, before=before, after=after)


def listing(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", [*MISTAKES, *PLACES])
def test_a_mistake_is_one_sentence_and_exit_code_2(mistaken, name):
  if "proc" in name and not os.path.isdir("/proc/self"):
    pytest.skip("no /proc on this system")
  done = mistaken.ended[name]
  assert done.code == 2, done
  assert "compiled" not in done.stdout  # found before the work
  assert "Traceback" not in done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  assert {**MISTAKES, **PLACES}[name][1] in line


def test_no_mistake_leaves_anything_behind(mistaken):
  assert mistaken.after == mistaken.before


def test_what_will_not_be_written_may_be_a_folder(run):
  """Without --record, record.npz is nobody's; nor is a second policy's."""
  for name in ("record.npz", f"trace_{WINDOW_SLUG}.npz"):
    (done,) = run([FILM, f"--out=taken by {name}", "--policy=ful"])
    assert "not a known policy" in done.stderr


def test_help_shows_an_example_that_can_be_pasted(run):
  (done,) = run(["--help"])
  assert done.code == 0
  assert "--video clip.mp4 \\\n      --policy" in done.stdout


# Runs that are kept.

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
  """Two policies, recorded."""
  (done,) = run([*GOOD, f"--policy=full | {WINDOW}", "--out=runs/a"])
  assert done.code == 0, done
  kept = read_run(place / "runs" / "a")
  traces = [
    trace_lib.load(place / "runs" / "a" / name)
    for name in ("trace.npz", f"trace_{WINDOW_SLUG}.npz")
  ]
  with np.load(place / "runs" / "a" / "record.npz") as stored:
    kept.record = dict(stored)
  return types.SimpleNamespace(done=done, traces=traces, **vars(kept))


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


def matroska(path):
  with av.open(str(path), "w") as container:
    track = container.add_stream("mpeg4", rate=2)
    track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
    for level in range(FRAMES):
      pixels = np.full((32, 48, 3), 20 * level, np.uint8)
      picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      container.mux(track.encode(picture))
    container.mux(track.encode())
  return path.read_bytes()


@pytest.fixture(scope="module")
def later(run, place, first, mistaken):
  """After the first: in its place with questions, from a pipe, sized; again."""
  del first  # it lies in runs/a
  slots = re.search(
    r"raise it to (\d+)", mistaken.ended["small capacity"].stderr
  )
  assert slots is not None
  (place / "runs" / "a" / "notes.txt").write_text("mine")
  writer = feed(place / "pipe", matroska(place / "pipe.mkv"))
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
  assert window["cached_tokens"] == 2 * STORED_TOKENS
  assert window["retrieval_ratio"]["frame"] == pytest.approx(
    sum(min(index, 2) for index in range(FRAMES)) / sum(range(FRAMES))
  )


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

  def run_until(said, arguments, *, after_s=0.0):
    script = repository / "experiments" / "stream_video.py"
    with subprocess.Popen(
      [sys.executable, "-u", str(script), *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=place,
      env=environment,
    ) as process:
      lines = []
      for line in process.stdout:
        lines.append(line)
        if said in line:
          time.sleep(after_s)
          process.send_signal(signal.SIGINT)
      stderr = process.stderr.read()
    return process.returncode, "".join(lines), stderr

  return run_until


def test_ctrl_c_keeps_what_was_done(press_ctrl_c, place, later):
  del later  # its programs are compiled
  policies = f"--policy={WINDOW} | streaming_llm"
  arguments = [*ASKED, "--loop", policies, "--out=runs/stopped"]
  code, text, stderr = press_ctrl_c("first?", arguments)
  assert (code, stderr) == (0, ""), text
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
  assert (code, stderr) == (0, ""), text
  assert "not run: sliding_window(frames=7" in text
  kept = read_run(place / "runs" / "half")
  assert kept.metrics["interrupted"] is True
  (row,) = kept.metrics["rows"]
  assert (row["frames"], len(row["answers"])) == (FRAMES, 3)


def test_ctrl_c_before_the_first_frame_writes_nothing(press_ctrl_c, place):
  arguments = [FILM, "--policy=sliding_window(frames=5)", "--out=runs/none"]
  code, text, stderr = press_ctrl_c("model ", arguments, after_s=0.3)
  assert (code, stderr) == (130, "interrupted\n"), text
  assert not (place / "runs" / "none").exists()
