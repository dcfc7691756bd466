"""Measured points that the accuracy model is fitted to, and their file.

One line of the CSV is one setting of ReSV on real streams of the rooms task:
what it answered less than `full` on the same items, and what its thresholds
keep of a recorded past. Lines that begin with # say how it was made.
"""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.evaluation import scores

__all__ = [
  "FIGURES",
  "PACKAGED",
  "STAGES",
  "Points",
  "columns",
  "from_lines",
  "load",
  "point",
  "read_lines",
  "save",
  "table_of",
]

STAGES = ("frame", "question", "answer")
"""Of the leading axis of features."""
FIGURES = ("qa", "narration")
"""Drops that are fitted: of all questions; of what is said at a frame about an
object more than 16 frames back."""
PACKAGED = pathlib.Path(__file__).parent / "data" / "accuracy_points.csv"
"""Ships with the package; see its first lines."""

_GROUPS = {"qa": "qa", "narration": "narration_old"}
_PLAIN = ("disturb", "prefill", "frames", "streams", "hamming_threshold")
_TEXTS = ("disturb",)
_TABLES = ("ratio", "kept", "mass", "size")


class Points(NamedTuple):
  """Static. P measured settings; host arrays.

  Attributes:
    disturb: what was done to keys and queries, "none" or a name.
    prefill: settings of one number shared their frames, and so narration.
    frames: length of the streams.
    streams: how many.
    hamming_threshold: Th_hd.
    ratio: thresholds.
    kept: share of the past's tokens they keep, open loop.
    mass: share of the past's attention they keep, open loop.
    size: past tokens for each cluster; the same at every stage.
    full: right answers of `full`, by `FIGURES`.
    drop: of right answers against `full`, by `FIGURES`.
    error: standard error of the drop, by `FIGURES`; see `point`.
    recall: share of the tokens that show an old answer that was read, mean
      over layers and heads, by `FIGURES`; closed loop.
    read: share of the past that was read, stages by `STAGES`; closed loop.
  """

  disturb: np.ndarray  # text [P]
  prefill: np.ndarray  # i64 [P]
  frames: np.ndarray  # i64 [P]
  streams: np.ndarray  # i64 [P]
  hamming_threshold: np.ndarray  # i64 [P]
  ratio: np.ndarray  # f64 [P, 3, L, K]
  kept: np.ndarray  # f64 [P, 3, L, K]
  mass: np.ndarray  # f64 [P, 3, L, K]
  size: np.ndarray  # f64 [P, 3, L, K]
  full: np.ndarray  # f64 [P, 2]
  drop: np.ndarray  # f64 [P, 2]
  error: np.ndarray  # f64 [P, 2]
  recall: np.ndarray  # f64 [P, 2]
  read: np.ndarray  # f64 [P, 3]


def point(
  row: Mapping[str, Any],
  full: Mapping[str, Any],
  *,
  ratio: np.ndarray,
  **plain: Any,
) -> dict[str, Any]:
  """What was measured at one setting; with `columns` of kept and mass a line.

    drop   Σ_streams (right of full - right) / Σ_streams asked
    error  √(Σ_streams (d_stream - drop · asked_stream)² + 1) / Σ_streams asked

  Streams are what is drawn at random (see `evaluation.scores`). The 1 stands
  for one answer more or less: without it a setting that changed none of some
  hundred answers would be certain to change none at all.

  Args:
    row: `cell.FIELDS` of the setting.
    full: of `full` on the same streams in the same order.
    ratio: thresholds, f[3, L, K].
    **plain: the other fields of `Points` that one setting has one value of.

  Raises:
    ValueError: the two are of different items.
  """
  line: dict[str, Any] = {name: plain[name] for name in _PLAIN}
  for figure, group in _GROUPS.items():
    one, other = (
      scores.Tally(*(np.array(each["tallies"][group][n]) for n in _TALLY))
      for each in (row, full)
    )
    scores.difference(one, other)  # refuses other items
    asked, missed = one.asked.sum(), other.right - one.right
    drop = missed.sum() / asked
    rest = missed - drop * one.asked
    stage = "question" if figure == "qa" else figure
    line |= {
      f"{figure}_full": other.right.sum() / asked,
      f"{figure}_drop": drop,
      f"{figure}_error": np.sqrt((rest**2).sum() + 1.0) / asked,
      f"{figure}_recall": float(
        np.mean(row["retrieval_recall"][stage]["mean"])
      ),
    }
  line |= {f"read_{stage}": row["retrieval_ratio"][stage] for stage in STAGES}
  return line | columns(ratio=ratio)


def columns(**tables: np.ndarray) -> dict[str, float]:
  """f[3, L, K] by name as columns of a line."""
  return {
    f"{name}_{STAGES[stage]}_{layer}_{head}": float(value)
    for name, table in tables.items()
    for (stage, layer, head), value in np.ndenumerate(table)
  }


_TALLY = ("right", "asked")


def table_of(line: Mapping[str, Any], name: str) -> np.ndarray:
  """What `columns` wrote under a name: f64[3, L, K]."""
  shape = _shape(line, name)
  return np.array(
    [float(line[column]) for column in _named(name, shape)]
  ).reshape(shape)


def _named(name: str, shape: tuple[int, int, int]) -> list[str]:
  return [
    f"{name}_{STAGES[stage]}_{layer}_{head}"
    for stage, layer, head in np.ndindex(shape)
  ]


def _shape(line: Mapping[str, Any], name: str) -> tuple[int, int, int]:
  """(3, L, K) by the columns of frames; zeros if there are none."""
  stem = f"{name}_frame_"
  places = [
    tuple(map(int, column.removeprefix(stem).split("_")))
    for column in line
    if column and column.startswith(stem)
  ]
  layers, heads = (
    1 + max((place[axis] for place in places), default=-1) for axis in (0, 1)
  )
  return len(STAGES), layers, heads


def save(
  lines: Sequence[Mapping[str, Any]],
  path: pathlib.Path,
  comments: Sequence[str] = (),
) -> None:
  """Writes the CSV.

  Args:
    lines: of `point`, at least one.
    path: file to write.
    comments: how they were measured; one line each.
  """
  out = io.StringIO()
  out.writelines(f"# {text}\n" for text in comments)
  writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
  writer.writeheader()
  shown = lambda value: (
    f"{value:.6g}" if isinstance(value, float) else str(value)
  )
  writer.writerows(
    {name: shown(value) for name, value in line.items()} for line in lines
  )
  path.write_text(out.getvalue(), encoding="utf-8")


def load(path: str | pathlib.Path = PACKAGED) -> Points:
  """Reads the CSV.

  Raises:
    InputError: no such file, or not one that `save` writes.
  """
  return from_lines(read_lines(path), path)


def read_lines(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Lines of a CSV, as texts.

  Raises:
    InputError: no such file, or no text.
  """
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "it is no text"
    raise _unusable(path, reason) from error
  plain = (line for line in text.splitlines() if not line.startswith("#"))
  return list(csv.DictReader(plain))


def from_lines(
  rows: Sequence[Mapping[str, Any]], path: str | pathlib.Path = "the table"
) -> Points:
  """Points of lines as `point` makes them; numbers may be texts.

  Args:
    rows: the lines.
    path: where they are from, for messages.

  Raises:
    InputError: see `load`.
  """
  if not rows:
    raise _unusable(path, "it holds no points")
  shape = _shape(rows[0], "ratio")
  columns = {
    **{name: [name] for name in _PLAIN},
    **{name: _named(name, shape) for name in _TABLES},
    **{
      name: [f"{figure}_{name}" for figure in FIGURES]
      for name in ("full", "drop", "error", "recall")
    },
    "read": [f"read_{stage}" for stage in STAGES],
  }
  missing = [n for part in columns.values() for n in part if n not in rows[0]]
  if missing or not shape[1]:
    what = missing[0] if missing else "ratio_frame_0_0"
    raise _unusable(path, f"column {what} is missing")
  found = {
    name: _column(path, rows, part, name) for name, part in columns.items()
  }
  for name in _PLAIN:
    found[name] = found[name][:, 0]
  for name in _TABLES:
    found[name] = found[name].reshape(len(rows), *shape)
  if not np.all(found["error"] > 0):
    raise _unusable(path, "a standard error is not above 0")
  return Points(**found)


def _column(
  path: str | pathlib.Path,
  rows: Sequence[Mapping[str, Any]],
  names: Sequence[str],
  field: str,
) -> np.ndarray:
  texts = [[row[name] for name in names] for row in rows]
  if field in _TEXTS:
    return np.array(texts)
  kind = np.int64 if field in _PLAIN else np.float64
  try:
    values = np.array([[kind(text) for text in line] for line in texts])
  except (TypeError, ValueError) as error:
    raise _unusable(path, f"{field} holds what is no number") from error
  if not np.all(np.isfinite(values)):
    raise _unusable(path, f"{field} holds what is not finite")
  return values


def _unusable(path: str | pathlib.Path, reason: str) -> InputError:
  return InputError(
    f"{path} cannot be read as measured points ({reason}); the"
    " accuracy_points.csv of measure_accuracy.py is expected: name that"
  )
