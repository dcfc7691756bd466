"""Streams of the rooms task with what is asked on them, drawn from a seed.

  frames     0 ────────┬─────────┬─────────┬─────────┐
  questions            ▲         ▲         ▲         ▲     equally many at each
  narration    · ··  ·   ··   ·    ···  ·    ··  ··        frames with an object

Both become items: what is said must be one word, and the frames that show it
are known.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.tasks import rooms_pictures as pictures_lib
from vrex_jax.tasks import rooms_questions as questions_lib
from vrex_jax.tasks import rooms_story as story_lib

__all__ = [
  "KINDS",
  "OLD_FRAMES",
  "UNLEARNED",
  "Episode",
  "EpisodeConfig",
  "Item",
  "Stream",
  "draw",
]

OLD_FRAMES = 16
"""An item is old when all that shows its answer is further back than this."""
KINDS = (*questions_lib.KINDS, "narration")
UNLEARNED = ("before",)
"""Kinds of questions that the shipped model has not learned."""
_HELD_OUT = 2**31
"""Begins the seed of every stream; no training draws from it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
  """Static. Shape of a stream of the evaluation.

  Attributes:
    frames: length.
    visible: frames an object is seen for, at most.
    questions: asked on each stream.
    asks: times at which they are asked, equally far apart; the last is the end.
    kinds: of questions.
  """

  frames: int = 512
  visible: int = 4
  questions: int = 40
  asks: int = 4
  kinds: tuple[str, ...] = tuple(
    kind for kind in questions_lib.KINDS if kind not in UNLEARNED
  )

  def __post_init__(self):
    if self.frames < 64:
      raise InputError(
        f"--frames is {self.frames}; a stream with twelve segments has at least"
        " 64 frames: try --frames=256"
      )
    if not 0 < self.questions <= 48 or self.questions % self.asks:
      raise InputError(
        f"questions of a stream are {self.questions}; they must be 1 to 48 and"
        f" a multiple of {self.asks}: try 40"
      )
    unknown = sorted(set(self.kinds) - set(questions_lib.KINDS))
    if unknown or "exists" not in self.kinds:
      raise InputError(
        f"--kinds is {','.join(self.kinds)}; it must hold exists, which can"
        " always be asked, and others of"
        f" {', '.join(questions_lib.KINDS)}: try leaving it out"
      )

  @property
  def ask_times(self) -> list[int]:
    """Frames after which is asked."""
    part = self.frames / self.asks
    return [round(part * (index + 1)) - 1 for index in range(self.asks)]


class Item(NamedTuple):
  """Static. One word that must be said, by answer or by narration.

  Attributes:
    kind: one of `KINDS`.
    text: of the question; empty for narration.
    word: what must be said.
    time: frame after which.
    evidence: frames that show it, in order; none where nothing does.
  """

  kind: str
  text: str
  word: str
  time: int
  evidence: np.ndarray  # i64 [frames]

  @property
  def group(self) -> str:
    """What accuracy it counts for.

    "old" and "present" of questions; "narration_old" and "narration_new"; else
    "other": answers that are in the recent frames, or that nothing shows.
    """
    old = self.evidence.size and self.evidence.max() < self.time - OLD_FRAMES
    if self.kind == "narration":
      if self.word == "new":
        return "narration_new"
      return "narration_old" if old else "other"
    if self.kind in questions_lib.PRESENT:
      return "present"
    return "old" if old else "other"


class Stream(Protocol):
  """What an evaluation needs of a stream: an `Episode`, or a film of one."""

  @property
  def frames(self) -> int:
    """Length."""

  @property
  def questions(self) -> tuple[tuple[Item, ...], ...]:
    """Items for each time of asking."""

  @property
  def narration(self) -> tuple[Item, ...]:
    """Items in order of time."""

  def pictures(self, block: int) -> Iterator[np.ndarray]:
    """The frames, u8[up to `block`, 48, 48, 3]."""


class Episode(NamedTuple):
  """Static. A stream: its frames and all its items.

  Attributes:
    frames: length.
    questions: for each time of asking, as many items as for any other.
    narration: items in order of time.
    story: what happens.
    look: how it looks.
    seed: of the camera's noise.
  """

  frames: int
  questions: tuple[tuple[Item, ...], ...]
  narration: tuple[Item, ...]
  story: story_lib.Story
  look: pictures_lib.Look
  seed: tuple[int, ...]

  def pictures(self, block: int) -> Iterator[np.ndarray]:
    """The frames, u8[up to `block`, 48, 48, 3]; the same for every `block`."""
    random = np.random.default_rng([*self.seed, 1])
    for first in range(0, self.frames, block):
      frames = np.arange(first, min(first + block, self.frames))
      yield pictures_lib.draw_frames(self.story, self.look, frames, random)


def draw(config: EpisodeConfig, seed: int, index: int) -> Episode:
  """Draws a stream.

  Args:
    config: shape.
    seed: of the evaluation.
    index: of the stream in it.

  Example:
    >>> episode = draw(EpisodeConfig(frames=64), seed=0, index=0)
    >>> [len(asked) for asked in episode.questions]
    [10, 10, 10, 10]
  """
  own = (_HELD_OUT, seed, index)
  random = np.random.default_rng([*own, 0])
  story = story_lib.tell(
    story_lib.StoryConfig(frames=config.frames, visible=config.visible), random
  )
  number = config.questions // config.asks
  return Episode(
    frames=config.frames,
    questions=tuple(
      tuple(_asked(story, config.kinds, time, number, random))
      for time in config.ask_times
    ),
    narration=tuple(_narrated(story)),
    story=story,
    look=pictures_lib.look_at(story, random),
    seed=own,
  )


def _asked(
  story: story_lib.Story,
  kinds: tuple[str, ...],
  time: int,
  number: int,
  random: np.random.Generator,
) -> list[Item]:
  """Questions of one time; a kind as often as any, as far as there are."""
  drawn = questions_lib.ask(story, time, number, random, kinds)
  return [
    Item(one.kind, one.text, one.answer, time, one.evidence(story))
    for one in drawn
  ]


def _narrated(story: story_lib.Story) -> list[Item]:
  items = []
  for frame, word, source in questions_lib.narration(story):
    evidence = np.zeros(0, np.int64)
    if source >= 0:
      evidence = np.arange(story.appears[source], story.leaves[source])
    items.append(Item("narration", "", word, frame, evidence))
  return items
