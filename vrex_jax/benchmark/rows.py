"""Benchmark rows: their fields, their ceiling, and the table on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import summary
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import timing

__all__ = ["FIELDS", "ceiling", "row", "table"]

FIELDS = (
  "policy",
  "side",
  "shape",
  "with_vision",
  "ceiling",
  "cache_tokens",
  "frame_tokens",
  "batch",
  "lookahead",
  "forced_ratio",
  "retrieval_ratio",
  "groups",
  "cpu_ms",
  "wall_ms",
  "dtype",
  "threads",
)
"""Fields of a row, in order; see docs/notation.md."""

_CELL = ("cache_tokens", "frame_tokens", "batch", "lookahead", "with_vision")


def row(
  plan: plans.Plan,
  *,
  policy: str,
  side: str,
  ceiling: float | None,
  forced_ratio: float | None,
  retrieval_ratio: Mapping[str, float],
  groups: float,
  times: timing.Times,
  threads: int,
) -> dict[str, Any]:
  """A row.

  Args:
    plan: the cell.
    policy: name of the policy.
    side: "ours", "hf" or "torch_sdpa".
    ceiling: see `ceiling`; None of `full` and of other sides.
    forced_ratio: share of the past that was asked for, or None.
    retrieval_ratio: measured, by stage.
    groups: clusters, pages or frames a table, mean; 0 without a table.
    times: measured.
    threads: cores in use.

  Returns:
    Fields of `FIELDS`, in their order.
  """
  known = {
    "policy": policy,
    "side": side,
    "ceiling": ceiling,
    "forced_ratio": forced_ratio,
    "retrieval_ratio": dict(retrieval_ratio),
    "groups": groups,
    "cpu_ms": times.cpu_ms,
    "wall_ms": times.wall_ms,
    "threads": threads,
    **plans.cell_fields(plan),
  }
  return {name: known[name] for name in FIELDS}


def ceiling(full_ms: float, dense_ms: float, share: float) -> float:
  """Largest possible gain over the full cache at a given attended share.

  full / (dense + share · (full - dense)): attention shrinks with the share,
  the rest of the step stays, and choosing costs nothing.

  Args:
    full_ms: step that attends to the whole past.
    dense_ms: the same step with an empty past.
    share: attended part of the past, all layers.

  Example:
    >>> round(ceiling(260.0, 38.0, 0.05), 1)
    5.3
  """
  return full_ms / (dense_ms + share * (full_ms - dense_ms))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """One line for each of our rows, the other sides beside it.

  Columns: groups a table where there are any; CPU ms of our step; hf / ours and
  torch_sdpa / ours where measured; full / ours and its ceiling at the share
  that is attended, forced or not.

  Args:
    rows: benchmark rows (`FIELDS`).
  """
  others = [
    side
    for side in ("hf", "torch_sdpa")
    if any(row["side"] == side for row in rows)
  ]
  grouped = any(row["groups"] for row in rows)
  header = ["policy", "cached", "T", "kept"]
  header += ["groups"] if grouped else []
  header += ["ours ms", "wall ms"]
  for side in others:
    header += [f"{side} ms", f"{side}/ours"]
  compare = any(row["policy"] != "full" for row in rows)
  header += ["full/ours", "ceiling"] if compare else []
  lines = []
  for row in rows:
    if row["side"] != "ours":
      continue
    line = [
      row["policy"],
      str(row["cache_tokens"]),
      str(row["frame_tokens"]),
      f"{100 * row['retrieval_ratio']['frame']:.1f} %",
    ]
    if grouped:
      line.append(f"{row['groups']:.0f}" if row["groups"] else "")
    line += [_milliseconds(row["cpu_ms"]), _milliseconds(row["wall_ms"])]
    for side in others:
      other = _find(rows, row, side)
      is_full = row["policy"] == "full"
      line.append(_milliseconds(other["cpu_ms"]) if is_full and other else "")
      line.append(_ratio(other, row) if is_full else "")
    if compare:
      line.append(_ratio(_find(rows, row, "ours"), row))
      line.append(f"{row['ceiling']:.2f}" if row["ceiling"] else "")
    lines.append(line)
  return summary.aligned(header, lines)


def _find(
  rows: Sequence[Mapping[str, Any]], like: Mapping[str, Any], side: str
) -> Mapping[str, Any] | None:
  """The row of the full cache of one side, in the same cell."""
  for row in rows:
    same = all(row[name] == like[name] for name in _CELL)
    if same and row["side"] == side and row["policy"] == "full":
      return row
  return None


def _ratio(other: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> str:
  return f"{other['cpu_ms'] / ours['cpu_ms']:.2f}" if other else ""


def _milliseconds(value: float) -> str:
  return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
