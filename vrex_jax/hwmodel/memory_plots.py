"""Picture of the memory models: predicted against simulated."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting

__all__ = ["save"]

_PANELS = {
  "DRAM efficiency": "DRAM, share of the peak",
  "SSD bandwidth": "SSD, bytes per second",
  "SRAM read_j": "SRAM, joules per read",
  "SRAM area_m2": "SRAM, square metres",
}
_BAND = 0.1


def save(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Four panels; the shaded band is ten per cent to either side.

  Args:
    rows: of `memory_fit.validate`.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  figure = plotting.figure(figsize=(12, 3.6), layout="constrained")
  for axes, (model, title) in zip(
    figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True
  ):
    own = [row for row in rows if row["model"] == model]
    # What is compared with first, so that the model lies on top.
    for row in reversed(own[:2]):
      chosen = row["candidate"] == "model"
      axes.plot(
        row["observed"],
        row["predicted"],
        "o" if chosen else "x",
        color="tab:blue" if chosen else "tab:orange",
        markersize=3.5,
        alpha=0.8,
        label=row["candidate"],
      )
    low, high = _range(own[0]["observed"])
    line = np.array([low, high])
    axes.plot(line, line, color="black", linewidth=0.8)
    axes.fill_between(
      line, line * (1 - _BAND), line * (1 + _BAND), color="black", alpha=0.1
    )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set_title(title)
    axes.set_xlabel("simulated")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    if axes.get_subplotspec().is_first_col():
      axes.set_ylabel("predicted, in sample")
  figure.savefig(path, dpi=150)


def _range(values: Sequence[float]) -> tuple[float, float]:
  return 0.8 * min(values), 1.25 * max(values)
