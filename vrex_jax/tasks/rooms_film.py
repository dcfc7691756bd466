r"""A stream of the rooms task as an mp4, with what is asked on it beside.

  python -m vrex_jax.tasks.rooms_film --out runs/rooms.mp4 --frames 256 --seed 0

writes rooms.mp4 and rooms.json: questions with their answers, what is to be
said at frames, and the frames that show it. Frames are drawn `SCALE` times as
large as the model sees them, so that the codec's coarse colour hits less of
them (and people can see something).
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app
from absl import flags

from vrex_jax import resize
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.tasks import render
from vrex_jax.tasks import rooms_episodes as episodes_lib
from vrex_jax.tasks import rooms_pictures as pictures_lib

__all__ = [
  "SCALE",
  "Film",
  "annotation_path",
  "filmed",
  "load_film",
  "write_film",
]

SCALE = 4
"""Pixels of the film along a pixel of the picture."""
FPS = 2.0
"""Frames per second of a film, unless another rate is asked for."""
_FIELDS = ("kind", "text", "word", "time", "evidence")


class Film(NamedTuple):
  """Static. A film with items; see `episodes.Episode` for its counterpart.

  Attributes:
    path: of the mp4.
    fps: frames per second.
    frames: how many.
    questions: for each time of asking.
    narration: in order of time.
  """

  path: pathlib.Path
  fps: float
  frames: int
  questions: tuple[tuple[episodes_lib.Item, ...], ...]
  narration: tuple[episodes_lib.Item, ...]

  def pictures(self, block: int) -> Iterator[np.ndarray]:
    """Decoded frames of the model's size, u8[up to `block`, 48, 48, 3]."""
    resizer: resize.Resizer | None = None
    waiting: list[np.ndarray] = []
    frames = video.read_frames(self.path, fps=self.fps, max_frames=self.frames)
    for frame in frames:
      if resizer is None:
        height, width = frame.pixels.shape[:2]
        resizer = resize.Resizer.create(height, width, pictures_lib.SIZE)
      waiting.append(resizer(frame.pixels))
      if len(waiting) == block:
        yield np.stack(waiting)
        waiting = []
    if waiting:
      yield np.stack(waiting)


def annotation_path(film: pathlib.Path) -> pathlib.Path:
  """Where a film's items are: beside it, with the ending .json."""
  return film.with_suffix(".json")


def write_film(
  episode: episodes_lib.Episode, path: pathlib.Path, fps: float
) -> list[pathlib.Path]:
  """Writes an episode as an mp4 and its items as JSON.

  Args:
    episode: the stream.
    path: of the mp4; older files are replaced.
    fps: frames per second.

  Returns:
    Both files.

  Raises:
    InputError: see `render.write_mp4`.
  """
  blocks = episode.pictures(64)
  large = (
    frame.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    for block in blocks
    for frame in block
  )
  render.write_mp4(path, large, fps)
  beside = annotation_path(path)
  plain = lambda items: [
    {**item._asdict(), "evidence": item.evidence.tolist()} for item in items
  ]
  text = {
    "fps": fps,
    "frames": episode.frames,
    "questions": [plain(items) for items in episode.questions],
    "narration": plain(episode.narration),
  }
  beside.write_text(json.dumps(text) + "\n")
  return [path, beside]


def load_film(path: pathlib.Path) -> Film:
  """A film and its items.

  Args:
    path: of the mp4.

  Raises:
    InputError: its JSON is missing, or is not what `write_film` writes.
  """
  beside = annotation_path(path)
  try:
    text = json.loads(beside.read_text())
    return Film(
      path,
      float(text["fps"]),
      int(text["frames"]),
      tuple(tuple(map(_item, items)) for items in text["questions"]),
      tuple(map(_item, text["narration"])),
    )
  except OSError as error:
    raise InputError(
      f"{beside} cannot be read ({error.strerror}); a film's questions lie"
      " beside it: write both with python -m vrex_jax.tasks.rooms_film"
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"{beside} is not a film's questions ({error!r}): write both anew with"
      " python -m vrex_jax.tasks.rooms_film"
    ) from error


@contextlib.contextmanager
def filmed(
  episodes: Sequence[episodes_lib.Episode],
) -> Iterator[list[Film]]:
  """Films of episodes, in a folder that is removed in the end.

  Args:
    episodes: the streams.

  Yields:
    A film for each, as it comes back from its mp4.

  Raises:
    InputError: see `render.write_mp4`.
  """
  with tempfile.TemporaryDirectory() as folder:
    paths = [
      pathlib.Path(folder, f"{index}.mp4") for index in range(len(episodes))
    ]
    for episode, path in zip(episodes, paths, strict=True):
      write_film(episode, path, FPS)
    yield [load_film(path) for path in paths]


def _item(fields: dict[str, Any]) -> episodes_lib.Item:
  values = {name: fields[name] for name in _FIELDS}
  values["evidence"] = np.array(values["evidence"], np.int64)
  return episodes_lib.Item(**values)


def _define_flags() -> None:
  flags.DEFINE_string("out", None, "mp4 to write", required=True)
  flags.DEFINE_integer("frames", 256, "length of the film")
  flags.DEFINE_integer("visible", 4, "frames an object is seen for, at most")
  flags.DEFINE_float("fps", FPS, "frames per second")
  flags.DEFINE_integer("seed", 0, "same seed, same film")


def main(argv: Sequence[str]) -> int:
  """Writes a film and says what is in it; the command's entry."""
  values = flags.FLAGS
  try:
    if len(argv) > 1:
      raise InputError(
        f"{argv[1]} is no flag; this command takes flags only: write --out"
        f" {argv[1]}"
      )
    path = pathlib.Path(values.out)
    if path.exists():
      raise InputError(
        f"--out {path} exists already, and nothing is overwritten: name another"
        " file or remove it"
      )
    shape = episodes_lib.EpisodeConfig(
      frames=values.frames, visible=values.visible
    )
    episode = episodes_lib.draw(shape, values.seed, 0)
    files = write_film(episode, path, values.fps)
  except InputError as error:
    print(error, file=sys.stderr)
    return 2
  story = episode.story
  print(
    f"{path}: {episode.frames} frames at {values.fps:g} per second, in"
    f" {len(story.room)} rooms with an object each,"
    f" {sum(map(os.path.getsize, files)) / 1e3:.0f} kB"
  )
  return 0


if __name__ == "__main__":
  _define_flags()
  app.run(main)
