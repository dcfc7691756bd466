"""The script as a user runs it, on the curriculum of a few steps."""

import csv
import json

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests import scripts
from vrex_jax.models import checkpoint

pytestmark = pytest.mark.slow
MODULES = (
  "absl.app",
  "tqdm",
  "vrex_jax.command",
  "vrex_jax.models.checkpoint",
  "vrex_jax.training.loop",
)
TINY = ("--curriculum=tiny", "--workers=0", "--frames=36", "--streams=1")


@pytest.fixture(scope="module")
def script(repository):
  return repository / "experiments" / "train_streaming_qa.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("train_streaming_qa")


@pytest.fixture(scope="module")
def env(place):
  """Programs that one of the trainings compiled serve the others."""
  return scripts.environment(JAX_COMPILATION_CACHE_DIR=str(place / "programs"))


@pytest.fixture(scope="module")
def stopped(script, place, env):
  """A training stopped by Ctrl-C in its second stage."""
  return scripts.run_until(
    "few 1/4",
    script,
    [*TINY, "--out=stopped", "--save_seconds=0", "--noplot"],
    folder=place,
    env=env,
  )


@pytest.fixture(scope="module")
def done(script, place, env, stopped):
  """A whole training, the stopped one taken up again, and what is refused."""
  (place / "taken" / "curves.csv").mkdir(parents=True)
  cases = {
    "whole": [*TINY, "--out=whole"],
    "resumed": [*TINY, "--out=stopped", "--resume", "--noplot", "--streams=0"],
    "no folder": [*TINY],
    "a training is there": [*TINY, "--out=whole"],
    "another seed": [*TINY, "--out=whole", "--resume", "--seed=1"],
    "a folder in the way": [*TINY, "--out=taken"],
    "short streams": [*TINY, "--out=new", "--frames=8"],
    "no steps": [*TINY, "--out=new", "--steps_scale=0"],
  }
  results = scripts.run_each(
    script, list(cases.values()), folder=place, modules=MODULES, env=env
  )
  return dict(zip(cases, results, strict=True))


def test_a_training_leaves_model_curves_and_metrics(done, place):
  assert done["whole"].code == 0, done["whole"].stderr
  folder = place / "whole"
  assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
  with (folder / "curves.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert {row["stage"] for row in rows} == {"frames", "few", "many"}
  metrics = json.loads((folder / "metrics.json").read_text())
  assert metrics["interrupted"] is False
  assert [row["frames"] for row in metrics["rows"]] == [36]
  assert 0 <= metrics["rows"][0]["qa"] <= 1
  model = checkpoint.load(folder / "model")
  assert model.config.tokens_per_frame == 4
  assert "qa-old" in done["whole"].stdout


def test_ctrl_c_keeps_what_was_done(stopped):
  assert stopped.code == 130, stopped.stderr
  assert "stopping after this step" in stopped.stderr


def test_taken_up_again_it_ends_with_the_same_weights(done, place):
  assert done["resumed"].code == 0, done["resumed"].stderr
  assert "resume stage few" in done["resumed"].stdout
  load = lambda name: safetensors_numpy.load_file(
    place / name / "model" / "model.safetensors"
  )
  one, other = load("whole"), load("stopped")
  assert one.keys() == other.keys()
  for name, tensor in one.items():
    np.testing.assert_array_equal(tensor, other[name])
  read = lambda name: (place / name / "curves.csv").read_text()
  assert read("whole") == read("stopped")


@pytest.mark.parametrize(
  ("case", "said"),
  [
    ("no folder", "--out is missing; checkpoint and model need a folder"),
    ("a training is there", "--out whole holds a training"),
    ("another seed", "had seed 0, this one 1"),
    ("a folder in the way", "where curves.csv is a folder"),
    ("short streams", "--frames is 8; lengths are whole numbers from 36 on"),
    ("no steps", "--steps_scale is 0; it must be a positive number"),
  ],
)
def test_mistakes_are_one_sentence(done, case, said):
  assert done[case].code == 2
  assert done[case].stderr.startswith("error: ")
  assert said in done[case].stderr
  assert "Traceback" not in done[case].stderr
