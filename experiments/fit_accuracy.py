r"""What predicts a drop in accuracy, and how well where it was not fitted?

  python experiments/fit_accuracy.py --out runs/accuracy_fit

Fits the accuracy model (vrex_jax/codesign/accuracy.py) to the measured points
that ship, and prints its errors on prefills, Hamming thresholds and
disturbances left out, beside the noise of the measurement and poorer models:
docs/accuracy_model.md.

  python experiments/fit_accuracy.py --answers runs/accuracy/answers.csv \
      --out runs/accuracy_fit

takes what measure_accuracy.py measured instead, tabulates on recorded streams
what those thresholds keep, and leaves both as accuracy_points.csv.

Hardware: any JAX device. Minutes: half a one; --answers one more.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import plotting
from vrex_jax.codesign import accuracy
from vrex_jax.codesign import accuracy_errors
from vrex_jax.codesign import accuracy_kept
from vrex_jax.codesign import accuracy_points
from vrex_jax.codesign import accuracy_report
from vrex_jax.errors import InputError
from vrex_jax.evaluation import words

_POINTS = flags.DEFINE_string(
  "points", None, "accuracy_points.csv; by default the one that ships."
)
_ANSWERS = flags.DEFINE_string(
  "answers", None, "answers.csv of measure_accuracy.py, instead of --points."
)
_RECORDED = flags.DEFINE_integer(
  "recorded", 4, "Streams that are recorded, with --answers.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
  "seed", 2, "Of the recorded streams.", 0, command.MAX_SEED
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_FILES = ("config.toml", "metrics.json", "accuracy_points.csv", "plot.png")


def _check_flags() -> None:
  if _POINTS.value is not None and _ANSWERS.value is not None:
    raise InputError(
      f"--points is {_POINTS.value} and --answers {_ANSWERS.value}; one of them"
      " is fitted: leave the other out"
    )
  command.check_out(_OUT.value, _FILES)
  if _OUT.value is not None:
    plotting.check_installed()


def _with_kept(path: str) -> list[dict[str, Any]]:
  """Measured answers and what their thresholds keep."""
  lines = accuracy_points.read_lines(path)
  model, ids = words.load_rooms_model(None)
  found: list[dict[str, Any]] = []
  names = list(dict.fromkeys(line["disturb"] for line in lines))
  for name in tqdm.tqdm(names, desc="recorded", unit="stream", disable=None):
    own = [line for line in lines if line["disturb"] == name]
    curves = accuracy_kept.curves_of(
      model,
      ids,
      name,
      frames=int(own[0]["frames"]),
      hamming_thresholds=sorted(
        {int(line["hamming_threshold"]) for line in own}
      ),
      recorded=_RECORDED.value,
      seed=_SEED.value,
    )
    found += accuracy_kept.with_kept(own, curves)
    jax.clear_caches()
  return found


def _comments() -> list[str]:
  return [
    "Right answers under ReSV less those of full, and what it keeps; shares.",
    "docs/accuracy_model.md; by two commands:",
    "python experiments/measure_accuracy.py --out=DIR",
    f"python experiments/fit_accuracy.py --recorded={_RECORDED.value}"
    f" --seed={_SEED.value} --answers=DIR/answers.csv",
  ]


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  if _ANSWERS.value is not None:
    lines = _with_kept(_ANSWERS.value)
  else:
    lines = accuracy_points.read_lines(
      _POINTS.value or accuracy_points.PACKAGED
    )
  points = accuracy_points.from_lines(lines)
  _, fitted = accuracy.fit(points)
  rows = accuracy_errors.error_rows(points)
  by_disturb = accuracy_errors.disturbance_rows(points)
  print(accuracy_report.table(rows))
  print()
  print(accuracy_report.disturbance_table(by_disturb))
  print()
  print(accuracy_report.weights(fitted))
  if _OUT.value is None:
    return
  others = {"plot.png": functools.partial(accuracy_report.save_plot, points)}
  if _ANSWERS.value is not None:
    others["accuracy_points.csv"] = functools.partial(
      accuracy_points.save, lines, comments=_comments()
    )
  command.write_study(
    _OUT.value,
    rows,
    seed=_SEED.value,
    started=started,
    named={"by_disturb": by_disturb},
    others=others,
  )


if __name__ == "__main__":
  command.run(main)
