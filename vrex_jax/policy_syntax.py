"""The text form of policies: what --policy takes.

  "full | streaming_llm(sink_tokens=4) | full + keep_sink(4)"

`|` separates policies, `+` wraps the policy on its left in a combinator.
Policies take arguments by name; values are Python literals or bare words
(stages=all is the text "all"). A policy inside a combinator's brackets stands
in quotes: 'quest + per_layer((0, 1), "full")'.
"""

import ast
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError

__all__ = ["make_policy", "parse_policies", "policy_arguments"]


def parse_policies(
  text: str, flag: str = "--policy"
) -> list[policy_lib.KVPolicy]:
  """Every policy of a --policy value, in order.

  Args:
    text: policies separated by `|`.
    flag: that gave it, for messages.

  Returns:
    One KVPolicy each.

  Raises:
    InputError: unknown policy, combinator or argument (the known ones are
      listed), or text that is not of the form name(argument=value, …).

  Example:
    >>> [policy.name for policy in parse_policies("full | full + keep_sink(4)")]
    ['full', 'full + keep_sink(4)']
  """
  parts = _split(text, "|")
  if not all(part.strip() for part in parts):
    raise InputError(
      f"{flag} is {text!r}; it must name at least one policy, separated by"
      f" |: the known ones are {_known(policy_lib.POLICIES)}"
    )
  return [make_policy(part, flag) for part in parts]


def make_policy(text: str, flag: str = "--policy") -> policy_lib.KVPolicy:
  """One policy with its combinators: "name(argument=value) + combinator(4)".

  Args:
    text: one policy.
    flag: that gave it, for messages.

  Raises:
    InputError: see `parse_policies`.

  Example:
    >>> make_policy("sliding_window(frames=2)").knobs
    {'frames': 2}
  """
  base, *wrappers = _split(text, "+")
  name, named = policy_arguments(base, flag)
  policy = _factory(policy_lib.POLICIES, name, "policy")(**named)
  for wrapper in wrappers:
    name, positional, named = _call(wrapper, flag)
    factory = _factory(policy_lib.COMBINATORS, name, "combinator")
    _check_arguments(factory, name, positional, named, skip=1)
    policy = factory(policy, **_with_policies(factory, positional, named, flag))
  return policy


def policy_arguments(
  text: str, flag: str = "--policy"
) -> tuple[str, dict[str, Any]]:
  """Name and arguments of one policy without combinators, as they are given.

  Args:
    text: one policy.
    flag: that gave it, for messages.

  Raises:
    InputError: see `parse_policies`.

  Example:
    >>> policy_arguments("resv(table=layer, votes=4)")
    ('resv', {'table': 'layer', 'votes': 4})
  """
  name, positional, named = _call(text, flag)
  factory = _factory(policy_lib.POLICIES, name, "policy")
  if positional:
    raise InputError(
      f"policy {text.strip()!r} has an argument without a name; policies take"
      f" them by name: write {name}(argument={positional[0]!r})"
    )
  _check_arguments(factory, name, (), named, skip=0)
  return name, named


def _with_policies(factory, positional, named, flag) -> dict[str, Any]:
  """Arguments by name; text that stands for a policy is made into one."""
  given = inspect.signature(factory).bind_partial(None, *positional, **named)
  parameters = inspect.signature(factory).parameters
  inner, *rest = given.arguments
  del inner
  arguments = {name: given.arguments[name] for name in rest}
  for name, value in arguments.items():
    if parameters[name].annotation is policy_lib.KVPolicy:
      arguments[name] = make_policy(str(value), flag)
  return arguments


def _split(text: str, separator: str) -> list[str]:
  """Splits outside brackets and quotes."""
  parts, depth, quote, current = [], 0, "", ""
  for character in text:
    if quote:
      quote = "" if character == quote else quote
    elif character in "'\"":
      quote = character
    elif character in "([{":
      depth += 1
    elif character in ")]}":
      depth -= 1
    elif character == separator and depth == 0:
      parts.append(current)
      current = ""
      continue
    current += character
  return [*parts, current]


def _call(text: str, flag: str) -> tuple[str, list[Any], dict[str, Any]]:
  """Name, positional and named arguments of "name(…)" or "name"."""
  try:
    node = ast.parse(text.strip(), mode="eval").body
    if isinstance(node, ast.Name):
      return node.id, [], {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
      raise SyntaxError
    given = [word.arg for word in node.keywords]
    if None in given or len(set(given)) < len(given):
      raise SyntaxError
    return (
      node.func.id,
      [_value(argument) for argument in node.args],
      {str(word.arg): _value(word.value) for word in node.keywords},
    )
  except (SyntaxError, ValueError) as error:
    raise InputError(
      f"{flag} has {text.strip()!r}; a policy is written name or"
      " name(argument=value, …), each argument once: check brackets and commas"
    ) from error


def _value(node: ast.expr) -> Any:
  return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _known(registry: Mapping[str, str]) -> str:
  return ", ".join(sorted(registry))


def _hint(name: str, known: Iterable[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1)
  return f" (did you mean {close[0]}?)" if close else ""


def _factory(
  registry: Mapping[str, str], name: str, what: str
) -> Callable[..., policy_lib.KVPolicy]:
  if name not in registry:
    raise InputError(
      f"{name!r} is not a known {what}{_hint(name, registry)}; the known ones"
      f" are {_known(registry)}"
    )
  module, attribute = registry[name].split(":")
  return getattr(importlib.import_module(module), attribute)


def _check_arguments(factory, name, positional, named, *, skip) -> None:
  parameters = list(inspect.signature(factory).parameters.values())[skip:]
  allowed = [parameter.name for parameter in parameters]
  unknown = [argument for argument in named if argument not in allowed]
  listed = ", ".join(allowed) or "none"
  if unknown:
    raise InputError(
      f"{name} has no argument {unknown[0]!r}{_hint(unknown[0], allowed)}; it"
      f" takes {listed}: remove or rename it"
    )
  try:
    inspect.signature(factory).bind(*[None] * skip, *positional, **named)
  except TypeError as error:
    raise InputError(
      f"the arguments of {name} do not fit ({error}); it takes {listed}"
    ) from error
