"""The script as a user runs it: mistakes in a sentence; --smoke when slow."""

import json

import pytest

from tests import scripts

SCRIPT = "experiments/codesign.py"
MODULES = ("absl.app", "tqdm", "vrex_jax.command", "vrex_jax.codesign.campaign")
MISTAKES = {
  "platform": (["--platform=agx_orin"], "has no retrieval engine"),
  "unknown": (["--platform=vrex9"], "unknown platform 'vrex9'"),
  "free": (["--free=egnine"], "--free names 'egnine'; it must be some of"),
  "crossing": (["--bounds=cores=16:4"], "from 16 to 4"),
  "curves": (["--curves=no.npz"], "no.npz cannot be read as curves"),
  "points": (["--accuracy_points=no.csv"], "no.csv cannot be read"),
  "resume": (["--resume"], "--resume is given without --out"),
  "area": (["--area_mm2=0"], "flag --area_mm2=0"),
  "taken": (["--out=taken"], "where design.toml is a folder"),
  "begun": (["--out=begun"], "holds a study that has not ended (steps.json)"),
  "damaged": (["--out=begun", "--resume"], "steps.json cannot be read"),
  "drop": (["--max_accuracy_drop=-1"], "flag --max_accuracy_drop=-1"),
  "held out": (["--held_out_curves=no.npz"], "no.npz cannot be read as curves"),
}


@pytest.fixture(scope="module")
def mistaken(repository, tmp_path_factory):
  """The folder, and how every mistake ended, by name."""
  folder = tmp_path_factory.mktemp("codesign")
  (folder / "taken" / "design.toml").mkdir(parents=True)
  (folder / "begun").mkdir()
  (folder / "begun" / "steps.json").write_text("{")
  cases = {name: case for name, (case, _) in MISTAKES.items()}
  return folder, scripts.run_named(
    repository / SCRIPT, cases, folder=folder, modules=MODULES
  )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mistaken, name):
  folder, done = mistaken
  scripts.check_mistake(done[name], MISTAKES[name][1])
  assert done[name].stdout == ""
  left = [path for path in folder.iterdir() if path.suffix == ""]
  assert sorted(path.name for path in left) == ["begun", "taken"]


@pytest.mark.slow
def test_smoke_designs_and_is_taken_over_and_limits_are_refused(
  repository, tmp_path
):
  command = ["--smoke", "--out=kept"]
  first, again, never = scripts.run_each(
    repository / SCRIPT,
    [command, [*command, "--resume"], ["--smoke", "--area_mm2=0.5"]],
    folder=tmp_path,
    modules=MODULES,
    timeout_s=900.0,
  )
  assert (first.code, first.stderr) == (0, ""), first
  assert (again.code, again.stderr) == (0, ""), again
  assert first.stdout.splitlines()[-4:] == again.stdout.splitlines()[-4:]
  metrics = json.loads((tmp_path / "kept" / "metrics.json").read_text())
  for name in ("start", "optimum", "rounded", "confirmed"):
    assert set(metrics[name]) == {
      "latency_s", "energy_j", "area_m2", "power_w", "accuracy"
    }  # fmt: skip
  product = lambda one: one["latency_s"] * one["energy_j"]
  assert product(metrics["rounded"]) < product(metrics["start"])
  assert metrics["rounded"]["area_m2"] <= 15.12e-6
  assert never.code == 2
  assert "no design keeps all limits" in never.stderr
  assert "exceeds --area_mm2 0.5 by" in never.stderr
