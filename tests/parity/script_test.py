"""The two scripts: exit codes, and what one of them writes."""

import sys

import numpy as np
import pytest

from experiments import torch_reference
from tests import scripts
from tests.parity import references
from vrex_jax.errors import InputError

_CHECK = "experiments/check_parity.py"


def _run(*arguments):
  """With all optimisations: what is compared is what a user gets."""
  optimised = scripts.environment(JAX_DISABLE_MOST_OPTIMIZATIONS="0")
  return scripts.run_python(*arguments, env=optimised)


def _check(path, *flags):
  return _run(_CHECK, f"--checkpoint={path}", *flags)


def test_without_torch_the_remedy_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(InputError, match=r"pip install -e '.\[parity\]'"):
    torch_reference.import_reference()


def test_without_torch_the_script_exits_with_2(tmp_path):
  without = scripts.lacking("torch", _CHECK)
  done = _run(*without, f"--checkpoint={tmp_path}")
  assert done.returncode == 2
  assert "error: the parity check needs torch" in done.stderr
  assert "Traceback" not in done.stderr
  assert done.stdout == ""


def test_an_empty_question_is_the_user_s_mistake(tmp_path):
  done = _check(tmp_path, "--question= ")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith("error: --question is empty; it must hold text")
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.parity
@pytest.mark.usefixtures("torch_and_transformers")
@pytest.mark.parametrize("name", ["onevision_even", "parts"])
def test_the_script_agrees_with_transformers(name, tmp_path):
  done = _check(references.copy(name, tmp_path))
  assert done.returncode == 0, done.stderr
  assert "DIFFERS" not in done.stdout
  assert done.stdout.count("agrees") >= 3


@pytest.mark.parity
@pytest.mark.usefixtures("torch_and_transformers")
def test_a_difference_is_exit_code_1(tmp_path):
  path = references.copy("qwen2_group7", tmp_path)
  done = _check(path, "--tolerance=1e-9")
  assert done.returncode == 1, done.stderr
  assert "logits" in done.stdout
  assert "DIFFERS" in done.stdout


@pytest.mark.parity
@pytest.mark.usefixtures("torch_and_transformers")
def test_a_broken_checkpoint_is_exit_code_2(tmp_path):
  done = _check(tmp_path)
  assert done.returncode == 2
  assert "config.json does not exist" in done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.parity
@pytest.mark.usefixtures("torch_and_transformers")
def test_the_stored_files_are_what_the_script_writes(tmp_path):
  script = "experiments/make_parity_references.py"
  done = _run(script, f"--out={tmp_path}")
  assert done.returncode == 0, done.stderr
  for name in references.ALL:
    for file in (references.DATA / name).rglob("*.safetensors"):
      written = tmp_path / file.relative_to(references.DATA)
      assert written.read_bytes() == file.read_bytes(), written
    with (
      np.load(references.DATA / name / "reference.npz") as stored,
      np.load(tmp_path / name / "reference.npz") as written,
    ):
      assert set(written) == set(stored)
      for key in stored:
        np.testing.assert_allclose(written[key], stored[key], atol=2e-5)


def test_the_stored_files_are_small():
  size = sum(
    path.stat().st_size for path in references.DATA.rglob("*") if path.is_file()
  )
  assert size < 600e3
