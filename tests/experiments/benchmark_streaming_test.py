"""The script as a user runs it: rows in the schema, mistakes in a sentence."""

import json
import tomllib

import pytest

from tests import scripts
from vrex_jax.benchmark import rows

SCRIPT = "experiments/benchmark_streaming.py"


def test_smoke_writes_rows_of_the_schema_and_a_picture(tmp_path):
  done = scripts.run_python(
    SCRIPT, "--smoke", f"--out={tmp_path / 'run'}", "--batch=2"
  )
  assert done.returncode == 0, done.stderr
  assert "round" not in done.stderr  # no progress bar off a terminal
  assert "temporary" in done.stdout
  written = sorted(path.name for path in (tmp_path / "run").iterdir())
  assert written == ["config.toml", "metrics.json", "plot.png"]
  metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
  assert metrics["schema"] == 1
  assert metrics["run"]["threads"] == 1
  row, longer = metrics["rows"]
  assert tuple(row) == tuple(longer) == rows.FIELDS
  assert row["policy"] == "full"
  assert row["side"] == "ours"
  assert (row["cache_tokens"], row["frame_tokens"], row["batch"]) == (100, 4, 2)
  assert row["retrieval_ratio"]["frame"] == 1.0
  assert row["cpu_ms"] > 0
  assert longer["frame_tokens"] == 40
  assert metrics["programs"][0]["temporary_bytes"] > 0
  kernels = [program["kernels"] for program in metrics["programs"]]
  assert kernels == ["panels", "plain"]  # 8 and 80 rows
  config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
  assert config["cache_tokens"] == [100]


SMOKE_SHAPE = ["--smoke=false", "--shape=smoke"]
MISTAKES = {
  "shape": (["--shape=narrow", "--smoke=false"], "unknown shape 'narrow'"),
  "nothing to force": (["--forced_ratio=0.05"], '--policy "full | resv"'),
  "no ratio": (["--forced_ratio=some"], "--forced_ratio has 'some'"),
  "policy": (["--policy=nothing"], "'nothing' is not a known policy"),
  "evicts": (
    ["--policy=sliding_window", "--forced_ratio=0.1"],
    "keep_prompt=True), which evicts; only a policy that can recall",
  ),
  "against vision": (
    ["--against=hf", "--with_vision"],
    "leave out --with_vision",
  ),
  "threads": (["--threads=4096"], "--threads is 4096"),
  "no cache": ([*SMOKE_SHAPE, "--cache_tokens="], "--cache_tokens is empty"),
  "no frame": ([*SMOKE_SHAPE, "--frame_tokens="], "--frame_tokens is empty"),
  "less than a frame": (
    [*SMOKE_SHAPE, "--video=a.mp4", "--cache_tokens=8,3", "--frame_tokens=4"],
    "--cache_tokens has 3, less than the 4 tokens of one frame",
  ),
  "seed too large": ([f"--seed={2**31}"], "seed"),
  "seed negative": (["--seed=-1"], "seed"),
  "out taken": (["--out=taken"], "where plot.png is a folder"),
}


@pytest.fixture(scope="module")
def mistaken(repository, tmp_path_factory):
  """How every mistake ended, by name; the help last."""
  folder = tmp_path_factory.mktemp("mistakes")
  (folder / "taken" / "plot.png").mkdir(parents=True)
  cases = {
    **{name: ["--smoke", *case] for name, (case, _) in MISTAKES.items()},
    "help": ["--help"],
  }
  return scripts.run_named(
    repository / SCRIPT,
    cases,
    folder=folder,
    modules=("absl.app", "tqdm", "vrex_jax.benchmark.clip", "vrex_jax.command"),
  )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mistaken, name):
  scripts.check_mistake(mistaken[name], MISTAKES[name][1])
  assert mistaken[name].stdout == ""


def test_help_shows_an_example_that_can_be_pasted(mistaken):
  assert mistaken["help"].code == 0
  assert "--policy full \\\n      --cache_tokens" in mistaken["help"].stdout


def test_without_torch_the_remedy_is_named():
  done = scripts.run_python(
    *scripts.lacking("torch", SCRIPT), "--smoke", "--against=torch_sdpa"
  )
  assert done.returncode == 2
  assert "pip install -e '.[parity]'" in done.stderr
  assert "Traceback" not in done.stderr
