"""Questions and their times: what is read, what is refused, in which words."""

import pytest

from vrex_jax import errors
from vrex_jax import questions


def test_questions_are_asked_in_order_of_time_and_keep_their_colons():
  parsed = questions.parse_questions(
    ["10.5: which: this, or that?", "0:first", "1e1:  spaced  "]
  )
  assert parsed == (
    questions.Question(0.0, "first"),
    questions.Question(10.0, "spaced"),
    questions.Question(10.5, "which: this, or that?"),
  )


def test_questions_at_one_time_keep_the_order_they_were_given_in():
  parsed = questions.parse_questions(["2: b", "2: a", "1: z"])
  assert [question.text for question in parsed] == ["z", "b", "a"]


def test_no_questions_are_no_mistake():
  assert questions.parse_questions([]) == ()
  questions.check_times([], 0.0)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "what?",
    "5",
    "5:",
    "5:   ",
    ": what?",
    "soon: what?",
    "-1: what?",
    "nan: what?",
    "inf: what?",
    "1:02: what?",
    "12:34: what?",
  ],
)
def test_a_question_without_a_time_or_a_text_is_refused(text):
  with pytest.raises(errors.InputError) as told:
    questions.parse_questions(["1: good", text])
  message = str(told.value)
  assert repr(text) in message
  assert "seconds: text" in message
  assert "\n" not in message


def test_a_question_may_be_asked_up_to_the_end_and_not_after():
  asked = questions.parse_questions(["1: a", "4: b"])
  questions.check_times(asked, 4.0)
  questions.check_times(asked, 3.9995)  # files round their length
  with pytest.raises(errors.InputError) as told:
    questions.check_times(asked, 3.5)
  message = str(told.value)
  assert "'b' is asked at 4 s" in message
  assert "ends at 3.5 s" in message
  assert "--max_frames" in message
