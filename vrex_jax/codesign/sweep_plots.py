"""Pictures of a sweep: heat maps over both thresholds, and fronts."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting

__all__ = ["save_fronts", "save_heat_maps"]

_Rows = Sequence[Mapping[str, Any]]

_STAGES = ("frame", "question", "answer")
_NUMBERED_COLUMNS, _NUMBERED_LINES = 8, 10
_GAP = 0.35
_LABELLED = (0.1, 0.3, 0.6)
_ALL = 1.0
"""Th_r at which everything is attended."""


def save_heat_maps(rows: _Rows, path: pathlib.Path) -> None:
  """Shares over Th_hd and Th_r, a row of panels a figure, a column a stage.

  Th_r = 1, which keeps everything, is grey and outside the range of colours.

  Args:
    rows: of one variant, N_hp and table (`settings.rows_of`).
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  thresholds = sorted({row["hamming_threshold"] for row in rows})
  ratios = sorted({row["wicsum_ratio"] for row in rows})
  names = {"kept": "past attended", "mass": "attention mass kept"}
  if any(row["recall"]["question"] is not None for row in rows):
    names["recall"] = "evidence read"
  height = min(max(1.0 + 0.5 * len(thresholds), 1.6), 3.2)
  figure = plotting.figure(
    figsize=(12.5, 0.8 + height * len(names)), layout="constrained"
  )
  panels = figure.subplots(len(names), len(_STAGES), squeeze=False)
  for line, (name, label) in zip(panels, names.items(), strict=True):
    values = {
      stage: _cells(rows, thresholds, ratios, name, stage) for stage in _STAGES
    }
    low, high = _range(np.stack(list(values.values())), ratios)
    for axes, (stage, cells) in zip(line, values.items(), strict=True):
      image = _draw_map(axes, cells, ratios, (low, high))
      axes.set_yticks(range(len(thresholds)), [str(one) for one in thresholds])
      axes.set_title(f"{label}, {stage}s, %", fontsize=10)
    line[0].set_ylabel("Th_hd, bits")
    figure.colorbar(image, ax=line.tolist(), label="%")
  note = "Th_r-wics (columns are equally wide, whatever lies between values"
  if ratios[-1] >= _ALL:
    note += "; grey: Th_r = 1 keeps everything"
  figure.supxlabel(f"{note})", fontsize=10)
  figure.savefig(path, dpi=150)


def _cells(
  rows: _Rows,
  thresholds: Sequence[int],
  ratios: Sequence[float],
  name: str,
  stage: str,
) -> np.ndarray:
  """Percent by Th_hd and Th_r; NaN where it is not known."""
  cells = np.full((len(thresholds), len(ratios)), np.nan)
  for row in rows:
    place = (
      thresholds.index(row["hamming_threshold"]),
      ratios.index(row["wicsum_ratio"]),
    )
    cells[place] = 100 * _known(row[name][stage])
  return cells


def _range(cells: np.ndarray, ratios: Sequence[float]) -> tuple[float, float]:
  """Fives around all that is known, without the column that keeps everything.

  Example:
    >>> _range(np.array([[12.0, 43.0, 100.0]]), [0.1, 0.3, 1.0])
    (10.0, 45.0)
  """
  own = cells[..., np.array(ratios) < _ALL]
  own = own[np.isfinite(own)]
  if not own.size:
    return 0.0, 100.0
  low = 5.0 * math.floor(own.min() / 5)
  return low, max(5.0 * math.ceil(own.max() / 5), low + 5.0)


def _draw_map(
  axes: Any,
  cells: np.ndarray,
  ratios: Sequence[float],
  limits: tuple[float, float],
) -> Any:
  low, high = limits
  coloured = np.where(np.array(ratios) < _ALL, cells, np.nan)
  axes.set_facecolor("0.85")
  image = axes.imshow(
    coloured, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="viridis"
  )
  count = len(ratios)
  ticks = np.unique(np.linspace(0, count - 1, min(count, 11)).astype(int))
  axes.set_xticks(ticks, [f"{ratios[tick]:.3g}" for tick in ticks], fontsize=8)
  if count <= _NUMBERED_COLUMNS and len(cells) <= _NUMBERED_LINES:
    for (line, column), value in np.ndenumerate(cells):
      if np.isfinite(value):
        dark = coloured[line, column] < (low + high) / 2
        axes.text(column, line, f"{value:.1f}", ha="center", va="center",
                  fontsize=8, color="white" if dark else "black")  # fmt: skip
  if not np.isfinite(cells).any():
    axes.text(0.5, 0.5, "not known", ha="center", transform=axes.transAxes)
  return image


def save_fronts(rows: _Rows, path: pathlib.Path, platform: str) -> None:
  """Fronts: mass against what is attended, and against modelled latency.

  Rings are settings whose closed loop was run too, joined to the open loop's.
  Neighbours in Th_r are joined where they are near.

  Args:
    rows: of one variant, N_hp and table, with costs.
    path: PNG to write.
    platform: name of the platform whose latency is shown.

  Raises:
    InputError: matplotlib is missing.
  """
  figure = plotting.figure(figsize=(13.0, 5.0), layout="constrained")
  panels = figure.subplots(1, 3)
  thresholds = sorted({row["hamming_threshold"] for row in rows})
  for index, threshold in enumerate(thresholds):
    own = sorted(
      (row for row in rows if row["hamming_threshold"] == threshold),
      key=lambda row: row["wicsum_ratio"],
    )
    for axes, stage in zip(panels, ("frame", "question"), strict=False):
      shares = [100 * _known(row["kept"][stage]) for row in own]
      _line(axes, own, shares, stage, index)
      for row in own:
        if row.get("closed"):
          _pair(axes, row, stage, f"C{index % 10}")
    times = [1e3 * row["frame_latency_s"] for row in own]
    _line(panels[2], own, times, "frame", index)
  for axes, stage in zip(panels, ("frame", "question"), strict=False):
    axes.set_xlabel(f"past attended at {stage}s, %")
    axes.set_ylabel(f"attention mass kept at {stage}s, %")
    axes.plot([0, 100], [0, 100], color="0.7", linestyle=":", zorder=0,
              label="mass = attended")  # fmt: skip
    axes.set_xlim(0, 102)
  panels[2].set_xlabel(f"modelled frame latency on {platform}, ms")
  panels[2].set_xlim(left=0)
  panels[2].set_ylabel("attention mass kept at frames, %")
  for axes in panels:
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  if any(row.get("closed") for row in rows):
    panels[0].plot([], [], "o--", color="0.4", markerfacecolor="none",
                   linewidth=0.8, label="ring: closed loop")  # fmt: skip
  figure.suptitle(
    "numbers at points: Th_r-wics; no line across steps of Th_r over"
    f" {_GAP:g}, where nothing was tried between",
    fontsize=10,
  )
  plotting.legend_below(figure, panels[0])
  figure.savefig(path, dpi=150)


def _known(value: float | None) -> float:
  return np.nan if value is None else value


def _line(
  axes: Any,
  rows: _Rows,
  across: Sequence[float],
  stage: str,
  index: int,
) -> None:
  """Points of a threshold, joined where Th_r moves little; some named."""
  ratios = [row["wicsum_ratio"] for row in rows]
  mass = [100 * _known(row["mass"][stage]) for row in rows]
  colour = f"C{index % 10}"
  breaks = 1 + np.flatnonzero(np.diff(ratios) > _GAP)
  axes.plot(
    np.insert(np.array(across), breaks, np.nan),
    np.insert(np.array(mass), breaks, np.nan),
    ".-",
    color=colour,
    linewidth=0.7,
    markersize=7,
    label=f"Th_hd {rows[0]['hamming_threshold']}",
  )
  # Below to the right and above to the left in turn, each further out.
  side, turn = (-1 if index % 2 else 1), index // 2
  for at in sorted(_named(ratios)):
    axes.annotate(
      f"{ratios[at]:.2g}",
      (across[at], mass[at]),
      xytext=(side * (5 + 13 * turn), -side * (5 + 4 * turn)),
      textcoords="offset points",
      fontsize=7,
      color=colour,
      ha="left" if side > 0 else "right",
      va="center",
    )


def _named(ratios: Sequence[float]) -> set[int]:
  """Places of the ratios nearest to a few, without those that keep all.

  Example:
    >>> sorted(_named([0.0, 0.1, 0.3, 1.0]))
    [1, 2]
  """
  own = [ratio for ratio in ratios if ratio < _ALL]
  return {
    min(range(len(own)), key=lambda at: abs(own[at] - near))
    for near in _LABELLED
    if own
  }


def _pair(axes: Any, row: Mapping[str, Any], stage: str, colour: str) -> None:
  pairs = [
    [100 * _known(one[name][stage]) for one in (row, row["closed"])]
    for name in ("kept", "mass")
  ]
  axes.plot(*pairs, color=colour, linewidth=0.8, linestyle="--")
  axes.plot(
    pairs[0][1:], pairs[1][1:], "o", color=colour, markerfacecolor="none"
  )
