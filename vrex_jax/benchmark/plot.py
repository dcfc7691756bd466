"""The picture of a benchmark: step time against cached tokens."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import plotting

__all__ = ["save_plot"]

_LABELS = {"hf": "transformers", "torch_sdpa": "torch, by hand"}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = "os^Dv<>"


def save_plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """CPU time of every line of a table, one panel for each T.

  Both axes are logarithmic, so that a step in proportion to the cache is a
  straight line of slope 1. Lines are named below, where long names have room.

  Args:
    rows: benchmark rows.
    path: picture to write; the suffix says which format.

  Raises:
    InputError: matplotlib is not installed.
  """
  lengths = sorted({row["frame_tokens"] for row in rows})
  names = list(dict.fromkeys(_name(row) for row in rows))
  figure = plotting.figure(
    figsize=(max(6.4, 3.6 * len(lengths)), 4.0 + 0.24 * len(names)),
    layout="constrained",
  )
  axes = figure.subplots(
    1, len(lengths), sharex=True, sharey=True, squeeze=False
  )
  for axis, length in zip(axes[0], lengths, strict=True):
    here = [row for row in rows if row["frame_tokens"] == length]
    _draw(axis, here, names)
    axis.set_title(f"{length} tokens a frame", fontsize=10)
    axis.set_xlabel("cached tokens")
  axes[0][0].set_ylabel("CPU time of a decoder step, ms (log scale)")
  handles, labels = axes[0][0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside lower center", fontsize=8, frameon=False
  )
  first = rows[0]
  figure.suptitle(
    f"{first['shape']}, batch {first['batch']}, {first['dtype']},"
    f" {first['threads']} thread{'s' if first['threads'] > 1 else ''}",
    fontsize=11,
  )
  figure.savefig(path, dpi=150)


def _draw(
  axis: Any, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
  ticks = sorted({row["cache_tokens"] for row in rows})
  for index, name in enumerate(names):
    line = sorted(
      (row["cache_tokens"], row["cpu_ms"]) for row in rows if _name(row) == name
    )
    axis.plot(
      [tokens for tokens, _ in line],
      [cpu_ms for _, cpu_ms in line],
      marker=_MARKERS[index % len(_MARKERS)],
      color=_COLOURS[index % len(_COLOURS)],
      markersize=5,
      label=name,
    )
  axis.set_xscale("log")
  axis.set_yscale("log")
  axis.set_xticks(ticks, [_tokens(tick) for tick in ticks])
  axis.minorticks_off()
  axis.yaxis.set_major_locator(_locator())
  axis.yaxis.set_major_formatter("{x:g}")
  axis.grid(alpha=0.3)
  axis.spines[["top", "right"]].set_visible(False)


def _locator() -> Any:
  from matplotlib import ticker

  return ticker.LogLocator(base=10.0, subs=(1.0, 2.0, 5.0), numticks=20)


def _name(row: Mapping[str, Any]) -> str:
  name = _LABELS.get(row["side"], f"vrex_jax, {row['policy']}")
  if row["forced_ratio"] is not None:
    name += f", {100 * row['forced_ratio']:g} % kept"
  return name


def _tokens(count: int) -> str:
  return f"{count // 1024}K" if count % 1024 == 0 else f"{count:,}"
