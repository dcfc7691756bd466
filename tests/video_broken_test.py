"""Files that break off: what they have, then an error; and some that do not."""

import fractions

import av
import pytest

from tests import films
from vrex_jax import video


@pytest.mark.parametrize("part", [0.35, 0.6, 0.97])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_mp4_cut_short_gives_what_it_has_and_an_error(tmp_path, codec, part):
  if codec not in av.codecs_available:
    pytest.skip(f"this build of PyAV has no {codec}")
  path = films.write_numbers(
    tmp_path / "a.mp4", codec=codec, container_options=films.FASTSTART
  )
  whole = films.numbers(video.read_frames(path, fps=10))
  ends = films.packet_ends(path)
  broken = films.cut(path, int(ends[0] + part * (ends[-1] - ends[0])))
  frames, message = films.read_until_error(broken, fps=10)
  assert 5 < len(frames) < 30
  assert films.numbers(frames) == whole[: len(frames)]
  assert "cut_a.mp4 breaks off after" in message
  assert "of 30 frames" in message
  assert "of 3.0 s" in message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_clean_cut_between_two_pictures_is_noticed(tmp_path, name):
  broken = films.write_broken(tmp_path / name)
  frames, message = films.read_until_error(broken, fps=10)
  assert films.numbers(frames) == list(range(len(frames)))
  assert 12 <= len(frames) <= 15
  assert "breaks off after" in message
  assert "of 3.0 s" in message


@pytest.mark.parametrize("index", [0, 11])
def test_picture_that_makes_no_sense_breaks_a_file(tmp_path, index):
  path = films.write_numbers(
    tmp_path / "a.mp4", codec="mjpeg", pix_fmt="yuvj420p"
  )
  films.damage(path, index, "mjpeg")
  if index == 0:
    message = films.refusal(path)
  else:
    frames, message = films.read_until_error(path, fps=10)
    assert films.numbers(frames) == list(range(len(frames)))
    assert index - 1 <= len(frames) <= index
  assert f"breaks off after {index} of 30 frames" in message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("sound_s", [1.0, 6.0])
def test_sound_of_another_length_is_no_break(tmp_path, name, sound_s):
  path = films.write_numbers(tmp_path / name, sound_s=sound_s)
  assert films.numbers(video.read_frames(path, fps=2)) == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_cut_of_a_file_with_sound_is_noticed(tmp_path, name):
  broken = films.write_broken(tmp_path / name, sound_s=3.0)
  frames, message = films.read_until_error(broken, fps=10)
  assert films.numbers(frames) == list(range(len(frames)))
  assert "breaks off after" in message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_slides_that_are_shown_for_long_are_no_break(tmp_path, name):
  path = tmp_path / name
  millisecond = fractions.Fraction(1, 1000)
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mjpeg", rate=1)
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
    stream.codec_context.time_base = millisecond
    for number in range(4):
      picture = av.VideoFrame.from_ndarray(films.grey(number), format="rgb24")
      picture.pts, picture.time_base = 5000 * number, millisecond
      for packet in stream.encode(picture):
        packet.duration = 5000
        container.mux(packet)
  assert video.probe(path).duration_s == 20.0
  assert films.numbers(video.read_frames(path, fps=0.4)) == [
    0,
    0,
    1,
    1,
    2,
    2,
    3,
    3,
  ]


def test_loop_stops_where_the_file_breaks_off(tmp_path):
  broken = films.write_broken(tmp_path / "a.mp4")
  frames, message = films.read_until_error(broken, fps=10, loop=True)
  assert len(frames) <= 15
  assert "breaks off" in message
