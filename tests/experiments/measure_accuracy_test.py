"""Measuring and fitting as a user does: mistakes, and the whole if slow."""

import json

import pytest

from tests import scripts

MEASURE = "experiments/measure_accuracy.py"
FIT = "experiments/fit_accuracy.py"
MISTAKES = {
  "disturb": (
    MEASURE,
    ["--disturb=key_bias"],
    "--disturb is 'key_bias'; it must be some of channel_scale, sink",
  ),
  "threshold": (
    MEASURE,
    ["--hamming_thresholds=7,x"],
    "--hamming_thresholds is '7,x'; it must be whole numbers",
  ),
  "pool": (
    MEASURE,
    ["--batches=4", "--pool=2"],
    "--batches is 4 and --pool 2; a setting is asked on some batches",
  ),
  "resume": (MEASURE, ["--resume"], "--resume is given without --out"),
  "both": (FIT, ["--points=a", "--answers=b"], "--points is a and --answers b"),
  "gone": (FIT, ["--points=no.csv"], "no.csv cannot be read as measured"),
  "kept": (FIT, ["--points=empty.csv", "--out=none"], "it holds no points"),
}


@pytest.fixture(scope="module")
def mistaken(repository, tmp_path_factory):
  """The folder, and how every mistake ended, by name."""
  folder = tmp_path_factory.mktemp("measure_accuracy")
  (folder / "empty.csv").write_text("# nothing\n")
  done = {}
  for script in (MEASURE, FIT):
    done |= scripts.run_named(
      repository / script,
      {name: case[1] for name, case in MISTAKES.items() if case[0] == script},
      folder=folder,
      modules=("absl.app", "tqdm", "vrex_jax.codesign.accuracy_kept"),
    )
  return folder, done


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mistaken, name):
  folder, done = mistaken
  scripts.check_mistake(done[name], MISTAKES[name][2])
  assert done[name].stdout == ""
  assert not (folder / "none").exists()


@pytest.mark.slow
def test_what_is_measured_is_fitted(repository, tmp_path):
  run = lambda script, *arguments: scripts.run_each(
    repository / script, [arguments], folder=tmp_path, timeout_s=600.0
  )[0]
  measured = run(MEASURE, "--smoke", "--out=measured")
  assert measured.code == 0, measured.stderr
  assert "QA drop" in measured.stdout
  again = run(MEASURE, "--smoke", "--out=measured", "--resume")
  assert "4 points" in again.stdout
  fitted = run(
    FIT, "--answers=measured/answers.csv", "--recorded=1", "--out=fitted"
  )
  assert fitted.code == 0, fitted.stderr
  rows = json.loads((tmp_path / "fitted" / "metrics.json").read_text())["rows"]
  assert {row["figure"] for row in rows} == {"qa", "narration"}
  assert (tmp_path / "fitted" / "accuracy_points.csv").exists()
