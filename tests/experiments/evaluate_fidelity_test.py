"""The script as a user runs it, in a folder with a film."""

import csv
import json

import pytest

from tests import scripts
from tests.experiments import stream_video_runs as runs

FILM = runs.FILM
MODULES = (
  "absl.app",
  "av",
  "matplotlib.figure",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.evaluation.fidelity_report",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("evaluate_fidelity")
  runs.write_film(folder)
  (folder / "text.txt").write_text("these are words\n")
  (folder / "taken" / "layers.csv").mkdir(parents=True)
  return folder


@pytest.fixture(scope="module")
def run(repository, place, tmp_path_factory):
  env = runs.environment(tmp_path_factory.mktemp("compiled"))

  def run_all(*cases):
    return scripts.run_each(
      repository / "experiments" / "evaluate_fidelity.py",
      list(map(scripts.random_weights, cases)),
      folder=place,
      modules=MODULES,
      env=env,
    )

  return run_all


MISTAKES = {
  "no video": ([], "--video is missing"),
  "gone": (["--video=no.mp4"], "there is no file no.mp4"),
  "no film": (["--video=text.txt"], "text.txt is"),
  "late": ([FILM, "--question=99: what?"], "asked at 99 s, but the stream"),
  "policy": ([FILM, "--policy=fulll"], "did you mean full?"),
  "resume": ([FILM, "--resume"], "--resume is given without --out"),
  "taken": ([FILM, "--out=taken"], "where layers.csv is a folder"),
  "two": (
    [FILM, "--preset=tiny", "--checkpoint=x"],
    "--preset is tiny beside --checkpoint",
  ),
}


def test_a_mistake_is_one_sentence_and_exit_code_2(run, place):
  before = sorted(place.rglob("*"))
  done = run(*(case for case, _ in MISTAKES.values()))
  for (_, said), one in zip(MISTAKES.values(), done, strict=True):
    scripts.check_mistake(one, said)
  left = {
    path for path in place.rglob("*") if path.suffix not in (".out", ".err")
  }
  assert sorted(left) == before


@pytest.mark.slow
def test_finished_policies_are_kept_and_taken_over(run, place):
  policy = "--policy=sliding_window(frames=2)"
  command = [FILM, "--max_tokens=3", policy, "--out=kept"]
  first, again = run(command, [*command, "--resume"])
  for one in (first, again):
    assert (one.code, one.stderr) == (0, ""), one
  assert "taken over from kept: 2 policies" in again.stdout
  strip = lambda done: [
    line for line in done.stdout.splitlines() if not line.startswith("taken")
  ]
  assert strip(first) == strip(again)
  files = ["config.toml", "layers.csv", "metrics.json", "plot.png",
           "positions.csv"]  # fmt: skip
  assert sorted(path.name for path in (place / "kept").iterdir()) == files
  metrics = json.loads((place / "kept" / "metrics.json").read_text())
  assert [row["policy"].split("(")[0] for row in metrics["rows"]] == [
    "full", "sliding_window"
  ]  # fmt: skip
  full, window = metrics["rows"]
  assert full["kl"]["frame"] == 0.0
  assert window["kl"]["frame"] > 0.0
  assert window["retrieval_ratio"]["frame"] < 1.0
  with (place / "kept" / "positions.csv").open() as file:
    lines = list(csv.DictReader(file))
  counted = sum(sum(row["positions"].values()) for row in metrics["rows"])
  assert len(lines) == counted
