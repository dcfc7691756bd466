"""The one schema of a run folder: config, metrics, tables, traces.

A run folder is written at the end of a run, all files together: they are made
in a hidden folder inside it and moved out, so that a failure leaves nothing
behind. config.toml is moved first and metrics.json, which holds the hash of
that configuration, last: where a run is killed between two moves, either both
are of the same settings, or they do not fit (`study.resume` refuses those).
"""

import contextlib
import csv
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
import tomli_w

from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError

__all__ = [
  "SCHEMA",
  "STREAMING_FIELDS",
  "check_folder",
  "config_hash",
  "metrics",
  "peak_rss_bytes",
  "usable_cores",
  "write_folder",
]

SCHEMA = 1
"""Version of metrics.json."""

_UNCOUNTED = ("out", "profile", "compilation_cache", "resume")
_ALWAYS = ("config.toml", "metrics.json", "frames.csv", "trace.npz")

STREAMING_FIELDS = (
  "policy",
  "frames",
  "cached_tokens",
  "retrieval_ratio",
  "retrieval_ratio_by_layer",
  "attended_share",
  "ms_per_frame",
  "vision_ms",
  "decode_ms",
  "compile_s",
  "ttft_ms",
  "tpot_ms",
  "tokens_per_s",
  "kv_bytes",
  "peak_rss_bytes",
  "overflow",
  "answers",
)
"""Fields of a streaming row, in order; see docs/notation.md."""


def config_hash(config: Mapping[str, Any]) -> str:
  """First 16 hexadecimal digits of the SHA-256 of a configuration.

  Settings that only say where files go, or that an earlier run goes on, do not
  count, nor do those that are None: it is the same for what config.toml holds.

  Example:
    >>> config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    True
  """
  computed = {
    name: value
    for name, value in _tidy(config).items()
    if name not in _UNCOUNTED
  }
  text = json.dumps(computed, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def peak_rss_bytes() -> int:
  """Largest resident memory of this process so far, bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def usable_cores() -> int:
  """Cores this process may use, where the system tells; else all there are."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def metrics(
  rows: Sequence[Mapping[str, Any]],
  *,
  config: Mapping[str, Any],
  dtype: str,
  seed: int,
  started: float,
  **named: Any,
) -> dict[str, Any]:
  """The object metrics.json holds.

  Args:
    rows: results.
    config: every setting of the run; hashed.
    dtype: dtype of the computation.
    seed: of the run.
    started: `time.time()` at its start.
    **named: further objects beside `rows`.

  Returns:
    {"schema", "run": {command, versions, revision, device, dtype, threads,
    seed, config_hash, started, seconds}, "rows", …}.
  """
  device = jax.devices()[0]
  return {
    "schema": SCHEMA,
    "run": {
      "command": _command(),
      "versions": _versions(),
      "revision": _revision(),
      "device": f"{device.platform}: {device.device_kind}",
      "dtype": dtype,
      "threads": usable_cores(),
      "seed": seed,
      "config_hash": config_hash(config),
      "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
      "seconds": round(time.time() - started, 3),
    },
    "rows": list(rows),
    **named,
  }


def check_folder(
  out: pathlib.Path, flag: str = "--out", names: Sequence[str] = _ALWAYS
) -> None:
  """Raises before the work when results could not be written.

  The folder is made, one is made in it, and both are removed again: neither
  permissions nor names tell what a file system takes.

  Args:
    out: the folder; need not exist.
    flag: the flag that named it, for the message.
    names: of the results.

  Raises:
    InputError: `out` is empty, is a file, holds a folder under the name of a
      result, or cannot be created or written.
  """
  missing: list[pathlib.Path] = []
  try:
    _check_kind(out, flag, names)
    missing = _missing_folders(out)
    out.mkdir(parents=True, exist_ok=True)
    pathlib.Path(tempfile.mkdtemp(prefix=".run-", dir=out)).rmdir()
  except (OSError, ValueError) as error:
    raise _unwritable(out, error, flag) from error
  finally:
    _remove_empty(missing)


def _missing_folders(out: pathlib.Path) -> list[pathlib.Path]:
  """The folder and those above it that are yet to be made, innermost first."""
  return [folder for folder in (out, *out.parents) if not folder.exists()]


def _remove_empty(folders: Sequence[pathlib.Path]) -> None:
  for folder in folders:
    with contextlib.suppress(OSError, ValueError):
      folder.rmdir()


def _check_kind(out: pathlib.Path, flag: str, names: Sequence[str]) -> None:
  if out.is_symlink() and not out.exists():
    raise InputError(
      f"{flag} is {str(out)!r}, a link that leads nowhere; it must be a folder:"
      " name another"
    )
  if out.exists() and not out.is_dir():
    raise InputError(
      f"{flag} is {str(out)!r}, which is a file; it must be a folder: name"
      " another"
    )
  taken = [name for name in names if (out / name).is_dir()]
  if taken:
    raise InputError(
      f"{flag} is {str(out)!r}, where {taken[0]} is a folder; a file of that"
      " name is written there: name another folder"
    )


def _unwritable(
  out: pathlib.Path, error: Exception, flag: str = "--out"
) -> InputError:
  if isinstance(error, InputError):
    return error
  reason = getattr(error, "strerror", None) or str(error)
  return InputError(
    f"{flag} is {str(out)!r}, which cannot be written ({reason}); results need"
    " a folder that can be created: name another"
  )


def write_folder(
  out: pathlib.Path,
  *,
  config: Mapping[str, Any],
  metrics_object: Mapping[str, Any],
  tables: Mapping[str, Sequence[Mapping[str, Any]]],
  traces: Mapping[str, trace_lib.StreamTrace] | None = None,
  arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
  others: Mapping[str, Callable[[pathlib.Path], None]] | None = None,
  report: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes a run folder, all files or none.

  Args:
    out: the folder; created if need be, files of the same names replaced.
    config: goes to config.toml; None values are left out.
    metrics_object: goes to metrics.json; values that are not finite become
      null.
    tables: file name -> rows, as CSV.
    traces: file name -> trace.
    arrays: file name -> named arrays, as npz.
    others: file name -> function that writes the file at a path (plots).
    report: told in one line which files were removed, if any.

  Files that an earlier run left there (`files` of its metrics.json) and this
  one does not write are removed: a folder holds one run.

  Returns:
    Paths of the files written.

  Raises:
    InputError: the folder cannot be written; it is left as it was, unless a
      file that was written cannot be moved (see the top of this page).
  """
  writers: dict[str, Callable[[pathlib.Path], None]] = {
    "config.toml": lambda path: _write_text(path, tomli_w.dumps(_tidy(config))),
  }
  for name, rows in tables.items():
    writers[name] = functools.partial(_write_csv, rows=rows)
  for name, trace in (traces or {}).items():
    writers[name] = functools.partial(trace_lib.save, trace)
  for name, named in (arrays or {}).items():
    writers[name] = functools.partial(_write_arrays, named=named)
  writers.update(others or {})
  names = sorted([*writers, "metrics.json"])
  text = json.dumps(
    _finite({**metrics_object, "files": names}), indent=2, allow_nan=False
  )
  writers["metrics.json"] = lambda path: _write_text(path, text + "\n")
  check_folder(out, names=names)
  missing = _missing_folders(out)
  try:
    out.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=".run-", dir=out))
    try:
      for name in names:
        writers[name](staging / name)
      stale = _earlier_files(out) - set(names)
      for name in sorted(names, key=_order):
        (staging / name).replace(out / name)
    finally:
      shutil.rmtree(staging, ignore_errors=True)
  except BaseException as error:
    _remove_empty(missing)
    if isinstance(error, OSError):
      raise _unwritable(out, error) from error
    raise
  for name in stale:
    (out / name).unlink(missing_ok=True)
  if stale:
    report(
      f"removed from {out}, files of the run before: {', '.join(sorted(stale))}"
    )
  return [out / name for name in names]


def _order(name: str) -> int:
  """Place of a file among the moves."""
  return {"config.toml": 0, "metrics.json": 2}.get(name, 1)


def _earlier_files(out: pathlib.Path) -> set[str]:
  """Files that the run in this folder says it wrote."""
  try:
    files = json.loads((out / "metrics.json").read_text())["files"]
    plain = [name for name in files if pathlib.PurePath(name).name == name]
  except (OSError, ValueError, KeyError, TypeError):
    return set()
  return {name for name in plain if (out / name).is_file()}


def _write_text(path: pathlib.Path, text: str) -> None:
  path.write_text(text, encoding="utf-8")


def _write_arrays(path: pathlib.Path, named: Mapping[str, np.ndarray]) -> None:
  np.savez_compressed(path, **named)  # type: ignore[arg-type]


def _write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
  with path.open("w", newline="") as file:
    names = list(rows[0]) if rows else []
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
      {
        name: "" if _finite(cell) is None else cell
        for name, cell in row.items()
      }
      for row in rows
    )


def _tidy(value: Any) -> Any:
  """TOML has no null: drops None, turns tuples into lists."""
  if isinstance(value, Mapping):
    return {
      str(key): _tidy(item) for key, item in value.items() if item is not None
    }
  if isinstance(value, (list, tuple)):
    return [_tidy(item) for item in value]
  return value


def _finite(value: Any) -> Any:
  """JSON has no nan: numbers that are not finite become None."""
  if isinstance(value, Mapping):
    return {str(key): _finite(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(item) for item in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _command() -> str:
  """The command line, script named without its folder's absolute path."""
  script = pathlib.Path(sys.argv[0])
  try:
    script = script.resolve().relative_to(pathlib.Path.cwd())
  except ValueError:
    script = pathlib.Path(script.name)
  return shlex.join(["python", str(script), *sys.argv[1:]])


def _versions() -> dict[str, str]:
  names = ("vrex_jax", "jax", "jaxlib", "flax", "numpy")
  found = {"python": platform.python_version()}
  for name in names:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = "not installed"
  return found


def _revision() -> str | None:
  """Commit of the checkout the package runs from; None outside one."""
  folder = pathlib.Path(__file__).parent
  try:
    done = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12"],
      cwd=folder,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip() or None
