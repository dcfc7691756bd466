"""A small film to try things on: shapes that come and go in a few rooms.

The camera cuts between rooms and comes back to them. Each room keeps its
things: a shape that left is gone at the next visit, until it comes back.

  plan (seed) ─► visits, comings and goings ─► frames, and what happened when

Everything is drawn from the seed, so a film need not be kept:

  python -m vrex_jax.tasks.render --out demo.mp4 --seconds 30 --fps 10 --seed 0
"""

import contextlib
import dataclasses
import fractions
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import numpy as np
from absl import app
from absl import flags

from vrex_jax.errors import InputError
from vrex_jax.tasks import drawing
from vrex_jax.typing import Frame

__all__ = ["Event", "RenderConfig", "render_scene", "write_mp4"]

ROOMS = (
  drawing.Room(
    name="blue", wall=(164, 198, 226), floor=(176, 138, 104), pattern="stripes"
  ),
  drawing.Room(
    name="yellow", wall=(246, 226, 166), floor=(122, 132, 140), pattern="dots"
  ),
  drawing.Room(
    name="green", wall=(178, 214, 174), floor=(190, 170, 140), pattern="checks"
  ),
)
VISIT_S = (3.0, 5.0)
"""Shortest and longest stay in a room."""
MOVE_S = 0.9
"""How long a shape takes to come in or to leave."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderConfig:
  """Static. Length and size of a film.

  Attributes:
    seconds: length, in seconds.
    fps: frames per second.
    width: in pixels, even and at least 32.
    height: in pixels, even and at least 32.
  """

  seconds: float = 30.0
  fps: float = 10.0
  width: int = 384
  height: int = 288

  def __post_init__(self):
    for name in ("seconds", "fps"):
      if not 0 < getattr(self, name) < float("inf"):
        raise InputError(
          f"{name} is {getattr(self, name)}; it must be a number above 0: try"
          f" --{name} 10"
        )
    for name in ("width", "height"):
      if getattr(self, name) < 32 or getattr(self, name) % 2:
        raise InputError(
          f"{name} is {getattr(self, name)}; it must be even and at least 32"
          f" pixels: try --{name} 288"
        )

  @property
  def num_frames(self) -> int:
    """Frames of the film, at least one."""
    return max(1, round(self.seconds * self.fps))


class Event(NamedTuple):
  """Something that happens.

  Attributes:
    time_s: when it begins, in seconds.
    text: what a viewer would say.
  """

  time_s: float
  text: str


class Thing(NamedTuple):
  """A shape and the way it moves; lengths in parts of the film's height."""

  shape: str
  colour: str
  radius: float
  ground: float
  center: float
  swing: float
  swing_s: float
  hop: float
  hop_s: float
  phase: float

  @property
  def name(self) -> str:
    """As in "the red circle leaves"."""
    return f"{self.colour} {self.shape}"

  @property
  def some(self) -> str:
    """As in "a red circle comes in"."""
    return f"{'an' if self.colour == 'orange' else 'a'} {self.name}"


class Move(NamedTuple):
  """A thing that comes in (direction 1) or leaves (-1) on one side."""

  thing: Thing
  time_s: float
  direction: int
  side: str


class Visit(NamedTuple):
  """One stay in a room: frames [first, last), what is there, what changes."""

  room: int
  first: int
  last: int
  things: tuple[Thing, ...]
  moves: tuple[Move, ...]


def render_scene(
  config: RenderConfig, seed: int
) -> tuple[Iterator[Frame], tuple[Event, ...]]:
  """Plans a film and draws it, frame by frame.

  Args:
    config: length and size.
    seed: same seed, same film, to the last byte.

  Returns:
    The frames, u8[height, width, 3], drawn when asked for; and the events in
    order of time.

  Example:
    >>> frames, events = render_scene(RenderConfig(seconds=4.0), seed=0)
    >>> next(frames).shape
    (288, 384, 3)
    >>> events[0]
    Event(time_s=0.0, text='the blue room: ...')
  """
  visits = _plan(config, np.random.default_rng(seed))
  return _frames(config, visits), tuple(_events(config, visits))


def write_mp4(
  path: str | os.PathLike[str], frames: Iterable[Frame], fps: float
) -> None:
  """Encodes frames as an mp4: H.264 where PyAV has it, else MPEG-4.

  The file appears under its name when it is complete, and not before; missing
  folders are made.

  Args:
    path: of the file; an older one is replaced.
    frames: u8[height, width, 3], RGB, at least one, all of one even size.
    fps: frames per second, above 0.

  Raises:
    InputError: a path that cannot be written, no frame, an odd size, an fps
      not above 0, PyAV missing.
  """
  try:
    import av
  except ImportError as error:
    raise InputError(
      "PyAV is not installed; videos are written with it: pip install"
      " -e '.[video]'"
    ) from error
  if not 0 < fps < float("inf"):
    raise InputError(f"fps is {fps}; it must be a number above 0: try 10")
  path = pathlib.Path(path)
  try:
    if path.is_dir():
      raise IsADirectoryError(None, "it is a directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
      _replacing(path) as partial,
      av.open(partial, "w", format="mp4") as out,
    ):
      _encode(out, frames, fps, "libx264" in av.codecs_available)
  except OSError as error:
    raise InputError(
      f"{path} cannot be written ({error.strerror}); the path of a new file is"
      " expected: choose another one"
    ) from error


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[str]:
  """A name to write to, that becomes `path` unless something goes wrong."""
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    yield str(partial)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _encode(
  container: Any, frames: Iterable[Frame], fps: float, has_x264: bool
) -> None:
  import av

  stream = container.add_stream(
    "libx264" if has_x264 else "mpeg4",
    rate=fractions.Fraction(fps).limit_denominator(1001),
    options={"preset": "veryfast", "crf": "20"}
    if has_x264
    else {"qscale": "3"},
  )
  stream.pix_fmt = "yuv420p"
  shape = None
  for pixels in frames:
    chex.assert_type(pixels, np.uint8)
    if shape is None:
      shape = pixels.shape
      stream.height, stream.width = _even_size(shape)
    chex.assert_shape(pixels, shape)
    picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    container.mux(stream.encode(picture))
  if shape is None:
    raise InputError(
      "there is no frame to write; a video has at least one: ask for more"
      " seconds"
    )
  container.mux(stream.encode())


def _even_size(shape: tuple[int, ...]) -> tuple[int, int]:
  height, width = shape[:2]
  if height % 2 or width % 2:
    raise InputError(
      f"frames are {width} x {height} pixels; the codec needs even sides: crop"
      " or pad them by one pixel"
    )
  return height, width


def _plan(config: RenderConfig, rng: np.random.Generator) -> list[Visit]:
  """Which room when, and who comes and goes there."""
  cast = [_cast(room, config, rng) for room in ROOMS]
  present = [things[:2] for things in cast]
  visits: list[Visit] = []
  first = 0
  while first < config.num_frames:
    room = _next_room([visit.room for visit in visits], rng)
    stay = round(rng.uniform(*VISIT_S) * config.fps)
    last = min(first + max(1, stay), config.num_frames)
    things = tuple(present[room])
    moves = _moves(
      cast[room], present[room], first / config.fps, last / config.fps, rng
    )
    visits.append(Visit(room, first, last, things, moves))
    first = last
  return visits


def _next_room(past: Sequence[int], rng: np.random.Generator) -> int:
  """Two rooms, back to the first, the third; then any but the last one."""
  opening = (0, 1, 0, 2)
  if len(past) < len(opening):
    return opening[len(past)]
  return int(rng.choice([room for room in range(3) if room != past[-1]]))


def _cast(
  room: drawing.Room, config: RenderConfig, rng: np.random.Generator
) -> list[Thing]:
  """One thing of each shape, each in a colour that shows in this room."""
  colours = rng.permutation([c for c in drawing.COLOURS if c != room.name])
  aspect = config.width / config.height
  lanes = rng.permutation([0.80, 0.86, 0.92])
  places = rng.permutation([0.25, 0.5, 0.75])
  return [
    Thing(
      shape=str(shape),
      colour=str(colours[number]),
      radius=rng.uniform(0.11, 0.15),
      ground=float(lanes[number]),
      center=float(places[number]) * aspect,
      swing=rng.uniform(0.06, 0.14) * aspect,
      swing_s=rng.uniform(3.0, 6.0),
      hop=rng.uniform(0.08, 0.30),
      hop_s=rng.uniform(1.2, 2.2),
      phase=rng.uniform(0.0, 2.0 * np.pi),
    )
    for number, shape in enumerate(rng.permutation(drawing.SHAPES))
  ]


def _moves(
  cast: list[Thing],
  present: list[Thing],
  start_s: float,
  end_s: float,
  rng: np.random.Generator,
) -> tuple[Move, ...]:
  """At most one coming or going a visit; `present` follows it."""
  time_s = start_s + rng.uniform(0.3, 0.5) * (end_s - start_s)
  absent = [thing for thing in cast if thing not in present]
  if time_s + MOVE_S > end_s:
    return ()
  leaves = not absent or (len(present) > 1 and rng.random() < 0.5)
  candidates = present if leaves else absent
  thing = candidates[int(rng.integers(len(candidates)))]
  if leaves:
    present.remove(thing)
  else:
    present.append(thing)
  side = ("left", "right")[int(rng.integers(2))]
  return (Move(thing, round(time_s, 3), -1 if leaves else 1, side),)


def _events(config: RenderConfig, visits: list[Visit]) -> Iterator[Event]:
  rooms_seen: set[int] = set()
  things_seen: set[tuple[int, Thing]] = set()
  for visit in visits:
    name = f"the {ROOMS[visit.room].name} room"
    if visit.room in rooms_seen:
      name = f"back in {name}"
    names = " and ".join(thing.some for thing in visit.things)
    yield Event(visit.first / config.fps, f"{name}: {names}")
    rooms_seen.add(visit.room)
    things_seen |= {(visit.room, thing) for thing in visit.things}
    for move in visit.moves:
      known = (visit.room, move.thing) in things_seen
      things_seen.add((visit.room, move.thing))
      if move.direction < 0:
        text = f"the {move.thing.name} leaves to the {move.side}"
      elif known:
        text = f"the {move.thing.name} comes back from the {move.side}"
      else:
        text = f"{move.thing.some} comes in from the {move.side}"
      yield Event(move.time_s, text)


def _frames(config: RenderConfig, visits: list[Visit]) -> Iterator[Frame]:
  empty = [
    drawing.draw_room(room, config.height, config.width) for room in ROOMS
  ]
  for visit in visits:
    moves = {move.thing: move for move in visit.moves}
    things = sorted({*visit.things, *moves}, key=lambda thing: thing.ground)
    for frame in range(visit.first, visit.last):
      time_s = frame / config.fps
      sprites = [
        _sprite(thing, moves.get(thing), time_s, config) for thing in things
      ]
      yield drawing.draw(empty[visit.room], sprites)


def _sprite(
  thing: Thing, move: Move | None, time_s: float, config: RenderConfig
) -> drawing.Sprite:
  """Where a thing is: it swings and hops in place, and slides off or on."""
  swing = np.sin(2.0 * np.pi * time_s / thing.swing_s + thing.phase)
  hop = abs(np.sin(np.pi * time_s / thing.hop_s + thing.phase))
  x = thing.center + thing.swing * swing
  if move is not None:
    part = np.clip((time_s - move.time_s) / MOVE_S, 0.0, 1.0)
    away = part * part * (3.0 - 2.0 * part)
    away = 1.0 - away if move.direction > 0 else away
    outside = -2.0 * thing.radius
    if move.side == "right":
      outside = config.width / config.height - outside
    x += (outside - x) * away
  unit = config.height
  return drawing.Sprite(
    shape=thing.shape,
    colour=thing.colour,
    x=x * unit,
    y=(thing.ground - thing.radius - thing.hop * hop) * unit,
    radius=thing.radius * unit,
    ground_y=thing.ground * unit,
    turn=0.35 * swing,
  )


def _define_flags() -> None:
  flags.DEFINE_string("out", None, "mp4 to write", required=True)
  flags.DEFINE_float("seconds", 30.0, "length of the film")
  flags.DEFINE_float("fps", 10.0, "frames per second")
  flags.DEFINE_integer("width", 384, "in pixels, even")
  flags.DEFINE_integer("height", 288, "in pixels, even")
  flags.DEFINE_integer("seed", 0, "same seed, same film")


def main(argv: Sequence[str]) -> int:
  """Writes a film and prints what happens in it; the command's entry."""
  values = flags.FLAGS
  try:
    if len(argv) > 1:
      raise InputError(
        f"{argv[1]} is no flag; this command takes flags only: write --out"
        f" {argv[1]}"
      )
    config = RenderConfig(
      seconds=values.seconds,
      fps=values.fps,
      width=values.width,
      height=values.height,
    )
    if os.path.exists(values.out):
      raise InputError(
        f"--out {values.out} exists already, and nothing is overwritten: name"
        " another file or remove it"
      )
    frames, events = render_scene(config, values.seed)
    write_mp4(values.out, frames, config.fps)
  except InputError as error:
    print(error, file=sys.stderr)
    return 2
  print(
    f"{values.out}: {config.num_frames} frames at {config.fps:g} per second,"
    f" {config.width} x {config.height} pixels,"
    f" {os.path.getsize(values.out) / 1e3:.0f} kB"
  )
  for event in events:
    print(f"{event.time_s:7.1f} s  {event.text}")
  return 0


if __name__ == "__main__":
  _define_flags()
  app.run(main)
