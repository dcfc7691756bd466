"""A whole study, step by step, each kept as it is done.

What a step gives goes through the ledger as JSON, the descent through its own
file of states; the same study begun again finds them there.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import interrupt
from vrex_jax.codesign import attempt_steps
from vrex_jax.codesign import attempts as attempts_lib
from vrex_jax.codesign import band
from vrex_jax.codesign import campaign_types as types_lib
from vrex_jax.codesign import confirm
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import descent
from vrex_jax.codesign import elasticity
from vrex_jax.codesign import extras
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import report
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import start as start_lib
from vrex_jax.codesign import study as study_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import units

__all__ = ["run"]

_PAPER_CHOICE = curves_lib.StaticChoice()
_SCREENING = 4
"""Rounds of each static choice before the best are searched in earnest."""


def run(
  study: types_lib.Study,
  options: types_lib.Options,
  *,
  bar: extras.Bar,
  stopped: Callable[[], bool],
) -> types_lib.Results | None:
  """All steps.

  Args:
    study: what is searched.
    options: what is done besides.
    bar: makes what shows rounds.
    stopped: has the user asked to end?

  Returns:
    The results; None when stopped before.

  Raises:
    InfeasibleError: no design keeps all limits (`study`).
  """
  try:
    return _Campaign(study, options, bar, stopped).run()
  except interrupt.StoppedError:
    return None


class _Campaign:
  """Dynamic. One run of a study."""

  def __init__(
    self,
    study: types_lib.Study,
    options: types_lib.Options,
    bar: extras.Bar,
    stopped: Callable[[], bool],
  ):
    self.study, self.options = study, options
    self.bar, self.stopped = bar, stopped
    self.limits, self.ledger = study.limits, study.ledger
    self.pricer = pricing.Pricer(study.problem)
    self.paper_choice = curves_lib.choice_index(study.curves, _PAPER_CHOICE)
    self.platform = study.problem.base.name
    self.sentences: list[str] = []
    self.space = study.space

  def run(self) -> types_lib.Results:
    """See `run`."""
    paper, start = self._starts()
    searched, first = self._search()
    attempts, of_start = self._attempts(searched, start, first)
    last = attempts[-1]
    optimum, rounded = last.optimum.free, last.rounded
    designs = {
      "paper": paper, "start": start, "optimum": optimum, "rounded": rounded
    }  # fmt: skip
    columns = {
      name: self._describe(one, exact=name != "optimum").figures
      for name, one in designs.items()
    }
    gaps = self._gaps(optimum, rounded)
    columns["start, simulated"], was = self._confirmed(start, of_start)
    columns["confirmed"], now = self._confirmed(rounded, last.measured)
    told = self._say_attempts(attempts, of_start, columns["confirmed"])
    verdicts = self._verdicts({"start": was, "rounded": now})
    if "power" in self.broken:
      self._at_paper_power(
        searched, columns["paper"]["power_w"], last.limit, was
      )
    elastic = self.ledger.step(
      "elasticities",
      lambda: elasticity.elasticities(
        self.study.problem,
        {
          "start": (start.design, start.choice),
          "optimum": (optimum.design, optimum.choice),
        },
      ),
    )
    lines = extras.fronts_of(searched, optimum)
    seconds = round(self.ledger.steps["spent"], 2)
    compared = extras.compared(searched, self.options.seeds, seconds)
    certificate = None
    if self.options.certificate:
      certificate = extras.certified(
        searched, start.choice, small=self.options.small
      )
    searched.go_on()
    measured = {"start": of_start, "rounded": last.measured}
    return self._results(
      designs, columns, elastic, lines,
      {
        "seconds": seconds,
        "evaluations": extras.evaluations(self.study.plan, self.space),
        "attempts": told,
        "comparators": compared,
        "certificate": certificate,
        "verdicts": verdicts,
        "gaps": gaps,
        "measured": {
          name: {"drop": one.drop, "interval": list(one.interval)}
          for name, one in measured.items()
          if one is not None
        },
      },
    )  # fmt: skip

  def _starts(self) -> tuple[study_lib.Designed, study_lib.Designed]:
    """The paper's sizing, at its threshold and at one that is accurate."""
    space, limits = self.study.space, self.limits
    paper = study_lib.Designed(space.start, self.paper_choice)
    described = self._describe(paper, exact=True)
    passed = dict(
      zip(objective_lib.LIMITS, described.passed.tolist(), strict=True)
    )
    broken = [name for name, one in passed.items() if one > 0.0]
    self.broken = set(broken)
    if broken:
      self._note(
        f"the sizing of {self.platform} itself, at the paper's threshold 0.3,"
        f" exceeds the limits of {', '.join(broken)}:"
        f" {1e6 * described.figures['area_m2']:.2f} mm2,"
        f" {described.figures['power_w']:.1f} W, accuracy drop"
        f" {100 * described.figures['accuracy_drop']:.2f} %"
      )
    if "accuracy" in broken:
      ratio = study_lib.calibrated_ratio(
        self.study.problem, space.start, self.paper_choice,
        float(limits.accuracy_drop),
      )  # fmt: skip
      self._note(
        f"the start has the threshold {ratio:.3f} everywhere instead, the least"
        " that keeps the accuracy"
      )
      self.space = space_lib.resize(
        space,
        ratio=jnp.full(np.shape(space.start.ratio), ratio),
      )
    return paper, study_lib.Designed(self.space.start, self.paper_choice)

  def _search(self) -> tuple[extras.Searched, study_lib.Optimum]:
    """Screens static choices, descends from many starts, snaps sizes."""
    study, plan = self.study, self.study.plan
    began = time.monotonic() - self.ledger.steps.get("spent", 0.0)
    spent = lambda: self.ledger.put("spent", time.monotonic() - began)
    advance = descent.make_round(study.problem, self.space, plan)
    if "choices" not in self.ledger.steps:
      self.ledger.put("choices", self._screened(advance))
      spent()
    kept = self.ledger.steps["choices"]
    searched = extras.Searched(
      pricer=self.pricer, space=self.space, limits=self.limits, plan=plan,
      advance=advance, kept=kept, step=self.ledger.step, bar=self.bar,
      stopped=self.stopped, note=self._note,
    )  # fmt: skip
    searched.go_on()
    state = descent.start(study.problem, self.space, plan, kept)
    if study.resume and study.search is not None and study.search.exists():
      state = descent.load(state, study.search, study.settings)
    told = self.bar(plan.rounds - int(state.rounds), "descent")

    def after(round_: descent.Round, state: descent.State) -> None:
      told(round_, state)
      if study.search is not None:
        study.search.parent.mkdir(parents=True, exist_ok=True)
        descent.save(state, study.search, study.settings)
      spent()

    state = descent.run(
      study.problem, self.space, self.limits, plan, state=state,
      advance=advance, told=after, stopped=self.stopped,
    )  # fmt: skip
    searched.go_on()
    found = descent.found(state)
    if not found.feasible:
      return searched, self._start_or_refuse(found)
    if "optimum" not in self.ledger.steps:
      settled = extras.settled(searched, self.limits, state)
      self.ledger.put("optimum", settled.as_json())
      spent()
    return searched, study_lib.optimum(self.ledger.steps["optimum"])

  def _start_or_refuse(self, found: descent.Found) -> study_lib.Optimum:
    """The start where it alone keeps all limits: lanes begin a little inside.

    Raises:
      InfeasibleError: it does not.
    """
    start = study_lib.Designed(self.space.start, self.paper_choice)
    if np.max(self._describe(start, exact=True).passed) > 0.0:
      at = study_lib.placed(self.space, found)
      study_lib.refuse(self.pricer, at, self.limits, exact=False)
    self._note("the start keeps all limits, and the descent found none that do")
    return study_lib.Optimum(start, start)

  def _screened(self, advance: descent.Advance) -> list[int]:
    """Static choices that are searched in earnest, best first."""
    number = len(self.study.curves.choices)
    if number == 1 or "ratio" not in self.space.free:
      return [self.paper_choice]
    plan = self.study.plan
    passes = -(-number // plan.starts)
    rounds = min(_SCREENING, plan.rounds)
    ranked = study_lib.screen(
      self.study.problem, self.space, self.limits, plan, advance,
      rounds=rounds, told=self.bar(passes * rounds, "static choices"),
    )  # fmt: skip
    scope = [one.table for one in self.study.curves.choices]
    kept = [one for one in ranked if scope[one] in self.options.tables]
    if not kept:
      raise InputError(
        f"--tables is {','.join(self.options.tables)} and the curves have"
        f" {', '.join(sorted(set(scope)))} only; name one of theirs"
      )
    return kept[: self.options.choices]

  def _attempts(
    self,
    searched: extras.Searched,
    start: study_lib.Designed,
    optimum: study_lib.Optimum,
  ) -> tuple[list[attempts_lib.Attempt], confirm.Measured | None]:
    """Rounds, runs, and where that loses too much searches again."""
    steps = attempt_steps.AttemptSteps(
      searched, None if self.options.small else start,
      self.study.curves.choices,
      frames=self.options.frames, questions=self.options.questions,
    )  # fmt: skip
    tightens = "ratio" in self.space.free
    found = attempts_lib.until_kept(
      float(self.limits.accuracy_drop), optimum, steps,
      most=self.options.attempts if tightens else 1,
    )  # fmt: skip
    return found, steps.of_start

  def _confirmed(
    self, at: study_lib.Designed, measured: confirm.Measured | None
  ) -> tuple[dict[str, Any], pricing.Placed]:
    return study_lib.confirmed(
      self.pricer, self._describe(at, exact=True), self.limits, measured
    )

  def _say_attempts(
    self,
    attempts: list[attempts_lib.Attempt],
    of_start: confirm.Measured | None,
    confirmed: Mapping[str, Any],
  ) -> list[dict[str, Any]]:
    """Attempts line by line, and whether their last keeps its limits."""
    asked, power_w = (
      float(getattr(self.limits, name)) for name in ("accuracy_drop", "power_w")
    )
    figures = [
      self._describe(one.rounded, exact=True).figures for one in attempts
    ]
    rows = attempts_lib.as_rows(attempts, figures, asked)
    self._note(attempts_lib.table(rows))
    said = attempts_lib.sentence(
      attempts, asked=asked, most=self.options.attempts
    )
    if said:
      self._note(f"{said}; streams of {self.options.frames} frames")
    if of_start is not None:
      low, high = of_start.interval
      self._note(
        f"measured accuracy drop of start: {100 * of_start.drop:.2f} %"
        f" (95 %: {100 * low:.2f} to {100 * high:.2f})"
      )
    if confirmed["power_w"] > power_w:
      self._note(
        f"by the simulator the result takes {confirmed['power_w']:.3g} W, more"
        f" than --power_w {power_w:g}, which it keeps by the model"
      )
    return rows

  def _at_paper_power(
    self,
    searched: extras.Searched,
    power_w: float,
    accuracy_drop: float,
    start: pricing.Placed,
  ) -> None:
    """The same search at the power that the paper's sizing itself has."""
    limits = self.limits.replace(power_w=power_w, accuracy_drop=accuracy_drop)

    def make():
      found = attempt_steps.search_again(searched, limits)
      return None if found is None else found.as_json()

    kept = self.ledger.step("at the paper's power", make)
    if kept is None:
      return
    rounded = study_lib.designed(kept)
    (placed,) = self.pricer.place([rounded.design], rounded.choice)
    verdict = band.by_model(self.pricer, placed, start, limits)
    self._note(
      report.verdict_sentence(
        f"at the modelled power of {self.platform} itself, {power_w:.1f} W",
        verdict,
        None,
      )
    )

  def _verdicts(self, placed) -> dict[str, Any]:
    model = band.by_model(
      self.pricer, placed["rounded"], placed["start"], self.limits
    )
    told = self.bar(self.options.simulated_points, "simulation")
    simulated = self.ledger.step(
      "simulated band",
      lambda: list(
        band.by_simulator(
          self.pricer, placed["rounded"], placed["start"], self.limits,
          points=self.options.simulated_points,
          told=lambda done, total: told(
            descent.Round(done, 0.0, 0, 0.0), None
          ),
        )
      ),
    )  # fmt: skip
    sentence = report.verdict_sentence(
      f"result over start, which has the sizing of {self.platform}"
      + " and exceeds limits itself" * bool(self.broken - {"accuracy"}), model,
      band.Verdict(*simulated),
    )  # fmt: skip
    self._note(sentence)
    for name in placed:
      low, high = band.power_range(self.pricer, placed[name], self.limits)
      self._note(
        f"average power of {name} over the band: {low:.1f} to {high:.1f} W"
      )
    return {"model": list(model), "simulator": simulated}

  def _describe(self, at, *, exact: bool) -> study_lib.Described:
    return study_lib.describe(self.pricer, at, self.limits, exact=exact)

  def _gaps(
    self, optimum: study_lib.Designed, rounded: study_lib.Designed
  ) -> dict[str, Any]:
    """What rounding costs, and what exact held-out curves change."""
    (found, held), (built, exact) = (
      [self._describe(one, exact=exact) for exact in (False, True)]
      for one in (optimum, rounded)
    )
    gap = lambda before, after: {
      "percent": 100 * float(np.expm1(after.value - before.value)),
      "drop_before": before.figures["accuracy_drop"],
      "drop_after": after.figures["accuracy_drop"],
    }
    gaps = {
      "rounding": gap(found, built),
      "surrogate": gap(built, exact),
      "optimum": gap(found, held),
    }
    if not self.study.held_out:
      gaps = {"rounding": gaps["rounding"]}
    self._note(report.gap_table(gaps))
    return gaps

  def _note(self, sentence: str) -> None:
    self.sentences.append(sentence)

  def _results(
    self, designs, columns, elastic, lines, named
  ) -> types_lib.Results:
    chosen = {
      name: dataclasses.asdict(self.study.curves.choices[one.choice])
      for name, one in designs.items()
    }
    rows = [
      {
        "design": name,
        **figures,
        "choice": chosen.get(name),
        "sizes": jax.tree.map(
          lambda leaf: np.asarray(leaf).tolist(),
          vars(designs[name].design) if name in designs else {},
        ),
      }
      for name, figures in columns.items()
    ]
    at_top = ("start", "optimum", "rounded", "confirmed")
    keys = ("latency_s", "energy_j", "area_m2", "power_w", "accuracy")
    self._note(
      "static choices: "
      + "; ".join(f"{name} {one}" for name, one in chosen.items())
    )
    return types_lib.Results(
      columns=columns,
      designs={name: one.design for name, one in designs.items()},
      elasticities=elastic,
      fronts=lines,
      sentences=self.sentences,
      rows=rows,
      named={
        **{name: {key: columns[name][key] for key in keys} for name in at_top},
        "elasticities": elastic,
        "fronts": lines,
        "area_limit_mm2": float(self.limits.area_m2) / units.MM2,
        "paper_ratio": start_lib.PAPER_RATIO,
        "sentences": self.sentences,
        **named,
      },
    )
