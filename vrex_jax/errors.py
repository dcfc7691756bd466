"""The one exception that stands for a mistake a user can mend."""

__all__ = ["InputError"]


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
