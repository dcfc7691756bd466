"""The script as a user runs it, on a film that comes back to a scene."""

import json
import re
import types

import numpy as np
import pytest

from tests import scripts
from tests.parity import references
from vrex_jax.tasks import render

MODULES = (
  "absl.app",
  "av",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.models.checkpoint",
  "vrex_jax.resv.resv",
  "vrex_jax.study.recordings",
  "vrex_jax.study.revisits",
)
FILM = "--video=film.mp4"
TOLD = "--annotation=film.json"
SCENES = "abab"
SCENE_FRAMES = 3
FPS = 2


def write_annotation(path, scenes, seconds=SCENE_FRAMES / FPS):
  segments = [
    {
      "scene": scene,
      "start_s": index * seconds,
      "end_s": (index + 1) * seconds,
    }
    for index, scene in enumerate(scenes)
  ]
  path.write_text(json.dumps({"segments": segments}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with everything the cases name; they run in it."""
  folder = tmp_path_factory.mktemp("revisit_clusters")
  random = np.random.default_rng(0)
  pictures = {
    scene: random.integers(0, 255, (32, 48, 3), np.uint8) for scene in "ab"
  }
  film = [pictures[scene] for scene in SCENES for _ in range(SCENE_FRAMES)]
  render.write_mp4(folder / "film.mp4", np.stack(film), fps=FPS)
  write_annotation(folder / "film.json", SCENES)
  write_annotation(folder / "once.json", "abcd")
  write_annotation(folder / "slow.json", SCENES, seconds=10.0)
  (folder / "empty.json").write_text('{"segments": []}')
  (folder / "text.txt").write_text("these are words\n" * 50)
  (folder / "folder").mkdir()
  (folder / "taken" / "metrics.json").mkdir(parents=True)
  references.copy("onevision_odd", folder)
  return folder


@pytest.fixture(scope="module")
def run(repository, place):
  """Runs the script once for each list of arguments, in `place`."""

  def run_all(*cases):
    return scripts.run_each(
      repository / "experiments" / "revisit_clusters.py",
      list(map(scripts.random_weights, cases)),
      folder=place,
      modules=MODULES,
    )

  return run_all


MISTAKES = {
  "nothing": ([], "--video is missing"),
  "no annotation": ([FILM], "--annotation is missing"),
  "absent annotation": ([FILM, "--annotation=no.json"], "no.json is not an"),
  "text": ([FILM, "--annotation=text.txt"], "text.txt is not an annotation"),
  "folder": ([FILM, "--annotation=folder"], "folder is not an annotation"),
  "empty": ([FILM, "--annotation=empty.json"], "has no segments one after"),
  "once": ([FILM, "--annotation=once.json"], "has no scene that comes back"),
  "too late": (
    [FILM, "--annotation=slow.json"],
    "comes back at 20 s, but the stream ends at 6 s",
  ),
  "too short": (
    [FILM, TOLD, "--max_frames=6"],
    "comes back at 3 s, but the stream ends at 3 s",
  ),
  "no film": (["--video=no.mp4", TOLD], "there is no file no.mp4"),
  "no video": (["--video=text.txt", TOLD], "text.txt is"),
  "fps": ([FILM, TOLD, "--fps=0"], "--fps is 0; it must be above 0"),
  "preset": ([FILM, TOLD, "--preset=huge"], "unknown preset 'huge'"),
  "checkpoint": ([FILM, TOLD, "--checkpoint=none"], "none"),
  "two shapes": (
    [FILM, TOLD, "--checkpoint=none", "--preset=tiny"],
    "--preset is tiny beside --checkpoint",
  ),
  "seed": ([FILM, TOLD, "--seed=-1"], "seed"),
  "no choice": ([FILM, TOLD, "--choices=resv |"], "--choices is 'resv |'"),
  "choice": ([FILM, TOLD, "--choices=resv | full"], "--choices has full"),
  "combinator": (
    [FILM, TOLD, "--choices=resv + keep_sink(4)"],
    "without a combinator",
  ),
  "open choice": ([FILM, TOLD, "--choices=resv(7"], "--choices has 'resv(7'"),
  "out empty": ([FILM, TOLD, "--out="], "--out is empty"),
  "out file": ([FILM, TOLD, "--out=text.txt"], "which is a file"),
  "out taken": ([FILM, TOLD, "--out=taken"], "where metrics.json is a folder"),
  "stray": ([FILM, TOLD, "stray"], "'stray' is not a flag"),
}


def listing(folder):
  names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
  return sorted(name for name in names if not re.fullmatch(r"\d+\.\w+", name))


@pytest.fixture(scope="module")
def mistaken(run, place):
  """How every mistake ended, by name, and what lay in the folder after."""
  before = listing(place)
  cases = [
    case if case and case[-1].startswith("--out") else [*case, "--out=run"]
    for case, _ in MISTAKES.values()
  ]
  ended = dict(zip(MISTAKES, run(*cases), strict=True))
  return types.SimpleNamespace(ended=ended, before=before, after=listing(place))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mistaken, name):
  done = mistaken.ended[name]
  scripts.check_mistake(done, MISTAKES[name][1])
  assert "compiled" not in done.stdout


def test_no_mistake_leaves_anything_behind(mistaken):
  assert mistaken.after == mistaken.before


@pytest.fixture(scope="module")
def kept(run, place):
  """One run: equal codes only, of keys before rotation."""
  choice = (
    "resv(hash_keys=raw, hamming_threshold=1, hash_bits=128,"
    " table_capacity=256)"
  )
  (done,) = run(
    [
      FILM,
      TOLD,
      "--checkpoint=onevision_odd",
      f"--choices={choice}",
      "--out=run",
    ]
  )
  assert (done.code, done.stderr) == (0, ""), done
  metrics = json.loads((place / "run" / "metrics.json").read_text())
  files = sorted(path.name for path in (place / "run").iterdir())
  return types.SimpleNamespace(done=done, metrics=metrics, files=files)


def test_a_scene_that_comes_back_is_found_in_the_first_layer(kept):
  """Its tokens meet their own keys again there, before attention mixes."""
  (row,) = kept.metrics["rows"]
  first, second = row["same_scene_by_layer"]
  assert first > 0.9
  assert 0 <= second <= 1
  assert 0 < row["shuffled"] < first
  assert row["lift"] == row["same_scene"] / row["shuffled"]
  assert row["tokens"] > 0
  assert row["table_full"] is False


def test_the_table_is_the_row(kept):
  (row,) = kept.metrics["rows"]
  lines = kept.done.stdout.splitlines()
  assert f"  1  {row['policy']}" in lines
  (line,) = [line for line in lines if line.startswith("1 ")]
  assert line.split()[1:] == [
    f"{row['clusters']:.0f}",
    f"{row['same_scene']:.3f}",
    f"{row['shuffled']:.3f}",
    f"{row['lift']:.2f}x",
  ]
  assert kept.files == kept.metrics["files"] == ["config.toml", "metrics.json"]
