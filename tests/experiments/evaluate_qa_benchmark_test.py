"""evaluate_qa.py --benchmark as a user runs it."""

import json

import numpy as np
import pytest

from tests import films
from tests import scripts
from tests.experiments import stream_video_runs as runs
from tests.parity import references
from tests.tasks import benchmark_files as files

MODULES = ("absl.app", "av", "tqdm", "vrex_jax.command",
           "vrex_jax.evaluation.benchmark_cells")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("evaluate_qa")
  random = np.random.default_rng(0)
  for name in ("data", "no_video"):
    files.write_json(folder / name / "coin.json", files.COIN)
  (folder / "empty").mkdir()
  files.write_json(folder / "cut" / "coin.json", files.COIN)
  path = folder / "cut" / "coin.json"
  path.write_text(path.read_text()[:-9])
  pictures = list(random.integers(0, 255, (12, 32, 32, 3), np.uint8))
  films.write(folder / "data" / "a1.mp4", pictures, fps=2)
  return folder


@pytest.fixture(scope="module")
def run(repository, place, tmp_path_factory):
  env = runs.environment(tmp_path_factory.mktemp("compiled"))

  def run_all(*cases):
    return scripts.run_each(
      repository / "experiments" / "evaluate_qa.py",
      cases,
      folder=place,
      modules=MODULES,
      env=env,
    )

  return run_all


COIN = "--benchmark=coin"
DATA = "--data=data"
MISTAKES = {
  "unknown": (["--benchmark=coins", DATA], "'coins'; the known ones are rooms"),
  "no data": ([COIN], "--benchmark is coin and --data is missing"),
  "no folder": ([COIN, "--data=nowhere"], "'nowhere', which is no folder"),
  "no file": ([COIN, "--data=empty"], "empty has no coin.json"),
  "cut": ([COIN, "--data=cut"], "cut/coin.json is no JSON"),
  "no video": ([COIN, "--data=no_video"], "1 of 1 videos that the annotation"),
  "task": ([COIN, DATA, "--tasks=stop"], "--tasks has 'stop'"),
  "frames": (
    [COIN, DATA, "--frames=3"],
    "--frames is given beside --benchmark",
  ),
  "of rooms": ([DATA], "--data is given beside --benchmark=rooms"),
  "words": ([COIN, DATA], "--checkpoint (shipped) has no words for"),
}


def test_a_mistake_is_one_sentence_and_exit_code_2(run, place):
  before = sorted(place.rglob("*"))
  done = run(*([*case, "--out=run"] for case, _ in MISTAKES.values()))
  for (_, said), one in zip(MISTAKES.values(), done, strict=True):
    scripts.check_mistake(one, said)
  left = [one for one in place.rglob("*") if one.suffix not in (".out", ".err")]
  assert sorted(left) == before


@pytest.mark.slow
def test_clips_are_kept_and_taken_over(run, place):
  checkpoint = references.copy("onevision_even", place / "checkpoints")
  command = [
    COIN, DATA, f"--checkpoint={checkpoint}", "--tasks=step,next,task",
    "--policy=sliding_window(frames=2)", "--max_tokens=3", "--out=kept",
  ]  # fmt: skip
  first, again = run(command, [*command, "--resume"])
  for one in (first, again):
    assert (one.code, one.stderr) == (0, ""), one
  assert "taken over from kept: 12 clips" in again.stdout
  kept = {path.name for path in (place / "kept").iterdir()}
  assert kept == {"config.toml", "metrics.json", "accuracy.csv",
                  "answers.jsonl", "predictions_1.jsonl",
                  "predictions_2.jsonl"}  # fmt: skip
  rows = json.loads((place / "kept" / "metrics.json").read_text())["rows"]
  full, window = rows
  assert (full["policy"], full["questions"]) == ("full", 6)
  assert full["retrieval_ratio"]["frame"] == 1.0
  assert window["retrieval_ratio"]["frame"] < 1.0
  assert set(full["accuracy_by_group"]) == {"step", "next", "task"}
