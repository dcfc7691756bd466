"""Context, accuracy, performance: what the user of a policy sees.

The CAP survey (Zeng et al., arXiv 2405.11299) holds that a long-context method
improves at most two of the three: the context a user perceives as usable, the
accuracy of the task, and performance. Its three are not given as formulas; the
figures here are this project's:

  C  tokens of a stream until a stated memory for keys and values is full:
     seen + (memory - held) / (growth · bytes of a token); None for ever
  A  share of questions about old events answered right, with its interval
  P  frames a second of the prefill; time to first token where measured

C counts what must be kept, wherever it lies: a method that fetches from a
larger, slower memory is judged by the size of that one. The model's position
range is another limit, which methods that re-index do not have.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Triple", "context_tokens", "triple"]

_FIXED = 0.005
"""Growth of a memory below which it counts as fixed."""


class Triple(NamedTuple):
  """Static. The three figures of a policy.

  Attributes:
    context_tokens: C; None without an end.
    accuracy: A.
    accuracy_ci: its 95 % interval.
    frames_per_s: P.
    ttft_ms: time to first token; None where not measured.
  """

  context_tokens: int | None
  accuracy: float
  accuracy_ci: tuple[float, float]
  frames_per_s: float
  ttft_ms: float | None = None


def context_tokens(
  memory_bytes: float,
  *,
  seen_tokens: float,
  kv_bytes: float,
  growth: float,
  token_bytes: float,
) -> int | None:
  """Tokens of a stream until its keys and values fill a memory.

  Args:
    memory_bytes: of the memory.
    seen_tokens: of the stream that was measured.
    kv_bytes: held at its end, bytes.
    growth: tokens held more for every token seen (`trace.held_growth`).
    token_bytes: keys and values of one token in all layers and heads.

  Returns:
    Tokens, 0 where not even that stream fitted; None without an end.

  Example:
    >>> context_tokens(1e6, seen_tokens=100, kv_bytes=1e5, growth=1.0,
    ...                token_bytes=1e3)
    1000
    >>> context_tokens(1e6, seen_tokens=100, kv_bytes=1e5, growth=0.0,
    ...                token_bytes=1e3) is None
    True
  """
  room = memory_bytes - kv_bytes
  if growth < _FIXED:
    return 0 if room < 0 else None
  return max(0, int(seen_tokens + room / (growth * token_bytes)))


def triple(
  row: Mapping[str, Any],
  *,
  memory_bytes: float,
  seen_tokens: float,
  token_bytes: float,
  ttft_ms: float | None = None,
) -> Triple:
  """The triple of an evaluation row.

  Args:
    row: `evaluation.cell.FIELDS`.
    memory_bytes: see `context_tokens`.
    seen_tokens: see there.
    token_bytes: see there.
    ttft_ms: measured elsewhere.
  """
  low, high = row["qa_old_ci"]
  return Triple(
    context_tokens=context_tokens(
      memory_bytes,
      seen_tokens=seen_tokens,
      kv_bytes=row["kv_bytes"],
      growth=row["held_growth"],
      token_bytes=token_bytes,
    ),
    accuracy=row["qa_old"],
    accuracy_ci=(low, high),
    frames_per_s=1e3 / row["ms_per_frame"]["p50"],
    ttft_ms=ttft_ms,
  )
