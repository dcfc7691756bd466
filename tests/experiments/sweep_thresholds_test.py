"""The script as a user runs it, on a recording made by hand."""

import json
import types

import numpy as np
import pytest

from tests import scripts
from tests.codesign import streams
from tests.study import recorded

MODULES = (
  "absl.app",
  "matplotlib.figure",
  "tqdm",
  "vrex_jax.codesign.closed_loop",
  "vrex_jax.codesign.curves",
  "vrex_jax.codesign.settings_cost",
  "vrex_jax.command",
)
RECORD = "--record=record.npz"
SMALL = ["--hamming_thresholds=5,9", "--ratios=0,0.1,0.3,1"]

MISTAKES = {
  "record": (["--record=no.npz"], "no.npz cannot be read as a recording"),
  "lacks": (["--record=trace.npz"], "trace.npz has no query, key, value"),
  "evidence": (["--record=odd.npz"], "odd.npz has evidence of events"),
  "short": (["--record=short.npz"], "no frame with a past"),
  "beside": ([RECORD, "--closed_loop=2"], "--closed_loop is given beside"),
  "seed beside": ([RECORD, "--seed=3"], "--seed is given beside --record"),
  "hamming": ([RECORD, "--hamming_thresholds=x"], "--hamming_thresholds is"),
  "far": ([RECORD, "--hamming_thresholds=40"], "it must be at most 33"),
  "bits": ([RECORD, "--hash_bits=0"], "--hash_bits is 0"),
  "none": ([RECORD, "--hash_bits="], "--hash_bits is empty"),
  "table": ([RECORD, "--tables=model"], "it must be head or layer"),
  "ratios": ([RECORD, "--ratios=a"], "--ratios is 'a'"),
  "falling": ([RECORD, "--ratios=0.3,0.1"], "two or more that rise"),
  "recent": ([RECORD, "--recent_tokens=-1"], "--recent_tokens is '-1'"),
  "rows": ([RECORD, "--rows=vote:0"], "--rows has 'vote:0'"),
  "platform": ([RECORD, "--platform=abacus"], "abacus"),
  "model": ([RECORD, "--model=huge"], "huge"),
  "curves": ([RECORD, "--curves=no/a.npz"], "whose folder does not exist"),
  "resume": ([RECORD, "--resume"], "--resume is given without --out"),
  "frames": (["--frames=8"], "--frames is 8"),
  "out": ([RECORD, "--out=record.npz"], "which is a file"),
  "stray": ([RECORD, "stray"], "'stray' is not a flag"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with everything the cases name; they run in it."""
  folder = tmp_path_factory.mktemp("sweep_thresholds")
  one = streams.with_questions()
  recorded.save(folder / "record.npz", one)
  whole = dict(np.load(folder / "record.npz"))
  np.savez(
    folder / "odd.npz",
    evidence_event=np.array([99]),
    evidence_frame=np.array([0]),
    **whole,
  )
  recorded.save(
    folder / "short.npz",
    recorded.recording(layers=1, heads=2, kv_heads=1, width=8, frames=1),
  )
  np.savez(folder / "trace.npz", stage=np.zeros(3))
  return folder


@pytest.fixture(scope="module")
def done(repository, place):
  """How every mistake ended, a whole run, and the help."""
  whole = [RECORD, *SMALL, "--out=run", "--curves=curves.npz"]
  cases = [case for case, _ in MISTAKES.values()]
  ended = scripts.run_each(
    repository / "experiments" / "sweep_thresholds.py",
    [*cases, whole, ["--help"]],
    folder=place,
    modules=MODULES,
  )
  names = [*MISTAKES, "whole", "help"]
  return types.SimpleNamespace(**dict(zip(names, ended, strict=True)))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(done, name):
  scripts.check_mistake(vars(done)[name], MISTAKES[name][1])


def test_help_says_what_open_loop_means(done):
  assert done.help.code == 0
  assert "does not react" in " ".join(done.help.stdout.split())


def test_a_run_leaves_rows_tables_and_pictures(done, place):
  assert (done.whole.code, done.whole.stderr) == (0, ""), done.whole
  folder = place / "run"
  assert sorted(path.name for path in folder.iterdir()) == [
    "config.toml", "fronts.png", "heat_maps.png", "metrics.json", "sweep.csv",
  ]  # fmt: skip
  metrics = json.loads((folder / "metrics.json").read_text())
  assert metrics["interrupted"] is False
  rows = metrics["rows"]
  assert len(rows) == 8
  for row in rows:
    assert row["closed"] is None
    assert row["recall"]["question"] is None  # the recording knows none
    assert row["frame_latency_s"] > 0
  kept = [row["kept"]["frame"] for row in rows[:4]]
  assert kept == sorted(kept)
  assert kept[-1] == 1.0
  lines = (folder / "sweep.csv").read_text().splitlines()
  assert len(lines) == 9
  assert "are modelled: llama3-8b on vrex8" in done.whole.stdout
  assert "curves of 2 choices written to curves.npz" in done.whole.stdout
  assert (place / "curves.npz").exists()
