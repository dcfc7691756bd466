"""Folders that cannot be written are refused beforehand and left alone."""

import os
import pathlib

import pytest

from tests import run_folders
from vrex_jax import errors
from vrex_jax import record


def a_file(tmp_path):
  (tmp_path / "file").write_text("mine")
  return tmp_path / "file"


def below_a_file(tmp_path):
  return a_file(tmp_path) / "run"


def a_dangling_link(tmp_path):
  (tmp_path / "link").symlink_to(tmp_path / "nowhere")
  return tmp_path / "link"


def below_a_dangling_link(tmp_path):
  return a_dangling_link(tmp_path) / "run"


def a_folder_that_holds_one(tmp_path):
  (tmp_path / "run" / "metrics.json").mkdir(parents=True)
  return tmp_path / "run"


def a_link_to_itself(tmp_path):
  (tmp_path / "loop").symlink_to(tmp_path / "loop")
  return tmp_path / "loop"


PLACES = {
  "file": (a_file, "which is a file"),
  "below a file": (below_a_file, "cannot be written"),
  "dangling link": (a_dangling_link, "a link that leads nowhere"),
  "below a dangling link": (below_a_dangling_link, "cannot be written"),
  "link to itself": (a_link_to_itself, "--out is"),
  "result is a folder": (
    a_folder_that_holds_one,
    "where metrics.json is a folder",
  ),
  "proc": (lambda tmp_path: pathlib.Path("/proc/vrex"), "cannot be written"),
  "below proc": (
    lambda tmp_path: pathlib.Path("/proc/vrex/run"),
    "cannot be written",
  ),
  "long": (lambda tmp_path: tmp_path / ("x" * 300), "cannot be written"),
  "long parent": (
    lambda tmp_path: tmp_path / "y" / ("x" * 300) / "run",
    "cannot be written",
  ),
  "nul": (lambda tmp_path: tmp_path / "a\0b", "cannot be written"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_written_is_refused_and_left_alone(
  tmp_path, name
):
  if "proc" in name and not os.path.isdir("/proc/self"):
    pytest.skip("no /proc on this system")
  make, sentence = PLACES[name]
  out = make(tmp_path)
  before = run_folders.tree(tmp_path)
  messages = []
  for refuse in (
    lambda: record.check_folder(out),
    lambda: run_folders.write(out),
  ):
    with pytest.raises(errors.InputError) as told:
      refuse()
    messages.append(str(told.value))
    assert run_folders.tree(tmp_path) == before
  for message in messages:
    assert message.startswith(f"--out is {str(out)!r}, ")
    assert sentence in message
    assert "\n" not in message


def test_the_flag_at_fault_is_named(tmp_path):
  with pytest.raises(errors.InputError, match=r"^--profile is "):
    record.check_folder(a_file(tmp_path), "--profile")


def test_a_folder_without_permission_is_refused(tmp_path):
  folder = tmp_path / "closed"
  folder.mkdir(mode=0o500)
  if os.access(folder, os.W_OK):
    pytest.skip("this user may write everywhere")
  for out in (folder, folder / "run"):
    with pytest.raises(errors.InputError, match="Permission denied"):
      record.check_folder(out)
    with pytest.raises(errors.InputError, match="Permission denied"):
      run_folders.write(out)


def test_checking_a_good_folder_leaves_no_trace(tmp_path):
  (tmp_path / "target").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "target")
  before = run_folders.tree(tmp_path)
  for name in ("", "new", "new/deep/er", "target", "link"):
    record.check_folder(tmp_path / name)
  assert run_folders.tree(tmp_path) == before
  run_folders.write(tmp_path / "link")
  assert (tmp_path / "target" / "metrics.json").is_file()


def test_a_result_s_own_name_is_checked_too(tmp_path):
  """Names beyond the usual four are known only when the run is written."""
  (tmp_path / "plot.png").mkdir()
  before = run_folders.tree(tmp_path)
  with pytest.raises(errors.InputError, match=r"where plot\.png is a folder"):
    run_folders.write(
      tmp_path, others={"plot.png": lambda path: path.write_text("x")}
    )
  assert run_folders.tree(tmp_path) == before
