"""Which frames of a video a model sees: time stamps, and a steady sampling.

Two pure functions over iterators, free of any decoder. Times are seconds since
the first frame. What a file says about time is first made regular, then
sampled: sample k is the picture that a viewer has on the screen at k / fps.

  frames   |a     |b  |c            |d   |     each is shown until the next
  time_s   0      .7  1.1           2.6  3.1
  fps 2    ^    ^    ^    ^    ^    ^    ^
  sample   a    a    b    c    c    c    d     at 0, 0.5, 1, 1.5, 2, 2.5, 3

A frame is repeated when nothing new came in time, so the index of a sample is
a clock at any frame rate, variable or below fps.
"""

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["CLOCK_ROUNDING_S", "RESTART_S", "regular_clock", "sample"]

Payload = TypeVar("Payload")

CLOCK_ROUNDING_S = 2e-3
"""Time stamps are this exact: several containers round them to 1 ms."""
RESTART_S = 1.0
"""A step back by more than this is a clock that was set anew."""


def regular_clock(
  frames: Iterable[tuple[float | None, float | None, Payload]],
  *,
  interval_s: float,
  max_gap_s: float = math.inf,
) -> Iterator[tuple[float, float, Payload]]:
  """Time stamps that start at 0 and never step back.

  A frame without time follows its predecessor. A step back of at most
  `RESTART_S` is a late frame, shown at once; a larger one, or a step forward
  of more than `max_gap_s`, is a clock set anew (streams joined end to end, a
  sender that restarted): its frames go on where the last one ended.

  Args:
    frames: (time_s, duration_s, payload) in the order they are shown; either
      number may be None.
    interval_s: duration of a frame that does not tell its own, above 0.
    max_gap_s: longest step forward that is believed.

  Yields:
    (start_s, end_s, payload) of every frame: the first start is 0, a start is
    never below the one before, an end is above its start.

  Example:
    >>> late = [(7.0, 0.1, "a"), (7.2, 0.1, "b"), (7.1, 0.1, "c")]
    >>> [round(start, 3) for start, _, _ in regular_clock(late, interval_s=1)]
    [0.0, 0.2, 0.2]
  """
  origin = None
  start = end = 0.0
  for time, duration, payload in frames:
    if time is None or not math.isfinite(time):
      start = end
    else:
      if origin is None:
        origin = time - end
      moved = time - origin
      if moved < start - RESTART_S or moved > end + max_gap_s:
        origin = time - end
        moved = end
      start = max(start, moved)
    end = start + (duration if duration and duration > 0 else interval_s)
    yield start, end, payload


def sample(
  frames: Iterable[tuple[float, float, Payload]], *, fps: float
) -> Iterator[tuple[int, Payload]]:
  """The frame on the screen at 0, 1 / fps, 2 / fps, … until the last one ends.

  sample k = last frame with start_s <= k / fps,   k / fps < end_s of the last

  Both within `CLOCK_ROUNDING_S`, or a quarter of a frame where that is less:
  sampling a video at its own rate gives each of its frames once. A video of
  duration d gives ceil(d fps) samples. A sample is known, and yielded, as soon
  as a frame after it arrives: an endless stream is never waited for.

  Args:
    frames: (start_s, end_s, payload) as `regular_clock` yields them.
    fps: samples per second, above 0.

  Yields:
    (k, payload), k = 0, 1, 2, …; at least one if there is a frame.

  Example:
    >>> frames = [(0.0, 0.1, "a"), (0.7, 1.1, "b"), (1.1, 1.5, "c")]
    >>> list(sample(frames, fps=2))
    [(0, 'a'), (1, 'a'), (2, 'b')]
  """
  rounding_s = min(CLOCK_ROUNDING_S, 0.25 / fps)
  index = 0
  shown: tuple[float, float, Payload] | None = None
  for frame in frames:
    while shown is not None and index / fps < frame[0] - rounding_s:
      yield index, shown[2]
      index += 1
    shown = frame
  while shown is not None and (
    index == 0 or index / fps < shown[1] - rounding_s
  ):
    yield index, shown[2]
    index += 1
