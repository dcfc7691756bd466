"""How faithful policies were, as rows, a table, CSV columns and a plot."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting
from vrex_jax import summary
from vrex_jax import trace as trace_lib
from vrex_jax.evaluation import following

__all__ = [
  "FIELDS",
  "layer_rows",
  "position_rows",
  "row",
  "save_plot",
  "table",
]

FIELDS = (
  "policy",
  "frames",
  "questions",
  "positions",
  "kl",
  "kl_p95",
  "top1_agreement",
  "attention_error_by_layer",
  "attention_error_alone_by_layer",
  "retrieval_ratio",
  "retrieval_ratio_by_layer",
  "kv_bytes",
  "compile_s",
  "overflow",
  "answers_given",
  "by_position",
)
"""Fields of a row, in order; see docs/notation.md."""
STAGES = ("frame", "question", "answer")


def row(
  policy: str,
  followed: following.Followed,
  answers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
  """What one policy did, every figure by stage; null where it had no token.

  Args:
    policy: canonical text.
    followed: of `following.follow_policy`.
    answers: of `full`, which it was fed.

  Returns:
    Fields of `FIELDS`.
  """
  by_stage = {
    stage: [one for one in followed.compared if one.where.stage == stage]
    for stage in STAGES
  }
  over = lambda reduce: {
    stage: reduce(ones) if ones else None for stage, ones in by_stage.items()
  }
  layers = lambda pick: over(
    lambda ones: np.mean([pick(one) for one in ones], axis=0).tolist()
  )
  kls = lambda ones: [one.kl for one in ones]
  values = {
    "policy": policy,
    "frames": len(by_stage["frame"]),
    "questions": len(by_stage["question"]),
    "positions": {stage: len(ones) for stage, ones in by_stage.items()},
    "kl": over(lambda ones: float(np.mean(kls(ones)))),
    "kl_p95": over(lambda ones: float(np.percentile(kls(ones), 95))),
    "top1_agreement": over(
      lambda ones: float(np.mean([one.agrees for one in ones]))
    ),
    "attention_error_by_layer": layers(lambda one: one.error),
    "attention_error_alone_by_layer": layers(lambda one: one.alone),
    "retrieval_ratio": trace_lib.retrieval_ratio(followed.trace),
    "retrieval_ratio_by_layer": trace_lib.retrieval_ratio_by_layer(
      followed.trace
    ),
    "kv_bytes": followed.kv_bytes,
    "compile_s": followed.compile_s,
    "overflow": trace_lib.check(followed.trace),
    "answers_given": list(answers),
    "by_position": [
      {**one.where._asdict(), "kl": one.kl, "agrees": one.agrees}
      for one in followed.compared
    ],
  }
  return {name: values[name] for name in FIELDS}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """A line for each policy and stage, then error and kept share by layer.

  Args:
    rows: `FIELDS`.
  """
  header = ["policy", "at", "tokens", "KL, nats", "KL, 95 %", "same top-1 %",
            "attention error %", "alone %", "past read %"]  # fmt: skip
  lines = []
  for one in rows:
    for stage in STAGES:
      if not one["positions"][stage]:
        continue
      lines.append(
        [
          one["policy"] if stage == "frame" else "",
          stage,
          str(one["positions"][stage]),
          f"{one['kl'][stage]:.2g}",
          f"{one['kl_p95'][stage]:.2g}",
          _percent(one["top1_agreement"][stage]),
          _percent(_mean(one["attention_error_by_layer"][stage])),
          _percent(_mean(one["attention_error_alone_by_layer"][stage])),
          _percent(one["retrieval_ratio"][stage]),
        ]
      )
  warnings = [
    f"warning ({one['policy']}): {sentence}"
    for one in rows
    for sentence in one["overflow"]
  ]
  return "\n".join([summary.aligned(header, lines), *warnings])


def layer_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """A CSV line for each policy, stage and layer.

  Args:
    rows: `FIELDS`.
  """
  named = (
    "attention_error_by_layer",
    "attention_error_alone_by_layer",
    "retrieval_ratio_by_layer",
  )
  return [
    {
      "policy": one["policy"],
      "stage": stage,
      "layer": layer,
      **{
        name.removesuffix("_by_layer"): one[name][stage][layer]
        for name in named
      },
    }
    for one in rows
    for stage in STAGES
    if one["positions"][stage]
    for layer in range(len(one["attention_error_by_layer"][stage]))
  ]


def position_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """A CSV line for each policy and token that was compared.

  Args:
    rows: `FIELDS`.
  """
  return [
    {"policy": one["policy"], **position}
    for one in rows
    for position in one["by_position"]
  ]


def save_plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """KL along the stream; error of attention and kept share by layer, at frames.

  Args:
    rows: `FIELDS`; `full` is left out, there is nothing to see.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  others = [one for one in rows if one["policy"] != "full"]
  figure = plotting.figure(
    figsize=(12.0, 4.0 + 0.24 * len(others)), layout="constrained"
  )
  along, errors, shares = figure.subplots(1, 3)
  for index, one in enumerate(others):
    style = {"color": f"C{index}"}
    frames = [at for at in one["by_position"] if at["stage"] == "frame"]
    along.plot(
      [at["time_s"] for at in frames],
      [at["kl"] for at in frames],
      label=one["policy"],
      linewidth=0.9,
      **style,
    )
    by_layer = lambda name, one=one: one[f"{name}_by_layer"]["frame"] or []
    _line(errors, by_layer("attention_error"), marker="o", **style)
    alone = by_layer("attention_error_alone")
    _line(errors, alone, marker="o", linestyle=":", **style)
    _line(shares, by_layer("retrieval_ratio"), marker="o", **style)
  along.set(xlabel="s", ylabel="KL from full at frames, nats")
  errors.set(xlabel="layer", ylabel="attention error at frames, %")
  errors.set_title("solid: accumulated; dotted: alone", fontsize=9)
  shares.set(xlabel="layer", ylabel="past read at frames, %", ylim=(0, 105))
  for axes in (along, errors, shares):
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside lower center", fontsize=8, frameon=False)
  figure.savefig(path, dpi=150)


def _line(axes: Any, shares: Sequence[float | None], **style: Any) -> None:
  percent = [np.nan if one is None else 100 * one for one in shares]
  axes.plot(range(len(percent)), percent, **style)
  axes.xaxis.get_major_locator().set_params(integer=True)


def _mean(values: Sequence[float | None]) -> float | None:
  known = [one for one in values if one is not None and np.isfinite(one)]
  return float(np.mean(known)) if known else None


def _percent(value: float | None) -> str:
  if value is None or not np.isfinite(value):
    return "-"
  return f"{100 * value:.1f}"
