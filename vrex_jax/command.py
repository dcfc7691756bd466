"""How a script starts and fails.

Every script ends with `command.run(main)`. A user's mistake (`InputError`, a
bad flag) is one sentence on standard error and exit code 2. Ctrl-C ends with
130 and a reader that has left (`| head`) with 141, as the shell counts signals;
anything else keeps its traceback.
"""

import os
import pathlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app
from absl import flags
from absl import logging

from vrex_jax import record
from vrex_jax.errors import InputError

__all__ = [
  "MAX_SEED",
  "check_out",
  "run",
  "set_defaults",
  "settings",
  "use_compilation_cache",
  "write_study",
]

MAX_SEED = 2**31 - 1
"""Largest seed of a script; a run counts up from it without an overflow."""
_INTERRUPTED = 128 + signal.SIGINT
_READER_LEFT = 128 + signal.SIGPIPE


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
    except KeyboardInterrupt:
      print("interrupted", file=sys.stderr, flush=True)
      sys.stdout.flush()
      # A compilation that was cut off may crash Python when it ends in order.
      os._exit(_INTERRUPTED)

  try:
    try:
      app.run(guarded, flags_parser=_parse)
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # What is left in the buffer must go somewhere when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_READER_LEFT)


def settings() -> dict[str, Any]:
  """Every flag of the running script, defaults included."""
  own = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]
  return {flag.name: flag.value for flag in own}


def set_defaults(values: Mapping[str, Any]) -> None:
  """Sets the flags that the command line leaves out, as --smoke does.

  Args:
    values: name of a flag -> value.
  """
  for name, value in values.items():
    if not flags.FLAGS[name].present:
      flags.FLAGS[name].value = value


def check_out(
  out: str | None, names: Sequence[str], *, resume: bool = False
) -> None:
  """Raises before the work when --out could not be written.

  Args:
    out: the flag's value; None when results are not kept.
    names: of the files that will be written.
    resume: --resume is given.

  Raises:
    InputError: --resume without --out; else see `record.check_folder`.
  """
  if resume and out is None:
    raise InputError(
      "--resume is given without --out; what is done is taken over from that"
      " folder: add --out"
    )
  if out == "":
    raise InputError("--out is empty; it must name a folder: try --out=runs/a")
  if out is not None:
    record.check_folder(pathlib.Path(out), names=names)


def write_study(
  out: str,
  rows: Sequence[Mapping[str, Any]],
  *,
  seed: int,
  started: float,
  named: Mapping[str, Any] | None = None,
  tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
  others: Mapping[str, Callable[[pathlib.Path], None]] | None = None,
  quiet: bool = False,
) -> None:
  """Writes the run folder of a study in float32, and says so.

  Args:
    out: the folder.
    rows: results.
    seed: of the run.
    started: `time.time()` at its start.
    named: further objects of metrics.json.
    tables: see `record.write_folder`.
    others: see there.
    quiet: say nothing; the study goes on and will write again.

  Raises:
    InputError: the folder cannot be written.
  """
  used = settings()
  written = record.write_folder(
    pathlib.Path(out),
    config=used,
    metrics_object=record.metrics(
      rows,
      config=used,
      dtype="float32",
      seed=seed,
      started=started,
      **(named or {}),
    ),
    tables=tables or {},
    others=others,
  )
  if not quiet:
    print(f"written to {out}: " + ", ".join(path.name for path in written))


def use_compilation_cache(folder: str | None) -> None:
  """Keeps compiled programs between runs.

  Args:
    folder: where; "" switches the cache off; None means the user's cache
      folder (JAX_COMPILATION_CACHE_DIR, when set, is left alone), or none
      where that cannot be written.

  Raises:
    InputError: `folder` cannot be written.
  """
  if folder == "":
    return
  if folder is not None:
    record.check_folder(pathlib.Path(folder), "--compilation_cache", names=())
  else:
    folder = _user_cache()
  if folder is not None:
    jax.config.update("jax_compilation_cache_dir", folder)


def _user_cache() -> str | None:
  """The user's cache folder; None where nothing can be kept, or jax knows."""
  if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return None
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(base) / "vrex_jax" / "xla"
  try:
    record.check_folder(folder, names=())
  except InputError:
    return None
  return str(folder)


def _parse(arguments: Sequence[str]) -> list[str]:
  for argument in arguments:
    try:
      argument.encode()
    except UnicodeEncodeError:
      return _fail(
        f"{argument!r} is not UTF-8; texts and names must be: write it anew, or"
        " rename the file"
      )
  try:
    return flags.FLAGS(list(arguments))
  except flags.Error as error:
    return _fail(f"{error}: see --help")
  except SystemExit:  # absl leaves with 1 after --help
    sys.exit(0)


def _fail(sentence: str) -> list[str]:
  print(f"error: {sentence}", file=sys.stderr)
  sys.exit(2)
