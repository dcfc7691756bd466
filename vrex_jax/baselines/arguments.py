"""Arguments that many baselines share: stages, budgets, pages, words.

  quest(budget=1024)               tokens
  quest(budget=0.05)               share of the past, (0, 1]
  quest(budget=1024, stages=all)   retrieves while frames are prefilled, too

A budget is two knobs, `budget_tokens` and `budget_share`, both traced: a sweep
over either compiles nothing. What may be attended is the smaller of the two.
Without one a method has its published budget (`Published`), or all of a shorter
cache.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError, check_whole_number
from vrex_jax.models import cache as cache_lib
from vrex_jax.typing import Float, Int

__all__ = [
  "ALL_STAGES",
  "DECODING",
  "UNLIMITED",
  "Budget",
  "Published",
  "budget_knobs",
  "canonical_name",
  "check_answers",
  "check_at_most",
  "check_budget",
  "check_divides",
  "check_number",
  "check_odd",
  "check_page",
  "check_sizes",
  "check_word",
  "fitting",
  "read_budget",
  "stages_of",
]

ALL_STAGES = ("frame", "question", "answer")
"""What `stages=all` means: every stage that has a past."""
UNLIMITED = 2**30
"""Tokens of a budget that is a share alone."""
DECODING = ("answer",)
"""Stages of a method published for decoding after a dense prefill."""


class Published(int):
  """A default: the number of a paper, wherever a cache has room for it.

  Nobody asked for it, so that on a shorter cache it means everything, while a
  number that was given must fit (`fitting`). In a policy's name it is left out
  and a given number, were it the same, is not: the name is the text that makes
  the policy.
  """


class Budget(flax.struct.PyTreeNode):
  """Dynamic. Past tokens a row may attend to.

  Attributes:
    tokens: at most this many.
    share: at most this share of the past.
  """

  tokens: Int  # []
  share: Float  # f32 []

  def of(self, past: Int) -> Int:
    """min(tokens, ⌈share · past⌉): i32[]."""
    part = jnp.ceil(self.share * past.astype(jnp.float32))
    return jnp.minimum(self.tokens, part.astype(jnp.int32))

  def pages(self, past: Int, page: int) -> Int:
    """The same in whole pages, a share rounded up: i32[], at least 1."""
    return jnp.maximum(-(-self.of(past) // page), 1)


def check_budget(
  policy: str,
  budget: Any,
  *,
  page: int = 1,
  least: int = 1,
  name: str = "budget",
) -> None:
  """Refuses what is neither whole tokens in whole pages nor a share.

  Args:
    policy: whose budget.
    budget: as given.
    page: tokens of a page; a budget in tokens is a multiple of it.
    least: smallest number of tokens, a multiple of `page`.
    name: of the argument.

  Raises:
    InputError: the budget cannot be used.

  Example:
    >>> check_budget("quest", 100, page=16)
    Traceback (most recent call last):
        ...
    vrex_jax.errors.InputError: quest: budget is 100; it must be a multiple of
    the page of 16 tokens: try budget=112
  """
  least = max(least, page)
  if isinstance(budget, float):
    if 0.0 < budget <= 1.0:
      return
    raise InputError(
      f"{policy}: {name} is {budget!r}; a budget is whole tokens, or a share of"
      f" the past above 0.0 and up to 1.0: try {name}={least} or {name}=0.05"
    )
  check_whole_number(
    f"{policy}: {name}", budget, least=least, hint=f"{name}={least}"
  )
  if budget % page:
    raise InputError(
      f"{policy}: {name} is {budget}; it must be a multiple of the page of"
      f" {page} tokens: try {name}={page * math.ceil(budget / page)}"
    )


def budget_knobs(budget: int | float, name: str = "budget") -> dict[str, Any]:
  """The two knobs of a checked budget.

  Example:
    >>> budget_knobs(0.05)["budget_share"], budget_knobs(64)["budget_share"]
    (0.05, 1.0)
  """
  if isinstance(budget, float):
    return {f"{name}_tokens": UNLIMITED, f"{name}_share": budget}
  return {f"{name}_tokens": budget, f"{name}_share": 1.0}


def read_budget(
  policy: str,
  knobs: Mapping[str, Any],
  spec: policy_lib.Spec,
  name: str = "budget",
) -> Budget:
  """The budget a policy's state holds.

  Args:
    policy: whose budget.
    knobs: with the two of `budget_knobs`.
    spec: of the stream.
    name: of the argument.

  Raises:
    InputError: more tokens than the cache has slots (seen only where the knob
      is a number, not in a sweep).
  """
  tokens, share = knobs[f"{name}_tokens"], knobs[f"{name}_share"]
  # A share fits every method, whole pages and sinks or not.
  tokens = fitting(policy, name, tokens, spec, hint=0.25)
  return Budget(
    tokens=jnp.asarray(tokens, jnp.int32), share=jnp.asarray(share, jnp.float32)
  )


def check_page(policy: str, page: Any) -> None:
  """Refuses a page size that does not divide the cache.

  Raises:
    InputError: it is no divisor of `cache.SLOT_MULTIPLE`.
  """
  multiple = cache_lib.SLOT_MULTIPLE
  check_whole_number(f"{policy}: page", page, least=1, hint="page=16")
  if multiple % page:
    raise InputError(
      f"{policy}: page is {page}; it must divide {multiple}, of which a cache"
      " is a multiple: try page=16"
    )


def check_sizes(policy: str, sizes: Mapping[str, tuple[Any, int]]) -> None:
  """Refuses sizes that are no whole numbers: name -> (value, least)."""
  for name, (value, least) in sizes.items():
    check_whole_number(
      f"{policy}: {name}", value, least=least, hint=f"{name}={max(1, least)}"
    )


def check_divides(policy: str, name: str, value: int, whole: int) -> None:
  """Refuses a part that does not divide its block.

  Raises:
    InputError: there is a remainder.
  """
  if whole % value:
    raise InputError(
      f"{policy}: {name} is {value}; it must divide the block of {whole}"
      f" tokens: try {name}={whole}"
    )


def fitting(
  policy: str,
  name: str,
  value: Any,
  spec: policy_lib.Spec,
  hint: float | str | None = None,
) -> Any:
  """The value; refuses more tokens than the cache has slots.

  A traced value passes, a published default is cut to the slots.

  Args:
    policy: whose argument.
    name: of it.
    value: as given.
    spec: of the stream.
    hint: a value that does; a quarter of the slots when None.

  Raises:
    InputError: more were given than fit.
  """
  if isinstance(value, Published):
    return min(int(value), spec.capacity)
  if isinstance(value, int) and spec.capacity < value < UNLIMITED:
    hint = max(1, spec.capacity // 4) if hint is None else hint
    raise InputError(
      f"{policy}: {name} is {value}; it must not exceed the {spec.capacity}"
      f" slots of the cache: try {name}={hint}"
    )
  return value


def check_at_most(
  policy: str, name: str, value: int, other: str, limit: int
) -> None:
  """Refuses a value above that of another argument.

  Raises:
    InputError: it is above.
  """
  if value > limit:
    raise InputError(
      f"{policy}: {name} is {value}; it must be at most {other}, {limit}: try"
      f" {name}={limit}"
    )


def check_odd(policy: str, name: str, value: int) -> None:
  """Refuses an even number of neighbours.

  Raises:
    InputError: the value is even.
  """
  if value % 2 == 0:
    raise InputError(
      f"{policy}: {name} is {value}; it must be odd, a token with as many"
      f" neighbours on either side: try {name}={value + 1}"
    )


def check_number(
  policy: str, name: str, value: Any, least: float, most: float, hint: str
) -> None:
  """Refuses what is no number from `least` to `most`.

  Raises:
    InputError: the value is not such a number.
  """
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not number or not least <= value <= most:
    raise InputError(
      f"{policy}: {name} is {value!r}; it must be a number from {least:g} to"
      f" {most:g}: try {name}={hint}"
    )


def check_word(
  policy: str, name: str, value: Any, allowed: tuple[Any, ...]
) -> None:
  """Refuses what is not one of the allowed values.

  Raises:
    InputError: the value is not allowed.
  """
  if not any(value is word or value == word for word in allowed):
    listed = ", ".join(map(str, allowed))
    raise InputError(
      f"{policy}: {name} is {value!r}; it must be one of {listed}: try"
      f" {name}={allowed[0]}"
    )


def stages_of(
  policy: str, stages: Any, published: tuple[str, ...]
) -> tuple[str, ...]:
  """The stages a `stages` argument means.

  Args:
    policy: whose argument.
    stages: "published", "all", the name of a stage, or a tuple of names.
    published: stages the method retrieves in as published.

  Returns:
    Names of stages.

  Raises:
    InputError: anything else.

  Example:
    >>> stages_of("quest", "all", ("answer",))
    ('frame', 'question', 'answer')
  """
  if stages == "published":
    return published
  if stages == "all":
    return ALL_STAGES
  named = (stages,) if isinstance(stages, str) else stages
  known = isinstance(named, tuple) and all(
    one in policy_lib.STAGES for one in named
  )
  if not known or not named:
    raise InputError(
      f"{policy}: stages is {stages!r}; it must be published"
      f" ({', '.join(published)}), all, or some of"
      f" {', '.join(policy_lib.STAGES)}: try stages=all"
    )
  return named


def check_answers(policy: str, stages: tuple[str, ...]) -> None:
  """Refuses answers that would read a choice which no question has made.

  Args:
    policy: one whose answers read what their question chose.
    stages: it retrieves in.

  Raises:
    InputError: answers are among them and questions are not.
  """
  if "answer" in stages and "question" not in stages:
    raise InputError(
      f"{policy}: stages is {stages}; an answer reads what its question has"
      " chosen, so that both retrieve or neither: try"
      " stages=('question', 'answer')"
    )


def canonical_name(
  factory: Callable[..., Any], given: Mapping[str, Any]
) -> str:
  """Text that makes the same policy: every argument that is not the default.

  A number that was given where a published one is the default is told.

  Args:
    factory: of the policy; its name is the policy's.
    given: argument -> value, all of them.
  """
  parameters = inspect.signature(factory).parameters
  told = [
    f"{name}={_text(given[name])}"
    for name, parameter in parameters.items()
    if _is_told(given[name], parameter.default)
  ]
  return f"{factory.__name__}({', '.join(told)})" if told else factory.__name__


def _is_told(value: Any, default: Any) -> bool:
  asked = isinstance(default, Published) and not isinstance(value, Published)
  return asked or value != default


def _text(value: Any) -> str:
  """A bare word, or the literal."""
  if isinstance(value, jax.Array):
    value = value.item()
  bare = isinstance(value, str) and value.isidentifier()
  return value if bare else repr(value)
