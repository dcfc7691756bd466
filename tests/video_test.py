"""What is sampled of a video, and when: real clips and made ones."""

import itertools
import json
import math

import av
import numpy as np
import pytest

from tests import films
from vrex_jax import video


@pytest.mark.parametrize(
  ("name", "shape", "duration_s", "rate", "frames"),
  [
    ("bottle-detection.mp4", (360, 640), 39.8547, 179 / 6, 1189),
    ("multi_scene_revisit.mp4", (270, 480), 87.3, 10.0, 873),
    ("one-by-one-person-detection.mp4", (432, 768), 139.4, 10.0, 1394),
  ],
)
def test_real_clip(shared_video, name, shape, duration_s, rate, frames):
  path = shared_video(name)
  info = video.probe(path)
  assert info.duration_s == pytest.approx(duration_s, abs=1e-3)
  assert info.fps == pytest.approx(rate)
  assert (info.height, info.width, info.frames) == (*shape, frames)
  fps = 2
  sampled = 0
  for frame in video.read_frames(path, fps=fps):
    assert frame.pixels.shape == (*shape, 3)
    assert frame.pixels.dtype == np.uint8
    assert frame.index == sampled
    assert frame.time_s == sampled / fps
    sampled += 1
  assert sampled == math.ceil(duration_s * fps)


def test_cuts_of_a_real_clip_are_where_its_annotation_says(shared_video):
  path = shared_video("multi_scene_revisit.mp4")
  annotation = shared_video("multi_scene_revisit.json").read_text()
  starts = [part["start_frame"] for part in json.loads(annotation)["segments"]]
  small = (
    frame.pixels[::3, ::3].astype(np.int16)
    for frame in video.read_frames(path, fps=10)
  )
  cuts = [
    index
    for index, (before, after) in enumerate(itertools.pairwise(small), start=1)
    if np.abs(after - before).mean() > 20
  ]
  assert cuts == starts[1:]


@pytest.mark.parametrize(
  ("name", "codec"),
  [
    ("a.mp4", "mpeg4"),
    ("a.mov", "mjpeg"),
    ("a.mkv", "mpeg4"),
    ("a.avi", "mpeg4"),
    ("a.ts", "mpeg2video"),
    ("a.m2v", "mpeg2video"),
    ("a.webm", "libvpx-vp9"),
    ("a.mp4", "libx264"),
    ("a.gif", "gif"),
  ],
)
def test_containers_and_codecs(tmp_path, name, codec):
  if codec not in av.codecs_available:
    pytest.skip(f"this build of PyAV has no {codec}")
  pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
  path = films.write_numbers(
    tmp_path / name,
    fps=25 if codec == "mpeg2video" else 10,
    codec=codec,
    pix_fmt=pix_fmt,
  )
  rate = video.probe(path).fps
  assert rate == pytest.approx(25 if codec == "mpeg2video" else 10)
  frames = list(video.read_frames(path, fps=rate))
  assert [frame.time_s for frame in frames] == [k / rate for k in range(30)]
  if codec == "gif":  # too few levels of grey to number frames
    assert len({frame.pixels.tobytes() for frame in frames}) > 3
  else:
    assert films.numbers(frames) == list(range(30))


def test_pixels_of_a_lossless_video_are_exact_rgb(tmp_path):
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 256, (3, 31, 45, 3), dtype=np.uint8)
  path = films.write(tmp_path / "a.mkv", pictures, codec="ffv1", pix_fmt="bgr0")
  decoded = [frame.pixels for frame in video.read_frames(path, fps=10)]
  np.testing.assert_array_equal(decoded, pictures)


def test_variable_frame_rate_shows_what_was_on_the_screen(tmp_path):
  times = [0, 100, 330, 370, 1340, 3000, 3010, 4900]
  path = films.write_numbers(tmp_path / "a.mkv", count=len(times), times=times)
  frames = list(video.read_frames(path, fps=2, max_frames=10))
  moments = [500 * k for k in range(10)]
  expected = [max(i for i, t in enumerate(times) if t <= m) for m in moments]
  assert films.numbers(frames) == expected
  assert [frame.time_s for frame in frames] == [m / 1000 for m in moments]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_clock_starts_at_the_first_picture(tmp_path, name):
  times = [10_000 + 40 * k for k in range(30)]
  path = films.write_numbers(tmp_path / name, times=times, fps=25)
  assert video.probe(path).duration_s == pytest.approx(1.2, abs=0.05)
  frames = list(video.read_frames(path, fps=12.5))
  assert films.numbers(frames) == list(range(0, 30, 2))
  assert frames[0].time_s == 0.0


def test_pictures_out_of_order_in_the_file_come_in_the_order_shown(tmp_path):
  if "libx264" not in av.codecs_available:
    pytest.skip("this build of PyAV has no encoder that reorders")
  path = films.write_numbers(
    tmp_path / "a.mp4", codec="libx264", codec_options={"bf": "3"}
  )
  with av.open(str(path)) as container:
    stamps = [p.pts for p in container.demux(video=0) if p.pts is not None]
  assert stamps != sorted(stamps)
  assert films.numbers(video.read_frames(path, fps=10)) == list(range(30))


def test_fps_above_the_rate_repeats_the_same_array(tmp_path):
  path = films.write_numbers(tmp_path / "a.mp4", count=4)
  frames = list(video.read_frames(path, fps=20))
  assert films.numbers(frames) == [0, 0, 1, 1, 2, 2, 3, 3]
  assert frames[0].pixels is frames[1].pixels


def test_max_frames_stops_early_and_reads_no_further(tmp_path):
  path = tmp_path / "a.mp4"
  broken = films.write_broken(path)
  frames = list(video.read_frames(broken, fps=2, max_frames=2))
  assert films.numbers(frames) == [0, 5]
  assert len(list(video.read_frames(path, fps=2, max_frames=99))) == 6


def test_loop_goes_on_for_ever_on_one_clock(tmp_path):
  path = films.write_numbers(tmp_path / "a.mp4", count=8)
  frames = video.read_frames(path, fps=5, loop=True)
  taken = list(itertools.islice(frames, 50))
  assert films.numbers(taken) == [0, 2, 4, 6] * 12 + [0, 2]
  assert [frame.time_s for frame in taken] == [k / 5 for k in range(50)]
  frames.close()


def test_loop_keeps_the_rhythm_when_fps_does_not_fit_the_length(tmp_path):
  path = films.write_numbers(tmp_path / "a.mp4", count=7)
  frames = video.read_frames(path, fps=5, loop=True, max_frames=8)
  assert films.numbers(frames) == [0, 2, 4, 6, 1, 3, 5, 0]


def test_a_first_frame_leaves_out_those_before_on_the_same_clock(tmp_path):
  path = films.write_numbers(tmp_path / "a.mp4", count=10)
  frames = list(video.read_frames(path, fps=5, first_frame=2, max_frames=2))
  assert films.numbers(frames) == [4, 6]
  assert [(one.index, one.time_s) for one in frames] == [(2, 0.4), (3, 0.6)]
  message = films.refusal(path, fps=5, first_frame=9)
  assert "ends at 1 s and frames from 1.8 s on are wanted" in message
