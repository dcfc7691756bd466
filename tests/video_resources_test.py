"""What reading holds open: files are closed, pipes are not touched."""

import contextlib
import os
import pathlib

import pytest

from tests import films
from vrex_jax import video


def test_a_pipe_is_empty_once_its_writer_has_left():
  reader, writer = os.pipe()
  before = os.dup(0)
  os.dup2(reader, 0)
  try:
    assert not video.is_empty("pipe:0")  # its writer may yet write
    os.write(writer, b"x")
    os.close(writer)
    assert not video.is_empty("pipe:0")
    os.read(0, 1)
    assert video.is_empty("pipe:0")
  finally:
    os.dup2(before, 0)
    os.close(before)
    os.close(reader)


def test_what_is_no_pipe_is_not_asked_whether_it_is_empty(tmp_path):
  assert video.is_empty(os.devnull)
  os.mkfifo(tmp_path / "pipe")  # to open it would let its writer go on
  assert not video.is_empty(tmp_path / "pipe")
  assert not video.is_empty(tmp_path / "nowhere")
  assert not video.is_empty("http://nowhere/a.mp4")


def open_files(path):
  folder = pathlib.Path("/proc/self/fd")
  if not folder.is_dir():
    pytest.skip("this system does not list open files")
  links = []
  for entry in folder.iterdir():
    with contextlib.suppress(OSError):
      links.append(os.readlink(entry))
  return links.count(str(path))


def test_file_is_closed_however_reading_ends(tmp_path):
  path = films.write_numbers(tmp_path / "a.mp4")
  frames = video.read_frames(path, fps=2)
  assert open_files(path) == 1
  frames.close()
  assert open_files(path) == 0
  frames = video.read_frames(path, fps=2)
  next(frames)
  frames.close()
  assert open_files(path) == 0
  frames = video.read_frames(path, fps=2)
  next(frames)
  del frames
  assert open_files(path) == 0
  assert len(list(video.read_frames(path, fps=2))) == 6
  assert open_files(path) == 0
  video.probe(path)
  assert open_files(path) == 0


def test_file_is_closed_after_a_refusal_and_a_break(tmp_path):
  text = tmp_path / "a.txt"
  text.write_text("no video\n" * 99)
  films.refusal(text)
  assert open_files(text) == 0
  broken = films.write_broken(tmp_path / "a.mp4")
  films.read_until_error(broken, fps=2)
  assert open_files(broken) == 0
