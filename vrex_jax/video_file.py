"""One open video file: what it declares, its pictures, and where it breaks off.

All reading through PyAV is here. It is an optional package, imported when a
file is opened.

A file that breaks off is never passed off as a whole one: the pictures before
the break come out, then `InputError`. A break shows as data that cannot be
decoded, or as an end more than `MISSING_S` before the one the file declares. No
clean cut can be seen in what declares no length (live streams) or only what is
left of it (MPEG-TS, AVI, fragmented mp4). Live streams and formats made for
lossy links (MPEG-TS, HLS) may lose pictures on the way without an error.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.typing import Frame

__all__ = ["MISSING_S", "VideoFile", "open_video", "upright"]

MISSING_S = 0.5
"""A file may end this much before its declared end and still be whole."""
MAX_GAP_S = 10.0
"""Longest step that is believed of a clock that may be set anew."""
DEFAULT_RATE = 25
"""Pictures per second of a file without time stamps or frame rate."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VideoFile:
  """Static. An open container and its stream of moving pictures.

  Attributes:
    source: path or URL, for messages.
    container: PyAV's input container.
    stream: its video stream that is read.
  """

  source: str
  container: Any
  stream: Any

  @property
  def start_s(self) -> float:
    """First moment, in seconds of the file's own clock."""
    if self.stream.duration is not None:
      return float((self.stream.start_time or 0) * self.stream.time_base)
    return (self.container.start_time or 0) / 1e6

  @property
  def end_s(self) -> float | None:
    """Declared end; None if there is none, as in a live stream."""
    if self.stream.duration is not None:
      return self.start_s + float(self.stream.duration * self.stream.time_base)
    if self.container.duration is None:
      return None
    length_s = self.container.duration / 1e6
    # Matroska declares where its clock ends rather than how long it runs.
    counts_from_zero = "matroska" in self.container.format.name
    return length_s if counts_from_zero else self.start_s + length_s

  @property
  def interval_s(self) -> float:
    """Usual time from one picture to the next."""
    rate = self.stream.average_rate or self.stream.guessed_rate
    return float(1 / (rate or DEFAULT_RATE))

  @property
  def is_lossy(self) -> bool:
    """Made for lossy links: packets get lost, clocks are set anew."""
    av = _import_av()
    flag = av.format.Flags.ts_discont.value
    return bool(self.container.format.flags & flag)

  @property
  def max_gap_s(self) -> float:
    """Longest step between pictures that is believed."""
    return MAX_GAP_S if self.is_lossy else math.inf

  def pictures(self) -> Iterator[tuple[float | None, float, Any]]:
    """Decodes; to be called once.

    Yields:
      (time_s or None, duration_s or 0, PyAV's picture), in the order shown,
      by the file's own clock.

    Raises:
      InputError: the file breaks off, after the last good picture; or there is
        no picture at all.
    """
    av = _import_av()
    count, latest_s, reached_s = 0, self.start_s, None
    try:
      for packet in self.container.demux(self._followed()):
        if packet.pts is not None:
          end = (packet.pts + (packet.duration or 0)) * packet.time_base
          reached_s = max(float(end), reached_s or 0.0)
        if packet.stream.index != self.stream.index:
          continue
        for picture in self._decode(packet):
          count += 1
          latest_s = picture.time if picture.time is not None else latest_s
          duration = (picture.duration or 0) * (picture.time_base or 0)
          yield picture.time, float(duration), picture
    except av.error.FFmpegError as error:
      raise self._breaks_off(count, latest_s) from error
    if not count:
      raise InputError(
        f"{self.source} has a video stream but no picture that can be decoded;"
        " at least one is needed: check that the file is whole"
      )
    # Without time stamps a declared end is a guess from the file's size.
    if self.end_s is None or reached_s is None:
      return
    if self.end_s - reached_s > MISSING_S:
      raise self._breaks_off(count, latest_s)

  def _followed(self) -> list[Any]:
    """Streams whose packets tell how far the file goes.

    A container that declares one length for all its streams means the longest.
    """
    if self.stream.duration is not None or self.container.duration is None:
      return [self.stream]
    return [
      stream
      for stream in self.container.streams
      if stream.type in ("video", "audio", "subtitle")
      and stream.codec_context is not None
    ]

  def _decode(self, packet: Any) -> list[Any]:
    av = _import_av()
    try:
      return packet.decode()
    except av.error.InvalidDataError:
      # Such a stream may lose packets, or be joined at pictures that need
      # earlier ones: that is no broken file.
      if self.is_lossy or self.end_s is None:
        return []
      raise

  def _breaks_off(self, count: int, latest_s: float) -> InputError:
    frames = f" of {self.stream.frames}" if self.stream.frames else ""
    length = f" of {self.end_s - self.start_s:.1f}" if self.end_s else ""
    return InputError(
      f"{self.source} breaks off after {count}{frames} frames, at"
      f" {latest_s - self.start_s:.1f}{length} s; a whole video is expected:"
      " get a complete copy, or stop before that point with max_frames"
    )


@contextlib.contextmanager
def open_video(source: str) -> Iterator[VideoFile]:
  """Opens a file or URL for as long as the context lasts.

  Args:
    source: path, or URL that PyAV opens.

  Yields:
    The open file.

  Raises:
    InputError: PyAV is missing, the source cannot be opened, is not a video,
      or has no moving pictures that this build can decode.

  Example:
    >>> with open_video("nowhere.mp4") as file:
    ...   file.end_s
    Traceback (most recent call last):
        ...
    vrex_jax.errors.InputError: there is no file nowhere.mp4; ...
  """
  with _open(source) as container:
    stream = _video_stream(container, source)
    yield VideoFile(source=source, container=container, stream=stream)


def upright(picture: Any) -> Frame:
  """A picture as an array, turned and mirrored as its file asks.

  The file's display matrix takes a coded point (x, y) to (a x + c y, b x + d y)
  on the screen. It is brought to the nearest of the eight ways to lay down a
  picture: across or upright, each side mirrored or not.

  Args:
    picture: PyAV's video frame, any pixel format.

  Returns:
    u8[height, width, 3], RGB.
  """
  pixels = picture.to_ndarray(format="rgb24")
  a, b, c, d = _display_matrix(picture)
  across, down = a, d
  if abs(b) + abs(c) > abs(a) + abs(d):
    pixels, across, down = pixels.swapaxes(0, 1), c, b
  if across < 0:
    pixels = pixels[:, ::-1]
  if down < 0:
    pixels = pixels[::-1]
  return np.ascontiguousarray(pixels)


def _display_matrix(picture: Any) -> tuple[int, int, int, int]:
  """The turning part (a, b, c, d) of a picture's display matrix.

  Nine 32-bit numbers by rows: a b u / c d v / x y w.
  """
  av = _import_av()
  data = picture.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
  if data is None or len(bytes(data)) != 36:
    return 1, 0, 0, 1
  a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
  return a, b, c, d


def _import_av() -> Any:
  try:
    import av
  except ImportError as error:
    raise InputError(
      "PyAV is not installed; videos are decoded with it: pip install"
      " -e '.[video]'"
    ) from error
  return av


def _open(source: str) -> Any:
  av = _import_av()
  try:
    container = av.open(source)
  except FileNotFoundError as error:
    raise InputError(
      f"there is no file {source or repr(source)}; a video's path or URL is"
      " expected: check its spelling"
    ) from error
  except IsADirectoryError as error:
    raise InputError(
      f"{source} is a directory; the path of one video is expected: name a file"
      " in it"
    ) from error
  except (av.error.InvalidDataError, av.error.EOFError) as error:
    raise InputError(
      f"{source} is not a video, or lost the part that says what is in it (an"
      " mp4 cut short); a format that FFmpeg reads is expected: get a complete"
      " copy or convert it"
    ) from error
  except (av.error.FFmpegError, OSError) as error:
    raise InputError(
      f"{source} cannot be opened ({error.strerror}); a readable file or URL is"
      " expected: check the address and the permissions"
    ) from error
  # FFmpeg takes a text file for a terminal session and draws its letters.
  if container.format.name == "tty":
    container.close()
    raise InputError(
      f"{source} is a text file; a video is expected: check the path"
    )
  # Such readers take a file for one picture; in a pipe there may be many.
  if container.format.name.endswith("_pipe") and os.path.isfile(source):
    container.close()
    raise InputError(
      f"{source} is a still picture; a video is expected: check the path"
    )
  return container


def _video_stream(container: Any, source: str) -> Any:
  """The first stream of moving pictures: cover art is none."""
  av = _import_av()
  disposition = av.stream.Disposition
  for stream in container.streams.video:
    if disposition(stream.disposition) & disposition.attached_pic:
      continue
    if stream.codec_context is None:
      raise InputError(
        f"{source} is coded in a way that this build of PyAV cannot decode; a"
        " codec it knows is expected: check that the file is whole, or convert"
        " it to H.264"
      )
    return stream
  kinds = sorted({stream.type for stream in container.streams})
  only = f" but only {', '.join(kinds)}" if kinds else ""
  raise InputError(
    f"{source} has no moving pictures{only}; a video stream is expected: check"
    " the path, and that the file is whole"
  )
