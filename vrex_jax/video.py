"""Video in: any file or URL that PyAV opens, as an iterator of RGB pictures.

  source ─► decode ────────► regular clock ─► sample at fps ─► upright ─► frame
            (video_file.py)  (sampling.py)    (sampling.py)

Everything is lazy, so a stream with no end works; only what is sampled becomes
an array. Pictures keep their size (`resize.py` makes the model's) and are taken
as coded: pixels that are not square stay so.
"""

import fcntl
import itertools
import math
import os
import select
import stat
import termios
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from vrex_jax import sampling
from vrex_jax import video_file
from vrex_jax.errors import InputError
from vrex_jax.typing import Frame

__all__ = [
  "Frames",
  "VideoFrame",
  "VideoInfo",
  "is_empty",
  "opens_again",
  "probe",
  "read_frames",
]

_STANDARD_INPUT = ("pipe:", "pipe:0", "fd:", "/dev/stdin")


class VideoFrame(NamedTuple):
  """One sampled picture.

  Attributes:
    pixels: u8[height, width, 3], RGB, upright; a picture that is sampled twice
      in a row is one array.
    time_s: index / fps, seconds since the first picture of the video; goes on
      growing when the video is looped.
    index: number of the sample, from 0.
  """

  pixels: Frame
  time_s: float
  index: int  # type: ignore[assignment]  # hides tuple.index


class VideoInfo(NamedTuple):
  """What a file says of itself, unchecked.

  Attributes:
    duration_s: length in seconds, None if not declared (a live stream).
    fps: mean frame rate, None if not declared.
    width: of an upright picture, in pixels.
    height: of an upright picture, in pixels.
    frames: number of pictures, None if not declared.
  """

  duration_s: float | None
  fps: float | None
  width: int
  height: int
  frames: int | None


def read_frames(
  source: str | os.PathLike[str],
  *,
  fps: float,
  max_frames: int | None = None,
  loop: bool = False,
  first_frame: int = 0,
) -> "Frames":
  """Decodes a video, sampled at a steady rate.

  Sample k is the picture on the screen k / fps seconds after the first one
  (`sampling.sample`): a picture is repeated where the video is slower than
  fps, and a video of duration d gives ceil(d fps) samples. The first picture
  is decoded during the call, so a source that cannot be used is refused there.

  Args:
    source: path, or URL that PyAV opens.
    fps: samples per second, above 0.
    max_frames: stop after this many samples; None for all.
    loop: start again at the end, for ever, on the same clock.
    first_frame: number of the first sample; those before are left out, and
      clocks go on counting from the video's begin.

  Returns:
    Generator of `VideoFrame`, times strictly increasing. The file is closed at
    the generator's end, by its `close`, or when it is dropped.

  Raises:
    InputError: on the call: an fps or max_frames not above 0, PyAV missing, no
      such file, a directory, not a video, no video stream, no picture. While
      iterating: a video that breaks off, after the frames before the break.

  Example:
    >>> import tempfile
    >>> from vrex_jax.tasks import render
    >>> pictures = np.zeros((4, 32, 48, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   render.write_mp4(f"{folder}/a.mp4", pictures, fps=4)
    ...   [frame.time_s for frame in read_frames(f"{folder}/a.mp4", fps=2)]
    [0.0, 0.5]
  """
  if not 0 < fps < math.inf:
    raise InputError(
      f"fps is {fps}; it must be a number above 0: try 2 samples per second"
    )
  if max_frames is not None and max_frames < 1:
    raise InputError(
      f"max_frames is {max_frames}; it must be at least 1: leave it out to read"
      " the whole video"
    )
  return Frames(os.fspath(source), fps, max_frames, loop, first_frame)


def probe(source: str | os.PathLike[str]) -> VideoInfo:
  """Opens a video, decodes one picture and says what the file declares.

  Args:
    source: path, or URL that PyAV opens.

  Returns:
    What the container declares, and the size of an upright picture.

  Raises:
    InputError: as `read_frames` on the call.

  Example:
    >>> probe("nowhere.mp4")
    Traceback (most recent call last):
        ...
    vrex_jax.errors.InputError: there is no file nowhere.mp4; ...
  """
  with video_file.open_video(os.fspath(source)) as file:
    _, _, picture = next(file.pictures())
    height, width, _ = video_file.upright(picture).shape
    rate = file.stream.average_rate
    return VideoInfo(
      duration_s=file.end_s - file.start_s if file.end_s is not None else None,
      fps=float(rate) if rate else None,
      width=width,
      height=height,
      frames=file.stream.frames or None,
    )


def opens_again(source: str | os.PathLike[str]) -> bool:
  """Whether a source can be opened a second time and says the same again.

  Not so for pipes: what was read is gone.

  Args:
    source: path, or URL that PyAV opens.

  Example:
    >>> opens_again("clip.mp4"), opens_again("pipe:0")
    (True, False)
  """
  source = os.fspath(source)
  try:
    kind = os.stat(source).st_mode
  except (OSError, ValueError):
    return not source.startswith(("pipe:", "fd:"))
  return stat.S_ISREG(kind) or stat.S_ISDIR(kind)


def is_empty(source: str | os.PathLike[str]) -> bool:
  """Whether a source that is no file has ended before its first byte.

  So it is with /dev/null, and with standard input where its writer has left.
  Nothing is read and nothing waited for: a writer that has yet to write counts.

  Args:
    source: path, or URL that PyAV opens.

  Example:
    >>> is_empty("/dev/null"), is_empty("clip.mp4")
    (True, False)
  """
  source = os.fspath(source)
  is_input = source in _STANDARD_INPUT
  try:
    status = os.fstat(0) if is_input else os.stat(source)
    if os.path.samestat(status, os.stat(os.devnull)):
      return True
    if not is_input or not stat.S_ISFIFO(status.st_mode):
      return False
    readable, _, _ = select.select([0], [], [], 0.0)
    waiting = fcntl.ioctl(0, termios.FIONREAD, bytes(4))
  except (OSError, ValueError):
    return False
  return bool(readable) and not any(waiting)


class Frames(Generator[VideoFrame, None, None]):
  """Sampled pictures of a source, from `read_frames`.

  Not a generator function: closing one that has not started would not close
  the file.

  """

  def __init__(
    self,
    source: str,
    fps: float,
    max_frames: int | None,
    loop: bool,
    first_frame: int = 0,
  ):
    self._clock = _Clock()
    self._rest = _read(source, fps, max_frames, loop, first_frame, self._clock)
    self._first: VideoFrame | None = next(self._rest, None)
    if self._first is None:
      raise InputError(
        f"{source} ends at {self.end_s:g} s and frames from"
        f" {first_frame / fps:g} s on are wanted: begin earlier"
      )

  @property
  def end_s(self) -> float:
    """End of the last picture decoded so far, seconds since the first began."""
    return self._clock.end_s

  def send(self, value: None) -> VideoFrame:
    """Decodes up to the next frame."""
    first, self._first = self._first, None
    return self._rest.send(value) if first is None else first

  def throw(self, *error: Any) -> VideoFrame:
    """Raises inside, as for every generator; closes the file."""
    self._first = None
    return self._rest.throw(*error)

  def close(self) -> None:
    """Closes the file."""
    self._first = None
    self._rest.close()


class _Clock:
  """Dynamic. How far decoding has come; apart, as `Frames` must not be kept."""

  end_s = 0.0

  def watch(
    self, pictures: Iterator[tuple[float, float, Any]]
  ) -> Iterator[tuple[float, float, Any]]:
    for picture in pictures:
      self.end_s = picture[1]
      yield picture


def _read(
  source: str,
  fps: float,
  max_frames: int | None,
  loop: bool,
  first_frame: int,
  clock: _Clock,
) -> Generator[VideoFrame, None, None]:
  shown, pixels = None, np.zeros(0, np.uint8)
  samples = sampling.sample(clock.watch(_play(source, loop)), fps=fps)
  end = None if max_frames is None else first_frame + max_frames
  for index, picture in itertools.islice(samples, first_frame, end):
    if picture is not shown:
      shown, pixels = picture, video_file.upright(picture)
    yield VideoFrame(pixels, index / fps, index)


def _play(source: str, loop: bool) -> Iterator[tuple[float, float, Any]]:
  """(start_s, end_s, picture) of one pass or of endless passes, end to end."""
  offset = 0.0
  while True:
    end = 0.0
    for start, end, picture in _play_once(source):
      yield offset + start, offset + end, picture
    if not loop:
      return
    offset += end


def _play_once(source: str) -> Iterator[tuple[float, float, Any]]:
  with video_file.open_video(source) as file:
    yield from sampling.regular_clock(
      file.pictures(), interval_s=file.interval_s, max_gap_s=file.max_gap_s
    )
