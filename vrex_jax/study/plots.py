"""Pictures of the ablation: rows against kept share, false joins in time."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import plotting

__all__ = ["save_choices"]


def save_choices(
  rows: Sequence[Mapping[str, Any]],
  by_rows: Mapping[str, Sequence[float]],
  path: pathlib.Path,
) -> None:
  """Two panels: kept share against query rows; false joins along the stream.

  Args:
    rows: of `choices.choice_row`, with `change`, "" for the base.
    by_rows: {"rows", "union", "vote", "pooled"}.
    path: PNG to write.

  Raises:
    InputError: matplotlib is missing.
  """
  figure = plotting.figure(figsize=(11, 4.2), layout="constrained")
  left, right = figure.subplots(1, 2)
  labels = {"union": "union", "vote": "vote(4)", "pooled": "pooled"}
  for name, label in labels.items():
    left.plot(by_rows["rows"], 100 * np.array(by_rows[name]), "o-", label=label)
  left.set_xscale("log", base=2)
  left.set_xticks(by_rows["rows"], [str(count) for count in by_rows["rows"]])
  left.minorticks_off()
  left.set_xlabel("query rows (tokens × query heads of a KV head)")
  left.set_ylabel("tokens kept, %")
  left.set_ylim(0, 105)
  left.set_title("The union over rows grows with their number")
  left.legend(frameon=False)
  shown = ("", "min_join_cosine=0.5", "key_centering=mean", "hash_keys=raw")
  names = {"": "base"}
  for row in rows:
    if row["change"] not in shown:
      continue
    values = [np.nan if v is None else 100 * v for v in row["false_joins"]]
    part = (np.arange(len(values)) + 0.5) / len(values)
    right.plot(
      100 * part, values, "o-", label=names.get(row["change"], row["change"])
    )
  right.set_xlabel("position in the stream, %")
  right.set_ylabel("joins with cosine below 0.5, %")
  right.set_ylim(0, None)
  right.set_title("False joins")
  right.legend(frameon=False)
  for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=150)
