"""Evaluation rows as a table for the screen, a CSV and a plot."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import plotting
from vrex_jax import summary
from vrex_jax.evaluation import scores

__all__ = ["flat_rows", "save_plot", "table"]

_MARKERS = "os^Dv<>P*X"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Accuracies in per cent with intervals, shares read, recall, time.

  Args:
    rows: `cell.FIELDS`.
  """
  header = [
    "policy", "frames", "QA", "QA old", "QA now", "said old", "said new",
    "read, frame", "question", "recall", "KV kB", "ms/frame",
  ]  # fmt: skip
  lines = [
    [
      row["policy"],
      str(row["frames"]),
      *(_with_interval(row, group) for group in scores.GROUPS),
      _percent(row["retrieval_ratio"]["frame"]),
      _percent(row["retrieval_ratio"]["question"]),
      _percent(max(row["retrieval_recall"]["question"]["best"], default=None)),
      f"{row['kv_bytes'] / 1e3:.0f}",
      f"{row['ms_per_frame']['p50']:.2f}",
    ]
    for row in rows
  ]
  return summary.aligned(header, lines)


def flat_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rows of numbers and texts: intervals and shares get columns of their own.

  Args:
    rows: `cell.FIELDS`.
  """
  flat = []
  for row in rows:
    line: dict[str, Any] = {
      name: row[name] for name in ("policy", "frames", "visible", "questions")
    }
    for group in scores.GROUPS:
      line[group] = row[group]
      line[f"{group}_low"], line[f"{group}_high"] = row[f"{group}_ci"]
      line[f"{group}_minus_full"] = row["minus_full"][group]["difference"]
    for stage, share in row["retrieval_ratio"].items():
      line[f"retrieval_ratio_{stage}"] = share
    for stage, found in row["retrieval_recall"].items():
      line[f"retrieval_recall_{stage}"] = max(found["best"], default=None)
    line["kv_bytes"] = row["kv_bytes"]
    line["ms_per_frame"] = row["ms_per_frame"]["p50"]
    flat.append(line)
  return flat


def save_plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Accuracy on old events against the share of the past that was read.

  Above, answers against the share read at questions; below, narration against
  the share read at frames; one column for each length, bars are intervals.

  Args:
    rows: `cell.FIELDS`.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  lengths = sorted({row["frames"] for row in rows})
  names = list(dict.fromkeys(row["policy"] for row in rows))
  figure = plotting.figure(
    figsize=(max(6.0, 3.4 * len(lengths)), 6.0 + 0.24 * len(names)),
    layout="constrained",
  )
  grid = figure.subplots(2, len(lengths), sharey=True, squeeze=False)
  parts = (
    ("qa_old", "question", "old answers right, %"),
    ("narration_old", "frame", "old narration right, %"),
  )
  for line, (group, stage, label) in enumerate(parts):
    for column, length in enumerate(lengths):
      axes = grid[line][column]
      for row in rows:
        if row["frames"] == length and _is_known(row[group]):
          _point(axes, row, group, stage, names.index(row["policy"]))
      axes.set_ylim(-3, 103)
      axes.set_xlim(-3, 105)
      axes.set_xlabel(f"past read at {stage}s, %")
      axes.grid(alpha=0.3)
      axes.spines[["top", "right"]].set_visible(False)
    grid[line][0].set_ylabel(label)
  for column, length in enumerate(lengths):
    grid[0][column].set_title(f"{length} frames")
  # A policy need not be in every panel.
  handles: dict[str, Any] = {}
  for axes in grid.flat:
    shown, labels = axes.get_legend_handles_labels()
    handles |= dict(zip(labels, shown, strict=True))
  names = [name for name in names if name in handles]
  figure.legend(
    [handles[name] for name in names],
    names,
    loc="outside lower center",
    fontsize=8,
    frameon=False,
  )
  figure.savefig(path, dpi=150)


def _point(
  axes: Any, row: Mapping[str, Any], group: str, stage: str, index: int
) -> None:
  low, high = row[f"{group}_ci"]
  value = row[group]
  axes.errorbar(
    [100 * row["retrieval_ratio"][stage]],
    [100 * value],
    yerr=[[100 * (value - low)], [100 * (high - value)]],
    marker=_MARKERS[index % len(_MARKERS)],
    color=f"C{index}",
    linestyle="",
    capsize=3,
    label=row["policy"],
  )


def _with_interval(row: Mapping[str, Any], group: str) -> str:
  if not _is_known(row[group]):
    return "-"
  low, high = row[f"{group}_ci"]
  return f"{_percent(row[group])} ±{50 * (high - low):.1f}"


def _is_known(value: float | None) -> bool:
  """Was anything asked? A row that was read back has None for nan."""
  return value is not None and value == value


def _percent(value: float | None) -> str:
  return "-" if value is None or not _is_known(value) else f"{100 * value:.1f}"
