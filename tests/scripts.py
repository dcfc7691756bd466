"""Scripts run as a user runs them, many from one warm interpreter.

Importing jax takes a second; a child that is forked after the import, and
before any computation, is as good as a fresh process.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Done", "environment", "run_each"]

_RUNNER = """
import gc, importlib, json, os, runpy, sys, warnings
script, modules, folder, cases = json.loads(sys.stdin.read())
for module in modules:
  importlib.import_module(module)
gc.freeze()  # so that a child does not copy, in order to free, all of it
for index, arguments in enumerate(cases):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jax warns of every fork
    child = os.fork()
  if not child:
    for number, name in ((1, "out"), (2, "err")):
      with open(f"{folder}/{index}.{name}", "w") as file:
        os.dup2(file.fileno(), number)
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
    sys.exit(0)
  _, status = os.waitpid(child, 0)
  print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Done(NamedTuple):
  """How a script ended."""

  code: int
  stdout: str
  stderr: str


def environment(**changes: str) -> dict[str, str]:
  """The process's own, on CPU, quick to compile, this checkout's package."""
  root = str(pathlib.Path(__file__).resolve().parent.parent)
  return {
    **os.environ,
    "PYTHONPATH": root,
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    **changes,
  }


def run_each(
  script: str | os.PathLike[str],
  cases: Sequence[Sequence[str]],
  *,
  folder: pathlib.Path,
  modules: Sequence[str] = ("jax", "absl.app"),
  env: dict[str, str] | None = None,
  timeout_s: float = 300.0,
) -> list[Done]:
  """Runs a script once for each list of arguments, one after the other.

  Args:
    script: path.
    cases: command-line arguments.
    folder: existing folder for what the runs print; they run there.
    modules: imported beforehand.
    env: `environment()` by default.
    timeout_s: for all together.
  """
  plan = [os.fspath(script), list(modules), str(folder), list(map(list, cases))]
  done = subprocess.run(
    [sys.executable, "-c", _RUNNER],
    input=json.dumps(plan),
    capture_output=True,
    text=True,
    check=False,
    cwd=folder,
    env=environment() if env is None else env,
    timeout=timeout_s,
  )
  codes = [int(line) for line in done.stdout.split()]
  if len(codes) != len(cases):
    raise RuntimeError(f"{len(codes)} of {len(cases)} ran: {done.stderr}")
  return [
    Done(
      code,
      (folder / f"{index}.out").read_text(),
      (folder / f"{index}.err").read_text(),
    )
    for index, code in enumerate(codes)
  ]
