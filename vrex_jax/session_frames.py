"""Frames of a video as a model takes them, and what asks between them."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vrex_jax import questions as questions_lib
from vrex_jax import resize
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import video
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import video_llm
from vrex_jax.typing import Frame

__all__ = ["Sample", "embed_function", "in_order", "samples"]


class Sample(NamedTuple):
  """Static. A resized frame and what it took to decode it.

  Attributes:
    pixels: u8[side, side, 3], RGB.
    time_s: time stamp in the video.
    decode_s: of the host, to decode and resize it.
  """

  pixels: Frame
  time_s: float
  decode_s: float


def embed_function(
  model: checkpoint_lib.Checkpoint, config: stream_state.StreamConfig
) -> stream.EmbedFrame:
  """Tower and connector of a model.

  Args:
    model: configuration and weights.
    config: of the stream that embeds.
  """

  def embed(params, frame, first):
    return video_llm.embed_frame_tokens(
      model.config, params, frame, first, dtype=config.dtype
    )

  return embed


def samples(
  frames: video.Frames, model: checkpoint_lib.Checkpoint
) -> Iterator[Sample]:
  """Frames at the model's size, decoding timed.

  Args:
    frames: of a video, at any size.
    model: whose size is wanted.
  """
  image = model.config.image
  resizer: resize.Resizer | None = None
  while True:
    begun = time.perf_counter()
    frame = next(frames, None)
    if frame is None:
      return
    height, width = frame.pixels.shape[:2]
    if resizer is None or (resizer.height, resizer.width) != (height, width):
      resizer = resize.Resizer.create(height, width, image.size, image.resize)
    pixels = resizer(frame.pixels)
    yield Sample(pixels, frame.time_s, time.perf_counter() - begun)


def in_order(
  frames: Iterator[Sample],
  questions: Sequence[questions_lib.Question],
  block: int,
) -> Iterator[list[Sample] | int]:
  """Blocks of frames, and questions by number where they are asked.

  A question comes after the last frame at or before its time.

  Args:
    frames: in order.
    questions: in order of time.
    block: frames of a block, at most.

  Example:
    >>> frames = [Sample(None, float(time_s), 0.0) for time_s in range(4)]
    >>> asked = questions_lib.parse_questions(["0.5: a", "9: b"])
    >>> [part if isinstance(part, int) else [one.time_s for one in part]
    ...  for part in in_order(iter(frames), asked, 2)]
    [[0.0], 0, [1.0, 2.0], [3.0], 1]
  """
  waiting = list(range(len(questions)))
  held: list[Sample] = []
  for sample in frames:
    while waiting and questions[waiting[0]].time_s < sample.time_s:
      if held:
        yield held
        held = []
      yield waiting.pop(0)
    held.append(sample)
    if len(held) == block:
      yield held
      held = []
  if held:
    yield held
  yield from waiting
