"""The script as a user runs it, on a recording made by hand."""

import json
import re
import types

import numpy as np
import pytest

from tests import scripts
from tests.study import recorded
from vrex_jax import record
from vrex_jax.tasks import render

MODULES = (
  "absl.app",
  "av",
  "matplotlib.figure",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.resv.resv",
  "vrex_jax.study.choices",
  "vrex_jax.study.recordings",
)
RECORDING = "--recording=record.npz"
FILM = "--video=film.mp4"
BASE = "--base=resv(table_capacity=64)"
FRAMES = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with everything the cases name; they run in it."""
  folder = tmp_path_factory.mktemp("ablate_resv_choices")
  one = recorded.recording(
    layers=1, heads=2, kv_heads=1, width=8, frames=FRAMES
  )
  recorded.save(folder / "record.npz", one)
  whole = (folder / "record.npz").read_bytes()
  (folder / "half.npz").write_bytes(whole[: len(whole) // 2])
  damaged = bytearray(whole)
  damaged[300:400] = bytes(100)
  (folder / "damaged.npz").write_bytes(damaged)
  np.save(folder / "array.npy", np.zeros(3))
  np.savez(folder / "trace.npz", stage=np.zeros(3))
  (folder / "text.txt").write_text("these are words\n" * 50)
  (folder / "folder").mkdir()
  (folder / "taken" / "plot.png").mkdir(parents=True)
  random = np.random.default_rng(0)
  pictures = random.integers(0, 255, (4, 32, 48, 3), np.uint8)
  render.write_mp4(folder / "film.mp4", pictures, fps=2)
  return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Programs compiled quickly, and once for all runs."""
  return scripts.environment(
    JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp("compiled")),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
  )


@pytest.fixture(scope="module")
def run(repository, place, environment):
  """Runs the script once for each list of arguments, in `place`."""

  def run_all(*cases):
    return scripts.run_each(
      repository / "experiments" / "ablate_resv_choices.py",
      list(map(scripts.random_weights, cases)),
      folder=place,
      modules=MODULES,
      env=environment,
    )

  return run_all


MISTAKES = {
  "nothing": ([], "--video and --recording are both missing"),
  "both": ([FILM, RECORDING], "--video is given beside --recording"),
  "fps beside": ([RECORDING, "--fps=1"], "--fps is given beside --recording"),
  "no recording": (["--recording=no.npz"], "no.npz cannot be read"),
  "text": (["--recording=text.txt"], "text.txt cannot be read"),
  "folder": (["--recording=folder"], "folder cannot be read"),
  "array": (["--recording=array.npy"], "array.npy cannot be read"),
  "trace": (["--recording=trace.npz"], "trace.npz has no query, key, value"),
  "half": (["--recording=half.npz"], "half.npz cannot be read"),
  "damaged": (["--recording=damaged.npz"], "damaged.npz cannot be read"),
  "no film": (["--video=no.mp4"], "there is no file no.mp4"),
  "no video": (["--video=text.txt"], "text.txt is"),
  "fps": ([FILM, "--fps=0"], "--fps is 0; it must be above 0"),
  "max_frames": ([FILM, "--max_frames=0"], "--max_frames is 0"),
  "question": ([FILM, "--question=what?"], "'seconds: text'"),
  "late": ([FILM, "--question=9: what?"], "asked at 9 s, but the stream ends"),
  "preset": ([FILM, "--preset=huge"], "unknown preset 'huge'"),
  "checkpoint": ([FILM, "--checkpoint=none"], "none"),
  "two shapes": (
    [FILM, "--checkpoint=none", "--preset=tiny"],
    "--preset is tiny beside --checkpoint",
  ),
  "seed": ([FILM, "--seed=-1"], "seed"),
  "base": ([RECORDING, "--base=full"], "--base has full; its clusters"),
  "open base": ([RECORDING, "--base=resv("], "--base has 'resv('"),
  "bare base": ([RECORDING, "--base=resv(7)"], "an argument without a name"),
  "mixed base": (
    [RECORDING, "--base=resv(code=following)"],
    "does not go with",
  ),
  "vary": ([RECORDING, "--vary=row"], "--vary has 'row'; it must name choices"),
  "vary disturbances": (
    [RECORDING, "--disturb", "--vary=rows"],
    "it must name disturbances of none, shift 3",
  ),
  "resume": ([RECORDING, "--resume"], "--resume is given without --out"),
  "resume another": (
    [RECORDING, "--resume", "--out=another"],
    "had --base resv(votes=9), this one resv(table_capacity=4096)",
  ),
  "out empty": ([RECORDING, "--out="], "--out is empty"),
  "out file": ([RECORDING, "--out=text.txt"], "which is a file"),
  "out taken": ([RECORDING, "--out=taken"], "where plot.png is a folder"),
  "stray": ([RECORDING, "stray"], "'stray' is not a flag"),
}


def listing(folder):
  names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
  return sorted(name for name in names if not re.fullmatch(r"\d+\.\w+", name))


def flags(**changes):
  """The settings of a run as config.toml holds them, defaults included."""
  plain = {
    "base": BASE.removeprefix("--base="),
    "disturb": False,
    "fps": 2.0,
    "max_frames": 100,
    "question": [],
    "recording": "record.npz",
    "resume": False,
    "seed": 0,
    "vary": [],
  }
  return {**plain, **changes}


def a_row(choice, change, **changes):
  """A row that was done; no replay gives so many clusters."""
  row = {
    "choice": choice,
    "change": change,
    "kept": {"frame": 0.5},
    "mass": {"frame": 0.5},
    "error": {"frame": 0.5},
    "clusters": 4321.0,
    "table_full": False,
    "false_joins": [None] * 4,
    "ms_per_frame": 1.0,
  }
  return {**row, **changes}


def leave_rows(folder, rows, **changes):
  """What an interrupted run with these settings leaves in its folder."""
  config = flags(**changes)
  metrics = record.metrics(
    rows, config=config, dtype="float32", seed=0, started=0.0, interrupted=True
  )
  record.write_folder(folder, config=config, metrics_object=metrics, tables={})


@pytest.fixture(scope="module")
def mistaken(run, place):
  """How every mistake ended, by name, and what lay in the folder after."""
  leave_rows(place / "another", [], base="resv(votes=9)")
  before = listing(place)
  own_place = lambda case: any(flag.startswith("--out") for flag in case)
  cases = [
    case if own_place(case) or "--resume" in case else [*case, "--out=run"]
    for case, _ in MISTAKES.values()
  ]
  done = run(*cases, ["--help"])
  return types.SimpleNamespace(
    ended=dict(zip([*MISTAKES, "help"], done, strict=True)),
    before=before,
    after=listing(place),
  )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mistaken, name):
  scripts.check_mistake(mistaken.ended[name], MISTAKES[name][1])


def test_no_mistake_leaves_anything_behind(mistaken):
  assert mistaken.after == mistaken.before


def test_help_lists_what_can_be_varied(mistaken):
  done = mistaken.ended["help"]
  assert done.code == 0
  words = " ".join(done.stdout.split())
  assert "min_join_cosine, sink_tokens" in words
  assert "shift 3, shift 30" in words
  assert "record.npz \\ --disturb --out" in words


def read_run(folder, done=None):
  return types.SimpleNamespace(
    done=done,
    files=sorted(path.name for path in folder.iterdir()),
    metrics=json.loads((folder / "metrics.json").read_text()),
  )


@pytest.fixture(scope="module")
def kept(run, place):
  """Two runs that go on where others were interrupted: a row is left of each.

  The second is of disturbances.
  """
  repairs = ["", "key_centering=mean", "scores=shift_min"]
  leave_rows(place / "varied", [a_row("base", "")], vary=["form"])
  leave_rows(
    place / "disturbed",
    [a_row("shift 3", repair, full_changes=1e-7) for repair in repairs],
    vary=["shift 3"],
    disturb=True,
  )
  command = [RECORDING, BASE, "--resume"]
  done = run(
    [*command, "--vary=form", "--out=varied"],
    [*command, "--disturb", "--vary=shift 3", "--out=disturbed"],
  )
  for one in done:
    assert (one.code, one.stderr) == (0, ""), one
  varied, disturbed = done
  return types.SimpleNamespace(
    varied=read_run(place / "varied", varied),
    disturbed=read_run(place / "disturbed", disturbed),
  )


@pytest.mark.slow
def test_rows_and_shares_are_kept_with_a_picture(kept):
  assert kept.varied.files == ["config.toml", "metrics.json", "plot.png"]
  assert kept.varied.metrics["interrupted"] is False
  _, form = kept.varied.metrics["rows"]
  assert (form["choice"], form["change"]) == ("form", "form=buckets")
  assert 0 < form["kept"]["frame"] <= form["mass"]["frame"] <= 1
  assert 0 < form["clusters"] < 64
  by_rows = kept.varied.metrics["kept_by_rows"]
  union = dict(zip(by_rows["rows"], by_rows["union"], strict=True))
  assert 0 < union[1] <= union[8] <= union[40] <= 1
  assert union[1372] is None  # the recording has fewer rows


@pytest.mark.slow
def test_rows_that_are_there_are_taken_over(kept):
  base, _ = kept.varied.metrics["rows"]
  assert base == a_row("base", "")
  said = kept.varied.done.stdout
  assert "taken over from varied: 1 of 2 rows" in said
  assert "taken over from disturbed: 3 of 4 rows" in kept.disturbed.done.stdout


@pytest.mark.slow
def test_a_person_reads_a_table(kept):
  lines = kept.varied.done.stdout.splitlines()
  assert lines[1].split()[:4] == ["kept", "%", "quest.", "%"]
  assert [line.split()[0] for line in lines[2:4]] == ["base", "form=buckets"]
  share = kept.varied.metrics["rows"][1]["kept"]["frame"]
  assert lines[3].split()[1:3] == [f"{100 * share:.1f}", "-"]
  assert "! some tokens" not in kept.varied.done.stdout
  assert "written to varied: config.toml, metrics.json, plot.png" in lines
  assert lines[-2].split() == ["1372", "-", "-", "-"]


@pytest.mark.slow
def test_disturbed_rows_say_how_far_the_full_cache_moves(kept):
  assert kept.disturbed.files == ["config.toml", "metrics.json"]
  *_, row = kept.disturbed.metrics["rows"]
  assert row["change"] == "key_centering=mean, scores=shift_min"
  assert 0 < row["full_changes"] < 1e-4  # a shift leaves the softmax alone
  assert 0 < row["clusters"] < 64
  lines = kept.disturbed.done.stdout.splitlines()
  (header,) = [line for line in lines if line.endswith("full moves")]
  (line,) = [
    line for line in lines if line.startswith("shift 3, key_centering=mean, sc")
  ]
  assert line.endswith(f"{row['full_changes']:.0e}")
  assert len(line) == len(header)


@pytest.mark.slow
def test_ctrl_c_keeps_the_rows_that_are_done(repository, place, environment):
  leave_rows(place / "stopped", [a_row("base", "")], vary=["rows", "scores"])
  script = repository / "experiments" / "ablate_resv_choices.py"
  arguments = [RECORDING, BASE, "--vary=rows,scores", "--resume"]
  # A second later it is at the first of the five rows that are left.
  done = scripts.run_until(
    "taken over",
    script,
    [*arguments, "--out=stopped"],
    folder=place,
    env=environment,
    after_s=1.0,
  )
  assert done.code == 0, done
  assert done.stderr.strip().startswith("the row under way is finished first")
  kept = read_run(place / "stopped")
  count = len(kept.metrics["rows"])
  assert 1 < count < 6
  assert f"interrupted after {count} of 6 rows" in done.stdout
  assert kept.metrics["interrupted"] is True
  assert kept.metrics["rows"][0]["clusters"] == 4321.0
  assert kept.files == ["config.toml", "metrics.json"]
