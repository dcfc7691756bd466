"""A whole study, step by step, each kept as it is done.

What a step gives goes through the ledger as JSON, the descent through its own
file of states; the same study begun again finds them there.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import band
from vrex_jax.codesign import comparators
from vrex_jax.codesign import confirm
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import descent
from vrex_jax.codesign import elasticity
from vrex_jax.codesign import fronts
from vrex_jax.codesign import ledger as ledger_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import report
from vrex_jax.codesign import rounding
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import start as start_lib
from vrex_jax.codesign import study as study_lib
from vrex_jax.errors import InputError
from vrex_jax.evaluation import words
from vrex_jax.hwmodel import units
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["Options", "Results", "Study", "run"]

_SMALL_GRID = ("cores", "dot_units", "clock_hz", "hcu_width", "wtu_width")
_GRID = (*_SMALL_GRID, "link_bytes_per_s", "dram_bytes_per_s", "request_bytes")
_PAPER_CHOICE = curves_lib.StaticChoice()
_SCREENING = 4
"""Rounds of each static choice before the best are searched in earnest."""

Bar = Callable[[int, str], Callable[[descent.Round, Any], None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """Static. What is searched, and where results are kept.

  Attributes:
    problem: with all static choices of the curves.
    curves: their names.
    space: what moves.
    limits: to keep.
    plan: of the descent.
    settings: that a study which goes on must share.
    search: file of the descent's state; None to keep none.
    ledger: results of steps.
    resume: go on from `search`.
  """

  problem: objective_lib.Problem
  curves: curves_lib.Curves
  space: space_lib.Space
  limits: objective_lib.Limits
  plan: descent.Plan
  settings: Mapping[str, Any]
  search: pathlib.Path | None
  ledger: ledger_lib.Ledger
  resume: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Static. What is done besides.

  Attributes:
    frames: of a stream of the real run.
    questions: of the real run; 0 for none.
    simulated_points: of the band.
    choices: static choices that are left after screening.
    seeds: of the comparison; none for no comparison.
    certificate: brute force on a small grid.
    small: of few points.
  """

  frames: int
  questions: int
  simulated_points: int
  choices: int
  seeds: Sequence[int]
  certificate: bool
  small: bool


class Results(NamedTuple):
  """What is printed and written.

  Attributes:
    columns: name -> figures.
    designs: name -> design.
    elasticities: name -> by name.
    fronts: limit -> points.
    sentences: verdicts and warnings.
    rows: of metrics.json.
    named: further objects of metrics.json.
  """

  columns: dict[str, dict[str, Any]]
  designs: dict[str, space_lib.Design]
  elasticities: dict[str, dict[str, float]]
  fronts: dict[str, list[dict[str, Any]]]
  sentences: list[str]
  rows: list[dict[str, Any]]
  named: dict[str, Any]


def run(
  study: Study,
  options: Options,
  *,
  bar: Bar,
  stopped: Callable[[], bool],
  say: Callable[[str], None],
) -> Results | None:
  """All steps.

  Args:
    study: what is searched.
    options: what is done besides.
    bar: makes what shows rounds.
    stopped: has the user asked to end?
    say: shows a sentence on the way.

  Returns:
    The results; None when stopped before.

  Raises:
    InputError: no design keeps all limits.
  """
  return _Campaign(study, options, bar, stopped, say).run()


class _Campaign:
  """Dynamic. One run of a study."""

  def __init__(self, study, options, bar, stopped, say):
    self.study, self.options = study, options
    self.bar, self.stopped, self.say = bar, stopped, say
    self.limits, self.ledger = study.limits, study.ledger
    self.pricer = pricing.Pricer(study.problem)
    self.paper_choice = curves_lib.choice_index(study.curves, _PAPER_CHOICE)
    self.sentences: list[str] = []
    self.space = study.space

  def run(self) -> Results | None:
    """See `run`."""
    paper, start = self._starts()
    began = time.monotonic()
    optimum = self._search()
    if optimum is None:
      return None
    seconds = self.ledger.step(
      "seconds", lambda: round(time.monotonic() - began, 2)
    )
    rounded = self._rounded(optimum)
    columns = {
      "paper": self._figures(paper, exact=True),
      "start": self._figures(start, exact=True),
      "optimum": self._figures(optimum, exact=False),
      "rounded": self._figures(rounded, exact=True),
    }
    self._say_gaps(optimum, rounded, columns)
    measured = self._measured({"start": start, "rounded": rounded})
    placed = {}
    for name, one in (("start", start), ("rounded", rounded)):
      figures, placed[name] = study_lib.confirmed(
        self.pricer, self._describe(one, exact=True), self.limits,
        measured.get(name),
      )
      columns["confirmed" if name == "rounded" else "start, simulated"] = figures
    verdicts = self._verdicts(placed)
    elastic = self.ledger.step(
      "elasticities",
      lambda: elasticity.elasticities(
        self.study.problem,
        {"start": tuple(start), "optimum": tuple(optimum)},
      ),
    )
    lines = self._fronts(optimum)
    compared = self._compared(seconds)
    certificate = self._certificate(start)
    if self.stopped():
      return None
    return self._results(
      {"paper": paper, "start": start, "optimum": optimum, "rounded": rounded},
      columns, elastic, lines,
      {
        "seconds": seconds,
        "evaluations": self._evaluations(),
        "comparators": compared,
        "certificate": certificate,
        "verdicts": verdicts,
        "measured": {
          name: {"drop": one.drop, "interval": list(one.interval)}
          for name, one in measured.items()
        },
      },
    )  # fmt: skip

  def _starts(self) -> tuple[study_lib.Designed, study_lib.Designed]:
    """The paper's sizing and threshold, and with one that keeps the accuracy."""
    space, limits = self.study.space, self.limits
    paper = study_lib.Designed(space.start, self.paper_choice)
    described = self._describe(paper, exact=True)
    passed = dict(
      zip(objective_lib.LIMITS, described.passed.tolist(), strict=True)
    )
    broken = [name for name, value in passed.items() if value > 0.0]
    if broken:
      self._note(
        "the paper's own sizing, at its threshold 0.3 on this model, passes the"
        f" limits of {', '.join(broken)}:"
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
        space, ratio=np.full(np.shape(space.start.ratio), ratio)
      )
    return paper, study_lib.Designed(self.space.start, self.paper_choice)

  def _search(self) -> study_lib.Designed | None:
    """Screens static choices, then descends from many starts."""
    study, plan = self.study, self.study.plan
    self.whole = descent.make_round(study.problem, self.space, plan)
    kept = self.ledger.step("choices", self._screened)
    if self.stopped():
      return None
    state = self._first_state(kept)
    if study.resume and study.search is not None and study.search.exists():
      state = descent.load(state, study.search, study.settings)
    told = self.bar(plan.rounds - int(state.rounds), "descent")

    def after(round_, state):
      told(round_, state)
      if study.search is not None:
        study.search.parent.mkdir(parents=True, exist_ok=True)
        descent.save(state, study.search, study.settings)

    self.kept = kept
    state = descent.run(
      study.problem, self.space, self.limits, plan, state=state,
      advance=self.whole, told=after, stopped=self.stopped,
    )  # fmt: skip
    if int(state.rounds) < plan.rounds:
      return None
    return self._designed(descent.found(state))

  def _screened(self) -> list[int]:
    number = len(self.study.curves.choices)
    if number == 1 or "ratio" not in self.space.free:
      return [self.paper_choice]
    passes = -(-number // self.study.plan.starts)
    ranked = study_lib.screen(
      self.study.problem, self.space, self.limits, self.study.plan, self.whole,
      rounds=min(_SCREENING, self.study.plan.rounds),
      told=self.bar(passes * _SCREENING, "static choices"),
    )  # fmt: skip
    return ranked[: self.options.choices]

  def _first_state(self, kept: Sequence[int], seed: int | None = None):
    plan = self.study.plan
    if seed is not None:
      plan = dataclasses.replace(plan, seed=seed)
    state = descent.start(self.study.problem, self.space, plan)
    lanes = np.asarray(kept, np.int32)[np.arange(plan.starts) % len(kept)]
    return state.replace(choice=jnp.asarray(lanes))

  def _designed(self, found: descent.Found) -> study_lib.Designed:
    design = space_lib.design(self.space, jnp.asarray(found.share))
    design = jax.tree.map(np.asarray, design)
    if not found.feasible:
      described = self._describe(
        study_lib.Designed(design, found.choice), exact=False
      )
      raise InputError(
        report.infeasible(
          described.passed, described.figures, design, self.limits,
          tolerance=self.study.plan.tolerance,
        )
      )  # fmt: skip
    return study_lib.Designed(design, found.choice)

  def _rounded(self, optimum: study_lib.Designed) -> study_lib.Designed:
    built = rounding.repair(
      self.pricer, self.space, self.limits, *optimum
    )
    if not built.feasible:
      described = self._describe(
        study_lib.Designed(built.design, optimum.choice), exact=True
      )
      raise InputError(
        report.infeasible(
          described.passed, described.figures, built.design, self.limits,
          tolerance=0.0,
        )
      )  # fmt: skip
    self.judged = built.evaluations
    return study_lib.Designed(built.design, optimum.choice)

  def _measured(self, designs) -> dict[str, confirm.Measured]:
    """Real runs; kept as JSON."""
    if not self.options.questions:
      return {}
    kept = self.ledger.step("measured", lambda: self._measure(designs))
    return {
      name: confirm.Measured(
        np.array(one["kept"]), one["drop"], tuple(one["interval"]),
        one["accuracy"], one["row"],
      )
      for name, one in kept.items()
    }  # fmt: skip

  def _measure(self, designs) -> dict[str, Any]:
    model, ids = words.load_rooms_model(None)
    policies = [
      confirm.policy_of(
        one.design.ratio,
        **dataclasses.asdict(self.study.curves.choices[one.choice]),
        name=name,
      )
      for name, one in designs.items()
    ]
    found = confirm.measure(
      model, ids, policies,
      episodes_lib.EpisodeConfig(frames=self.options.frames),
      questions=self.options.questions,
    )  # fmt: skip
    return {
      name: {**one._asdict(), "kept": one.kept.tolist()}
      for name, one in zip(designs, found, strict=True)
    }

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
      "result over start, which has the paper's sizing", model,
      band.Verdict(*simulated),
    )  # fmt: skip
    self._note(sentence)
    for name in placed:
      low, high = band.power_range(self.pricer, placed[name], self.limits)
      self._note(
        f"average power of {name} over the band: {low:.1f} to {high:.1f} W"
      )
    return {"model": list(model), "simulator": simulated}

  def _fronts(self, optimum) -> dict[str, Any]:
    names = ["area"] + ["accuracy"] * ("ratio" in self.space.free)
    around = space_lib.shares(self.space, optimum.design)
    return {
      name: self.ledger.step(
        f"front of {name}",
        lambda name=name: fronts.front(
          name, self.study.problem, self.space, self.limits, self.study.plan,
          around=around, choice=optimum.choice, advance=self.whole,
          told=self.bar(self.study.plan.rounds, f"front of {name}"),
          stopped=self.stopped,
        ),
      )
      for name in names
    }  # fmt: skip

  def _compared(self, seconds: float) -> list[dict[str, Any]]:
    """The descent and every comparator on the same static choices."""
    if not self.options.seeds:
      return []
    problem = objective_lib.restrict(self.study.problem, self.kept)
    pricer = pricing.Pricer(problem)
    rows = []
    for seed in self.options.seeds:
      rows.append(
        self.ledger.step(f"descent {seed}", lambda s=seed: self._again(s))
      )
      for name in comparators.METHODS:
        if self.stopped():
          return rows
        self.say(f"{name}, seed {seed}, {seconds:.0f} s")
        rows.append(
          self.ledger.step(
            f"{name} {seed}",
            lambda n=name, s=seed: study_lib.compare(
              pricer, self.space, self.limits, n, seconds=seconds, seed=s
            ),
          )
        )
    self._note(report.comparison_table(rows))
    return rows

  def _again(self, seed: int) -> dict[str, Any]:
    """The descent from other starts, judged as the comparators are."""
    began = time.monotonic()
    state = descent.run(
      self.study.problem, self.space, self.limits, self.study.plan,
      state=self._first_state(self.kept, seed), advance=self.whole,
      told=self.bar(self.study.plan.rounds, f"descent, seed {seed}"),
    )  # fmt: skip
    spent = time.monotonic() - began
    found = descent.found(state)
    at = self._designed(found)
    return {
      "method": "descent", "seed": seed, "value": found.value,
      "evaluations": self._evaluations(), "seconds": spent,
      **study_lib.after_rounding(self.pricer, self.space, self.limits, at),
    }  # fmt: skip

  def _certificate(self, start) -> dict[str, Any] | None:
    if not self.options.certificate:
      return None
    ladder = rounding.ladder_of(self.space)
    names = _SMALL_GRID if self.options.small else _GRID
    axes = {name: ladder[name] for name in names if name in ladder}
    thinned = {
      name: values if len(values) <= 12 else values[:: -(-len(values) // 12)]
      for name, values in axes.items()
    }
    if not thinned:
      self._note("no certificate: none of the grid's fields is free")
      return None
    found = self.ledger.step(
      "certificate",
      lambda: study_lib.certify(
        self.pricer, self.space, self.limits, thinned, self.study.plan,
        start.choice,
      ),
    )  # fmt: skip
    self._note(report.certificate_sentence(found))
    return found

  def _describe(self, at, *, exact: bool) -> study_lib.Described:
    return study_lib.describe(self.pricer, at, self.limits, exact=exact)

  def _figures(self, at, *, exact: bool) -> dict[str, Any]:
    return self._describe(at, exact=exact).figures

  def _say_gaps(self, optimum, rounded, columns) -> None:
    smooth = self._describe(optimum, exact=False).value
    built = {
      exact: self._describe(rounded, exact=exact).value
      for exact in (False, True)
    }
    percent = lambda a, b: 100 * float(np.expm1(a - b))
    self.gaps = {
      "rounding": percent(built[False], smooth),
      "surrogate": percent(built[True], built[False]),
    }
    self._note(
      f"rounding gap {self.gaps['rounding']:+.2f} %; from searched to exact"
      f" held-out curves {self.gaps['surrogate']:+.2f} %"
    )

  def _evaluations(self) -> int:
    plan = self.study.plan
    return plan.starts * plan.rounds * plan.steps

  def _note(self, sentence: str) -> None:
    self.sentences.append(sentence)

  def _results(self, designs, columns, elastic, lines, named) -> Results:
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
    return Results(
      columns=columns,
      designs={name: one.design for name, one in designs.items()},
      elasticities=elastic,
      fronts=lines,
      sentences=self.sentences,
      rows=rows,
      named={
        **{name: {key: columns[name][key] for key in keys} for name in at_top},
        "elasticities": elastic,
        "gaps": self.gaps,
        "fronts": lines,
        "area_limit_mm2": float(self.limits.area_m2) / units.MM2,
        "paper_ratio": start_lib.PAPER_RATIO,
        "sentences": self.sentences,
        **named,
      },
    )
