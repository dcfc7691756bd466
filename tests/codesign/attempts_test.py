"""A study searches again, tighter, until a real run keeps the limit."""

import numpy as np
import pytest

from tests.codesign import problems
from vrex_jax.codesign import attempt_steps
from vrex_jax.codesign import attempts
from vrex_jax.codesign import confirm
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import descent
from vrex_jax.codesign import extras
from vrex_jax.codesign import ledger as ledger_lib
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import study

ASKED = 0.01
OPTIMUM = study.Optimum(*[study.Designed(problems.paper(), 0)] * 2)


def measured(drop):
  return confirm.Measured(
    np.full((3, 2, 2), 0.25), drop, (drop - 0.02, drop + 0.02), 0.9, {}
  )


class Stub:
  """A model that is wrong by a factor; nothing is kept below `least`."""

  def __init__(self, factor, least=0.0):
    self.factor, self.least, self.limits = factor, least, []

  def search(self, number, limit, before):
    assert number == len(self.limits) + 1
    assert before is not None
    return OPTIMUM if limit >= self.least else None

  def round_(self, number, limit, optimum):
    self.limits.append(limit)
    return optimum.snapped

  def measure(self, number, rounded):
    return (
      None if self.factor is None else measured(self.factor * self.limits[-1])
    )


def run(stub, most=3):
  return attempts.until_kept(ASKED, OPTIMUM, stub, most=most)


@pytest.mark.parametrize(
  ("factor", "limits"),
  [
    (1.0, [0.01]),
    (None, [0.01]),
    (1.2, [0.01, 0.008]),
    # At least half of the limit before is left; then the excess alone.
    (3.0, [0.01, 0.005, 0.0025]),
    (1.5, [0.01, 0.005]),
  ],
)
def test_the_limit_falls_by_the_excess_until_the_run_keeps_it(factor, limits):
  found = run(Stub(factor))
  np.testing.assert_allclose([one.limit for one in found], limits)
  assert [one.keeps(ASKED) for one in found[:-1]] == [False] * len(limits[1:])
  assert found[-1].keeps(ASKED)


def test_the_last_is_the_result_where_none_keeps_it():
  found = run(Stub(3.0), most=2)
  assert [one.keeps(ASKED) for one in found] == [False, False]
  said = attempts.sentence(found, asked=ASKED, most=2)
  assert "NO attempt of 2 keeps the limit of 1.00 %" in said
  assert said.endswith("--attempts")


def test_a_limit_that_leaves_no_design_ends_it():
  found = run(Stub(3.0, least=0.006))
  assert len(found) == 1
  said = attempts.sentence(found, asked=ASKED, most=3)
  assert said.endswith("no design keeps the limit that comes next")


def test_every_attempt_is_a_line_and_a_row():
  found = run(Stub(1.2))
  figures = [
    {"accuracy_drop": one.limit, "latency_s": 5.0, "energy_j": 70.0}
    for one in found
  ]
  rows = attempts.as_rows(found, figures, ASKED)
  assert [row["keeps"] for row in rows] == [False, True]
  assert rows[1]["measured_drop"] == pytest.approx(0.0096)
  lines = attempts.table(rows).splitlines()
  assert "1.20 (-0.80 to 3.20)" in lines[-2]
  assert lines[-2].endswith("NO")
  assert lines[-1].endswith("yes")
  unrun = attempts.as_rows(run(Stub(None)), figures[:1], ASKED)
  assert unrun[0]["measured_drop"] is None
  assert "not run" in attempts.table(unrun)


def test_steps_are_kept_and_full_runs_once(monkeypatch, tmp_path):
  """A study that goes on does no step of an attempt again."""
  asked = []

  def measure_designs(designs, *, frames, questions, full):
    asked.append((sorted(designs), full))
    one = {**measured(0.02)._asdict(), "kept": [[[0.5] * 2] * 2] * 3}
    return {"full": {"qa": 1.0}, "designs": dict.fromkeys(designs, one)}

  monkeypatch.setattr(attempt_steps.confirm, "measure_designs", measure_designs)
  monkeypatch.setattr(
    attempt_steps.rounding,
    "repair",
    lambda pricer, space, limits, design, choice: (
      attempt_steps.rounding.Rounded(design, 0.0, np.zeros(7), 1)
    ),
  )
  space = space_lib.make(problems.paper(), groups=["thresholds"])
  monkeypatch.setattr(
    attempt_steps.extras,
    "again",
    lambda searched, **given: extras.Again(OPTIMUM, 1.0, 1.0),
  )

  def steps():
    ledger = ledger_lib.Ledger(tmp_path / "steps.json", {}, resume=True)
    searched = extras.Searched(
      pricer=None, space=space, limits=problems.LIMITS, plan=descent.Plan(),
      advance=None, kept=[0], step=ledger.step, bar=None,
      stopped=lambda: False, note=print,
    )  # fmt: skip
    return attempt_steps.AttemptSteps(
      searched,
      OPTIMUM.free,
      [curves_lib.StaticChoice()],
      frames=64,
      questions=8,
    )

  first = steps()
  found = attempts.until_kept(ASKED, OPTIMUM, first, most=2)
  assert asked == [(["rounded", "start"], None), (["rounded"], {"qa": 1.0})]
  assert first.of_start.drop == 0.02
  taken = attempts.until_kept(ASKED, OPTIMUM, steps(), most=2)
  assert len(asked) == 2
  for one, other in zip(found, taken, strict=True):
    assert one.rounded.as_json() == other.rounded.as_json()
    assert one.limit == other.limit
