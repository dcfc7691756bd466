"""A small run folder, written and read back."""

import math
import pathlib

import numpy as np

from vrex_jax import record

__all__ = ["ROWS", "tree", "write"]

ROWS = [
  {"name": "a, b", "value": 1.5, "count": np.int32(3)},
  {"name": 'say "x"', "value": math.nan, "count": None},
  {"name": "", "value": math.inf, "count": np.float32(np.nan)},
]


def write(out, **changes):
  """Writes settings, metrics and a table, or what is given instead."""
  given = {
    "config": {"fps": 2.0, "preset": "tiny"},
    "metrics_object": {"schema": record.SCHEMA, "rows": []},
    "tables": {"frames.csv": ROWS},
  }
  return record.write_folder(pathlib.Path(out), **{**given, **changes})


def tree(folder):
  """Everything below a folder: relative path -> bytes, None for folders."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in folder.rglob("*")
  }
