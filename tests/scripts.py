"""Scripts run as a user runs them: one alone, or many from a warm interpreter.

Importing jax takes a second; a child that is forked after the import, and
before any computation, is as good as a fresh process.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
  "Done",
  "check_mistake",
  "environment",
  "lacking",
  "random_weights",
  "run_each",
  "run_named",
  "run_python",
  "run_until",
]

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

_LACKING = """
import os, runpy, sys
module, script, *arguments = sys.argv[1:]
sys.modules[module] = None
sys.path.insert(0, os.path.dirname(script))
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""
_ROOT = pathlib.Path(__file__).resolve().parent.parent


class Done(NamedTuple):
  """How a script ended."""

  code: int
  stdout: str
  stderr: str


def check_mistake(done: Done, said: str) -> None:
  """Exit code 2, and one sentence on standard error that says so."""
  assert done.code == 2, done
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: "), line
  assert said in done.stderr, line


def environment(**changes: str) -> dict[str, str]:
  """The process's own, on CPU, quick to compile, this checkout's package."""
  return {
    **os.environ,
    "PYTHONPATH": str(_ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    **changes,
  }


def lacking(module: str, script: str) -> tuple[str, ...]:
  """Arguments of an interpreter that runs a script as if without a module."""
  return ("-c", _LACKING, module, script)


def run_python(
  *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
  """Runs an interpreter once, in the root; `environment()` by default."""
  return subprocess.run(
    [sys.executable, *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=_ROOT,
    env=environment() if env is None else env,
  )


def run_until(
  said: str,
  script: str | os.PathLike[str],
  arguments: Sequence[str],
  *,
  folder: pathlib.Path,
  env: dict[str, str],
  after_s: float = 0.0,
) -> Done:
  """Runs a script and presses Ctrl-C once, so long after a line says so."""
  with subprocess.Popen(
    [sys.executable, "-u", os.fspath(script), *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=folder,
    env=env,
  ) as process:
    lines, pressed = [], False
    for line in process.stdout or ():
      lines.append(line)
      if said in line and not pressed:
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        pressed = True
    stderr = process.stderr.read() if process.stderr else ""
  return Done(process.returncode, "".join(lines), stderr)


def random_weights(arguments: Sequence[str]) -> list[str]:
  """Asks for the random model, unless the arguments say what is streamed."""
  chosen = ("--checkpoint", "--preset", "--recording", "--help")
  if any(one.startswith(chosen) for one in arguments):
    return list(arguments)
  return [*arguments, "--preset=tiny"]


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


def run_named(
  script: str | os.PathLike[str],
  cases: Mapping[str, Sequence[str]],
  **options: Any,
) -> dict[str, Done]:
  """`run_each` of arguments by name: how each ended, by the same names."""
  done = run_each(script, list(cases.values()), **options)
  return dict(zip(cases, done, strict=True))
