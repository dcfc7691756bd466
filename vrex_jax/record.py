"""The one schema of a run folder: config, metrics, tables, traces.

A run folder is written at the end of a run, all files together: they are made
in a folder beside it and moved in, so that a failure leaves nothing behind.
"""

import csv
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
  "write_folder",
]

SCHEMA = 1
"""Version of metrics.json."""

_PLACES = ("out", "profile", "compilation_cache")

STREAMING_FIELDS = (
  "policy",
  "frames",
  "cached_tokens",
  "retrieval_ratio",
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

  Settings that only say where files go do not count.

  Example:
    >>> config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    True
  """
  computed = {
    name: value for name, value in config.items() if name not in _PLACES
  }
  text = json.dumps(computed, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def peak_rss_bytes() -> int:
  """Largest resident memory of this process so far, bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


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
      "threads": len(os.sched_getaffinity(0))
      if hasattr(os, "sched_getaffinity")
      else os.cpu_count(),
      "seed": seed,
      "config_hash": config_hash(config),
      "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
      "seconds": round(time.time() - started, 3),
    },
    "rows": list(rows),
    **named,
  }


def check_folder(out: pathlib.Path, flag: str = "--out") -> None:
  """Raises before the work when results could not be written.

  Raises:
    InputError: `out` is a file, or cannot be created or written.
  """
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
  existing = out
  while not existing.exists():
    existing = existing.parent
  if not existing.is_dir() or not os.access(existing, os.W_OK):
    raise InputError(
      f"{flag} is {str(out)!r}, and {str(existing)!r} cannot be written to:"
      " name a folder you may write"
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

  Returns:
    Paths of the files written.
  """
  out.parent.mkdir(parents=True, exist_ok=True)
  staging = pathlib.Path(tempfile.mkdtemp(prefix=".run-", dir=out.parent))
  try:
    (staging / "config.toml").write_text(tomli_w.dumps(_tidy(config)))
    text = json.dumps(_finite(metrics_object), indent=2, allow_nan=False)
    (staging / "metrics.json").write_text(text + "\n")
    for name, rows in tables.items():
      _write_csv(staging / name, rows)
    for name, trace in (traces or {}).items():
      trace_lib.save(trace, staging / name)
    for name, named in (arrays or {}).items():
      np.savez_compressed(staging / name, **named)  # type: ignore[arg-type]
    for name, write in (others or {}).items():
      write(staging / name)
    out.mkdir(exist_ok=True)
    written = []
    for path in sorted(staging.iterdir()):
      written.append(path.replace(out / path.name))
    return written
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def _write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
  with path.open("w", newline="") as file:
    names = list(rows[0]) if rows else []
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


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
