"""How a training went, as rows of a table and as a plot."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting
from vrex_jax.training import curriculum as curriculum_lib
from vrex_jax.training import state as state_lib

__all__ = ["accuracy", "rows", "save_plot"]

_WINDOW = 50
"""Steps of one row."""


def rows(
  stages: Sequence[curriculum_lib.Stage],
  logs: Sequence[state_lib.Log],
  window: int = _WINDOW,
) -> list[dict[str, Any]]:
  """One row for each window of steps and each kind of question in it.

  Args:
    stages: of the curriculum.
    logs: of those begun.
    window: steps of one row; the last of a stage may be shorter.

  Returns:
    {stage, step, loss, kind, accuracy, answers}; `step` counts from the stage's
    start to the end of the window.
  """
  found = []
  for stage, log in zip(stages, logs, strict=False):
    for first in range(0, len(log.loss), window):
      part = slice(first, first + window)
      right, asked = log.right[part].sum(0), log.asked[part].sum(0)
      for kind, correct, number in zip(stage.kinds, right, asked, strict=True):
        if number:
          found.append(
            {
              "stage": stage.name,
              "step": min(first + window, len(log.loss)),
              "loss": float(np.mean(log.loss[part])),
              "kind": kind,
              "accuracy": float(correct / number),
              "answers": int(number),
            }
          )
  return found


def accuracy(
  stage: curriculum_lib.Stage, log: state_lib.Log, window: int = _WINDOW
) -> dict[str, float]:
  """Share of right answers by kind over the last steps of a stage."""
  right, asked = log.right[-window:].sum(0), log.asked[-window:].sum(0)
  pairs = zip(stage.kinds, right, asked, strict=True)
  return {kind: float(r / n) for kind, r, n in pairs if n}


def save_plot(
  stages: Sequence[curriculum_lib.Stage],
  logs: Sequence[state_lib.Log],
  path: pathlib.Path,
) -> None:
  """Loss, and accuracy by kind, against steps; stages side by side.

  Args:
    stages: of the curriculum.
    logs: of those begun.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  figure = plotting.figure(figsize=(3.4 * len(logs), 7), layout="constrained")
  grid = figure.subplots(2, len(logs), squeeze=False)
  table = rows(stages, logs)
  for column, stage in enumerate(stages[: len(logs)]):
    above, below = grid[0][column], grid[1][column]
    mine = [row for row in table if row["stage"] == stage.name]
    steps = sorted({row["step"] for row in mine})
    loss = {row["step"]: row["loss"] for row in mine}
    above.plot(steps, [loss[step] for step in steps])
    above.set_title(stage.name)
    above.set_ylabel("loss")
    for index, kind in enumerate(stage.kinds):
      one = [row for row in mine if row["kind"] == kind]
      style = "-" if index < 10 else "--"
      below.plot(
        [row["step"] for row in one],
        [100 * row["accuracy"] for row in one],
        style,
        label=kind,
      )
    below.set_ylim(0, 102)
    below.set_xlabel("step")
    below.set_ylabel("right answers, %")
    below.legend(frameon=False, fontsize=7)
    for axes in (above, below):
      axes.grid(alpha=0.3)
      axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=150)
