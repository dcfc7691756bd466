"""Trade-off fronts and convergence as pictures."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import plotting

__all__ = ["save_fronts"]

_NAMES = {
  "area": ("area limit, mm2", 1e6),
  "accuracy": ("accuracy drop allowed, %", 100.0),
}
_MARKS = {"start": "s", "rounded": "D"}
_COLOURS = ("#d55e00", "#009e73")
_KEYS = {"area": "area_m2", "accuracy": "accuracy_drop"}


def save_fronts(
  fronts: Mapping[str, Sequence[Mapping[str, float]]],
  points: Mapping[str, Mapping[str, Any]],
  label: str,
  path: pathlib.Path,
) -> None:
  """One panel a limit: the best objective as the limit moves.

  Args:
    fronts: "area" and "accuracy" -> points {"limit", "objective"}.
    points: "start" and "rounded" -> figures, drawn into both panels with their
      `objective`.
    label: of the vertical axis.
    path: picture to write.

  Raises:
    InputError: matplotlib is not installed.
  """
  figure = plotting.figure(
    figsize=(4.4 * len(fronts), 3.6), layout="constrained"
  )
  axes = figure.subplots(1, len(fronts), squeeze=False, sharey=True)[0]
  for axis, (name, front) in zip(axes, fronts.items(), strict=True):
    title, scale = _NAMES[name]
    kept = [one for one in front if one["objective"] is not None]
    axis.plot(
      [scale * one["limit"] for one in kept],
      [one["objective"] for one in kept],
      "o-",
      color="#0072b2",
      markersize=4,
      label="descent (smooth model)",
    )
    for colour, (which, one) in zip(_COLOURS, points.items(), strict=True):
      axis.plot(
        scale * one[_KEYS[name]],
        one["objective"],
        _MARKS[which],
        color=colour,
        label="paper's sizing" if which == "start" else "rounded",
      )
    axis.set_xlabel(title)
    for scale_of, ticks_of, range_of in (
      (axis.set_xscale, axis.set_xticks, axis.get_xlim),
      (axis.set_yscale, axis.set_yticks, axis.get_ylim),
    ):
      scale_of("log")
      shown = _ticks(*range_of())
      ticks_of(shown, [f"{tick:g}" for tick in shown])
      ticks_of([], minor=True)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
  axes[0].set_ylabel(f"{label} (modelled)")
  plotting.legend_below(figure, axes[0])
  figure.savefig(path, dpi=150)


def _ticks(low: float, high: float) -> list[float]:
  """1, 2, 5 of every decade within a range.

  Example:
    >>> _ticks(0.3, 12.0)
    [0.5, 1.0, 2.0, 5.0, 10.0]
  """
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
  values = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
  values.append(10.0 ** math.ceil(math.log10(high)))
  return [value for value in values if low <= value <= high]
