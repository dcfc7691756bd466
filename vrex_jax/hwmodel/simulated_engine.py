"""The DRE in whole cycles: tables, codes and rows, none of them expected.

What the closed forms (`retrieval_engine`) spread evenly is dealt out here:

  HCU   whole tables to cores, in turn. A tile of codes is compared with all
        tokens, h codes at a time, before the next tile is loaded.
  WTU   whole rows to cores, in turn. h rows go in lockstep: the sum, lowest and
        highest of the scores in one pass, then a pass for every bucket until
        the last of the h rows has seen enough.

A core takes what it was dealt; the slowest core is the engine.

Source: V-Rex (arXiv 2512.12284), Sec. V.B, Figs. 10-12; how tables and rows are
dealt, and when codes are loaded again, is not stated there.
"""

from collections.abc import Sequence

import numpy as np

from vrex_jax.hwmodel import score_law

__all__ = ["draw_buckets", "hcu_cycles", "wtu_cycles"]


def hcu_cycles(
  codes: Sequence[int],
  *,
  tokens: int,
  bits: int,
  width: int,
  rows: int,
  fit: int,
  cores: int,
) -> int:
  """Cycles until the slowest core has clustered its tables.

  tokens · ⌈codes / h⌉ · ⌈P / w⌉ a table, and ⌈P / w⌉ for each code beyond the
  memory, loaded anew.

  Args:
    codes: live codes of every table (KV heads of all streams).
    tokens: T, each compared with all of them.
    bits: P.
    width: w, bits in a cycle.
    rows: h, codes at a time.
    fit: codes the memory holds.
    cores: that share the tables.

  Example:
    >>> hcu_cycles([1280] * 8, tokens=10, bits=32, width=16, rows=1, fit=1024,
    ...            cores=8)
    26112
  """
  passes = -(-bits // width)
  busy = [0] * cores
  for index, live in enumerate(codes):
    compared = sum(
      -(-min(fit, live - first) // rows) for first in range(0, live, fit)
    )
    loaded = max(live - fit, 0)
    busy[index % cores] += passes * (tokens * compared + loaded)
  return max(busy)


def wtu_cycles(
  scores: Sequence[int],
  buckets: Sequence[int],
  *,
  width: int,
  rows: int,
  cores: int,
) -> int:
  """Cycles until the slowest core has thresholded its rows.

  ⌈scores / w⌉ · (1 + buckets) a group of h rows, of the longest row and the one
  that visits most buckets.

  Args:
    scores: of every row.
    buckets: visited by every row.
    width: w, scores in a cycle.
    rows: h, in lockstep.
    cores: that share the rows.

  Example:
    >>> wtu_cycles([32, 32, 32], [2, 5, 2], width=16, rows=1, cores=2)
    12
  """
  busy = [0] * cores
  for core in range(cores):
    dealt = range(core, len(scores), cores)
    for first in range(0, len(dealt), rows):
      group = dealt[first : first + rows]
      longest = max(-(-scores[row] // width) for row in group)
      busy[core] += longest * (1 + max(buckets[row] for row in group))
  return max(busy)


def draw_buckets(
  random: np.random.Generator,
  rows: int,
  *,
  ratio: float,
  number: int,
  law: score_law.ScoreLaw = score_law.LAW,
) -> list[int]:
  """Buckets that rows visit, drawn from the law whose mean the model takes.

  A row goes on after k buckets while A(k) < θ + τ ξ, ξ logistic, so that it
  does with probability σ((θ - A(k)) / τ).

  Args:
    random: of the draw.
    rows: how many.
    ratio: θ.
    number: buckets of a row.
    law: of the scores.
  """
  depth = np.arange(1, number) / number
  rate = float(law.decay_ratio)
  weight = lambda u: (u + 1.0 / rate) * np.exp(-rate * u)
  share = (weight(1.0 - depth) - weight(1.0)) / (weight(0.0) - weight(1.0))
  bound = ratio + float(law.spread_share) * random.logistic(size=(rows, 1))
  return (1 + np.sum(share < bound, axis=1)).tolist()
