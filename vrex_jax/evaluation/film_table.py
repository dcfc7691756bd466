"""Questions on one film with the answers of several policies, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import summary
from vrex_jax.evaluation import streaming

__all__ = ["answers", "totals"]

_NAMED = 4
"""Frames named as those read most."""


def answers(
  said: Mapping[str, Sequence[streaming.Said]],
  words: Mapping[int, str],
  fps: float,
  limit: int,
) -> str:
  """A line for each of some questions that have evidence, in order of time.

  Of those that some policy answers wrongly at most half of the lines; the rest
  are spread over the others.

  Columns: when, the question, the right answer and the frames that show it; for
  each policy what it said (in brackets where wrong) and the share of these
  frames' tokens that it read; of the last policy also the frames read most.

  Args:
    said: by policy, the same questions in the same order.
    words: of token ids.
    fps: frames per second.
    limit: lines, at most.
  """
  names = list(said)
  header = ["at", "question", "answer", "shown in"]
  for name in names:
    header += [name, "read"]
  header.append(f"{names[-1]} reads most of")
  lines = []
  asked = [
    ones
    for ones in zip(*said.values(), strict=True)
    if ones[0].item.text and ones[0].item.evidence.size
  ]
  for ones in _some(asked, words, limit):
    item = ones[0].item
    line = [
      f"{(item.time + 1) / fps:.0f} s",
      item.text.replace(" -", ""),
      item.word,
      _ranges(item.evidence),
    ]
    for one in ones:
      word = words.get(one.word, "?")
      line.append(word if word == item.word else f"({word})")
      line.append(f"{100 * one.read[item.evidence].mean():.0f} %")
    most = np.argsort(-ones[-1].read, kind="stable")[:_NAMED]
    line.append(_ranges(np.sort(most)))
    lines.append(line)
  return summary.aligned(header, lines)


def _some(
  asked: Sequence[tuple[streaming.Said, ...]],
  words: Mapping[int, str],
  limit: int,
) -> list[tuple[streaming.Said, ...]]:
  is_wrong = np.array(
    [
      any(words.get(one.word) != one.item.word for one in ones)
      for ones in asked
    ],
    bool,
  )
  wrong, right = np.flatnonzero(is_wrong), np.flatnonzero(~is_wrong)
  chosen = _spread(wrong, max(limit // 2, limit - len(right)))
  chosen = np.concatenate([chosen, _spread(right, limit - len(chosen))])
  return [asked[index] for index in sorted(chosen.tolist())]


def _spread(values: np.ndarray, limit: int) -> np.ndarray:
  """At most `limit` of the values, far apart."""
  if len(values) <= limit:
    return values
  return values[np.linspace(0, len(values) - 1, limit).round().astype(int)]


def totals(rows: Sequence[Mapping[str, Any]]) -> str:
  """A line for each policy: right answers, share of the past read, time.

  Args:
    rows: `cell.FIELDS`.
  """
  header = ["policy", "answers right", "narration right", "past read, frames",
            "questions", "ms per frame"]  # fmt: skip
  return summary.aligned(
    header,
    [
      [
        row["policy"],
        _right(row, "qa"),
        _right(row, "narration_old", "narration_new"),
        f"{100 * row['retrieval_ratio']['frame']:.1f} %",
        f"{100 * row['retrieval_ratio']['question']:.1f} %",
        f"{row['ms_per_frame']['p50']:.2f}",
      ]
      for row in rows
    ],
  )


def _right(row: Mapping[str, Any], *groups: str) -> str:
  right, asked = (
    sum(sum(row["tallies"][group][name]) for group in groups)
    for name in ("right", "asked")
  )
  return f"{right:.0f} of {asked:.0f}"


def _ranges(frames: np.ndarray) -> str:
  """Frame numbers in order as ranges: "3-5, 9".

  Example:
    >>> _ranges(np.array([3, 4, 5, 9]))
    '3-5, 9'
  """
  runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
  return ", ".join(
    f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs
  )
