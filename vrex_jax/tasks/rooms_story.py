"""What happens in a stream of rooms: where the camera is, and what is seen.

A story is a row of segments between hard cuts. Each segment is in one room and
shows one object, for a few frames somewhere inside it:

  room      a        b          a       c          a is visited again
            ┌────────┬──────────┬───────┬────────┐
  object    ··■■■····│·····●●···│·▲▲▲▲··│···■■···│  ■ comes back, other colour
            └────────┴──────────┴───────┴────────┘
  frame     0        cut        cut     cut

A shape never stands twice in the same room, so "the colour of ■ in room c" has
one answer although neither the shape nor the room alone decides it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from vrex_jax.errors import InputError

__all__ = ["COLOURS", "ROOMS", "SHAPES", "Story", "StoryConfig", "tell"]

SHAPES = (
  "disc", "square", "peak", "funnel", "diamond", "star",
  "cross", "ring", "bar", "pillar", "bow", "hourglass",
)  # fmt: skip
COLOURS = (
  "red", "orange", "yellow", "green", "cyan", "blue", "pink", "white",
)  # fmt: skip
ROOMS = tuple(
  f"{hue}-{texture}"
  for hue in ("maroon", "olive", "forest", "teal", "navy", "plum")
  for texture in ("lines", "tiles")
)
_MARGIN = 1
"""Frames of a segment before and after its object, at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoryConfig:
  """Static. How long a story is and how much of it comes back.

  Attributes:
    frames: length.
    visible: frames an object is seen for, at most; the fewer, the harder.
    segments: most segments; a short story has fewer.
    least_segments: fewest.
    revisit: chance that a cut leads to a room seen before.
    repeat: chance that the object has a shape seen before, in another colour
      and another room.
  """

  frames: int = 256
  visible: int = 4
  segments: int = 12
  least_segments: int = 12
  revisit: float = 0.25
  repeat: float = 0.4

  def __post_init__(self):
    if self.visible < 1:
      raise InputError(
        f"visible is {self.visible}; an object is seen for at least one frame:"
        " try visible=4"
      )
    least = 1 + 2 * _MARGIN
    if self.frames < least:
      raise InputError(
        f"frames is {self.frames}; a segment has at least {least}: try"
        " frames=256"
      )
    if not 1 <= self.least_segments <= self.segments <= len(ROOMS):
      raise InputError(
        f"segments is {self.least_segments} to {self.segments}; there are 1 to"
        f" {len(ROOMS)}: try segments={len(ROOMS)}"
      )
    for name in ("revisit", "repeat"):
      if not 0 <= getattr(self, name) <= 1:
        raise InputError(
          f"{name} is {getattr(self, name)}; a chance is from 0 to 1: try"
          f" {name}=0.25"
        )


class Story(NamedTuple):
  """Static. Segments in order; frame f is in the segment with start <= f < end.

  Attributes:
    room: index in `ROOMS`.
    shape: index in `SHAPES`.
    colour: index in `COLOURS`.
    start: first frame.
    end: frame behind the last.
    appears: first frame with the object.
    leaves: frame behind the last with the object.
  """

  room: np.ndarray  # i32 [segments]
  shape: np.ndarray  # i32 [segments]
  colour: np.ndarray  # i32 [segments]
  start: np.ndarray  # i32 [segments]
  end: np.ndarray  # i32 [segments]
  appears: np.ndarray  # i32 [segments]
  leaves: np.ndarray  # i32 [segments]

  @property
  def frames(self) -> int:
    """Length."""
    return int(self.end[-1])

  def segment_of(self, frame: np.ndarray) -> np.ndarray:
    """Segments that frames lie in."""
    return np.searchsorted(self.end, frame, side="right")

  def shows_object(self, frame: np.ndarray) -> np.ndarray:
    """Whether frames show an object."""
    segment = self.segment_of(frame)
    return (self.appears[segment] <= frame) & (frame < self.leaves[segment])


def tell(config: StoryConfig, random: np.random.Generator) -> Story:
  """Draws a story.

  Example:
    >>> story = tell(StoryConfig(frames=64), np.random.default_rng(0))
    >>> story.frames, len(story.room)
    (64, 12)
  """
  least = 1 + 2 * _MARGIN
  most = min(config.segments, config.frames // least)
  number = int(random.integers(min(config.least_segments, most), most + 1))
  lengths = _lengths(config.frames, number, least, random)
  end = np.cumsum(lengths)
  start = end - lengths
  seen = np.minimum(config.visible, lengths - 2 * _MARGIN)
  seen = random.integers((seen + 1) // 2, seen + 1)
  appears = start + _MARGIN
  appears = appears + random.integers(0, lengths - 2 * _MARGIN - seen + 1)
  rooms, shapes, colours = _contents(config, number, random)
  return Story(rooms, shapes, colours, start, end, appears, appears + seen)


def _lengths(
  frames: int, number: int, least: int, random: np.random.Generator
) -> np.ndarray:
  """Segment lengths that add up to `frames`."""
  shares = random.dirichlet(np.full(number, 3.0)) * (frames - least * number)
  bounds = np.rint(np.cumsum(shares)).astype(np.int64)
  return least + np.diff(bounds, prepend=0)


def _contents(
  config: StoryConfig, number: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  rooms: list[int] = []
  shapes: list[int] = []
  colours: list[int] = []
  for _ in range(number):
    room = _again_or_new(rooms, len(ROOMS), config.revisit, random, rooms[-1:])
    # A shape that stood in this room before would have two answers there.
    here = [s for s, place in zip(shapes, rooms, strict=True) if place == room]
    shape = _again_or_new(shapes, len(SHAPES), config.repeat, random, here)
    earlier = [c for c, s in zip(colours, shapes, strict=True) if s == shape]
    colour = _again_or_new([], len(COLOURS), 0.0, random, earlier)
    rooms.append(room)
    shapes.append(shape)
    colours.append(colour)
  return np.array(rooms), np.array(shapes), np.array(colours)


def _again_or_new(
  used: list[int],
  number: int,
  chance: float,
  random: np.random.Generator,
  never: list[int],
) -> int:
  """One of the used ones with a chance, else one not used, if there is one."""
  again = sorted(set(used) - set(never))
  new = sorted(set(range(number)) - set(used) - set(never))
  both = sorted(set(range(number)) - set(never)) or list(range(number))
  pool = again if random.random() < chance else new
  return int(random.choice(pool or new or both))
