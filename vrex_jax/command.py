"""How a script starts and fails.

Every script ends with `command.run(main)`. A user's mistake (`InputError`, a
bad flag) is one sentence on standard error and exit code 2; anything else
keeps its traceback.
"""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app
from absl import flags
from absl import logging

from vrex_jax.errors import InputError

__all__ = ["run", "use_compilation_cache"]


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Parses flags and runs `main`; does not return."""

  def guarded(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
      _fail(
        f"{arguments[1]!r} is not a flag; flags are written --name=value: see"
        " --help"
      )
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    try:
      main(arguments)
    except InputError as error:
      _fail(str(error))

  app.run(guarded, flags_parser=_parse)


def use_compilation_cache(folder: str | None) -> None:
  """Keeps compiled programs between runs.

  Args:
    folder: where; "" switches the cache off; None means the user's cache
      folder (JAX_COMPILATION_CACHE_DIR, when set, is left alone).
  """
  if folder == "":
    return
  if folder is None:
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
      return
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = str(pathlib.Path(base) / "vrex_jax" / "xla")
  jax.config.update("jax_compilation_cache_dir", folder)


def _parse(arguments: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(arguments))
  except flags.Error as error:
    return _fail(f"{error}: see --help")
  except SystemExit:  # absl leaves with 1 after --help
    sys.exit(0)


def _fail(sentence: str) -> list[str]:
  print(f"error: {sentence}", file=sys.stderr)
  sys.exit(2)
