"""Errors of the accuracy model as a table, predictions as a plot."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting
from vrex_jax import summary
from vrex_jax.codesign import accuracy
from vrex_jax.codesign import accuracy_errors
from vrex_jax.codesign import accuracy_points as points_lib

__all__ = ["disturbance_table", "save_plot", "table", "weights"]

_MARKERS = "os^Dv"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Errors in percentage points.

  Args:
    rows: of `accuracy_errors.error_rows`.
  """
  header = [
    "figure", "left out", "model", "points", "fitted", "decided", "error",
    "noise", "chi2", "below 5", "error", "noise",
  ]  # fmt: skip
  number = lambda value, form: "-" if np.isnan(value) else form % value
  lines = [
    [
      row["figure"],
      row["left_out"],
      row["model"],
      str(row["points"]),
      str(row["parameters"]),
      f"{row['effective']:.1f}",
      number(100 * row["error"], "%.2f"),
      number(100 * row["noise"], "%.2f"),
      number(row["ratio"], "%.2f"),
      str(row["near_points"]),
      number(100 * row["near_error"], "%.2f"),
      number(100 * row["near_noise"], "%.2f"),
    ]
    for row in rows
  ]
  return summary.aligned(header, lines)


def disturbance_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Errors by disturbance, in percentage points.

  Args:
    rows: of `accuracy_errors.disturbance_rows`.
  """
  header = [
    "figure",
    "keys",
    "points",
    "error",
    "noise",
    "measured - predicted",
  ]
  lines = [
    [
      row["figure"],
      "plain" if row["disturb"] == "none" else row["disturb"],
      str(row["points"]),
      *(f"{100 * row[name]:.2f}" for name in ("error", "noise", "bias")),
    ]
    for row in rows
  ]
  return summary.aligned(header, lines)


def weights(fitted: Mapping[str, accuracy.Fitted]) -> str:
  """Points of accuracy that each layer and head costs when it keeps nothing.

  Args:
    fitted: of `accuracy.fit`.
  """
  header = ["figure", "stage", "p", "q", "by layer and head, points"]
  lines = []
  for name, one in fitted.items():
    for stage, heads in zip(
      accuracy.STAGES_OF[name], np.asarray(one.model.weight), strict=True
    ):
      cells = " | ".join(
        " ".join(f"{100 * value:.2f}" for value in layer) for layer in heads
      )
      powers = [
        f"{float(power):.2f}"
        for power in (one.model.exponent, one.model.size_exponent)
      ]
      lines.append([name, points_lib.STAGES[stage], *powers, cells])
  factors = [
    f"{name} under {disturb}: {factor:.2f} times"
    for name, one in fitted.items()
    for disturb, factor in one.factors.items()
  ]
  return "\n".join([summary.aligned(header, lines), *factors])


def save_plot(points: points_lib.Points, path: pathlib.Path) -> None:
  """Measured drops against those predicted without their prefill.

  Bars are standard errors; below, drops of less than five points by
  themselves.

  Args:
    points: measured.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  figure = plotting.figure(figsize=(9.0, 8.4), layout="constrained")
  grid = figure.subplots(2, len(points_lib.FIGURES), squeeze=False)
  for column, name in enumerate(points_lib.FIGURES):
    left = accuracy_errors.left_out(points, name, accuracy_errors.THE_MODEL)
    for near, axes in enumerate(grid[:, column]):
      _panel(axes, points, name, left.predicted, bool(near))
  handles, labels = grid[0][0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside lower center", ncols=4, frameon=False
  )
  figure.savefig(path, dpi=150)


def _panel(
  axes: Any,
  points: points_lib.Points,
  name: str,
  predicted: np.ndarray,
  near: bool,
) -> None:
  index = points_lib.FIGURES.index(name)
  drop, error = 100 * points.drop[:, index], 100 * points.error[:, index]
  known = np.isfinite(predicted)
  top = 100 * accuracy_errors.NEAR if near else None
  if near:
    known &= drop < 100 * accuracy_errors.NEAR
  for place, disturb in enumerate(dict.fromkeys(points.disturb.tolist())):
    chosen = known & (points.disturb == disturb)
    axes.errorbar(
      100 * predicted[chosen],
      drop[chosen],
      yerr=error[chosen],
      marker=_MARKERS[place % len(_MARKERS)],
      markersize=4,
      linestyle="",
      linewidth=0.7,
      color=f"C{place}",
      alpha=0.8,
      label="plain" if disturb == "none" else disturb,
    )
  if known.any():
    end = top or 1.05 * max(drop[known].max(), 100 * predicted[known].max())
    axes.plot([0, end], [0, end], color="0.6", linewidth=1, zorder=0)
    axes.set_xlim(-0.03 * end, 1.03 * end)
  axes.axhline(0, color="0.85", linewidth=1, zorder=0)
  axes.set_title(f"{name}, below {top:g} points" if near else name)
  axes.set_xlabel("predicted without it, points")
  axes.set_ylabel("measured drop, points")
  axes.grid(alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)
