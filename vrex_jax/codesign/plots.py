"""Trade-off fronts of a study as a picture."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vrex_jax import plotting

__all__ = ["Point", "save_fronts"]

_Front = Sequence[Mapping[str, float]]

_NAMES = {
  "area": ("area", "mm2", 1e6, "area_m2"),
  "accuracy": ("accuracy drop", "%", 100.0, "accuracy_drop"),
}
_MARKS: tuple[dict[str, Any], ...] = (
  {"marker": "s", "color": "#d55e00"},
  {"marker": "D", "color": "#009e73"},
  {"marker": "o", "color": "#000000", "markersize": 12, "fillstyle": "none"},
)
_FLAT = 0.01
_FEWEST_TICKS = 3
_DIGITS = (
  (1, 2, 5),
  (1, 1.5, 2, 3, 5, 7),
  (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
)
_NOTE = (
  "The curve is drawn over the limit, by a model with smooth maxima and the"
  " curves that were searched.\nMarks lie at what a design has, by hard maxima"
  " and held-out curves (where given): they can lie below the curve."
)


class Point(NamedTuple):
  """A design to mark.

  Attributes:
    label: for the legend.
    figures: `area_m2` and `accuracy_drop`, as metrics.json holds them.
    objective: of the vertical axis.
  """

  label: str
  figures: Mapping[str, Any]
  objective: float


def save_fronts(
  fronts: Mapping[str, _Front],
  points: Sequence[Point],
  label: str,
  path: pathlib.Path,
  *,
  asked: Mapping[str, float],
  title: str,
) -> None:
  """One panel a limit: the best objective as the limit moves.

  The area has no panel where it moves nothing (no free size takes any) and
  there is another.

  Args:
    fronts: "area" and "accuracy" -> points {"limit", "objective"}; an objective
      is None where nothing keeps the limits.
    points: at most three, drawn into all panels.
    label: of the vertical axis.
    path: picture to write.
    asked: the limits of the study, by the names of `fronts`.
    title: of the whole picture.

  Raises:
    InputError: matplotlib is not installed.
  """
  shown, notes = _panels(fronts), [_NOTE]
  if len(shown) < len(fronts):
    notes.append(_flat_note(fronts["area"]))
  figure = plotting.figure(
    figsize=(max(6.6, 4.6 * len(shown)), 4.0), layout="constrained"
  )
  axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
  for axis, (name, front) in zip(axes, shown.items(), strict=True):
    _draw(axis, name, front, points, asked[name])
  for axis, (name, front) in zip(axes, shown.items(), strict=True):
    _number(axis.set_xticks, axis.get_xlim())
    _number(axis.set_yticks, axis.get_ylim())
    if any(one["objective"] is None for one in front):
      notes.append(f"Nothing keeps the lower limits of {_NAMES[name][0]}.")
  if any(point.figures["accuracy_drop"] <= 0 for point in points):
    notes.append("A mark at the left edge has no accuracy drop.")
  axes[0].set_ylabel(f"{label} (modelled)", fontsize=9)
  figure.suptitle(title, fontsize=10)
  plotting.legend_below(figure, axes[0])
  # Laid out, and then held: a picture that grows by the notes below would move
  # its legend into them.
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  figure.legends[0].set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
  figure.text(0.5, -0.01, "\n".join(notes), fontsize=8, color="0.35",
              ha="center", va="top")  # fmt: skip
  figure.savefig(path, dpi=150, bbox_inches="tight")


def _panels(fronts: Mapping[str, _Front]) -> dict[str, _Front]:
  """All that move, accuracy always, and one at least.

  Example:
    >>> flat = [{"limit": 1.0, "objective": 3.0}] * 2
    >>> list(_panels({"area": flat, "accuracy": flat}))
    ['accuracy']
    >>> list(_panels({"area": flat}))
    ['area']
  """
  values = _known(fronts.get("area", ()))
  flat = bool(values) and max(values) <= (1 + _FLAT) * min(values)
  if flat and len(fronts) > 1:
    return {name: one for name, one in fronts.items() if name != "area"}
  return dict(fronts)


def _known(front: _Front) -> list[float]:
  return [one["objective"] for one in front if one["objective"] is not None]


def _flat_note(front: _Front) -> str:
  limits = [one["limit"] for one in front if one["objective"] is not None]
  low, high = (1e6 * limit for limit in (min(limits), max(limits)))
  return (
    f"No panel of area: limits from {low:.3g} to {high:.3g} mm2 change the"
    f" objective by less than {100 * _FLAT:.0f} %."
  )


def _draw(
  axis: Any,
  name: str,
  front: _Front,
  points: Sequence[Point],
  asked: float,
) -> None:
  title, unit, scale, key = _NAMES[name]
  kept = [one for one in front if one["objective"] is not None]
  axis.set_xscale("log")
  axis.set_yscale("log")
  axis.plot(
    [scale * one["limit"] for one in kept],
    [one["objective"] for one in kept],
    "o-",
    color="#0072b2",
    markersize=4,
    label="best at this limit,\nwhatever is free moves\n(smooth model)",
  )
  edge = scale * min(one["limit"] for one in front)
  for look, point in zip(_MARKS, points, strict=False):
    value = scale * point.figures[key]
    axis.plot(
      value if value > 0 else edge,
      point.objective,
      linestyle="none",
      label=point.label,
      **look,
    )
  axis.axvline(scale * asked, color="0.4", linewidth=0.8, linestyle="--",
               zorder=0)  # fmt: skip
  axis.text(scale * asked, 1.01, f"limit asked for: {scale * asked:.4g} {unit}",
            transform=axis.get_xaxis_transform(), fontsize=8, color="0.35",
            ha="center", va="bottom")  # fmt: skip
  axis.set_xlabel(f"{title}, {unit}")
  axis.grid(alpha=0.3)
  axis.spines[["top", "right"]].set_visible(False)
  axis.set_axisbelow(True)


def _number(set_ticks: Any, limits: tuple[float, float]) -> None:
  shown = _ticks(*limits)
  set_ticks(shown, [f"{tick:.10g}" for tick in shown])
  set_ticks([], minor=True)


def _ticks(low: float, high: float) -> list[float]:
  """At least three round numbers within a range of a logarithmic axis.

  1, 2, 5 of every decade; more of them where it is short; at last, equal steps.

  Example:
    >>> _ticks(0.3, 12.0)
    [0.5, 1.0, 2.0, 5.0, 10.0]
    >>> _ticks(7.0, 17.0)
    [7.0, 10.0, 15.0]
    >>> _ticks(1190.0, 1230.0)
    [1190.0, 1200.0, 1210.0, 1220.0, 1230.0]
  """
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for digits in _DIGITS:
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    shown = [value for value in values if low <= value <= high]
    if len(shown) >= _FEWEST_TICKS:
      return shown
  decade = 10.0 ** math.floor(math.log10(high - low))
  for step in (decade, decade / 2, decade / 5):
    shown = _steps(low, high, step)
    if len(shown) >= _FEWEST_TICKS:
      return shown
  return _steps(low, high, decade / 10)


def _steps(low: float, high: float, step: float) -> list[float]:
  first, last = math.ceil(low / step), math.floor(high / step)
  return [step * index for index in range(first, last + 1)]
