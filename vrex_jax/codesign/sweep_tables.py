"""A sweep as text: settings, and how far the closed loop is from the open."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import summary

__all__ = ["assumptions", "first_of", "gap_table", "gaps", "table"]

_STAGES = ("frame", "question", "answer")
_SHOWN = (0.1, 0.2, 0.3, 0.5)


def first_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows of the first N_hp, table and variant."""
  names = ("hash_bits", "table", "recent_tokens", "rows", "votes")
  return [row for row in rows if all(row[n] == rows[0][n] for n in names)]


def assumptions(platform: str, model: str, cache_tokens: int) -> str:
  """What the modelled figures take for granted, for the screen."""
  return (
    f"latency and energy are modelled: {model} on {platform} over"
    f" {cache_tokens} cached tokens; ratios of the recording are transferred to"
    " it by relative depth (another model might choose otherwise), chosen one"
    " layer ahead; of what is attended the share that the law of residency"
    " gives at the paper's ratio is fetched\n"
  )


def table(rows: Sequence[Mapping[str, Any]], out: str | None = None) -> str:
  """For every choice the thresholds nearest to a few, and what is left out.

  Args:
    rows: all (`settings.rows_of`).
    out: folder that sweep.csv is written to, with all of them; None for none.
  """
  header = ["Th_hd", "N_hp", "table", "rows", "recent", "Th_r",
            "attended, frame %", "attended, question %", "attended, answer %",
            "mass, frame %", "mass, question %", "evidence read, question %",
            "tokens/cluster", "frame ms", "frame J"]  # fmt: skip
  ratios = sorted({row["wicsum_ratio"] for row in rows})
  shown = {min(ratios, key=lambda one: abs(one - near)) for near in _SHOWN}
  lines = [
    [
      str(row["hamming_threshold"]),
      str(row["hash_bits"]),
      row["table"],
      row["rows"] + (f":{row['votes']}" if row["rows"] == "vote" else ""),
      "frame" if row["recent_tokens"] is None else str(row["recent_tokens"]),
      f"{row['wicsum_ratio']:.3f}",
      *(_percent(row["kept"][stage]) for stage in _STAGES),
      *(_percent(row["mass"][stage]) for stage in _STAGES[:2]),
      _percent(row["recall"]["question"]),
      f"{row['tokens_per_cluster']:.1f}",
      f"{1e3 * row['frame_latency_s']:.1f}",
      f"{row['frame_energy_low_j']:.2f}-{row['frame_energy_high_j']:.2f}",
    ]
    for row in rows
    if row["wicsum_ratio"] in shown
  ]
  return f"{summary.aligned(header, lines)}\n{_notes(rows, len(lines), out)}"


def _notes(
  rows: Sequence[Mapping[str, Any]], shown: int, out: str | None
) -> str:
  """Below the table: rows that are left out, and what mass is worth."""
  lines = []
  if left_out := len(rows) - shown:
    near = ", ".join(f"{ratio:g}" for ratio in _SHOWN)
    where = "--out writes all to sweep.csv"
    if out is not None:
      where = f"all are in {pathlib.Path(out) / 'sweep.csv'}"
    lines.append(
      f"{left_out} of {len(rows)} rows are left out (shown: Th_r nearest to"
      f" {near}); {where}"
    )
  lines.append(
    "what lost attention mass costs in answers: docs/accuracy_model.md"
  )
  return "\n".join(lines)


def gap_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Open loop, closed loop, difference in points, for rows that were run."""
  header = ["closed loop: Th_hd", "Th_r", "attended, frame %", "open",
            "attended, question %", "open", "mass, frame %", "open",
            "mass, question %", "open", "evidence read, question %", "open",
            "right"]  # fmt: skip
  lines = []
  for row in rows:
    pair = lambda name, stage, row=row: [
      _percent(one[name][stage]) for one in (row["closed"], row)
    ]
    lines.append(
      [
        str(row["hamming_threshold"]),
        f"{row['wicsum_ratio']:.3f}",
        *pair("kept", "frame"),
        *pair("kept", "question"),
        *pair("mass", "frame"),
        *pair("mass", "question"),
        *pair("recall", "question"),
        f"{row['closed']['right']}/{row['closed']['asked']}",
      ]
    )
  found = gaps(rows)
  means = [
    f"{name} of {stage}s {_points(found[name][stage])} points"
    for name in ("kept", "mass")
    for stage in _STAGES[:2]
  ]
  return (
    f"{summary.aligned(header, lines)}\n"
    f"closed less open, mean (largest either way): {', '.join(means)}"
  )


def gaps(
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, float] | None]]:
  """Closed loop less open loop, over the rows that were run.

  Args:
    rows: with `closed`.

  Returns:
    By figure (kept, mass, recall) and stage: {"mean", "largest"}, the latter
    the one furthest from 0; None where it is not known.
  """
  found: dict[str, dict[str, dict[str, float] | None]] = {}
  for name in ("kept", "mass", "recall"):
    found[name] = {}
    for stage in _STAGES:
      pairs = [(row["closed"][name][stage], row[name][stage]) for row in rows]
      known = [
        closed - open_
        for closed, open_ in pairs
        if closed is not None and open_ is not None and closed == closed
      ]
      found[name][stage] = None
      if known:
        found[name][stage] = {
          "mean": sum(known) / len(known),
          "largest": max(known, key=abs),
        }
  return found


def _points(gap: Mapping[str, float] | None) -> str:
  if gap is None:
    return "-"
  return f"{100 * gap['mean']:+.1f} ({100 * gap['largest']:+.1f})"


def _percent(value: float | None) -> str:
  return "-" if value is None or value != value else f"{100 * value:.1f}"
