"""Questions about a story, their answers, and the frames that hold them.

  colour-of SHAPE ?            a shape seen in one place
  room-of SHAPE ?              likewise
  shape-in ROOM ?              a room visited once
  colour-in ROOM ?             likewise
  colour-of-in SHAPE ROOM ?    a shape seen in several rooms
  exists SHAPE ?               yes, no
  count SHAPE ?                one, two, three
  before SHAPE SHAPE ?         yes, no: was the first seen before the other?
  colour-now ?  shape-now ?  room-now ?

Narration asks nothing: in every frame that shows an object the model says the
colour this shape had in the segment before that showed it, or `new`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vrex_jax.tasks import rooms_story as story_lib

__all__ = ["KINDS", "WORDS", "Question", "ask", "narration", "questions_at"]

KINDS = (
  "colour-of", "room-of", "shape-in", "colour-in", "colour-of-in", "exists",
  "count", "before", "colour-now", "shape-now", "room-now",
)  # fmt: skip
PRESENT = ("colour-now", "shape-now", "room-now")
_NUMBERS = ("one", "two", "three")
WORDS = (
  "<pad>", "<start>", "<stop>", "-", "?", *KINDS, "yes", "no", "new", *_NUMBERS,
  *story_lib.SHAPES, *story_lib.COLOURS, *story_lib.ROOMS,
)  # fmt: skip
"""The vocabulary, in order of token ids."""


class Question(NamedTuple):
  """Static. One question with one answer.

  Attributes:
    kind: one of `KINDS`.
    keys: what it asks about, none to two words.
    answer: one word.
    segments: segments that hold the answer; empty where nothing does (`no`).
    time: frame after which it is asked.
  """

  kind: str
  keys: tuple[str, ...]
  answer: str
  segments: tuple[int, ...]
  time: int

  @property
  def text(self) -> str:
    """Always four words, so that all questions have the same length."""
    keys = (*self.keys, "-", "-")[:2]
    return " ".join((self.kind, *keys, "?"))

  def evidence(self, story: story_lib.Story) -> np.ndarray:
    """Frames that show the answer, up to the time of asking: i64[frames]."""
    spans = [
      np.arange(story.appears[segment], story.leaves[segment])
      for segment in self.segments
    ]
    frames = np.concatenate([np.zeros(0, np.int64), *spans])
    return frames[frames <= self.time]


def questions_at(story: story_lib.Story, time: int) -> list[Question]:
  """Every question that has one answer after a frame.

  Args:
    story: what is asked about.
    time: frame after which is asked; later frames are not known.
  """
  seen = np.flatnonzero(story.appears <= time)
  shape, colour, room = (
    array[seen].tolist() for array in (story.shape, story.colour, story.room)
  )
  where = {s: [i for i, x in enumerate(shape) if x == s] for s in set(shape)}
  places = {r: [i for i, x in enumerate(room) if x == r] for r in set(room)}
  shapes, colours, rooms = (
    story_lib.SHAPES, story_lib.COLOURS, story_lib.ROOMS,
  )  # fmt: skip
  found: list[Question] = []

  def add(
    kind: str, keys: tuple[str, ...], answer: str, segments: Sequence[int]
  ) -> None:
    held = tuple(int(seen[segment]) for segment in segments)
    found.append(Question(kind, keys, answer, held, time))

  for s, at in where.items():
    key = (shapes[s],)
    add("exists", key, "yes", at)
    if len(at) <= len(_NUMBERS):
      add("count", key, _NUMBERS[len(at) - 1], at)
    if len(at) == 1:
      add("colour-of", key, colours[colour[at[0]]], at)
      add("room-of", key, rooms[room[at[0]]], at)
    else:
      for i in at:
        add("colour-of-in", (*key, rooms[room[i]]), colours[colour[i]], [i])
  for r, at in places.items():
    # A room that is visited again and has shown nothing yet is not ambiguous.
    if len(at) == 1:
      add("shape-in", (rooms[r],), shapes[shape[at[0]]], at)
      add("colour-in", (rooms[r],), colours[colour[at[0]]], at)
  for s in set(range(len(shapes))) - set(where):
    add("exists", (shapes[s],), "no", ())
  once = [s for s, at in where.items() if len(at) == 1]
  for one in once:
    for other in once:
      if one != other:
        first = where[one][0] < where[other][0]
        both = (where[one][0], where[other][0])
        keys = (shapes[one], shapes[other])
        add("before", keys, "yes" if first else "no", both)
  now = int(story.segment_of(np.asarray(time)))
  add("room-now", (), rooms[story.room[now]], ())
  if story.shows_object(np.asarray(time)):
    last = (len(seen) - 1,)
    add("colour-now", (), colours[story.colour[now]], last)
    add("shape-now", (), shapes[story.shape[now]], last)
  return found


def ask(
  story: story_lib.Story,
  time: int,
  number: int,
  random: np.random.Generator,
  kinds: tuple[str, ...] = KINDS,
) -> list[Question]:
  """Draws questions: each kind as often as the others, as far as there are.

  Args:
    story: what is asked about.
    time: frame after which is asked.
    number: how many; fewer where there are not so many.
    random: generator.
    kinds: that may be asked.
  """
  by_kind: dict[str, list[Question]] = {kind: [] for kind in kinds}
  for question in questions_at(story, time):
    if question.kind in by_kind:
      by_kind[question.kind].append(question)
  piles = [random.permutation(len(pile)).tolist() for pile in by_kind.values()]
  pools = [list(pile) for pile in by_kind.values()]
  asked: list[Question] = []
  while len(asked) < number and any(piles):
    for index in random.permutation(len(piles)):
      if piles[index] and len(asked) < number:
        asked.append(pools[index][piles[index].pop()])
  return asked


def narration(story: story_lib.Story) -> list[tuple[int, str, int]]:
  """What is said at every frame that shows an object.

  Args:
    story: what is told.

  Returns:
    (frame, word, segment the word comes from or -1 for `new`), in order.
  """
  said: list[tuple[int, str, int]] = []
  for segment, shape in enumerate(story.shape):
    earlier = np.flatnonzero(story.shape[:segment] == shape)
    word, source = "new", -1
    if earlier.size:
      source = int(earlier[-1])
      word = story_lib.COLOURS[story.colour[source]]
    frames = range(story.appears[segment], story.leaves[segment])
    said += [(frame, word, source) for frame in frames]
  return said
