"""A comparison of policies as tables, CSV lines and fronts."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting
from vrex_jax import summary

__all__ = ["clip_lines", "markdown", "part_of", "qa_lines", "save_plot",
           "step_lines", "tables"]  # fmt: skip

_MARKERS = "os^Dv<>P*Xhd"
_STYLES = {"published": ":", "asked": "--", "all": "-"}
_STAGES = ("frame", "question", "answer")
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)


def part_of(
  rows: Iterable[Mapping[str, Any]], part: str
) -> list[Mapping[str, Any]]:
  """Rows of one part: "match", "qa", "clip" or "step"."""
  return [row for row in rows if row["part"] == part]


def _case(row: Mapping[str, Any]) -> dict[str, Any]:
  return {name: row[name] for name in ("method", "variant", "share")}


def _stages(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
  return {f"{name}_{stage}": values[stage] for stage in _STAGES}


def _mean(values: Sequence[float | None] | None) -> float | None:
  known = [one for one in values or () if one is not None and np.isfinite(one)]
  return float(np.mean(known)) if known else None


def _triple(
  row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """A row's triple, with the time to first token on the clip, if there."""
  triple = dict(row["triple"])
  for one in part_of(rows, "clip"):
    if _case(one) == _case(row):
      triple["ttft_ms"] = one["ttft_ms"]
  return triple


def qa_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """CSV: wanted and reached share, accuracies, recall, the triple.

  Args:
    rows: of all parts.
  """
  lines = []
  for row in part_of(rows, "qa"):
    line = {**_case(row), "disturb": row["disturb"], "policy": row["policy"]}
    line["reached_held_out"] = row["reached_held_out"]
    line["reached"] = row["reached"]
    line |= _stages("retrieval_ratio", row["retrieval_ratio"])
    line["questions"] = row["questions"]
    for group in ("qa", "qa_old", "narration_old"):
      line[group] = row[group]
      line[f"{group}_low"], line[f"{group}_high"] = row[f"{group}_ci"]
      line[f"{group}_minus_full"] = row["minus_full"][group]["difference"]
    for stage, found in row["retrieval_recall"].items():
      line[f"recall_{stage}"] = max(found["best"], default=None)
    line["kv_bytes"], line["held_growth"] = row["kv_bytes"], row["held_growth"]
    triple = _triple(row, rows)
    del triple["accuracy_ci"]  # that of qa_old, above
    line |= {f"triple_{name}": one for name, one in triple.items()}
    lines.append(line)
  return lines


def clip_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """CSV: a line for each policy and stage, errors as means over layers."""
  lines = []
  for row in part_of(rows, "clip"):
    for stage in _STAGES:
      lines.append(
        {
          **_case(row),
          "policy": row["policy"],
          "stage": stage,
          "retrieval_ratio": row["retrieval_ratio"][stage],
          "kl": row["kl"][stage],
          "top1_agreement": row["top1_agreement"][stage],
          "attention_error": _mean(row["attention_error_by_layer"][stage]),
          "attention_error_alone": _mean(
            row["attention_error_alone_by_layer"][stage]
          ),
          "retrieval_ratio_by_layer": " ".join(
            _percent(one) for one in row["retrieval_ratio_by_layer"][stage]
          ),
          **{
            name: row[name]
            for name in (
              "kv_bytes", "resident_bytes", "fetched_bytes_per_frame",
              "exposed_bytes_per_frame", "run_tokens", "ttft_ms",
              "ms_per_frame",
            )
          },
        }
      )  # fmt: skip
  return lines


def step_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """CSV: CPU time of a decoder step, the cost of selection apart."""
  return [
    {
      **{name: value for name, value in row.items() if name != "part"},
      "retrieval_ratio": row["retrieval_ratio"]["frame"],
    }
    for row in part_of(rows, "step")
  ]


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
  """Every part that is there, for the screen."""
  made = [_qa_table(rows), _clip_table(rows), _step_table(rows)]
  return "\n\n".join(table for table in made if table)


def _label(row: Mapping[str, Any]) -> list[str]:
  if row["method"] == "full":
    return ["full", "", ""]
  return [row["method"], row["variant"], _percent(row["share"])]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """The part qa as a table for a page of the documentation.

  Args:
    rows: of all parts.
  """
  header, lines = _qa_cells(rows)
  table = [header, ["---"] * len(header), *lines]
  return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _qa_table(rows: Sequence[Mapping[str, Any]]) -> str:
  header, lines = _qa_cells(rows)
  return summary.aligned(header, lines) if lines else ""


def _qa_cells(
  rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
  found = part_of(rows, "qa")
  header = ["policy", "stages", "wanted %", "read %", "QA old", "narration old",
            "recall %", "disturbed", "C, tokens", "frames/s"]  # fmt: skip
  lines = []
  for row in found:
    context = row["triple"]["context_tokens"]
    recall = row["retrieval_recall"]["question"]["best"]
    lines.append(
      [
        *_label(row),
        _percent(row["reached"]),
        _with_interval(row, "qa_old"),
        _with_interval(row, "narration_old"),
        _percent(max(recall, default=None)),
        "" if row["disturb"] == "none" else row["disturb"],
        "no end" if context is None else f"{context:.3g}",
        _number(row["triple"]["frames_per_s"]),
      ]
    )
  return header, lines


def _clip_table(rows: Sequence[Mapping[str, Any]]) -> str:
  found = part_of(rows, "clip")
  if not found:
    return ""
  header = ["policy on a clip", "stages", "wanted %", "frames %", "questions %",
            "answers %", "error %", "KL, answers", "fetched kB", "run",
            "ttft ms"]  # fmt: skip
  lines = [
    [
      *_label(row),
      *(_percent(row["retrieval_ratio"][stage]) for stage in _STAGES),
      _percent(_mean(row["attention_error_by_layer"]["frame"])),
      _number(row["kl"]["answer"]),
      _number(row["fetched_bytes_per_frame"] / 1e3),
      _number(row["run_tokens"]),
      _number(row["ttft_ms"]),
    ]
    for row in found
  ]
  return summary.aligned(header, lines)


def _step_table(rows: Sequence[Mapping[str, Any]]) -> str:
  found = part_of(rows, "step")
  if not found:
    return ""
  header = ["decoder step", "wanted %", "kept %", "CPU ms", "of it choosing",
            "full ms", "full/own", "ceiling"]  # fmt: skip
  lines = [
    [
      row["method"],
      _percent(row["share"]),
      _percent(row["retrieval_ratio"]["frame"]),
      _number(row["cpu_ms"]),
      _number(row["selection_cpu_ms"]),
      _number(row["full_cpu_ms"]),
      f"{row['full_over_own']:.2f}",
      _number(row["ceiling"]),
    ]
    for row in found
  ]
  return summary.aligned(header, lines)


def save_plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Fronts: accuracy against the share that was read, a line a method.

  Left the old answers, where questions retrieve; right old narration, where
  frames do. Undisturbed streams; `full` is the dashed level.

  Args:
    rows: of all parts.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  plain = [row for row in part_of(rows, "qa") if row["disturb"] == "none"]
  figure = plotting.figure(figsize=(13.0, 5.2), layout="constrained")
  panels = figure.subplots(1, 2)
  names = list(
    dict.fromkeys(row["method"] for row in plain if row["method"] != "full")
  )
  parts = (("qa_old", "question", "old answers right, %"),
           ("narration_old", "frame", "old narration right, %"))  # fmt: skip
  for axes, (group, stage, label) in zip(panels, parts, strict=True):
    for row in plain:
      if row["method"] == "full":
        axes.axhline(100 * row[group], color="0.4", linestyle="--", zorder=0)
    for index, name in enumerate(names):
      for variant, style in _STYLES.items():
        _front(axes, plain, (name, variant), group, stage, index, style)
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_xlim(_lowest(plain, stage), 105)
    axes.set_xlabel(f"past read at {stage}s, %")
    axes.set_ylabel(label)
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  by_label: dict[str, Any] = {}
  for axes in panels:
    handles, labels = axes.get_legend_handles_labels()
    by_label |= dict(zip(labels, handles, strict=True))
  if by_label:
    figure.legend(
      by_label.values(),
      by_label,
      loc="outside right center",
      fontsize=8,
      frameon=False,
    )
  figure.savefig(path, dpi=150)


def _lowest(rows: Sequence[Mapping[str, Any]], stage: str) -> float:
  """Left end of an axis of shares in per cent."""
  shares = [100 * (row["retrieval_ratio"][stage] or 1.0) for row in rows]
  return 0.8 * max(0.1, min([share for share in shares if share > 0] or [1.0]))


def _front(
  axes: Any,
  rows: Sequence[Mapping[str, Any]],
  which: tuple[str, str],
  group: str,
  stage: str,
  index: int,
  style: str,
) -> None:
  """One method and variant; nothing where that stage reads everything."""
  points = sorted(
    (row["retrieval_ratio"][stage], row[group], *row[f"{group}_ci"])
    for row in rows
    if (row["method"], row["variant"]) == which
    and _is_known(row["retrieval_ratio"][stage], row[group])
    and row["retrieval_ratio"][stage] < 1.0
  )
  if not points:
    return
  share, accuracy, low, high = 100 * np.array(points).T
  axes.errorbar(
    share,
    accuracy,
    # A bootstrap of few streams may leave its own estimate out.
    yerr=np.maximum(0.0, [accuracy - low, high - accuracy]),
    elinewidth=0.6,
    marker=_MARKERS[index % len(_MARKERS)],
    color=f"C{index % 10}",
    linestyle=style,
    markersize=5,
    label=", ".join(which),
  )


def _is_known(*values: float | None) -> bool:
  return all(one is not None and np.isfinite(one) for one in values)


def _with_interval(row: Mapping[str, Any], group: str) -> str:
  if not _is_known(row[group]):
    return "-"
  low, high = row[f"{group}_ci"]
  return f"{_percent(row[group])} ±{50 * (high - low):.1f}"


def _percent(value: float | None) -> str:
  if value is None or not np.isfinite(value):
    return "-"
  return f"{100 * value:.1f}"


def _number(value: float | None) -> str:
  return "-" if value is None or not np.isfinite(value) else f"{value:.3g}"
