"""What a user may get wrong: one sentence each, and nothing left behind."""

import functools
import os
import re
import types
import wave

import pytest
from PIL import Image

from tests import scripts
from tests.experiments import stream_video_runs
from tests.parity import references

FILM = stream_video_runs.FILM
WINDOW = stream_video_runs.WINDOW
WINDOW_SLUG = stream_video_runs.WINDOW_SLUG

# Name -> (arguments, what the sentence says).
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


def write_sound(path):
  with wave.open(str(path), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(8000)
    file.writeframes(bytes(8000))


def write_checkpoints(folder):
  """One each of damaged and foreign directories."""
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
  folder = tmp_path_factory.mktemp("mistakes")
  stream_video_runs.write_film(folder)
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
def run(repository, place, tmp_path_factory):
  """Runs the script once for each list of arguments, in `place`."""
  env = stream_video_runs.environment(tmp_path_factory.mktemp("compiled"))
  return functools.partial(stream_video_runs.run, repository, place, env)


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
  scripts.check_mistake(done, {**MISTAKES, **PLACES}[name][1])
  assert "compiled" not in done.stdout  # found before the work


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
