"""Rows that an interrupted study left, taken over by the next run."""

import json
import pathlib
import time
import tomllib
from collections.abc import Mapping
from typing import Any

from vrex_jax import record
from vrex_jax.errors import InputError

__all__ = ["rows_left"]

_FREE = ("out", "resume")
_SAME = ("revision", "versions", "device")


def rows_left(
  out: str | pathlib.Path, config: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Rows of the run in a folder, if it is the same run as this one.

  Args:
    out: run folder.
    config: every setting of this run (`command.settings`).

  Returns:
    Its rows; none where the folder holds no run.

  Raises:
    InputError: the run there has other settings, or another revision, other
      versions or another device; or its files are damaged, or of two runs.
  """
  folder = pathlib.Path(out)
  if not (folder / "metrics.json").exists():
    return []
  try:
    settings = tomllib.loads((folder / "config.toml").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    rows, run = list(metrics["rows"]), dict(metrics["run"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"--resume is given and the run in {out} cannot be read ({error}); rows"
      " are taken over from a whole one: leave out --resume"
    ) from error
  mine = {name: value for name, value in config.items() if value is not None}
  pairs = {
    f"--{name}": (settings.get(name), mine.get(name))
    for name in sorted({*settings, *mine} - set(_FREE))
  }
  now = record.metrics([], config=config, dtype="", seed=0, started=time.time())
  pairs |= {name: (run.get(name), now["run"][name]) for name in _SAME}
  for name, (then, here) in pairs.items():
    if then != here:
      raise InputError(
        f"--resume is given and the run in {out} had {name} {then}, this one"
        f" {here}; rows are taken over from the same run only: leave out"
        " --resume, or name another --out"
      )
  if run.get("config_hash") != record.config_hash(settings):
    raise InputError(
      f"--resume is given and metrics.json in {out} is of other settings than"
      " config.toml there, which a run that was killed while it wrote leaves;"
      " rows are taken over from a whole run: leave out --resume, or name"
      " another --out"
    )
  return rows
