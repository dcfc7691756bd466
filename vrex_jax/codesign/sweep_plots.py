"""Pictures of a sweep: heat maps over both thresholds, and fronts."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting

__all__ = ["save_fronts", "save_heat_maps"]

_STAGES = ("frame", "question", "answer")


def save_heat_maps(
  rows: Sequence[Mapping[str, Any]], path: pathlib.Path
) -> None:
  """Shares over Th_hd and Th_r, a row of panels a figure, a column a stage.

  Args:
    rows: of one variant, N_hp and table (`settings.rows_of`).
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  thresholds = sorted({row["hamming_threshold"] for row in rows})
  ratios = sorted({row["wicsum_ratio"] for row in rows})
  names = {"kept": "past attended, %", "mass": "attention mass kept, %"}
  if any(row["recall"]["question"] is not None for row in rows):
    names["recall"] = "evidence read, %"
  figure = plotting.figure(
    figsize=(12.0, 0.6 + 3.0 * len(names)), layout="constrained"
  )
  panels = figure.subplots(len(names), len(_STAGES), squeeze=False)
  for line, (name, label) in enumerate(names.items()):
    for column, stage in enumerate(_STAGES):
      axes = panels[line][column]
      cells = np.full((len(thresholds), len(ratios)), np.nan)
      for row in rows:
        place = (
          thresholds.index(row["hamming_threshold"]),
          ratios.index(row["wicsum_ratio"]),
        )
        value = row[name][stage]
        cells[place] = np.nan if value is None else 100 * value
      image = axes.imshow(
        cells, origin="lower", aspect="auto", vmin=0, vmax=100, cmap="viridis"
      )
      axes.set_yticks(range(len(thresholds)), [str(one) for one in thresholds])
      ticks = np.unique(np.linspace(0, len(ratios) - 1, 6).astype(int))
      axes.set_xticks(ticks, [f"{ratios[tick]:.2g}" for tick in ticks])
      if line == 0:
        axes.set_title(f"{stage}s")
      if line == len(names) - 1:
        axes.set_xlabel("Th_r-wics")
      if column == 0:
        axes.set_ylabel(f"{label}\nTh_hd")
    figure.colorbar(image, ax=panels[line].tolist(), label=label)
  figure.savefig(path, dpi=150)


def save_fronts(
  rows: Sequence[Mapping[str, Any]], path: pathlib.Path, platform: str
) -> None:
  """Fronts: mass against what is attended, and against modelled latency.

  Rings are settings whose closed loop was run too, joined to the open loop's.

  Args:
    rows: of one variant, N_hp and table, with costs.
    path: PNG to write.
    platform: name of the platform whose latency is shown.

  Raises:
    InputError: matplotlib is missing.
  """
  figure = plotting.figure(figsize=(13.0, 4.6), layout="constrained")
  panels = figure.subplots(1, 3)
  thresholds = sorted({row["hamming_threshold"] for row in rows})
  colours = {one: f"C{index % 10}" for index, one in enumerate(thresholds)}
  for threshold, colour in colours.items():
    own = [row for row in rows if row["hamming_threshold"] == threshold]
    label = f"Th_hd {threshold}"
    for axes, stage in zip(panels, ("frame", "question"), strict=False):
      _line(axes, [(_known(row["kept"][stage]), _known(row["mass"][stage]))
                   for row in own], colour, label)  # fmt: skip
      for row in own:
        if row.get("closed"):
          _pair(axes, row, stage, colour)
    _line(
      panels[2],
      [
        (10 * row["frame_latency_s"], _known(row["mass"]["frame"]))
        for row in own
      ],
      colour,
      label,
    )
  for axes, stage in zip(panels, ("frame", "question"), strict=False):
    axes.set_xlabel(f"past attended at {stage}s, %")
    axes.set_ylabel(f"attention mass kept at {stage}s, %")
    axes.plot([0, 100], [0, 100], color="0.7", linestyle=":", zorder=0)
    axes.set_xlim(0, 102)
  panels[2].set_xlabel(f"modelled frame latency on {platform}, ms")
  panels[2].set_ylabel("attention mass kept at frames, %")
  for axes in panels:
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  panels[0].legend(frameon=False, fontsize=8)
  figure.savefig(path, dpi=150)


def _known(value: float | None) -> float:
  return np.nan if value is None else value


def _line(
  axes: Any, points: Sequence[tuple[float, float]], colour: str, label: str
) -> None:
  share, mass = 100 * np.array(points).T
  axes.plot(share, mass, ".-", color=colour, label=label, linewidth=1)


def _pair(axes: Any, row: Mapping[str, Any], stage: str, colour: str) -> None:
  pairs = [
    [100 * _known(one[name][stage]) for one in (row, row["closed"])]
    for name in ("kept", "mass")
  ]
  axes.plot(*pairs, color=colour, linewidth=0.8, linestyle="--")
  axes.plot(
    pairs[0][1:], pairs[1][1:], "o", color=colour, markerfacecolor="none"
  )
