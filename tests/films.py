"""Videos made for tests with PyAV alone, and what reading them gives.

A frame carries its number as a level of grey, so that a decoded frame says
which one it is.
"""

import fractions
import itertools
import math

import av
import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax import video

__all__ = [
  "FASTSTART",
  "cut",
  "damage",
  "grey",
  "numbers",
  "packet_ends",
  "read_until_error",
  "refusal",
  "write",
  "write_broken",
  "write_numbers",
  "write_silence",
]

FASTSTART = {"movflags": "faststart"}
"""Options of an mp4 whose index comes first: it can be read when cut short."""

_LEVEL = 7
"""Grey levels between one frame and the next."""


def grey(number, height=48, width=64):
  """The picture of one number."""
  return np.full((height, width, 3), 20 + _LEVEL * number, np.uint8)


def numbers(frames):
  """The numbers that sampled frames show."""
  return [
    round((float(frame.pixels.mean()) - 20.0) / _LEVEL) for frame in frames
  ]


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
  """Writes a video; times are in milliseconds."""
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
  """Writes frames 0 … count - 1."""
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


def write_broken(path, **options):
  """A copy that ends between two of the 30 pictures; `path` is whole."""
  early = FASTSTART if path.suffix == ".mp4" else {}
  write_numbers(path, container_options=early, **options)
  return cut(path, packet_ends(path)[14])


def damage(path, index, codec_name):
  """Overwrites picture `index` with zeros."""
  with av.open(str(path)) as container:
    assert container.streams.video[0].codec_context.name == codec_name
    packet = next(itertools.islice(container.demux(video=0), index, None))
    payload = bytes(packet)
  data = path.read_bytes()
  assert data.count(payload) == 1
  path.write_bytes(data.replace(payload, bytes(len(payload))))


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
