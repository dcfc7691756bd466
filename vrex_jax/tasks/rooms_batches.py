"""Training batches: a few frames of long stories, with questions as branches.

A story is as long as the streams of the evaluation, but only some frames of it
are trained on, at the positions they have in the whole stream:

  story      ·  ·  a  ·  ·  ·  b  ·  c  ·  ·  ·  d     most frames left out
  tokens     <start> aaaa      bbbb cccc      dddd     4 tokens a frame
  positions  0       9…        25…  33…       53…
  stands for         3         3    2         4        frames of the story

Each question is a branch: it sees the frames up to its own time and nothing of
the other branches, as a question that is taken back from the cache does.

  row          sees
  frame 2      <start>, frames 0 to 2
  question j   <start>, frames up to its time, its own words so far

A frame stands for those like it that were left out: attention counts it so
many times, so that a short row is as hard to search as the whole stream.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from vrex_jax.tasks import rooms_pictures as pictures_lib
from vrex_jax.tasks import rooms_questions as questions_lib
from vrex_jax.tasks import rooms_story as story_lib
from vrex_jax.tasks import rooms_words as words_lib

__all__ = [
  "IGNORED",
  "TARGET_KINDS",
  "Batch",
  "BatchConfig",
  "Labels",
  "draw_batch",
  "draw_labels",
]

IGNORED = -1
"""Target of a token nothing is asked of, and kind of a target not counted."""
TARGET_KINDS = (*questions_lib.KINDS, "narration-old", "narration-new")
_WORDS_OF_QUESTION = 5
"""Four of the question and its answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
  """Static. Shape of a batch and of the stories in it.

  Attributes:
    streams: B.
    frames: F, of every story.
    span: most frames a story is long; the least is `frames`.
    questions: branches of a stream.
    segments: most segments of a story.
    least_segments: fewest.
    visible: frames an object is seen for, at most.
    narration: weight of what is said at frames; 0 says nothing.
    crowded: frames stand for those left out.
    tokens_per_frame: of the model.
  """

  streams: int
  frames: int
  span: int
  questions: int
  segments: int
  least_segments: int
  visible: int = 4
  narration: float = 1.0
  crowded: bool = True
  tokens_per_frame: int = 4


class Batch(NamedTuple):
  """Dynamic. One batch; rows are <start>, frames, then the questions.

  Attributes:
    pictures: frames.
    words: token ids behind the frames, 0 where frames stand.
    position: of every token.
    frame: the frame a token belongs to, or the last one its question sees; -1
      for <start>.
    owner: question a token belongs to, -1 for the stream.
    stands_for: frames of the story each frame counts as.
    target: word to say after a token, or IGNORED.
    weight: of the target in the loss.
    kind: index in TARGET_KINDS of what is asked, or IGNORED.
  """

  pictures: np.ndarray  # u8 [B, F, 48, 48, 3]
  words: np.ndarray  # i32 [B, S]
  position: np.ndarray  # i32 [B, S]
  frame: np.ndarray  # i32 [B, S]
  owner: np.ndarray  # i32 [B, S]
  stands_for: np.ndarray  # f32 [B, F]
  target: np.ndarray  # i32 [B, S]
  weight: np.ndarray  # f32 [B, S]
  kind: np.ndarray  # i32 [B, S]


class Labels(NamedTuple):
  """Dynamic. Single frames and what they show.

  Attributes:
    pictures: frames.
    shown: shape, colour and room of each.
  """

  pictures: np.ndarray  # u8 [B, 48, 48, 3]
  shown: np.ndarray  # i32 [B, 3]


def draw_batch(config: BatchConfig, random: np.random.Generator) -> Batch:
  """Draws a batch.

  Example:
    >>> config = BatchConfig(
    ...   streams=2, frames=6, span=64, questions=3, segments=3,
    ...   least_segments=2)
    >>> draw_batch(config, np.random.default_rng(0)).words.shape
    (2, 40)
  """
  streams = [_stream(config, random) for _ in range(config.streams)]
  return Batch(*map(np.stack, zip(*streams, strict=True)))


def draw_labels(number: int, random: np.random.Generator) -> Labels:
  """Draws frames that show an object, one of each segment of some stories."""
  pictures: list[np.ndarray] = []
  shown: list[tuple[int, int, int]] = []
  while len(shown) < number:
    story = story_lib.tell(story_lib.StoryConfig(frames=48), random)
    look = pictures_lib.look_at(story, random)
    frames = random.integers(story.appears, story.leaves)
    pictures += list(pictures_lib.draw_frames(story, look, frames, random))
    shown += list(zip(story.shape, story.colour, story.room, strict=True))
  return Labels(np.stack(pictures[:number]), np.array(shown[:number], np.int32))


def _stream(config: BatchConfig, random: np.random.Generator) -> Batch:
  """A batch of one stream, without its leading axis."""
  span = int(random.integers(config.frames, config.span + 1))
  story = story_lib.tell(
    story_lib.StoryConfig(
      frames=max(span, 3 * config.segments),
      visible=config.visible,
      segments=config.segments,
      least_segments=config.least_segments,
    ),
    random,
  )
  frames = _choose_frames(story, config.frames, random)
  look = pictures_lib.look_at(story, random)
  pictures = pictures_lib.draw_frames(story, look, frames, random)
  stands_for = np.ones(len(frames), np.float32)
  if config.crowded:
    stands_for = _stands_for(story, frames)
  stream = _stream_rows(config, story, frames)
  asked = _question_rows(config, story, frames, random)
  rows = [
    np.concatenate(pair).astype(pair[0].dtype)
    for pair in zip(stream, asked, strict=True)
  ]
  words, position, frame, owner, target, weight, kind = rows
  return Batch(
    pictures, words, position, frame, owner, stands_for, target, weight, kind
  )


def _stream_rows(
  config: BatchConfig, story: story_lib.Story, frames: np.ndarray
) -> tuple[np.ndarray, ...]:
  """words, position, frame, owner, target, weight, kind of <start>, frames."""
  per = config.tokens_per_frame
  length = 1 + len(frames) * per
  words = np.zeros(length, np.int32)
  words[0] = words_lib.START
  inside = frames[:, None] * per + np.arange(per)
  position = np.concatenate([[0], 1 + inside.ravel()]).astype(np.int32)
  frame = np.concatenate([[-1], np.repeat(np.arange(len(frames)), per)])
  target = np.full(length, IGNORED, np.int32)
  kind = np.full(length, IGNORED, np.int32)
  weight = np.zeros(length, np.float32)
  said = {number: word for number, word, _ in questions_lib.narration(story)}
  for index, number in enumerate(frames.tolist()):
    if config.narration and number in said:
      old = said[number] != "new"
      last = per * (index + 1)
      target[last] = words_lib.IDS[said[number]]
      weight[last] = config.narration * (1.0 if old else 0.5)
      kind[last] = TARGET_KINDS.index(
        "narration-old" if old else "narration-new"
      )
  owner = np.full(length, -1, np.int32)
  return words, position, frame.astype(np.int32), owner, target, weight, kind


def _question_rows(
  config: BatchConfig,
  story: story_lib.Story,
  frames: np.ndarray,
  random: np.random.Generator,
) -> tuple[np.ndarray, ...]:
  """The same of all questions, one behind the other."""
  per = config.tokens_per_frame
  asked = _ask(config, _without_hidden(story, frames), frames, random)
  length = _WORDS_OF_QUESTION
  words = np.array(
    [words_lib.encode(f"{one.text} {one.answer}") for _, one in asked], np.int32
  )
  index = np.array([index for index, _ in asked])
  begin = 1 + (frames[index] + 1) * per
  position = begin[:, None] + np.arange(length)
  target = np.full_like(words, IGNORED)
  target[:, -2], target[:, -1] = words[:, -1], words_lib.STOP
  kind = np.full_like(words, IGNORED)
  kind[:, -2] = [questions_lib.KINDS.index(one.kind) for _, one in asked]
  weight = np.zeros(words.shape, np.float32)
  weight[:, -2], weight[:, -1] = 1.0, 0.05
  return (
    words.ravel(),
    position.ravel(),
    np.repeat(index, length),
    np.repeat(np.arange(len(asked)), length),
    target.ravel(),
    weight.ravel(),
    kind.ravel(),
  )


def _ask(
  config: BatchConfig,
  story: story_lib.Story,
  frames: np.ndarray,
  random: np.random.Generator,
) -> list[tuple[int, questions_lib.Question]]:
  """Questions with the frame, by index, after which each is asked.

  Half of them are asked together late in the story, where every kind has a
  question; the others two at a time, anywhere.
  """
  asked: list[tuple[int, questions_lib.Question]] = []
  while len(asked) < config.questions:
    number, least = 2, 0
    if not asked:
      number, least = (config.questions + 1) // 2, 3 * len(frames) // 4
    index = int(random.integers(least, len(frames)))
    number = min(number, config.questions - len(asked))
    pool = questions_lib.ask(story, int(frames[index]), number, random)
    asked += [(index, question) for question in pool]
  return asked


def _choose_frames(
  story: story_lib.Story, number: int, random: np.random.Generator
) -> np.ndarray:
  """Frames to train on: some of every object, and others."""
  chosen: set[int] = set()
  segments = len(story.room)
  spare = max(1, (number - segments) // segments)
  for appears, leaves in zip(story.appears, story.leaves, strict=True):
    most = int(min(leaves - appears, spare))
    size = int(random.integers(1, most + 1))
    there = np.arange(appears, leaves)
    chosen |= set(random.choice(there, size, replace=False).tolist())
  rest = np.setdiff1d(np.arange(story.frames), sorted(chosen))
  more = random.choice(rest, max(0, number - len(chosen)), replace=False)
  return np.array(sorted(chosen | set(more.tolist())))[:number]


def _without_hidden(
  story: story_lib.Story, frames: np.ndarray
) -> story_lib.Story:
  """The story with objects appearing when their first chosen frame does."""
  appears = [
    frames[(frames >= first) & (frames < end)].min(initial=story.frames + 1)
    for first, end in zip(story.appears, story.leaves, strict=True)
  ]
  return story._replace(appears=np.array(appears))


def _stands_for(story: story_lib.Story, frames: np.ndarray) -> np.ndarray:
  """How many frames of the story each chosen one counts as: f32[F].

  Frames of the same part of a segment (before, with, behind its object) are
  alike and share the part's length. Parts no frame was chosen of go to all
  frames without an object.
  """
  every = np.arange(story.frames)
  segment = story.segment_of(every)
  behind = every >= story.leaves[segment]
  part = 3 * segment + story.shows_object(every) + 2 * behind
  length = np.bincount(part, minlength=3 * len(story.room))
  chosen = np.bincount(part[frames], minlength=len(length))
  count = length[part[frames]] / chosen[part[frames]]
  empty = ~story.shows_object(frames)
  lost = length[(chosen == 0) & (np.arange(len(length)) % 3 != 1)].sum()
  if empty.any():
    count = count + empty * lost / empty.sum()
  return count.astype(np.float32)
