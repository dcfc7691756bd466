"""How a script ends: exit codes, one sentence, or a traceback."""

import os
import subprocess
import sys

import jax
import pytest
from absl import flags

from tests import scripts
from vrex_jax import command
from vrex_jax import errors

SCRIPT = """
from absl import flags
from absl import logging

from vrex_jax import command
from vrex_jax.errors import InputError

_HOW = flags.DEFINE_enum(
  "how", "well", ["well", "badly", "broken", "stopped"], "Ending."
)
_COUNT = flags.DEFINE_integer("count", 1, "A number.", lower_bound=1)


def main(arguments):
  logging.info("a log line")
  print(len(arguments), _HOW.value, _COUNT.value)
  if _HOW.value == "badly":
    raise InputError("--how is badly; it must be well: try --how=well")
  if _HOW.value == "broken":
    raise ValueError("a defect")
  if _HOW.value == "stopped":
    raise KeyboardInterrupt


command.run(main)
"""

ENDINGS = {
  "good": ["--how=well", "--count=3"],
  "plain": [],
  "verbose": ["--verbosity=0"],
  "help": ["--help"],
  "input error": ["--how=badly"],
  "defect": ["--how=broken"],
  "ctrl-c": ["--how=stopped"],
}

BAD_FLAGS = {
  "unknown": (["--hwo=well"], "hwo"),
  "not one of": (["--how=fast"], "<well|badly|broken|stopped>"),
  "out of bounds": (["--count=0"], "count"),
  "no number": (["--count=many"], "many"),
  "no value": (["--count"], "count"),
  "no flag": (["stray"], "'stray' is not a flag"),
  "no flag after flags": (["--how=well", "stray"], "'stray' is not a flag"),
}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
  path = tmp_path_factory.mktemp("command") / "small_script.py"
  path.write_text(SCRIPT)
  return path


@pytest.fixture(scope="module")
def ended(script):
  """Every case's ending, by name."""
  cases = {**ENDINGS, **{name: case for name, (case, _) in BAD_FLAGS.items()}}
  done = scripts.run_each(script, list(cases.values()), folder=script.parent)
  return dict(zip(cases, done, strict=True))


def test_a_good_run_ends_with_0_and_is_silent_on_standard_error(ended):
  assert ended["good"] == (0, "1 well 3\n", "")
  assert ended["plain"] == (0, "1 well 1\n", "")


def test_log_lines_are_shown_when_asked_for(ended):
  assert ended["verbose"].code == 0
  assert "a log line" in ended["verbose"].stderr


def test_help_ends_with_0_and_lists_the_flags(ended):
  assert ended["help"].code == 0
  for text in ("--how", "--count", "A number."):
    assert text in ended["help"].stdout
  assert ended["help"].stderr == ""


def test_an_input_error_is_its_sentence_and_2(ended):
  done = ended["input error"]
  assert done.code == 2
  assert (
    done.stderr == "error: --how is badly; it must be well: try --how=well\n"
  )


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_a_bad_flag_is_one_line_and_2(ended, name):
  done = ended[name]
  assert (done.code, done.stdout) == (2, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  assert line.endswith("see --help")
  assert BAD_FLAGS[name][1] in line


def test_a_defect_keeps_its_traceback(ended):
  done = ended["defect"]
  assert done.code == 1
  assert "Traceback (most recent call last)" in done.stderr
  assert done.stderr.rstrip().endswith("ValueError: a defect")
  assert "error: a defect" not in done.stderr


def test_ctrl_c_ends_with_its_signal_s_number(ended):
  assert ended["ctrl-c"] == (130, "1 stopped 1\n", "interrupted\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_left_ends_it_quietly(script, arguments, buffered):
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, *([] if buffered else ["-u"]), str(script), *arguments],
    stdout=writer,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
    env=scripts.environment(),
  )
  os.close(writer)
  assert done.stderr == ""
  # The text of --help is written by absl, which leaves quietly by itself.
  assert done.returncode in ((0, 141) if arguments else (141,))


@pytest.fixture
def cache_folder(monkeypatch):
  """Reads jax's setting, which is put back afterwards."""
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  jax.config.update("jax_compilation_cache_dir", None)
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_where_the_user_says(cache_folder, tmp_path):
  folder = str(tmp_path / "some" / "where")
  command.use_compilation_cache(folder)
  assert cache_folder() == folder


def test_a_place_where_none_can_be_kept_is_refused(cache_folder, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(errors.InputError, match=r"^--compilation_cache is "):
    command.use_compilation_cache(str(tmp_path / "file"))
  assert cache_folder() is None


def test_without_a_place_of_the_user_s_none_are_kept(
  cache_folder, monkeypatch, tmp_path
):
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  command.use_compilation_cache(None)
  assert cache_folder() is None


def test_programs_are_kept_nowhere_when_the_user_says_so(cache_folder):
  command.use_compilation_cache("")
  assert cache_folder() is None


def test_programs_are_kept_in_the_user_s_cache_otherwise(
  cache_folder, monkeypatch, tmp_path
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  command.use_compilation_cache(None)
  assert cache_folder() == str(tmp_path / "vrex_jax" / "xla")
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  command.use_compilation_cache(None)
  assert cache_folder() == str(tmp_path / "home/.cache/vrex_jax/xla")


def test_jax_s_own_variable_is_left_alone(cache_folder, monkeypatch, tmp_path):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
  command.use_compilation_cache(None)
  assert cache_folder() is None


def test_defaults_are_for_what_the_command_line_leaves_out(monkeypatch):
  own = flags.FlagValues()
  for name in ("frames", "batch"):
    flags.DEFINE_integer(name, 512, "Of a test.", flag_values=own)
  own(["script", "--frames=8"])
  monkeypatch.setattr(flags, "FLAGS", own)
  command.set_defaults({"frames": 64, "batch": 2})
  assert (own["frames"].value, own["batch"].value) == (8, 2)
