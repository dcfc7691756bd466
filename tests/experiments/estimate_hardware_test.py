"""The scripts of the hardware model as a user runs them."""

import csv
import json

import pytest

from tests import scripts
from tests.hwmodel import traces
from vrex_jax import hardware_rows
from vrex_jax import trace as trace_lib

MODULES = (
  "absl.app",
  "matplotlib.figure",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.hardware_paper",
  "vrex_jax.hwmodel.designs",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("estimate_hardware")
  (folder / "run").mkdir()
  stages = ("frame", "question", "answer")
  trace_lib.save(traces.trace(stages=stages), folder / "run" / "trace.npz")
  (folder / "words.npz").write_text("these are words\n")
  (folder / "chip.toml").write_text(
    'name = "mine"\nbase = "vrex8"\n[link]\nbandwidth_bytes_per_s ='
    ' { value = 8, unit = "GB/s", status = "assumed", source = "gen 4" }\n'
  )
  (folder / "bad.toml").write_text('name = "mine"\nbase = "vrex8"\nlnk = 3\n')
  return folder


@pytest.fixture(scope="module")
def run(repository, place):
  def run_all(*cases):
    return scripts.run_each(
      repository / "experiments" / "estimate_hardware.py",
      cases,
      folder=place,
      modules=MODULES,
    )

  return run_all


TRANSFER = ("--trace=run/trace.npz", "--transfer=ratios")


@pytest.fixture(scope="module")
def done(run):
  (one,) = run(
    (*TRANSFER, "--platform=vrex8,chip.toml", "--cache_tokens=40960",
     "--out=out")
  )  # fmt: skip
  assert one.code == 0, one.stderr
  return one


def test_it_says_what_is_assumed(done):
  assert "all figures are modelled" in done.stdout
  assert "transferred to llama3-8b by relative depth" in done.stdout
  assert "15.09 mm2" in done.stdout


def test_rows_have_all_fields_and_add_up(done, place):
  rows = json.loads((place / "out" / "metrics.json").read_text())["rows"]
  assert [row["platform"] for row in rows] == ["vrex8", "mine"]
  for row in rows:
    assert tuple(row) == hardware_rows.FIELDS
    exposed = sum(row["exposed_s"].values())
    assert exposed == pytest.approx(row["frame_latency_s"], rel=1e-5)
    assert (
      row["bound_lower_s"] <= row["frame_latency_s"] <= row["bound_upper_s"]
    )
    assert row["token_latency_s"] < row["frame_latency_s"]
    low, high = row["frame_energy_j"]
    assert low < high
  assert rows[1]["frame_latency_s"] < rows[0]["frame_latency_s"]


def test_the_table_is_of_plain_numbers(done, place):
  with (place / "out" / "hardware.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2
  assert float(rows[0]["exposed_fetch"]) > 0
  assert float(rows[0]["frame_energy_low_j"]) > 0
  assert (place / "out" / "plot.png").stat().st_size > 10_000


MISTAKES = {
  "two sources": (
    ("--trace=run/trace.npz", "--policy=resv"),
    "--policy is given beside --trace",
  ),
  "transfer of nothing": (("--transfer=ratios",), "without --trace"),
  "another model": (("--trace=run/trace.npz",), "add --transfer ratios"),
  "counts at a length": (
    ("--trace=run/trace.npz", "--cache_tokens=4"),
    "--cache_tokens is given beside --trace",
  ),
  "a window of a run": (
    (*TRANSFER, "--resident_tokens=5"),
    "--resident_tokens is given beside --trace",
  ),
  "no trace": (("--trace=words.npz",), "is not a trace (no npz file)"),
  "unknown policy": (("--policy=quest",), "no published ratios"),
  "unknown model": (("--model=gpt",), "unknown preset"),
  "unknown platform": (("--platform=h100",), "unknown platform"),
  "bad platform": (("--platform=bad.toml",), "unknown key 'lnk'"),
  "words for numbers": (("--cache_tokens=many",), "whole numbers"),
  "words for streams": (("--batch=1,x",), "try --batch=1\n"),
  "no platform": (("--platform=",), "--platform is empty"),
  "no tokens": (("--cache_tokens=0",), "from 1 to"),
  "too many streams": (  # for a chip with the memory devices of its base
    (
      "--batch=16",
      "--platform=chip.toml",
      "--cache_tokens=40960",
      "--memory=validated",
    ),
    "resv, a batch of 16 over 40960 cached tokens, needs 48.0 GB",
  ),
  "empty out": (("--out=",), "--out is empty"),
}


def test_a_mistake_is_one_sentence(run):
  ended = run(*(arguments for arguments, _ in MISTAKES.values()))
  for name, one in zip(MISTAKES, ended, strict=True):
    scripts.check_mistake(one, MISTAKES[name][1])
