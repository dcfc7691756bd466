"""Sources that are refused on the call, in one sentence."""

import math
import sys

import av
import numpy as np
import pytest
from PIL import Image

from tests import films
from vrex_jax import errors
from vrex_jax import video


def test_no_file(tmp_path):
  path = tmp_path / "nowhere.mp4"
  assert f"there is no file {path}" in films.refusal(path)
  assert "there is no file ''" in films.refusal("")
  with pytest.raises(errors.InputError, match="there is no file"):
    video.probe(path)


def test_directory(tmp_path):
  assert f"{tmp_path} is a directory" in films.refusal(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.mp4", "a.nfo", "a"])
def test_text(tmp_path, name):
  path = tmp_path / name
  path.write_text("What is happening in the video?\n" * 50)
  message = films.refusal(path)
  assert "is a text file" in message or "is not a video" in message


def test_empty_file_and_noise(tmp_path):
  path = tmp_path / "a.mp4"
  path.touch()
  assert "is not a video" in films.refusal(path)
  path.write_bytes(np.random.default_rng(0).bytes(5000))
  assert "is not a video" in films.refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_still_picture(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  Image.fromarray(films.grey(3)).save(path)
  assert f"{path} is a still picture" in films.refusal(path)


def test_mp4_that_lost_its_index(tmp_path):
  path = films.write_numbers(tmp_path / "a.mp4")
  size = path.stat().st_size
  assert "mp4 cut short" in films.refusal(films.cut(path, size // 2))
  # The index is at the end; what of it is left decides what FFmpeg sees.
  kept = range(size // 2, size * 7 // 8, 32)
  said = [films.refusal(films.cut(path, some)) for some in kept]
  assert all("cut short" in one or "file is whole" in one for one in said)
  assert any("file is whole" in one for one in said)


def test_audio_only(tmp_path):
  path = tmp_path / "a.m4a"
  with av.open(str(path), "w", format="mp4") as container:
    sound = container.add_stream("aac", rate=16000)
    films.write_silence(container, sound, 1.0)
  assert "no moving pictures but only audio" in films.refusal(path)


def test_cover_art_is_no_video(tmp_path):
  path = tmp_path / "a.m4a"
  with av.open(str(path), "w", format="mp4") as container:
    cover = container.add_stream("mjpeg", rate=1)
    cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
    cover.disposition = av.stream.Disposition.attached_pic.value
    sound = container.add_stream("aac", rate=16000)
    picture = av.VideoFrame.from_ndarray(films.grey(0), format="rgb24")
    container.mux(cover.encode(picture))
    container.mux(cover.encode())
    films.write_silence(container, sound, 1.0)
  assert "no moving pictures but only audio" in films.refusal(path)


def test_video_stream_without_pictures(tmp_path):
  path = tmp_path / "a.avi"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    container.start_encoding()
  assert "no picture that can be decoded" in films.refusal(path)


def test_unknown_codec(tmp_path):
  path = films.write_numbers(tmp_path / "a.mkv")
  data = path.read_bytes()
  assert b"V_MPEG4/ISO/ASP" in data
  path.write_bytes(data.replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/NO/NE"))
  assert "cannot decode" in films.refusal(path)


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
def test_bad_fps(tmp_path, fps):
  path = films.write_numbers(tmp_path / "a.mp4")
  assert f"fps is {fps}; it must be" in films.refusal(path, fps=fps)


@pytest.mark.parametrize("max_frames", [0, -3])
def test_bad_max_frames(tmp_path, max_frames):
  path = films.write_numbers(tmp_path / "a.mp4")
  message = films.refusal(path, max_frames=max_frames)
  assert f"max_frames is {max_frames}; it must be" in message


def test_without_pyav_the_way_to_get_it_is_told(tmp_path, monkeypatch):
  path = films.write_numbers(tmp_path / "a.mp4")
  monkeypatch.setitem(sys.modules, "av", None)
  assert "pip install -e '.[video]'" in films.refusal(path)
