"""Videos from servers and live streams: they may lose and repeat pictures."""

import contextlib
import dataclasses
import functools
import http.server
import itertools
import threading

import av
import pytest

from tests import films
from vrex_jax import errors
from vrex_jax import video
from vrex_jax import video_file


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
  path = films.write_numbers(tmp_path / "a.mp4")
  expected = [0, 5, 10, 15, 20, 25]
  assert films.numbers(video.read_frames(f"file:{path}", fps=2)) == expected
  handler = functools.partial(QuietHandler, directory=str(tmp_path))
  with server(handler) as address:
    frames = video.read_frames(f"{address}/a.mp4", fps=2)
    assert films.numbers(frames) == expected
    assert video.probe(f"{address}/a.mp4").frames == 30
    assert "404" in films.refusal(f"{address}/b.mp4")
  assert "refused" in films.refusal(f"{address}/a.mp4")
  assert "Protocol not found" in films.refusal("nothing://a.mp4")


@pytest.mark.usefixtures("no_proxy")
def test_stream_with_no_end(tmp_path):
  """A server sends a transport stream again and again, clock and all."""
  path = films.write_numbers(tmp_path / "a.ts", codec="mpeg2video", fps=25)

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
  shown = films.numbers(taken)
  assert shown[:6] == [0, 5, 10, 15, 20, 25]
  # One pass takes 1.2 s, so it is on the screen for 6 samples.
  restarts = sum(after < before for before, after in itertools.pairwise(shown))
  assert restarts == pytest.approx(200 / 6, abs=2)


@pytest.mark.usefixtures("no_proxy")
def test_connection_that_is_lost_is_an_error(tmp_path):
  path = films.write_numbers(
    tmp_path / "a.mp4", container_options=films.FASTSTART
  )
  data = path.read_bytes()

  class Lossy(QuietHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data[: films.packet_ends(path)[20]])

  with server(Lossy) as address:
    frames, message = films.read_until_error(f"{address}/a.mp4", fps=5)
  assert films.numbers(frames) == list(range(0, 20, 2))
  assert "breaks off" in message


def test_stream_joined_late_starts_with_the_first_good_picture(tmp_path):
  path = films.write_numbers(
    tmp_path / "a.ts",
    codec="mpeg2video",
    fps=25,
    codec_options={"g": "10"},
  )
  data = path.read_bytes()
  late = tmp_path / "late.ts"
  late.write_bytes(data[films.packet_ends(path)[4] // 188 * 188 + 188 :])
  frames = list(video.read_frames(late, fps=25))
  assert frames[0].time_s == 0.0
  assert films.numbers(frames)[-20:] == list(range(10, 30))


def test_live_stream_goes_on_after_a_picture_that_makes_no_sense(tmp_path):
  """A recording of a live stream: it declares no length."""
  path = films.write_numbers(
    tmp_path / "a.mkv",
    codec="mjpeg",
    pix_fmt="yuvj420p",
    container_options={"live": "1"},
  )
  films.damage(path, 10, "mjpeg")
  assert video.probe(path).duration_s is None
  shown = films.numbers(video.read_frames(path, fps=10))
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
  path = films.write_numbers(tmp_path / name)
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
  first = films.write_numbers(tmp_path / "a.ts", count=20)
  later = [10_000_000 + 100 * k for k in range(20)]
  second = films.write_numbers(tmp_path / "b.ts", count=20, times=later)
  joined = tmp_path / "joined.ts"
  joined.write_bytes(first.read_bytes() + second.read_bytes())
  frames = list(video.read_frames(joined, fps=10, max_frames=100))
  assert films.numbers(frames) == [*range(20), *range(20)]
