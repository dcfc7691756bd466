"""The script as a user runs it: rows in the schema, mistakes in a sentence."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from vrex_jax.benchmark import rows

_WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.path.insert(0, "experiments")
sys.argv = ["benchmark_streaming.py", *sys.argv[1:]]
runpy.run_path("experiments/benchmark_streaming.py", run_name="__main__")
"""


def run(repository, *arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=repository,
    env={**os.environ, "PYTHONPATH": str(repository), "JAX_PLATFORMS": "cpu"},
  )


def benchmark(repository, *arguments):
  return run(
    repository, "experiments/benchmark_streaming.py", "--smoke", *arguments
  )


def test_smoke_writes_rows_of_the_schema_and_a_picture(repository, tmp_path):
  done = benchmark(repository, f"--out={tmp_path / 'run'}", "--batch=2")
  assert done.returncode == 0, done.stderr
  assert "round" not in done.stderr  # no progress bar off a terminal
  assert "temporary" in done.stdout
  written = sorted(path.name for path in (tmp_path / "run").iterdir())
  assert written == ["config.toml", "metrics.json", "plot.png"]
  metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
  assert metrics["schema"] == 1
  assert metrics["run"]["threads"] == 1
  (row,) = metrics["rows"]
  assert tuple(row) == rows.FIELDS
  assert row["policy"] == "full"
  assert row["side"] == "ours"
  assert (row["cache_tokens"], row["frame_tokens"], row["batch"]) == (100, 4, 2)
  assert row["retrieval_ratio"]["frame"] == 1.0
  assert row["cpu_ms"] > 0
  assert metrics["programs"][0]["temporary_bytes"] > 0
  config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
  assert config["cache_tokens"] == [100]


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--shape=narrow", "--smoke=false"], "unknown shape 'narrow'"),
    (["--forced_ratio=0.05"], "names only full, which is never forced"),
    (["--forced_ratio=some"], "--forced_ratio has 'some'"),
    (["--policy=nothing"], "'nothing' is not a known policy"),
    (["--policy=sliding_window", "--forced_ratio=0.1"], "evicts"),
    (["--against=hf", "--with_vision"], "leave out --with_vision"),
    (["--threads=4096"], "--threads is 4096"),
  ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
  repository, arguments, sentence
):
  done = benchmark(repository, *arguments)
  assert done.returncode == 2
  assert sentence in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_without_torch_the_remedy_is_named(repository):
  done = run(
    repository, "-c", _WITHOUT_TORCH, "--smoke", "--against=torch_sdpa"
  )
  assert done.returncode == 2
  assert "pip install 'vrex_jax[parity]'" in done.stderr
  assert "Traceback" not in done.stderr
