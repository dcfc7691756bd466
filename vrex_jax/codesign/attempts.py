"""Search, round, run for real; and again, tighter, where too much was lost.

The accuracy that a search keeps to is modelled, the one that counts is measured
by a real run. Where that loses more than was asked for, the next search keeps a
modelled limit that is lower by the excess,

  limit' = max(limit - (measured - asked), limit / 2)

and at least half of the last: what is measured on some hundred questions has an
error of the size of the limit, and a limit of 0 leaves nothing to search.

Only accuracy is tightened. Area and memory are sums over units that no run
could measure. Power is priced by the same constants whether a turn is summed up
or simulated, and only reported where the simulator passes the limit: how far it
is from true is what the band of those constants says.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from vrex_jax import summary
from vrex_jax.codesign import confirm
from vrex_jax.codesign import study as study_lib

__all__ = ["Attempt", "Steps", "as_rows", "sentence", "table", "tightened",
           "until_kept"]  # fmt: skip


class Steps(Protocol):
  """What an attempt is made of; the first argument is its number."""

  def search(
    self, number: int, limit: float, before: study_lib.Optimum
  ) -> study_lib.Optimum | None:
    """The optimum under a modelled limit; None where no design keeps it.

    Not asked for the first attempt.
    """

  def round_(
    self, number: int, limit: float, optimum: study_lib.Optimum
  ) -> study_lib.Designed | None:
    """What can be built; None where no neighbour keeps the limits."""

  def measure(
    self, number: int, rounded: study_lib.Designed
  ) -> confirm.Measured | None:
    """Its real run; None where none is wanted."""


class Attempt(NamedTuple):
  """One search with what its real run lost.

  Attributes:
    limit: of the modelled drop.
    optimum: of the search.
    rounded: what can be built.
    measured: its real run; None without one.
  """

  limit: float
  optimum: study_lib.Optimum
  rounded: study_lib.Designed
  measured: confirm.Measured | None

  def keeps(self, asked: float) -> bool:
    """The real run lost no more than was asked for, or there was none."""
    return self.measured is None or self.measured.drop <= asked


def tightened(limit: float, *, asked: float, measured: float) -> float:
  """The modelled limit of the next search.

  Args:
    limit: of the last.
    asked: most drop that the run may have.
    measured: drop that it had, above that.

  Example:
    >>> round(tightened(0.009, asked=0.009, measured=0.012), 6)
    0.006
    >>> tightened(0.009, asked=0.009, measured=0.05)
    0.0045
  """
  return max(limit - (measured - asked), 0.5 * limit)


def until_kept(
  asked: float, optimum: study_lib.Optimum, steps: Steps, *, most: int
) -> list[Attempt]:
  """Attempts, the last of them the result.

  Ends with the first whose run keeps the limit, after `most`, or where the
  tightened limit leaves no design.

  Args:
    asked: most drop, of the model and of the run.
    optimum: of the search under that limit.
    steps: what an attempt is made of.
    most: attempts.
  """
  found: list[Attempt] = []
  limit = asked
  for number in range(1, most + 1):
    if found:
      measured = found[-1].measured
      if measured is None or found[-1].keeps(asked):
        break
      limit = tightened(limit, asked=asked, measured=measured.drop)
      again = steps.search(number, limit, optimum)
      if again is None:
        break
      optimum = again
    rounded = steps.round_(number, limit, optimum)
    if rounded is None:
      break
    found.append(
      Attempt(limit, optimum, rounded, steps.measure(number, rounded))
    )
  return found


def as_rows(
  attempts: Sequence[Attempt], figures: Sequence[dict[str, Any]], asked: float
) -> list[dict[str, Any]]:
  """Attempts as metrics.json has them.

  Args:
    attempts: in order.
    figures: of their buildable designs (`objective.dictionary`).
    asked: most drop.
  """
  return [
    {
      "modelled_limit": one.limit,
      "modelled_drop": own["accuracy_drop"],
      "measured_drop": None if one.measured is None else one.measured.drop,
      "interval": None if one.measured is None else list(one.measured.interval),
      "latency_s": own["latency_s"],
      "energy_j": own["energy_j"],
      "keeps": None if one.measured is None else one.keeps(asked),
    }
    for one, own in zip(attempts, figures, strict=True)
  ]


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A line an attempt; drops in per cent.

  Args:
    rows: of `as_rows`.
  """
  lines = []
  for number, row in enumerate(rows, 1):
    measured = "not run"
    if row["measured_drop"] is not None:
      low, high = row["interval"]
      measured = (
        f"{100 * row['measured_drop']:.2f}"
        f" ({100 * low:.2f} to {100 * high:.2f})"
      )
    lines.append(
      [
        str(number),
        f"{100 * row['modelled_limit']:.3f}",
        f"{100 * row['modelled_drop']:.3f}",
        measured,
        f"{row['latency_s']:.3f}",
        f"{row['energy_j']:.1f}",
        {None: "-", True: "yes", False: "NO"}[row["keeps"]],
      ]
    )
  return summary.aligned(
    ["attempt", "modelled limit, %", "modelled drop", "measured (95 %)",
     "s", "J", "kept"],
    lines,
  )  # fmt: skip


def sentence(attempts: Sequence[Attempt], *, asked: float, most: int) -> str:
  """Whether the limit is kept, plainly; empty without a real run."""
  measured = attempts[-1].measured
  if measured is None:
    return ""
  limit = f"the limit of {100 * asked:.2f} %"
  drop = f"measured accuracy drop {100 * measured.drop:.2f} %"
  if attempts[-1].keeps(asked):
    return f"{drop}: the result keeps {limit}"
  why = (
    "no design keeps the limit that comes next"
    if len(attempts) < most
    else "more of them: --attempts"
  )
  return (
    f"{drop}: NO attempt of {len(attempts)} keeps {limit} in its real run, and"
    f" the result is the last of them; {why}"
  )
