"""Mistakes of the script; a calibration is too long for the suite."""

from tests import scripts

MODULES = ("absl.app", "tqdm", "vrex_jax.command", "vrex_jax.benchmark.cell")


def test_mistakes_are_one_sentence_each_and_write_nothing(repository, tmp_path):
  cases = {
    "add --validate": ["--platform=vrex8"],
    "whole numbers above 0": ["--validate", "--cache_tokens=4096,0"],
    "shares up to 1": ["--validate", "--forced_ratio=2"],
    "has no [cpu] part": ["--platform=vrex8", "--validate"],
  }
  done = scripts.run_each(
    repository / "experiments" / "calibrate_platform.py",
    [[*arguments, "--out=run"] for arguments in cases.values()],
    folder=tmp_path,
    modules=MODULES,
  )
  for text, one in zip(cases, done, strict=True):
    assert one.code == 2, one
    assert text in one.stderr
    assert one.stderr.count("\n") == 1
  assert not (tmp_path / "run").exists()
