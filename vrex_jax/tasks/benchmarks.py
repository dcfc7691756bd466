"""Public benchmarks by name."""

import importlib
import pathlib

from vrex_jax.errors import InputError
from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["BENCHMARKS", "read_benchmark"]

BENCHMARKS = {
  "coin": "vrex_jax.tasks.benchmark_coin",
  "mlvu": "vrex_jax.tasks.benchmark_mlvu",
  "ovo": "vrex_jax.tasks.benchmark_ovo",
  "rvs_ego": "vrex_jax.tasks.benchmark_rvs",
  "rvs_movie": "vrex_jax.tasks.benchmark_rvs",
  "streamingbench": "vrex_jax.tasks.benchmark_streamingbench",
}
"""Name -> module with a function `read`, imported on first use."""


def read_benchmark(name: str, data: pathlib.Path) -> list[items_lib.Clip]:
  """Clips with their questions, no two of one name.

  Args:
    name: key of `BENCHMARKS`.
    data: folder of the annotation.

  Raises:
    InputError: an unknown name (the known ones are listed), no such folder, a
      file that is missing or malformed, or no question in it.
  """
  if name not in BENCHMARKS:
    raise InputError(
      f"--benchmark is {name!r}; the known ones are {', '.join(BENCHMARKS)}:"
      " choose one"
    )
  if not data.is_dir():
    raise InputError(
      f"--data is {str(data)!r}, which is no folder; the files of {name} are"
      " expected in it: name the folder"
    )
  clips = importlib.import_module(BENCHMARKS[name]).read(data)
  asked = [clip for clip in clips if clip.items]
  if not asked:
    raise InputError(
      f"the annotation of {name} in {data} has no question that is evaluated:"
      " get it again"
    )
  return items_lib.distinct(asked)
