"""Rooms and shapes as pixels: smooth edges, shadows, no image library.

A shape is its signed distance, in units of its radius: below 0 inside. One
pixel of soft edge comes from clipping the distance in pixels.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from vrex_jax.typing import Frame

__all__ = ["COLOURS", "SHAPES", "Room", "Sprite", "draw", "draw_room"]

COLOURS = {
  "red": (214, 58, 52),
  "orange": (240, 138, 36),
  "yellow": (247, 208, 52),
  "green": (58, 160, 84),
  "blue": (48, 110, 206),
  "purple": (132, 76, 176),
  "white": (244, 244, 240),
}
SHAPES = ("circle", "square", "triangle")
FLOOR = 0.72
"""Where the wall ends, as a part of the height."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
  """Static. A place with a look of its own.

  Attributes:
    name: colour of the wall, as people would call it.
    wall: RGB, 0 to 255.
    floor: RGB, 0 to 255.
    pattern: of the wall: "stripes", "dots" or "checks".
  """

  name: str
  wall: tuple[int, int, int]
  floor: tuple[int, int, int]
  pattern: str


class Sprite(NamedTuple):
  """One shape as it stands at one moment; lengths in pixels.

  Attributes:
    shape: one of `SHAPES`.
    colour: a key of `COLOURS`.
    x: of the centre.
    y: of the centre.
    radius: of the shape.
    ground_y: where its shadow lies.
    turn: angle in radians.
  """

  shape: str
  colour: str
  x: float
  y: float
  radius: float
  ground_y: float
  turn: float


def draw_room(room: Room, height: int, width: int) -> np.ndarray:
  """An empty room: f32[height, width, 3], 0 to 255.

  Example:
    >>> room = Room(name="grey", wall=(9,) * 3, floor=(5,) * 3, pattern="dots")
    >>> draw_room(room, 32, 48).shape
    (32, 48, 3)
  """
  unit = height / 12.0
  y, x = np.mgrid[:height, :width].astype(np.float32)
  if room.pattern == "stripes":
    figure = np.sin(np.pi * x / unit) * unit
  elif room.pattern == "checks":
    figure = np.sin(np.pi * x / unit) * np.sin(np.pi * y / unit) * unit
  else:
    row = np.floor(y / unit)
    beside = np.mod(x + row * unit * 0.5, unit) - unit * 0.5
    beyond = np.mod(y, unit) - unit * 0.5
    figure = 0.24 * unit - np.hypot(beside, beyond)
  edge_y = FLOOR * height
  wall = 1.0 + 0.035 * np.clip(figure, -1.0, 1.0) - 0.06 * (1.0 - y / edge_y)
  floor = 0.86 + 0.22 * (y - edge_y) / (height - edge_y)
  is_floor = (y >= edge_y)[..., None]
  picture = np.where(
    is_floor,
    floor[..., None] * np.asarray(room.floor, np.float32),
    wall[..., None] * np.asarray(room.wall, np.float32),
  )
  skirting = (y >= edge_y - 0.30 * unit) & (y < edge_y)
  picture[skirting] = np.asarray(room.wall, np.float32) * 0.62
  return np.clip(picture, 0.0, 255.0).astype(np.float32)


def draw(room: np.ndarray, sprites: list[Sprite]) -> Frame:
  """A room with shapes in it, the later ones in front.

  Args:
    room: f32[height, width, 3], left as it is.
    sprites: shapes; what lies outside the picture is cut off.

  Returns:
    u8[height, width, 3], RGB.

  Example:
    >>> ball = Sprite("circle", "red", 8.0, 8.0, 5.0, 13.0, 0.0)
    >>> draw(np.zeros((16, 16, 3), np.float32), [ball])[8, 8].tolist()
    [214, 58, 52]
  """
  picture = room.copy()
  for sprite in sprites:
    _draw_shadow(picture, sprite)
    _draw_shape(picture, sprite)
  return np.rint(picture).astype(np.uint8)


def _box(
  picture: np.ndarray, x: float, y: float, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """A view of the pixels within reach, and their offsets from (x, y)."""
  height, width, _ = picture.shape
  top, bottom = np.clip([int(y - reach), int(y + reach) + 2], 0, height)
  left, right = np.clip([int(x - reach), int(x + reach) + 2], 0, width)
  rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
  return picture[top:bottom, left:right], columns - x, rows - y


def _draw_shadow(picture: np.ndarray, sprite: Sprite) -> None:
  """Darkens the ground below; wider and fainter the higher the shape is."""
  lift = max(0.0, sprite.ground_y - sprite.y) / sprite.radius - 1.0
  reach = sprite.radius * (1.1 + 0.15 * lift)
  view, x, y = _box(picture, sprite.x, sprite.ground_y, reach)
  distance = np.hypot(x, y / 0.25) / reach
  depth = 0.38 / (1.0 + 0.8 * max(lift, 0.0))
  view *= 1.0 - (depth * np.clip(1.0 - distance**2, 0.0, 1.0))[..., None]


def _draw_shape(picture: np.ndarray, sprite: Sprite) -> None:
  view, x, y = _box(picture, sprite.x, sprite.y, 1.5 * sprite.radius)
  cosine, sine = np.cos(sprite.turn), np.sin(sprite.turn)
  across = (cosine * x + sine * y) / sprite.radius
  down = (cosine * y - sine * x) / sprite.radius
  distance = _distance(sprite.shape, across, down) * sprite.radius
  cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
  rim = np.clip(1.0 + distance / (0.12 * sprite.radius), 0.0, 1.0)
  glow = np.clip(-(x + y) / (1.4 * sprite.radius), 0.0, 1.0)
  colour = np.asarray(COLOURS[sprite.colour], np.float32)
  shaded = colour * (1.0 - 0.28 * rim)[..., None]
  shaded += (255.0 - shaded) * (0.35 * glow * (1.0 - rim))[..., None]
  view *= 1.0 - cover
  view += cover * shaded


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Signed distance to the edge of a shape of radius 1; y points down."""
  if shape == "circle":
    return np.hypot(x, y) - 1.0
  if shape == "square":
    return np.maximum(np.abs(x), np.abs(y)) - 0.88
  slant = np.abs(x) * np.sqrt(0.75) - 0.5 * y
  return np.maximum(slant, y) - 0.62
