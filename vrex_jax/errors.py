"""The one exception that stands for a mistake a user can mend."""

from typing import Any

__all__ = ["InputError", "check_whole_number"]


class InputError(ValueError):
  """A value, flag or file that cannot be used as given.

  The message is one sentence: the value or file, the rule it breaks, and what
  to do. Command-line scripts print it and exit with code 2; everything else
  is a defect of the package and keeps its traceback.

  Example:
    >>> raise InputError("--fps is 0; it must be above 0: try --fps 2")
    Traceback (most recent call last):
        ...
    vrex_jax.errors.InputError: --fps is 0; it must be above 0: try --fps 2
  """


def check_whole_number(name: str, value: Any, *, least: int, hint: str) -> None:
  """Refuses what is no whole number from `least` to 2³⁰ (it must fit int32).

  Args:
    name: whose value it is, as the message begins.
    value: anything a user can write.
    least: smallest allowed value.
    hint: what to try instead.

  Raises:
    InputError: the value is not such a number.

  Example:
    >>> check_whole_number("quest: budget", 0, least=1, hint="budget=1024")
    Traceback (most recent call last):
        ...
    vrex_jax.errors.InputError: quest: budget is 0; it must be a whole number
    from 1 to 1073741824: try budget=1024
  """
  whole = isinstance(value, int) and not isinstance(value, bool)
  if not whole or not least <= value <= 2**30:
    raise InputError(
      f"{name} is {value!r}; it must be a whole number from {least} to"
      f" {2**30}: try {hint}"
    )
