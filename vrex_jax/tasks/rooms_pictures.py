"""Frames of a story as small pictures: rooms, objects, camera noise.

Everything but the noise is a function of the frame's number, so that any
frames of a story can be drawn without those between.

A shape is star-shaped around its centre: a pixel at angle a and distance d is
inside when d < radius(a). That holds for all twelve, the ring with a hole.
"""

from typing import NamedTuple

import numpy as np

from vrex_jax.tasks import rooms_story as story_lib

__all__ = ["SIZE", "Look", "draw_frames", "look_at"]

SIZE = 48
"""Pixels of a side."""
NOISE = 0.06
"""Standard deviation of the camera's noise; white is 1."""
_HUES = np.array(
  [
    (0.36, 0.08, 0.12),
    (0.30, 0.28, 0.06),
    (0.06, 0.28, 0.10),
    (0.05, 0.28, 0.30),
    (0.08, 0.10, 0.38),
    (0.30, 0.08, 0.32),
  ]
)
"""Dark wall of each hue, in the order of `story.ROOMS`."""
_PAINTS = np.array(
  [
    (0.95, 0.20, 0.18),
    (1.00, 0.58, 0.10),
    (0.98, 0.92, 0.25),
    (0.25, 0.85, 0.30),
    (0.30, 0.90, 0.95),
    (0.35, 0.50, 1.00),
    (1.00, 0.50, 0.80),
    (0.97, 0.97, 0.97),
  ]
)
"""Paint of each of `story.COLOURS`."""
_ANGLES = 256


class Look(NamedTuple):
  """Static. How a story's segments look, beside what is in them.

  Attributes:
    size: radius of the object in pixels.
    from_x: where the object is at its first frame, in pixels.
    from_y: likewise.
    to_x: where it would be after ten frames more.
    to_y: likewise.
    phase: of the room's texture, in pixels.
    drift: of the texture, pixels a frame.
    light: brightness of the segment.
    flicker: phase of its slow change.
  """

  size: np.ndarray  # f64 [segments], as all others
  from_x: np.ndarray
  from_y: np.ndarray
  to_x: np.ndarray
  to_y: np.ndarray
  phase: np.ndarray
  drift: np.ndarray
  light: np.ndarray
  flicker: np.ndarray


def look_at(story: story_lib.Story, random: np.random.Generator) -> Look:
  """Draws how a story looks."""
  draw = lambda low, high: random.uniform(low, high, len(story.room))
  x, y = draw(10, SIZE - 10), draw(10, SIZE - 10)
  return Look(
    size=draw(7.0, 10.0),
    from_x=x,
    from_y=y,
    to_x=x + draw(-6, 6),
    to_y=y + draw(-6, 6),
    phase=draw(0, 12),
    drift=draw(-0.2, 0.2),
    light=draw(0.85, 1.1),
    flicker=draw(0, 2 * np.pi),
  )


def draw_frames(
  story: story_lib.Story,
  look: Look,
  frames: np.ndarray,
  random: np.random.Generator,
) -> np.ndarray:
  """Pictures of some frames.

  Args:
    story: what is seen.
    look: how it looks.
    frames: i32[F], frame numbers.
    random: of the camera's noise.

  Returns:
    u8[F, 48, 48, 3].

  Example:
    >>> random = np.random.default_rng(0)
    >>> story = story_lib.tell(story_lib.StoryConfig(frames=64), random)
    >>> frames = np.array([3, 40])
    >>> draw_frames(story, look_at(story, random), frames, random).shape
    (2, 48, 48, 3)
  """
  frames = np.asarray(frames)
  segment = story.segment_of(frames)
  picture = _rooms(story, look, frames, segment)
  there = np.flatnonzero(story.shows_object(frames))
  if there.size:
    cover, paint = _objects(story, look, frames[there], segment[there])
    picture[there] += cover * (paint - picture[there])
  light = look.light[segment] * (
    1 + 0.08 * np.sin(0.05 * frames + look.flicker[segment])
  )
  picture *= light[:, None, None, None].astype(np.float32)
  picture += NOISE * random.standard_normal(picture.shape, np.float32)
  return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


def _rooms(
  story: story_lib.Story,
  look: Look,
  frames: np.ndarray,
  segment: np.ndarray,
) -> np.ndarray:
  """Walls: f32[F, 48, 48, 3]."""
  hue, texture = np.divmod(story.room[segment], 2)
  y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
  shift = look.phase[segment] + look.drift[segment] * frames
  shift = shift[:, None, None].astype(np.float32)
  wave = lambda position, period: np.sin(2 * np.pi / period * position)
  lines = wave(x + y + shift, np.float32(8.0))
  tiles = wave(x + shift, np.float32(12.0)) * wave(y, np.float32(12.0)) * 1.6
  figure = np.where(texture[:, None, None] == 0, lines, tiles)
  brightness = 1.0 + 0.35 * np.clip(figure, -1, 1)
  wall = _HUES[hue].astype(np.float32)[:, None, None]
  return brightness[..., None].astype(np.float32) * wall


def _objects(
  story: story_lib.Story,
  look: Look,
  frames: np.ndarray,
  segment: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Cover f32[F, 48, 48, 1] and paint f32[F, 1, 1, 3] of the objects."""
  age = (frames - story.appears[segment]) / 10.0
  # An object that stays turns round at the end of its way.
  way = np.abs(np.mod(age + 1.0, 2.0) - 1.0)
  along = lambda a, b: (a + (b - a) * way)[:, None, None].astype(np.float32)
  y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
  across = x - along(look.from_x[segment], look.to_x[segment])
  down = y - along(look.from_y[segment], look.to_y[segment])
  size = look.size[segment][:, None, None].astype(np.float32)
  shape = story.shape[segment]
  turn = np.arctan2(down, across) * np.float32(_ANGLES / (2 * np.pi))
  angle = np.rint(turn).astype(np.int32) % _ANGLES
  outer = _OUTER[shape[:, None, None], angle]
  distance = np.hypot(across, down)
  cover = np.clip(0.5 + (outer * size - distance), 0, 1)
  hole = np.clip(0.5 + (_HOLE[shape][:, None, None] * size - distance), 0, 1)
  cover = cover * (1 - hole)
  paint = _PAINTS[story.colour[segment]].astype(np.float32)
  return cover[..., None], paint[:, None, None]


def _outlines() -> np.ndarray:
  """Radius of every shape at every angle: f32[12, 256]; y points down."""
  angle = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
  cosine, sine = np.cos(angle), np.sin(angle)
  c, s = np.abs(cosine) + 1e-9, np.abs(sine) + 1e-9
  polygon = lambda turns: (
    0.6 / np.max([np.cos(angle - np.deg2rad(turn)) for turn in turns], axis=0)
  )
  slab = lambda half_width, half_height: np.minimum(
    half_width / c, half_height / s
  )
  wedge = lambda long, short: np.where(short < 0.8 * long, 0.95 / long, 0.2)
  outlines = {
    "disc": np.full(_ANGLES, 0.95),
    "square": slab(0.85, 0.85),
    "peak": polygon((90, 210, 330)),
    "funnel": polygon((30, 150, 270)),
    "diamond": 1.15 / (c + s),
    "star": 1.25 / (np.sqrt(c) + np.sqrt(s)) ** 2 + 0.12,
    "cross": np.maximum(slab(1.0, 0.33), slab(0.33, 1.0)),
    "ring": np.full(_ANGLES, 1.0),
    "bar": slab(1.1, 0.38),
    "pillar": slab(0.38, 1.1),
    "bow": wedge(c, s),
    "hourglass": wedge(s, c),
  }
  table = np.stack([outlines[name] for name in story_lib.SHAPES])
  return np.minimum(table, 1.3).astype(np.float32)


_OUTER = _outlines()
_HOLE = np.array([0.55 * (n == "ring") for n in story_lib.SHAPES], np.float32)
