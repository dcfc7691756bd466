"""Settings of ReSV as rows of a sweep: what is kept, what it would cost.

A setting is a static choice (Th_hd, N_hp, table), a recent window, a way to
reduce rows, and a threshold Th_r. Window and reduction have curves of their
own; each of these gives a row for every choice and ratio.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import settings_cost
from vrex_jax.errors import InputError
from vrex_jax.resv import resv as resv_lib

__all__ = [
  "KEY",
  "Variant",
  "flat",
  "key_of",
  "policy_of",
  "rows_of",
  "scaled_threshold",
  "spread",
  "static_choices",
  "variants",
]

KEY = (
  "hamming_threshold", "hash_bits", "table", "recent_tokens", "rows", "votes",
  "wicsum_ratio",
)  # fmt: skip
"""Fields that tell settings apart."""


class Variant(NamedTuple):
  """Static. What needs curves of its own.

  Attributes:
    recent_tokens: always attended; one frame when None.
    rows: "union", "vote" or "pooled".
    votes: for "vote".
  """

  recent_tokens: int | None = None
  rows: str = "union"
  votes: int = 2


def scaled_threshold(hamming_threshold: int, hash_bits: int) -> int:
  """Th_hd at another N_hp: as large a share of the bits as of 32.

  Example:
    >>> scaled_threshold(7, 16), scaled_threshold(7, 64)
    (4, 14)
  """
  return int(hamming_threshold * hash_bits / 32 + 0.5)


def static_choices(
  hamming_thresholds: Sequence[int],
  hash_bits: Sequence[int],
  tables: Sequence[str],
) -> list[curves_lib.StaticChoice]:
  """All combinations, each once; Th_hd is given for 32 bits."""
  return list(
    dict.fromkeys(
      curves_lib.StaticChoice(
        hamming_threshold=scaled_threshold(one, bits),
        hash_bits=bits,
        table=table,
      )
      for table in tables
      for bits in hash_bits
      for one in hamming_thresholds
    )
  )


def variants(
  recent_tokens: Sequence[int | None], rows: Sequence[str]
) -> list[Variant]:
  """All combinations.

  Args:
    recent_tokens: windows; None for one frame.
    rows: "union", "pooled" or "vote:n".

  Raises:
    InputError: rows has another word.

  Example:
    >>> variants([None], ["union", "vote:4"])[1]
    Variant(recent_tokens=None, rows='vote', votes=4)
  """
  found = []
  for text in rows:
    name, colon, number = text.partition(":")
    votes = int(number) if number.isdigit() else 0 if colon else 2
    if not ((name == "vote" and votes) or text in ("union", "pooled")):
      raise InputError(
        f"--rows has {text!r}; it must be union, pooled or vote:n with n from"
        " 1 on: try --rows=union,vote:4"
      )
    found += [Variant(recent, name, votes) for recent in recent_tokens]
  return list(dict.fromkeys(found))


def policy_of(
  choice: curves_lib.StaticChoice,
  variant: Variant,
  wicsum_ratio: float,
  capacity: int,
) -> policy_lib.KVPolicy:
  """The policy of a setting, with room for a cluster a token.

  Args:
    choice: static choice.
    variant: its rows; the window is the driver's affair.
    wicsum_ratio: Th_r.
    capacity: clusters of a table.
  """
  return resv_lib.resv(
    wicsum_ratio=wicsum_ratio,
    hamming_threshold=choice.hamming_threshold,
    hash_bits=choice.hash_bits,
    table=choice.table,
    rows=variant.rows,
    votes=variant.votes,
    table_capacity=capacity,
  )


def rows_of(
  curves: curves_lib.Curves,
  variant: Variant,
  costs: settings_cost.Costs | None = None,
) -> list[dict[str, Any]]:
  """A row for every choice and ratio.

  Args:
    curves: of this variant.
    variant: its window and reduction.
    costs: of the same curves; left out when None.

  Returns:
    KEY, then kept, mass and recall by stage (means over layers and heads),
    tokens_per_cluster, run_tokens (of frames), the modelled costs, and by_head:
    kept and mass, by stage [L, K].
  """
  array = lambda name: np.asarray(getattr(curves, name), np.float64)
  has_recall = curves.recall is not None
  names = ("kept", "mass", "recall") if has_recall else ("kept", "mass")
  by_head = {name: array(name) for name in names}
  groups, runs, grid = array("groups"), array("run_tokens"), array("grid")
  rows = []
  for index, choice in enumerate(curves.choices):
    per_cluster = 1.0 / float(_mean_groups(groups[index]))
    for place, ratio in enumerate(grid):
      at = lambda name, i=index, p=place: by_head[name][i, ..., p]
      row: dict[str, Any] = {
        "hamming_threshold": choice.hamming_threshold,
        "hash_bits": choice.hash_bits,
        "table": choice.table,
        **variant._asdict(),
        "wicsum_ratio": round(float(ratio), 6),
      }
      for name in ("kept", "mass", "recall"):
        row[name] = {
          stage: _mean(at(name)[number]) if name in by_head else None
          for number, stage in enumerate(curves_lib.STAGES)
        }
      row["tokens_per_cluster"] = per_cluster
      row["run_tokens"] = _mean(runs[index, 0, ..., place])
      if costs is not None:
        row |= {
          name: float(value[index, place])
          for name, value in costs._asdict().items()
        }
      row["by_head"] = {
        name: dict(zip(curves_lib.STAGES, at(name).tolist(), strict=True))
        for name in ("kept", "mass")
      }
      rows.append(row)
  return rows


def _mean_groups(groups: np.ndarray) -> float:
  """Clusters by token of a table; heads that share another's have none."""
  return float(groups[groups > 0].mean())


def _mean(values: np.ndarray) -> float | None:
  value = float(values.mean())
  return value if np.isfinite(value) else None


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
  """What tells a row from others."""
  return tuple(row[name] for name in KEY)


def spread(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
  """Some rows that lie apart in Th_hd and Th_r.

  Args:
    rows: of one variant, N_hp and table; every ratio for each Th_hd.
    number: how many; all rows between the ends of Th_r when there are fewer.

  Example:
    >>> rows = [{"hamming_threshold": h, "wicsum_ratio": r / 10}
    ...         for h in (4, 7, 9) for r in range(11)]
    >>> [(r["hamming_threshold"], r["wicsum_ratio"]) for r in spread(rows, 4)]
    [(4, 0.1), (4, 0.9), (9, 0.1), (9, 0.9)]
  """
  thresholds = sorted({row["hamming_threshold"] for row in rows})
  lines = min(len(thresholds), max(1, round(number**0.5)))
  chosen: list[dict[str, Any]] = []
  for line, place in enumerate(_apart(len(thresholds), lines)):
    own = [
      row
      for row in rows
      if row["hamming_threshold"] == thresholds[place]
      and 0.0 < row["wicsum_ratio"] < 1.0
    ]
    each = -(-(number - len(chosen)) // (lines - line))
    chosen += [own[i] for i in _apart(len(own), min(each, len(own)))]
  return chosen


def _apart(length: int, number: int) -> list[int]:
  """Places that are equally far apart, both ends among them."""
  return [int(place + 0.5) for place in np.linspace(0, length - 1, number)]


def flat(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rows of plain numbers and texts, without those by head; for a CSV."""
  lines = []
  for row in rows:
    line: dict[str, Any] = {}
    for name, value in row.items():
      if name in ("kept", "mass", "recall"):
        line |= {f"{name}_{stage}": one for stage, one in value.items()}
      elif name == "closed":
        for field in ("kept", "mass", "recall"):
          for stage in curves_lib.STAGES:
            inside = None if value is None else value[field][stage]
            line[f"closed_{field}_{stage}"] = inside
      elif name != "by_head":
        line[name] = value
    lines.append(line)
  return lines
