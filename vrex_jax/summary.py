"""Streaming rows as text a person reads."""

import math
from collections.abc import Mapping, Sequence
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
  """One line per policy, then its answers and what overflowed.

  Args:
    rows: streaming rows (`record.STREAMING_FIELDS`).
  """
  header = [
    "policy", "frames", "ms/frame", "(p95)", "vision", "frames/s", "tokens/s",
    "attended frame", "question", "answer", "held tokens", "KV MiB", "ttft ms",
    "ms/token",
  ]  # fmt: skip
  lines = []
  for row in rows:
    frame_ms = row["ms_per_frame"]
    ratio = row["retrieval_ratio"]
    per_second = 1e3 / frame_ms["p50"] if frame_ms["p50"] else None
    lines.append(
      [
        row["policy"],
        str(row["frames"]),
        _number(frame_ms["p50"]),
        _number(frame_ms["p95"]),
        _number(row["vision_ms"]),
        _number(per_second),
        _number(row["tokens_per_s"]),
        _percent(ratio["frame"]),
        _percent(ratio["question"]),
        _percent(ratio["answer"]),
        str(row["cached_tokens"]),
        _number(row["kv_bytes"] / 2**20),
        _number(row["ttft_ms"]),
        _number(row["tpot_ms"]),
      ]
    )
  text = [aligned(header, lines)]
  for row in rows:
    for sentence in row["overflow"]:
      text.append(f"warning ({row['policy']}): {sentence}")
  return "\n".join(text)


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
