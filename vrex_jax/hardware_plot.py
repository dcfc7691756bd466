"""The picture of hardware rows: what a frame waits for."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import plotting

__all__ = ["save_plot"]

_COLOURS = {
  "vision": "#0072b2",
  "dense": "#56b4e9",
  "attention": "#009e73",
  "prediction": "#e69f00",
  "fetch": "#d55e00",
  "software": "#999999",
}


def save_plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Bars of exposed milliseconds, one a row, with both bounds as a line.

  A panel for each platform and policy, with a scale of its own: platforms
  differ by more than a picture shows.

  Args:
    rows: hardware rows.
    path: picture to write.

  Raises:
    InputError: matplotlib is not installed.
  """
  groups = list(dict.fromkeys(map(_group, rows)))
  columns = 2 if len(groups) == 4 else min(len(groups), 3)
  lines = -(-len(groups) // columns)
  figure = plotting.figure(
    figsize=(max(6.4, 4.0 * columns), 0.7 + 3.2 * lines), layout="constrained"
  )
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for axis, group in zip(axes, groups, strict=False):
    _draw(axis, [row for row in rows if _group(row) == group])
    axis.set_title(" ".join(map(str, group[:2])), fontsize=10)
  for axis in axes[len(groups) :]:
    axis.remove()
  for first in range(0, len(groups), columns):
    axes[first].set_ylabel("a frame, ms (modelled)")
  plotting.legend_below(figure, axes[0])
  figure.savefig(path, dpi=150)


def _group(row: Mapping[str, Any]) -> tuple[str, str]:
  return row["platform"], row["policy"]


def _draw(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
  places = range(len(rows))
  base = [0.0] * len(rows)
  for part, colour in _COLOURS.items():
    heights = [1e3 * max(row["exposed_s"][part], 0.0) for row in rows]
    axis.bar(places, heights, 0.7, bottom=base, color=colour, label=part)
    base = [low + height for low, height in zip(base, heights, strict=True)]
  bounds = [
    (1e3 * row["bound_lower_s"], 1e3 * row["bound_upper_s"]) for row in rows
  ]
  axis.vlines(
    places,
    [low for low, _ in bounds],
    [high for _, high in bounds],
    color="black",
    linewidth=1.2,
    label="all overlapped … none",
  )
  several = len({row["batch"] for row in rows}) > 1
  names = [
    _length(row["cache_tokens"]) + (f"\nbatch {row['batch']}" * several)
    for row in rows
  ]
  axis.set_xticks(places, names, fontsize=8)
  axis.set_xlabel("cached tokens")
  axis.spines[["top", "right"]].set_visible(False)
  axis.grid(axis="y", alpha=0.3)
  axis.set_axisbelow(True)


def _length(tokens: int) -> str:
  return f"{tokens / 1024:g}K" if tokens % 1024 == 0 else str(tokens)
