"""Decoding of real and made videos: what is sampled, when, and what is refused.

Made videos carry their frame number as a level of grey, so that a decoded
frame says which one it is.
"""

import contextlib
import dataclasses
import fractions
import functools
import http.server
import itertools
import json
import math
import os
import pathlib
import struct
import sys
import threading

import av
import numpy as np
import pytest
from PIL import Image

from vrex_jax import errors
from vrex_jax import video
from vrex_jax import video_file

HAS_X264 = "libx264" in av.codecs_available
LEVEL = 7
"""Grey levels between one frame and the next."""


def number_of(pixels):
  """Frame number that a made picture shows."""
  return round((float(pixels.mean()) - 20.0) / LEVEL)


def grey(number, height=48, width=64):
  return np.full((height, width, 3), 20 + LEVEL * number, np.uint8)


def write(
  path,
  pictures,
  *,
  fps=10,
  times=None,
  codec="mpeg4",
  pix_fmt="yuv420p",
  container_options=None,
  codec_options=None,
  sound_s=None,
):
  """Writes a video with PyAV alone; times are in milliseconds."""
  millisecond = fractions.Fraction(1, 1000)
  with av.open(str(path), "w", options=container_options or {}) as container:
    stream = container.add_stream(codec, rate=fps, options=codec_options or {})
    stream.pix_fmt = pix_fmt
    stream.bit_rate = 2_000_000
    if sound_s is not None:
      sound = container.add_stream("aac", rate=16000)
    if times is not None:
      stream.codec_context.time_base = millisecond
    stream.height, stream.width, _ = pictures[0].shape
    for index, pixels in enumerate(pictures):
      picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      if times is not None:
        picture.pts, picture.time_base = times[index], millisecond
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
    if sound_s is not None:
      write_silence(container, sound, sound_s)
  return path


def write_numbers(path, count=30, **options):
  return write(path, [grey(number) for number in range(count)], **options)


def write_silence(container, stream, seconds):
  """Fills a stream of sound that was added before anything was written."""
  for _ in range(math.ceil(seconds * 16000 / 1024)):
    samples = np.zeros((1, 1024), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
  container.mux(stream.encode())


def cut(path, size):
  """A copy of the first `size` bytes."""
  copy = path.with_name(f"cut_{path.name}")
  copy.write_bytes(path.read_bytes()[:size])
  return copy


def packet_ends(path):
  """Where each packet of the video stream ends in the file, in bytes."""
  with av.open(str(path)) as container:
    return [
      packet.pos + packet.size
      for packet in container.demux(video=0)
      if packet.pos is not None and packet.size
    ]


def numbers(frames):
  return [number_of(frame.pixels) for frame in frames]


def read_until_error(source, **options):
  """The frames before the error, and its message."""
  frames = []
  try:
    for frame in video.read_frames(source, **options):
      frames.append(frame)
  except errors.InputError as error:
    return frames, str(error)
  raise AssertionError(f"{source} was read to its end")


def refusal(source, **options):
  """Message of a source that is refused on the call, before iterating."""
  with pytest.raises(errors.InputError) as caught:
    video.read_frames(source, **{"fps": 2, **options})
  message = str(caught.value)
  assert "\n" not in message
  return message


# Real clips.


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


# Sampling of files.


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
  path = write_numbers(
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
    assert numbers(frames) == list(range(30))


def test_pixels_of_a_lossless_video_are_exact_rgb(tmp_path):
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 256, (3, 31, 45, 3), dtype=np.uint8)
  path = write(tmp_path / "a.mkv", pictures, codec="ffv1", pix_fmt="bgr0")
  decoded = [frame.pixels for frame in video.read_frames(path, fps=10)]
  np.testing.assert_array_equal(decoded, pictures)


def test_variable_frame_rate_shows_what_was_on_the_screen(tmp_path):
  times = [0, 100, 330, 370, 1340, 3000, 3010, 4900]
  path = write_numbers(tmp_path / "a.mkv", count=len(times), times=times)
  frames = list(video.read_frames(path, fps=2, max_frames=10))
  moments = [500 * k for k in range(10)]
  expected = [max(i for i, t in enumerate(times) if t <= m) for m in moments]
  assert numbers(frames) == expected
  assert [frame.time_s for frame in frames] == [m / 1000 for m in moments]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_clock_starts_at_the_first_picture(tmp_path, name):
  times = [10_000 + 40 * k for k in range(30)]
  path = write_numbers(tmp_path / name, times=times, fps=25)
  assert video.probe(path).duration_s == pytest.approx(1.2, abs=0.05)
  frames = list(video.read_frames(path, fps=12.5))
  assert numbers(frames) == list(range(0, 30, 2))
  assert frames[0].time_s == 0.0


def test_pictures_out_of_order_in_the_file_come_in_the_order_shown(tmp_path):
  if not HAS_X264:
    pytest.skip("this build of PyAV has no encoder that reorders")
  path = write_numbers(
    tmp_path / "a.mp4", codec="libx264", codec_options={"bf": "3"}
  )
  with av.open(str(path)) as container:
    stamps = [p.pts for p in container.demux(video=0) if p.pts is not None]
  assert stamps != sorted(stamps)
  assert numbers(video.read_frames(path, fps=10)) == list(range(30))


def test_fps_above_the_rate_repeats_the_same_array(tmp_path):
  path = write_numbers(tmp_path / "a.mp4", count=4)
  frames = list(video.read_frames(path, fps=20))
  assert numbers(frames) == [0, 0, 1, 1, 2, 2, 3, 3]
  assert frames[0].pixels is frames[1].pixels


def test_max_frames_stops_early_and_reads_no_further(tmp_path):
  path = write_numbers(
    tmp_path / "a.mp4", container_options={"movflags": "faststart"}
  )
  broken = cut(path, packet_ends(path)[14])
  frames = list(video.read_frames(broken, fps=2, max_frames=2))
  assert numbers(frames) == [0, 5]
  assert len(list(video.read_frames(path, fps=2, max_frames=99))) == 6


def test_loop_goes_on_for_ever_on_one_clock(tmp_path):
  path = write_numbers(tmp_path / "a.mp4", count=8)
  frames = video.read_frames(path, fps=5, loop=True)
  taken = list(itertools.islice(frames, 50))
  assert numbers(taken) == [0, 2, 4, 6] * 12 + [0, 2]
  assert [frame.time_s for frame in taken] == [k / 5 for k in range(50)]
  frames.close()


def test_loop_keeps_the_rhythm_when_fps_does_not_fit_the_length(tmp_path):
  path = write_numbers(tmp_path / "a.mp4", count=7)
  frames = video.read_frames(path, fps=5, loop=True, max_frames=8)
  assert numbers(frames) == [0, 2, 4, 6, 1, 3, 5, 0]


# Turned and mirrored pictures.

ONE = 1 << 16
UPRIGHT_MATRIX = (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)


def write_with_matrix(path, matrix):
  """Three frames, bright in the top left corner, shown through a matrix.

  QuickTime's matrix (a b u / c d v / x y w) takes a point (p, q), q downwards,
  to (a p + c q + x, b p + d q + y). It is put into the track header.
  """
  pixels = np.zeros((48, 64, 3), np.uint8)
  pixels[:16, :16] = 255
  write(path, [pixels] * 3)
  data = path.read_bytes()
  assert data.count(struct.pack(">9i", *UPRIGHT_MATRIX)) == 2
  place = data.rindex(struct.pack(">9i", *UPRIGHT_MATRIX))
  assert data.rindex(b"tkhd") < place
  patch = struct.pack(">9i", *matrix)
  path.write_bytes(data[:place] + patch + data[place + len(patch) :])
  return path


@pytest.mark.parametrize(
  ("matrix", "size", "corner"),
  [
    (UPRIGHT_MATRIX, (48, 64), "top left"),
    ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "top right"),
    ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (48, 64), "bottom right"),
    ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "bottom left"),
    ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), (48, 64), "top right"),
    ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (48, 64), "bottom left"),
    ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "top left"),
    ((0, -ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "bottom right"),
    ((0,) * 9, (48, 64), "top left"),
  ],
  ids=[
    "none",
    "clockwise",
    "half",
    "counter-clockwise",
    "mirrored across",
    "mirrored down",
    "transposed",
    "transposed, half",
    "broken",
  ],
)
def test_the_display_matrix_is_applied(tmp_path, matrix, size, corner):
  path = write_with_matrix(tmp_path / "a.mp4", matrix)
  info = video.probe(path)
  assert (info.height, info.width) == size
  for frame in video.read_frames(path, fps=10):
    assert frame.pixels.shape == (*size, 3)
    assert frame.pixels.flags.c_contiguous
    brightness = {
      "top left": frame.pixels[:12, :12].mean(),
      "top right": frame.pixels[:12, -12:].mean(),
      "bottom left": frame.pixels[-12:, :12].mean(),
      "bottom right": frame.pixels[-12:, -12:].mean(),
    }
    assert brightness.pop(corner) > 200
    assert max(brightness.values()) < 50


# URLs and streams.


@contextlib.contextmanager
def server(handler):
  """Address of a web server on this machine that lives as long as the block."""
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
      yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
      httpd.shutdown()
      thread.join()


@pytest.fixture
def no_proxy(monkeypatch):
  """FFmpeg asks a proxy for this machine too, unless told not to."""
  monkeypatch.setenv("no_proxy", "127.0.0.1")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *arguments):
    del arguments


@pytest.mark.usefixtures("no_proxy")
def test_urls(tmp_path):
  path = write_numbers(tmp_path / "a.mp4")
  expected = [0, 5, 10, 15, 20, 25]
  assert numbers(video.read_frames(f"file:{path}", fps=2)) == expected
  handler = functools.partial(QuietHandler, directory=str(tmp_path))
  with server(handler) as address:
    frames = video.read_frames(f"{address}/a.mp4", fps=2)
    assert numbers(frames) == expected
    assert video.probe(f"{address}/a.mp4").frames == 30
    assert "404" in refusal(f"{address}/b.mp4")
  assert "refused" in refusal(f"{address}/a.mp4")
  assert "Protocol not found" in refusal("nothing://a.mp4")


@pytest.mark.usefixtures("no_proxy")
def test_stream_with_no_end(tmp_path):
  """A server sends a transport stream again and again, clock and all."""
  path = write_numbers(tmp_path / "a.ts", codec="mpeg2video", fps=25)

  class Endless(QuietHandler):
    def do_GET(self):
      self.send_response(200)
      self.end_headers()
      with contextlib.suppress(OSError):
        while True:
          self.wfile.write(path.read_bytes())

  with server(Endless) as address:
    frames = video.read_frames(address, fps=5)
    taken = list(itertools.islice(frames, 200))
    frames.close()
  assert [frame.time_s for frame in taken] == [k / 5 for k in range(200)]
  shown = numbers(taken)
  assert shown[:6] == [0, 5, 10, 15, 20, 25]
  # One pass takes 1.2 s, so it is on the screen for 6 samples.
  restarts = sum(after < before for before, after in itertools.pairwise(shown))
  assert restarts == pytest.approx(200 / 6, abs=2)


@pytest.mark.usefixtures("no_proxy")
def test_connection_that_is_lost_is_an_error(tmp_path):
  path = write_numbers(
    tmp_path / "a.mp4", container_options={"movflags": "faststart"}
  )
  data = path.read_bytes()

  class Lossy(QuietHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data[: packet_ends(path)[20]])

  with server(Lossy) as address:
    frames, message = read_until_error(f"{address}/a.mp4", fps=5)
  assert numbers(frames) == list(range(0, 20, 2))
  assert "breaks off" in message


def test_stream_joined_late_starts_with_the_first_good_picture(tmp_path):
  path = write_numbers(
    tmp_path / "a.ts",
    codec="mpeg2video",
    fps=25,
    codec_options={"g": "10"},
  )
  data = path.read_bytes()
  late = tmp_path / "late.ts"
  late.write_bytes(data[packet_ends(path)[4] // 188 * 188 + 188 :])
  frames = list(video.read_frames(late, fps=25))
  assert frames[0].time_s == 0.0
  assert numbers(frames)[-20:] == list(range(10, 30))


def damage(path, index, codec_name):
  """Overwrites picture `index` with zeros."""
  with av.open(str(path)) as container:
    assert container.streams.video[0].codec_context.name == codec_name
    packet = next(itertools.islice(container.demux(video=0), index, None))
    payload = bytes(packet)
  data = path.read_bytes()
  assert data.count(payload) == 1
  path.write_bytes(data.replace(payload, bytes(len(payload))))


def test_live_stream_goes_on_after_a_picture_that_makes_no_sense(tmp_path):
  """A recording of a live stream: it declares no length."""
  path = write_numbers(
    tmp_path / "a.mkv",
    codec="mjpeg",
    pix_fmt="yuvj420p",
    container_options={"live": "1"},
  )
  damage(path, 10, "mjpeg")
  assert video.probe(path).duration_s is None
  shown = numbers(video.read_frames(path, fps=10))
  assert shown == [*range(10), 9, *range(11, 30)]


class NoisyLink:
  """A container with a packet of noise between two others."""

  def __init__(self, container):
    self.container = container

  def __getattr__(self, name):
    return getattr(self.container, name)

  def demux(self, streams):
    for index, packet in enumerate(self.container.demux(streams)):
      if index == 10:
        noise = av.Packet(b"no picture at all")
        noise.stream = streams[0]
        yield noise
      yield packet


@pytest.mark.parametrize(("name", "lossy"), [("a.ts", True), ("a.mp4", False)])
def test_noise_is_left_out_of_formats_for_lossy_links_only(
  tmp_path, name, lossy
):
  path = write_numbers(tmp_path / name)
  with video_file.open_video(str(path)) as file:
    noisy = dataclasses.replace(file, container=NoisyLink(file.container))
    pictures = noisy.pictures()
    if lossy:
      assert len(list(pictures)) == 30
    else:
      with pytest.raises(errors.InputError, match="breaks off after"):
        list(pictures)


def test_transport_stream_may_leap_in_time(tmp_path):
  """The clock of the second part is hours ahead; nothing lies between."""
  first = write_numbers(tmp_path / "a.ts", count=20)
  later = [10_000_000 + 100 * k for k in range(20)]
  second = write_numbers(tmp_path / "b.ts", count=20, times=later)
  joined = tmp_path / "joined.ts"
  joined.write_bytes(first.read_bytes() + second.read_bytes())
  frames = list(video.read_frames(joined, fps=10, max_frames=100))
  assert numbers(frames) == [*range(20), *range(20)]


# Files that break off.


@pytest.mark.parametrize("part", [0.35, 0.6, 0.97])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_mp4_cut_short_gives_what_it_has_and_an_error(tmp_path, codec, part):
  if codec not in av.codecs_available:
    pytest.skip(f"this build of PyAV has no {codec}")
  path = write_numbers(
    tmp_path / "a.mp4",
    codec=codec,
    container_options={"movflags": "faststart"},
  )
  whole = numbers(video.read_frames(path, fps=10))
  ends = packet_ends(path)
  broken = cut(path, int(ends[0] + part * (ends[-1] - ends[0])))
  frames, message = read_until_error(broken, fps=10)
  assert 5 < len(frames) < 30
  assert numbers(frames) == whole[: len(frames)]
  assert "cut_a.mp4 breaks off after" in message
  assert "of 30 frames" in message
  assert "of 3.0 s" in message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_clean_cut_between_two_pictures_is_noticed(tmp_path, name):
  options = {"movflags": "faststart"} if name == "a.mp4" else {}
  path = write_numbers(tmp_path / name, container_options=options)
  broken = cut(path, packet_ends(path)[14])
  frames, message = read_until_error(broken, fps=10)
  assert numbers(frames) == list(range(len(frames)))
  assert 12 <= len(frames) <= 15
  assert "breaks off after" in message
  assert "of 3.0 s" in message


@pytest.mark.parametrize("index", [0, 11])
def test_picture_that_makes_no_sense_breaks_a_file(tmp_path, index):
  path = write_numbers(tmp_path / "a.mp4", codec="mjpeg", pix_fmt="yuvj420p")
  damage(path, index, "mjpeg")
  if index == 0:
    message = refusal(path)
  else:
    frames, message = read_until_error(path, fps=10)
    assert numbers(frames) == list(range(len(frames)))
    assert index - 1 <= len(frames) <= index
  assert f"breaks off after {index} of 30 frames" in message


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("sound_s", [1.0, 6.0])
def test_sound_of_another_length_is_no_break(tmp_path, name, sound_s):
  path = write_numbers(tmp_path / name, sound_s=sound_s)
  assert numbers(video.read_frames(path, fps=2)) == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_cut_of_a_file_with_sound_is_noticed(tmp_path, name):
  options = {"movflags": "faststart"} if name == "a.mp4" else {}
  path = write_numbers(tmp_path / name, sound_s=3.0, container_options=options)
  broken = cut(path, packet_ends(path)[14])
  frames, message = read_until_error(broken, fps=10)
  assert numbers(frames) == list(range(len(frames)))
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
      picture = av.VideoFrame.from_ndarray(grey(number), format="rgb24")
      picture.pts, picture.time_base = 5000 * number, millisecond
      for packet in stream.encode(picture):
        packet.duration = 5000
        container.mux(packet)
  assert video.probe(path).duration_s == 20.0
  assert numbers(video.read_frames(path, fps=0.4)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_loop_stops_where_the_file_breaks_off(tmp_path):
  path = write_numbers(
    tmp_path / "a.mp4", container_options={"movflags": "faststart"}
  )
  broken = cut(path, packet_ends(path)[14])
  frames, message = read_until_error(broken, fps=10, loop=True)
  assert len(frames) <= 15
  assert "breaks off" in message


# Sources that are refused.


def test_no_file(tmp_path):
  path = tmp_path / "nowhere.mp4"
  assert f"there is no file {path}" in refusal(path)
  assert "there is no file ''" in refusal("")
  with pytest.raises(errors.InputError, match="there is no file"):
    video.probe(path)


def test_directory(tmp_path):
  assert f"{tmp_path} is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.mp4", "a.nfo", "a"])
def test_text(tmp_path, name):
  path = tmp_path / name
  path.write_text("What is happening in the video?\n" * 50)
  message = refusal(path)
  assert "is a text file" in message or "is not a video" in message


def test_empty_file_and_noise(tmp_path):
  path = tmp_path / "a.mp4"
  path.touch()
  assert "is not a video" in refusal(path)
  path.write_bytes(np.random.default_rng(0).bytes(5000))
  assert "is not a video" in refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_still_picture(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  Image.fromarray(grey(3)).save(path)
  assert f"{path} is a still picture" in refusal(path)


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


def test_mp4_that_lost_its_index(tmp_path):
  path = write_numbers(tmp_path / "a.mp4")
  size = path.stat().st_size
  assert "mp4 cut short" in refusal(cut(path, size // 2))
  assert "that the file is whole" in refusal(cut(path, size * 3 // 4))


def test_audio_only(tmp_path):
  path = tmp_path / "a.m4a"
  with av.open(str(path), "w", format="mp4") as container:
    sound = container.add_stream("aac", rate=16000)
    write_silence(container, sound, 1.0)
  assert "no moving pictures but only audio" in refusal(path)


def test_cover_art_is_no_video(tmp_path):
  path = tmp_path / "a.m4a"
  with av.open(str(path), "w", format="mp4") as container:
    cover = container.add_stream("mjpeg", rate=1)
    cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
    cover.disposition = av.stream.Disposition.attached_pic.value
    sound = container.add_stream("aac", rate=16000)
    picture = av.VideoFrame.from_ndarray(grey(0), format="rgb24")
    container.mux(cover.encode(picture))
    container.mux(cover.encode())
    write_silence(container, sound, 1.0)
  assert "no moving pictures but only audio" in refusal(path)


def test_video_stream_without_pictures(tmp_path):
  path = tmp_path / "a.avi"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    container.start_encoding()
  assert "no picture that can be decoded" in refusal(path)


def test_unknown_codec(tmp_path):
  path = write_numbers(tmp_path / "a.mkv")
  data = path.read_bytes()
  assert b"V_MPEG4/ISO/ASP" in data
  path.write_bytes(data.replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/NO/NE"))
  assert "cannot decode" in refusal(path)


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
def test_bad_fps(tmp_path, fps):
  path = write_numbers(tmp_path / "a.mp4")
  assert f"fps is {fps}; it must be" in refusal(path, fps=fps)


@pytest.mark.parametrize("max_frames", [0, -3])
def test_bad_max_frames(tmp_path, max_frames):
  path = write_numbers(tmp_path / "a.mp4")
  message = refusal(path, max_frames=max_frames)
  assert f"max_frames is {max_frames}; it must be" in message


def test_without_pyav_the_way_to_get_it_is_told(tmp_path, monkeypatch):
  path = write_numbers(tmp_path / "a.mp4")
  monkeypatch.setitem(sys.modules, "av", None)
  assert "pip install vrex_jax[video]" in refusal(path)


# Resources.


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
  path = write_numbers(tmp_path / "a.mp4")
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
  refusal(text)
  assert open_files(text) == 0
  path = write_numbers(
    tmp_path / "a.mp4", container_options={"movflags": "faststart"}
  )
  broken = cut(path, packet_ends(path)[14])
  read_until_error(broken, fps=2)
  assert open_files(broken) == 0
