"""The text of --policy: what it means, and what is said of a mistake."""

import re

import hypothesis
import pytest
from hypothesis import strategies

from vrex_jax import errors
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax.baselines import full as full_lib


def test_policies_are_separated_and_composed():
  policies = policy_syntax.parse_policies(
    " full |streaming_llm(sink_tokens=2, window_tokens=64)+keep_sink(8) + "
    "keep_recent(tokens=16)|sliding_window( frames = 3,keep_prompt=False ) "
  )
  assert [policy.name for policy in policies] == [
    "full",
    "streaming_llm(sink_tokens=2, window_tokens=64) + keep_sink(8)"
    " + keep_recent(16)",
    "sliding_window(frames=3, keep_prompt=False)",
  ]
  assert policies[1].knobs == {
    "sink_tokens": 2,
    "window_tokens": 64,
    "keep_sink": 8,
    "keep_recent": 16,
  }


@pytest.mark.parametrize(
  "text",
  [
    "full",
    "sliding_window(frames=7, keep_prompt=True)",
    "streaming_llm(sink_tokens=0, window_tokens=9) + keep_recent(3)",
  ],
)
def test_a_name_is_the_text_that_makes_the_policy(text):
  policy = policy_syntax.make_policy(text)
  assert policy.name == text
  again = policy_syntax.make_policy(policy.name)
  assert (again.name, again.knobs, again.needs) == (
    policy.name,
    policy.knobs,
    policy.needs,
  )


def test_defaults_stand_in_the_name():
  assert policy_syntax.make_policy("sliding_window").name == (
    "sliding_window(frames=16, keep_prompt=True)"
  )


def test_separators_inside_brackets_and_quotes_belong_to_the_value(monkeypatch):
  received = {}

  def factory(*, words, text="", stages=""):
    received.update(words=words, text=text, stages=stages)
    return full_lib.full()

  monkeypatch.setattr(
    policy_syntax, "_factory", lambda registry, name, what: factory
  )
  policy_syntax.parse_policies(
    "probe(words=('a|b', 'c+d'), text='x) | (y', stages=all)"
  )
  assert received == {
    "words": ("a|b", "c+d"),
    "text": "x) | (y",
    "stages": "all",
  }


KNOWN = ", ".join(sorted(policy_lib.POLICIES))


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", "must name at least one policy"),
    ("full |", "must name at least one policy"),
    ("fulll", f"did you mean full?); the known ones are {KNOWN}"),
    ("xyz", f"'xyz' is not a known policy; the known ones are {KNOWN}"),
    ("full + sink(4)", "known combinator"),
    ("full + xyz(4)", "the known ones are keep_recent, keep_sink"),
    ("full + full", "is not a known combinator"),
    ("keep_sink(4)", "is not a known policy"),
    ("full(4)", "write full(argument=4)"),
    ("full(a=4)", "full has no argument 'a'; it takes none"),
    ("sliding_window(frame=4)", "it takes frames, keep_prompt"),
    ("full + keep_sink", "missing a required argument: 'tokens'"),
    ("full + keep_sink(1, 2)", "too many positional arguments"),
    ("full + keep_sink(1, tokens=2)", "multiple values"),
    ("full + keep_sink(4) + keep_sink(8)", "already has keep_sink"),
    ("full(", "check brackets and commas"),
    ("full)(", "check brackets and commas"),
    ("full()()", "check brackets and commas"),
    ("full.x", "check brackets and commas"),
    ("sliding_window(frames=open('x'))", "check brackets and commas"),
    ("sliding_window(**{'frames': 3})", "check brackets and commas"),
    ("sliding_window(frames='3", "check brackets and commas"),
    ("sliding_window(frames=0)", "frames is 0; it must be"),
    ("sliding_window(frames=2.5)", "frames is 2.5; it must be"),
    ("sliding_window(frames=many)", "frames is 'many'; it must be"),
    ("sliding_window(frames=True)", "frames is True; it must be"),
    ("sliding_window(frames=99999999999)", "frames is 99999999999; it must"),
    ("sliding_window(keep_prompt=false)", "keep_prompt is 'false'; it must"),
    ("streaming_llm(sink_tokens=-1)", "sink_tokens is -1; it must be"),
    ("streaming_llm(window_tokens=0)", "window_tokens is 0; it must be"),
    ("streaming_llm(window_tokens=3000000000)", "window_tokens is 3000000000"),
    ("full + keep_sink(0)", "keep_sink: tokens is 0; it must be"),
    ("full + keep_recent(x)", "keep_recent: tokens is 'x'; it must be"),
    ("full + keep_recent(3000000000)", "keep_recent: tokens is 3000000000"),
  ],
)
def test_a_mistake_is_one_sentence(text, said):
  with pytest.raises(errors.InputError, match=re.escape(said)) as told:
    policy_syntax.parse_policies(text)
  assert "\n" not in str(told.value)


@hypothesis.given(
  strategies.text(alphabet="full()|+=,'\"1 a[]{}*.-:\\\0é", max_size=20)
)
def test_any_text_is_policies_or_an_input_error(text):
  try:
    policies = policy_syntax.parse_policies(text)
  except errors.InputError:
    return
  assert all(policy.name.startswith("full") for policy in policies)


def test_arguments_are_those_that_are_written():
  """A policy made of them is the policy of the text."""
  text = "sliding_window(frames=3)"
  name, arguments = policy_syntax.policy_arguments(text)
  assert (name, arguments) == ("sliding_window", {"frames": 3})
  again = ", ".join(f"{key}={value}" for key, value in arguments.items())
  made = policy_syntax.make_policy(f"{name}({again})")
  assert made.name == policy_syntax.make_policy(text).name
  assert policy_syntax.policy_arguments(" full ") == ("full", {})
  for other in ("full + keep_sink(4)", "sliding_window(3)", "full | full"):
    with pytest.raises(errors.InputError):
      policy_syntax.policy_arguments(other)


@pytest.mark.parametrize("text", ["", "full |", "full("])
def test_a_mistake_names_the_flag_that_has_it(text):
  with pytest.raises(errors.InputError, match=r"^--policy "):
    policy_syntax.parse_policies(text)
  with pytest.raises(errors.InputError, match=r"^--base "):
    policy_syntax.parse_policies(text, "--base")
