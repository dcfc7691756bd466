"""Streaming rows as text a person reads."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

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

  In between, where a policy's layers differ, the share of each.

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
  layers = [
    f"\npolicy {number}, past attended by layer, %\n{_layer_table(shares)}"
    for number, row in zip(numbers, rows, strict=True)
    if _differ(shares := row["retrieval_ratio_by_layer"])
  ]
  return "\n".join([*names, "", table, *layers, *warnings])


def _differ(by_stage: Mapping[str, Sequence[float | None]]) -> bool:
  """Layers of a stage attend different shares (of no full or fixed window)."""
  return any(
    len({share for share in shares if _is_known(share)}) > 1
    for shares in by_stage.values()
  )


def _layer_table(by_stage: Mapping[str, Sequence[float | None]]) -> str:
  """One column a layer, one line a stage; wrapped after a few layers."""
  known = {
    _STAGES[stage]: shares
    for stage, shares in by_stage.items()
    if any(map(_is_known, shares))
  }
  count = max(map(len, known.values()))
  tables = []
  for first in range(0, count, _LAYERS_A_LINE):
    layers = range(first, min(first + _LAYERS_A_LINE, count))
    cells = [
      [stage, *(_percent(shares[layer], unit="") for layer in layers)]
      for stage, shares in known.items()
    ]
    header = [f"{layer:>5}" for layer in layers]
    tables.append(aligned(["layer".ljust(_STAGE_WIDTH), *header], cells))
  return "\n".join(tables)


def _is_known(value: float | None) -> TypeGuard[float]:
  return value is not None and math.isfinite(value)


def _per_second(row: Mapping[str, Any], decoding: bool) -> float | None:
  """Frames per second of the model alone, or one after the other with it."""
  milliseconds = row["ms_per_frame"]["p50"]
  if not milliseconds:
    return None
  return 1e3 / (milliseconds + (row["decode_ms"] or 0.0) * decoding)


def _number(value: float | None) -> str:
  if not _is_known(value):
    return "-"
  if value == 0 or abs(value) >= 100:
    return f"{value:.0f}"
  return f"{value:.3g}"


def _percent(value: float | None, unit: str = " %") -> str:
  if not _is_known(value):
    return "-"
  return f"{100 * value:.1f}{unit}"


_STAGES = {"frame": "frames", "question": "questions", "answer": "answers"}
_STAGE_WIDTH = max(map(len, _STAGES.values()))
_LAYERS_A_LINE = 10  # of 5 digits and 2 spaces, within 80 columns


_FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
  "frames": lambda row: str(row["frames"]),
  "ms per frame, median": lambda row: _number(row["ms_per_frame"]["p50"]),
  "ms per frame, 95 % of frames below": lambda row: _number(
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
