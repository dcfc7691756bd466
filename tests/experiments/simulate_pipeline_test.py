"""The script as a user runs it: a mistake, and one workload."""

import json

import pytest

from tests import scripts

MODULES = (
  "absl.app",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.hwmodel.designs",
  "vrex_jax.hwmodel.simulated_step",
)


@pytest.fixture(scope="module")
def runs(repository, tmp_path_factory):
  folder = tmp_path_factory.mktemp("simulate_pipeline")
  (folder / "file").write_text("in the way")
  done = scripts.run_each(
    repository / "experiments" / "simulate_pipeline.py",
    [["--out=file"], ["--workloads=1", "--seed=3", "--out=run"]],
    folder=folder,
    modules=MODULES,
  )
  return folder, done


def test_a_folder_that_cannot_be_is_told_before_the_work(runs):
  _, (mistake, _) = runs
  assert mistake.code == 2
  assert mistake.stderr.startswith("error: ")
  assert mistake.stderr.count("\n") == 1
  assert not mistake.stdout


def test_the_table_has_a_line_for_each_approximation(runs):
  folder, (_, whole) = runs
  assert whole.code == 0, whole.stderr
  rows = json.loads((folder / "run" / "metrics.json").read_text())["rows"]
  gap = {row["simulated"]: row["gap"] for row in rows}
  assert all(name in whole.stdout for name in gap)
  assert all(len(values) == 1 for values in gap.values())
  # The order alone has a closed form; anything else moves the step a little.
  (order,) = gap["order of events"]
  assert abs(order) < 1e-9
  assert "+0.00 %" in whole.stdout
  (together,) = gap["all of these"]
  assert 1e-6 < abs(together) < 0.05
  (rounded,) = gap["smooth maxima, p = 16"]
  assert 0 <= rounded < 2 ** (1 / 16) - 1
