"""Records of a benchmark as rows, a table, CSV columns and lines for judges."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import summary
from vrex_jax.evaluation import scores

__all__ = [
  "FIELDS",
  "flat_rows",
  "json_lines",
  "predictions",
  "rows_of",
  "table",
]

FIELDS = (
  "policy",
  "benchmark",
  "videos",
  "frames",
  "questions",
  "accuracy",
  "accuracy_ci",
  "accuracy_by_group",
  "accuracy_by_category",
  "accuracy_mean",
  "word_f1",
  "word_f1_ci",
  "minus_full",
  "retrieval_ratio",
  "kv_bytes",
  "ms_per_frame",
  "compile_s",
  "overflow",
  "tallies",
)
"""Fields of a row, in order; see docs/notation.md."""
_Records = Sequence[Mapping[str, Any]]


def rows_of(
  benchmark: str, policies: Sequence[str], records: _Records
) -> list[dict[str, Any]]:
  """A row for each policy that has a record, in order.

  `minus_full` is of the clips that both have.

  Args:
    benchmark: its name.
    policies: canonical texts.
    records: of `benchmark_run.run_policy`, in any order.
  """
  full = [one for one in records if one["policy"] == "full"]
  rows = []
  for policy in policies:
    own = [one for one in records if one["policy"] == policy]
    if own:
      row = _row(benchmark, policy, own)
      row["minus_full"] = _paired(own, full)
      rows.append({name: row[name] for name in FIELDS})
  return rows


def _row(benchmark: str, policy: str, records: _Records) -> dict[str, Any]:
  videos = sorted({one["video"] for one in records})
  total = _tally(records, videos)
  groups = sorted({one["task"] for each in records for one in each["answers"]})
  by_group = {
    group: _accuracy(_tally(records, videos, group)) for group in groups
  }
  by_category = _by_category(by_group)
  accuracy, interval = scores.accuracy(total)
  f1, f1_interval = scores.accuracy(_f1_tally(records, videos))
  times = [ms for one in records for ms in one["frame_ms"]]
  return {
    "policy": policy,
    "benchmark": benchmark,
    "videos": len(videos),
    "frames": sum(one["frames"] for one in records),
    "questions": sum(len(one["answers"]) for one in records),
    "accuracy": accuracy,
    "accuracy_ci": interval,
    "accuracy_by_group": by_group,
    "accuracy_by_category": by_category,
    "accuracy_mean": float(np.mean(list(by_category.values()))),
    "word_f1": f1,
    "word_f1_ci": f1_interval,
    "retrieval_ratio": {
      stage: _weighted(records, stage) for stage in records[0]["past_seen"]
    },
    "kv_bytes": float(np.mean([one["kv_bytes"] for one in records])),
    "ms_per_frame": {
      "p50": float(np.percentile(times, 50)),
      "p95": float(np.percentile(times, 95)),
      "first": times[0],
    },
    "compile_s": records[-1]["compile_s"],
    "overflow": sorted({text for one in records for text in one["overflow"]}),
    "tallies": {
      "video": videos,
      "right": total.right.tolist(),
      "asked": total.asked.tolist(),
    },
  }


def _tally(
  records: _Records, videos: Sequence[str], group: str | None = None
) -> scores.Tally:
  """Right answers of every video, which is what is drawn again."""
  place = {video: index for index, video in enumerate(videos)}
  found = scores.Tally(np.zeros(len(videos)), np.zeros(len(videos)))
  for record in records:
    for one in record["answers"]:
      if group in (None, one["task"]):
        found.right[place[record["video"]]] += one["right"]
        found.asked[place[record["video"]]] += one["asked"]
  return found


def _f1_tally(records: _Records, videos: Sequence[str]) -> scores.Tally:
  """Sum of F1 over the open questions of every video."""
  place = {video: index for index, video in enumerate(videos)}
  found = scores.Tally(np.zeros(len(videos)), np.zeros(len(videos)))
  for record in records:
    for one in record["answers"]:
      if one["word_f1"] is not None:
        found.right[place[record["video"]]] += one["word_f1"]
        found.asked[place[record["video"]]] += 1
  return found


def _accuracy(one: scores.Tally) -> dict[str, Any]:
  accuracy, interval = scores.accuracy(one)
  return {
    "accuracy": accuracy, "ci": interval, "asked": int(one.asked.sum())
  }  # fmt: skip


def _by_category(by_group: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
  """Mean over the groups of a category; "" where there are none."""
  found: dict[str, list[float]] = {}
  for group, one in by_group.items():
    found.setdefault(group.rpartition("/")[0], []).append(one["accuracy"])
  return {name: float(np.mean(ones)) for name, ones in found.items()}


def _weighted(records: _Records, stage: str) -> float:
  """Share over all clips: past tokens that were seen are the weights."""
  seen = [one["past_seen"][stage] for one in records]
  if not sum(seen):
    return float("nan")
  shares = [one["retrieval_ratio"][stage] for one in records]
  return float(np.average(shares, weights=seen))


def _paired(own: _Records, full: _Records) -> dict[str, Any]:
  both = {one["clip"] for one in own} & {one["clip"] for one in full}
  videos = sorted({one["video"] for one in own if one["clip"] in both})
  one, other = (
    _tally([each for each in side if each["clip"] in both], videos)
    for side in (own, full)
  )
  difference, interval = scores.difference(one, other)
  return {"difference": difference, "ci": interval, "videos": len(videos)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """A line for each policy, then one for each task.

  Args:
    rows: `FIELDS`.
  """
  is_open = any(np.isfinite(row["word_f1"]) for row in rows)
  header = ["policy", "videos", "questions", "right %", "mean of tasks %",
            "minus full", "read, frame %", "question %", "answer %", "KV MB",
            "ms/frame"]  # fmt: skip
  lines = [
    [
      row["policy"],
      str(row["videos"]),
      str(row["questions"]),
      _with_interval(row["accuracy"], row["accuracy_ci"]),
      _percent(row["accuracy_mean"]),
      _percent(row["minus_full"]["difference"]),
      *(_percent(row["retrieval_ratio"][stage]) for stage in _STAGES),
      f"{row['kv_bytes'] / 1e6:.1f}",
      f"{row['ms_per_frame']['p50']:.2f}",
    ]
    for row in rows
  ]
  if is_open:
    header.append("word F1 %")
    for line, row in zip(lines, rows, strict=True):
      line.append(_with_interval(row["word_f1"], row["word_f1_ci"]))
  numbers = [str(number) for number in range(1, len(rows) + 1)]
  groups = [
    [
      group,
      str(one["asked"]),
      *(
        _percent(row["accuracy_by_group"].get(group, {}).get("accuracy"))
        for row in rows
      ),
    ]
    for group, one in rows[0]["accuracy_by_group"].items()
  ]
  tables = [summary.aligned(header, lines)]
  if len(groups) > 1:
    tables.append(summary.aligned(["right %", "of", *numbers], groups))
  warnings = [
    f"warning ({row['policy']}): {sentence}"
    for row in rows
    for sentence in row["overflow"][:1]
  ]
  return "\n\n".join(tables + (["\n".join(warnings)] if warnings else []))


_STAGES = ("frame", "question", "answer")


def flat_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """A CSV line for each policy and task; the task "" is all of them.

  Args:
    rows: `FIELDS`.
  """
  lines = []
  for row in rows:
    whole = {
      "accuracy": row["accuracy"],
      "ci": row["accuracy_ci"],
      "asked": int(sum(row["tallies"]["asked"])),
    }
    for group, one in {"": whole, **row["accuracy_by_group"]}.items():
      lines.append(
        {
          "policy": row["policy"],
          "task": group,
          "asked": one["asked"],
          "accuracy": one["accuracy"],
          "accuracy_low": one["ci"][0],
          "accuracy_high": one["ci"][1],
          **{
            f"retrieval_ratio_{stage}": row["retrieval_ratio"][stage]
            for stage in _STAGES
          },
        }
      )
  return lines


def predictions(policy: str, records: _Records) -> list[dict[str, Any]]:
  """A line for each question: `id`, `question`, `answer`, `pred` and more.

  The four named ones are what public scripts that let a language model judge
  open answers read.

  Args:
    policy: canonical text.
    records: of `benchmark_run.run_policy`.
  """
  return [
    {
      "id": f"{record['clip']}/{number}",
      "video_id": record["video"],
      "task": one["task"],
      "time_s": one["time_s"],
      "question": one["question"],
      "answer": one["answer"],
      "pred": one["said"],
    }
    for record in records
    if record["policy"] == policy
    for number, one in enumerate(record["answers"])
  ]


def json_lines(values: Sequence[Mapping[str, Any]]) -> str:
  """One JSON object a line."""
  lines = [json.dumps(value, ensure_ascii=False) for value in values]
  return "".join(f"{line}\n" for line in lines)


def _with_interval(value: float, interval: tuple[float, float]) -> str:
  if not np.isfinite(value):
    return "-"
  return f"{_percent(value)} ±{50 * (interval[1] - interval[0]):.1f}"


def _percent(value: float | None) -> str:
  if value is None or not np.isfinite(value):
    return "-"
  return f"{100 * value:.1f}"
