"""The script as a user runs it: a mistake, and the whole."""

import json

import pytest

from tests import scripts

MODULES = (
  "absl.app",
  "tqdm",
  "matplotlib.figure",
  "vrex_jax.command",
  "vrex_jax.hwmodel.memory_fit",
)


@pytest.fixture(scope="module")
def runs(repository, tmp_path_factory):
  folder = tmp_path_factory.mktemp("validate_memory_models")
  done = scripts.run_each(
    repository / "experiments" / "validate_memory_models.py",
    [["--data=nowhere", "--out=none"], ["--out=run"]],
    folder=folder,
    modules=MODULES,
  )
  return folder, done


def test_a_folder_without_tables_is_one_sentence_and_writes_nothing(runs):
  folder, (mistake, _) = runs
  assert mistake.code == 2
  assert mistake.stderr.startswith("error: nowhere/dramsim3_kv_reads.csv")
  assert mistake.stderr.count("\n") == 1
  assert not (folder / "none").exists()


def test_the_table_names_every_model_and_the_folder_holds_it(runs):
  folder, (_, whole) = runs
  assert whole.code == 0, whole.stderr
  for word in ("DRAM efficiency: model", "SSD bandwidth", "SRAM read_j"):
    assert word in whole.stdout
  assert "rows not used" in whole.stdout
  names = {path.name for path in (folder / "run").iterdir()}
  assert names == {"config.toml", "metrics.json", "plot.png"}
  rows = json.loads((folder / "run" / "metrics.json").read_text())["rows"]
  model = [row for row in rows if row["candidate"] == "model"]
  assert max(row["in_sample"]["mean"] for row in model) < 0.05
