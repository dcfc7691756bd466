"""The script as a user runs it: mistakes in a sentence; --smoke when slow."""

import csv
import json

import pytest

from tests import films
from tests import scripts

SCRIPT = "experiments/compare_policies.py"
MODULES = (
  "absl.app",
  "av",
  "matplotlib.figure",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.study.compare",
)
CLIP = ["--parts=clip", "--video=clip.mp4"]
MISTAKES = {
  "part": (["--parts=qa,sound"], "--parts is 'sound'; it must be some of qa"),
  "policy": (["--policies=qest"], "--policies is 'qest'; it must name methods"),
  "share": (["--shares=0.1,2"], "--shares is '0.1,2'; it must be numbers"),
  "no share": (["--shares=some"], "--shares is 'some'"),
  "variant": (["--variants=late"], "--variants is 'late'"),
  "none left": (
    ["--policies=h2o", "--variants=asked"],
    "--variants is asked, which none of the policies has",
  ),
  "no frames": (
    ["--parts=step", "--policies=quest", "--variants=asked"],
    "--variants is asked and --parts has step",
  ),
  "too few": (
    ["--parts=step", "--shares=0.05", "--cache_tokens=200"],
    "--shares has 0.05, of --cache_tokens=200 too few for snapkv",
  ),
  "disturb": (["--disturb=noise"], "--disturb is 'noise'"),
  "no clip": (["--parts=clip"], "--video is None; the part clip needs a video"),
  "clip alone": (["--video=a.mp4"], "the part clip needs a video, and nothing"),
  "gone": (["--parts=clip", "--video=no.mp4"], "there is no file no.mp4"),
  "memory": (["--memory_bytes=nan"], "--memory_bytes is nan; it must be"),
  "question": ([*CLIP, "--question=what?"], "--question is 'what?'"),
  "too late": ([*CLIP, "--question=9: room-now - - ?"], "is asked at 9 s, but"),
  "no one asks": (["--question=1: what?"], "--question is given without"),
  "resume": (["--resume"], "--resume is given without --out"),
  "frames": (["--frames=8", "--smoke"], "--frames is 8"),
  "taken": (["--out=taken"], "where qa.csv is a folder"),
}


@pytest.fixture(scope="module")
def mistaken(repository, tmp_path_factory):
  """The folder, and how every mistake ended, by name."""
  folder = tmp_path_factory.mktemp("compare_policies")
  (folder / "taken" / "qa.csv").mkdir(parents=True)
  films.write_numbers(folder / "clip.mp4", 4)
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
  assert [path.name for path in left] == ["taken"]


@pytest.mark.slow
def test_smoke_compares_and_is_taken_over(repository, tmp_path):
  command = ["--smoke", "--parts=qa,step", "--out=kept"]
  first, again = scripts.run_each(
    repository / SCRIPT,
    [command, [*command, "--resume"]],
    folder=tmp_path,
    modules=MODULES,
    timeout_s=900.0,
  )
  assert (first.code, first.stderr) == (0, ""), first
  assert (again.code, again.stderr) == (0, ""), again
  assert first.stdout.splitlines()[-5:] == again.stdout.splitlines()[-5:]
  metrics = json.loads((tmp_path / "kept" / "metrics.json").read_text())
  parts = [row["part"] for row in metrics["rows"]]
  assert {part: parts.count(part) for part in parts} == {
    "match": 2, "qa": 3, "step": 2
  }  # fmt: skip
  rows = [row for row in metrics["rows"] if row["part"] == "qa"]
  full, *others = rows
  assert full["method"] == "full"
  for row in others:
    assert 0.0 < row["reached"] < 1.0
    assert row["share"] == 0.3
  with (tmp_path / "kept" / "qa.csv").open() as file:
    assert len(list(csv.DictReader(file))) == len(rows)
