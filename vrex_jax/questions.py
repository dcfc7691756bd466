"""Questions asked while a stream runs: "12.5: what is happening?"."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from vrex_jax import sampling
from vrex_jax.errors import InputError

__all__ = ["Question", "check_times", "parse_questions"]


class Question(NamedTuple):
  """Static. A question and when it is asked.

  Attributes:
    time_s: seconds into the video; asked after the last frame at or before.
    text: the question.
  """

  time_s: float
  text: str


def parse_questions(texts: Sequence[str]) -> tuple[Question, ...]:
  """Questions in the order they are asked.

  Args:
    texts: "seconds: question" each.

  Raises:
    InputError: no time, a negative one, or no text after it.

  Example:
    >>> parse_questions(["12.5: what is happening?"])
    (Question(time_s=12.5, text='what is happening?'),)
  """
  questions = []
  for text in texts:
    before, colon, after = text.partition(":")
    try:
      time_s = float(before)
    except ValueError:
      time_s = math.nan
    clock = re.match(r"\d\d:", after) is not None
    if not colon or not after.strip() or not 0.0 <= time_s < math.inf or clock:
      raise InputError(
        f"--question is {text!r}; it must be 'seconds: text' with seconds from"
        " 0 up, not minutes: write for example '83: what is happening?'"
      )
    questions.append(Question(time_s, after.strip()))
  return tuple(sorted(questions, key=lambda question: question.time_s))


def check_times(questions: Sequence[Question], end_s: float) -> None:
  """Refuses questions after the end of the stream.

  Args:
    questions: in order.
    end_s: time the stream ends at, seconds; files round it.

  Raises:
    InputError: a question lies after `end_s`.
  """
  for question in questions:
    if question.time_s > end_s + sampling.CLOCK_ROUNDING_S:
      raise InputError(
        f"--question {question.text!r} is asked at {question.time_s:g} s, but"
        f" the stream ends at {end_s:g} s: ask earlier, or lengthen the stream"
        " with --max_frames or --loop"
      )
