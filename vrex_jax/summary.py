"""Streaming rows as text a person reads."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["aligned", "streaming_table"]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Columns as wide as their longest cell; the first to the left.

  Example:
    >>> print(aligned(["a", "bb"], [["xyz", "1"]]))
    a    bb
    xyz   1
  """
  table = [list(header), *map(list, rows)]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  lines = []
  for cells in table:
    first = cells[0].ljust(widths[0])
    rest = [
      cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True)
    ]
    lines.append("  ".join([first, *rest]).rstrip())
  return "\n".join(lines)


def streaming_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Policies by number, one line per figure, then what overflowed.

  Args:
    rows: streaming rows (`record.STREAMING_FIELDS`).
  """
  numbers = [str(index) for index in range(1, len(rows) + 1)]
  names = [
    f"  {number}  {row['policy']}"
    for number, row in zip(numbers, rows, strict=True)
  ]
  lines = [
    [label, *(cell(row) for row in rows)] for label, cell in _FIGURES.items()
  ]
  table = aligned(["policy", *numbers], lines)
  warnings = [
    f"warning (policy {number}): {sentence}"
    for number, row in zip(numbers, rows, strict=True)
    for sentence in row["overflow"]
  ]
  return "\n".join([*names, "", table, *warnings])


def _per_second(row: Mapping[str, Any], decoding: bool) -> float | None:
  """Frames per second of the model alone, or one after the other with it."""
  milliseconds = row["ms_per_frame"]["p50"]
  if not milliseconds:
    return None
  return 1e3 / (milliseconds + (row["decode_ms"] or 0.0) * decoding)


def _number(value: float | None) -> str:
  if value is None or not math.isfinite(value):
    return "-"
  if value == 0 or abs(value) >= 100:
    return f"{value:.0f}"
  return f"{value:.3g}"


def _percent(value: float | None) -> str:
  if value is None or not math.isfinite(value):
    return "-"
  return f"{100 * value:.1f} %"


_FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
  "frames": lambda row: str(row["frames"]),
  "ms per frame, median": lambda row: _number(row["ms_per_frame"]["p50"]),
  "ms per frame, 95 % of blocks below": lambda row: _number(
    row["ms_per_frame"]["p95"]
  ),
  "ms of vision alone": lambda row: _number(row["vision_ms"]),
  "ms to decode and resize, before it": lambda row: _number(row["decode_ms"]),
  "frames per second, model": lambda row: _number(_per_second(row, False)),
  "frames per second, with decoding": lambda row: _number(
    _per_second(row, True)
  ),
  "past attended, frames": lambda row: _percent(
    row["retrieval_ratio"]["frame"]
  ),
  "past attended, questions": lambda row: _percent(
    row["retrieval_ratio"]["question"]
  ),
  "past attended, answers": lambda row: _percent(
    row["retrieval_ratio"]["answer"]
  ),
  "tokens held at the end": lambda row: str(row["cached_tokens"]),
  "KV held, MiB": lambda row: _number(row["kv_bytes"] / 2**20),
  "ms to first token": lambda row: _number(row["ttft_ms"]),
  "ms per further token": lambda row: _number(row["tpot_ms"]),
}
