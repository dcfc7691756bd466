"""What a study says: a table, sentences, and the design as a platform file."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import summary
from vrex_jax.codesign import band
from vrex_jax.codesign import elasticity
from vrex_jax.codesign import interfaces
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import sizing
from vrex_jax.codesign import space as space_lib
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import units

__all__ = [
  "certificate_sentence",
  "comparison_table",
  "elasticity_table",
  "figures_table",
  "gap_table",
  "infeasible",
  "policy_text",
  "sizes_table",
  "verdict_sentence",
  "write_platform",
]

_ROWS = (
  ("a turn, s", "latency_s", 1.0, ".3f"),
  ("a turn, J", "energy_j", 1.0, ".1f"),
  ("s x J", "energy_delay", 1.0, ".0f"),
  ("average power, W", "power_w", 1.0, ".1f"),
  ("area, mm2", "area_m2", units.MM2, ".2f"),
  ("accuracy drop, %", "accuracy_drop", 0.01, ".2f"),
)
_STAGES = ("frame", "question", "answer token")


def figures_table(columns: Mapping[str, Mapping[str, Any]]) -> str:
  """Designs side by side.

  Args:
    columns: name -> figures (`objective.dictionary`).
  """
  lines = [
    [label, *(format(_value(one, key) / unit, how) for one in columns.values())]
    for label, key, unit, how in _ROWS
  ]
  for index, stage in enumerate(_STAGES):
    lines.append(
      [
        f"{'an' if stage[0] == 'a' else 'a'} {stage}, ms",
        *(f"{1e3 * one['event_s'][index]:.1f}" for one in columns.values()),
      ]
    )
    lines.append(
      [
        "  of the past, %",
        *(
          f"{100 * one['kept'][index]:.1f}" if "kept" in one else "-"
          for one in columns.values()
        ),
      ]
    )
  return summary.aligned(["", *columns], lines)


def _value(one: Mapping[str, Any], key: str) -> float:
  if key == "energy_delay":
    return one["latency_s"] * one["energy_j"]
  return one[key]


def sizes_table(
  columns: Mapping[str, space_lib.Design], free: Sequence[str]
) -> str:
  """Numbers of designs side by side; thresholds as range of a stage.

  Args:
    columns: name -> design.
    free: fields that are shown.
  """
  lines = []
  for name in free:
    values = [np.asarray(getattr(one, name), float) for one in columns.values()]
    if name == "ratio":
      for stage, label in enumerate(_STAGES):
        cells = [f"{v[stage].min():.3f}..{v[stage].max():.3f}" for v in values]
        lines.append([f"Th_r, {label}", *cells])
    elif values[0].ndim:
      lines.append([name, *(f"{value.mean():.0f}" for value in values)])
    else:
      unit, scale = _unit_of(name)
      cells = [f"{float(value) / scale:.4g}" for value in values]
      lines.append([f"{name}, {unit}" if unit else name, *cells])
  for kind in ("dram", "link"):
    if f"{kind}_bytes_per_s" in free:
      names = [
        _class_of(kind, float(getattr(one, f"{kind}_bytes_per_s")))
        for one in columns.values()
      ]
      lines.append([f"{kind} class", *names])
  return summary.aligned(["size", *columns], lines)


_UNITS = {
  "_bytes_per_s": ("GB/s", 1e9),
  "capacity_bytes": ("GB", 1e9),
  "_bytes": ("KiB", 1024.0),
  "_hz": ("MHz", 1e6),
}


def _unit_of(name: str) -> tuple[str, float]:
  """Unit a size is shown in, and its SI value; none for a count.

  Example:
    >>> _unit_of("dram_bytes_per_s"), _unit_of("cores")
    (('GB/s', 1000000000.0), ('', 1.0))
  """
  found = (unit for end, unit in _UNITS.items() if name.endswith(end))
  return next(found, ("", 1.0))


def _class_of(kind: str, bandwidth_bytes_per_s: float) -> str:
  """The class of this bandwidth; of another, the nearest, said so."""
  nearest = interfaces.nearest(kind, bandwidth_bytes_per_s)
  if interfaces.offers(kind, bandwidth_bytes_per_s):
    return nearest
  return f"none; next {nearest}"


def infeasible(
  passed: Sequence[float],
  found: Mapping[str, Any],
  design: space_lib.Design,
  limits: objective_lib.Limits,
) -> str:
  """Which limits the nearest design exceeds, and by how much: one sentence.

  Args:
    passed: violations, in the order of `objective.LIMITS`.
    found: figures of the design that exceeds them least.
    design: it.
    limits: what was asked for.
  """
  words = {
    "area": (
      f"--area_mm2 {_mm2(limits.area_m2)} by"
      f" {_mm2(found['area_m2'] - float(limits.area_m2))} mm2"
    ),
    "power": (
      f"--power_w {float(limits.power_w):g} by"
      f" {found['power_w'] - float(limits.power_w):.2g} W"
    ),
    "accuracy": (
      f"--max_accuracy_drop {float(limits.accuracy_drop):g} by"
      f" {100 * (found['accuracy_drop'] - float(limits.accuracy_drop)):.2g}"
      " points"
    ),
    "dram": (
      f"the DRAM of {float(design.capacity_bytes) / units.GB:.3g} GB by"
      f" {(found['held_bytes'] - float(design.capacity_bytes)) / units.GB:.2g}"
      " GB"
    ),
    "on_chip": "what a core's memory holds",
    "vector": "what the vector lanes keep up with",
    "codes": "what the code memory holds",
  }
  broken = [
    words[name]
    for name, value in zip(objective_lib.LIMITS, passed, strict=True)
    if value > 1e-3
  ]
  return (
    f"no design keeps all limits; the nearest has {_mm2(found['area_m2'])} mm2,"
    f" {found['power_w']:.3g} W and an accuracy drop of"
    f" {100 * found['accuracy_drop']:.3g} %, and exceeds {', '.join(broken)}:"
    " raise what it exceeds, or free more"
  )


def _mm2(area_m2: Any) -> str:
  return f"{float(area_m2) / units.MM2:.4g}"


def elasticity_table(
  found: Mapping[str, Mapping[str, float]], *, least: float
) -> str:
  """See `elasticity.table`."""
  return elasticity.table(found, least=least)


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Methods at equal wall time: ln of the objective, mean over seeds.

  Args:
    rows: of `study.compare` and of the descent.
  """
  methods = list(dict.fromkeys(row["method"] for row in rows))
  lines = []
  for method in methods:
    own = [row for row in rows if row["method"] == method]
    cells = [method, str(len(own))]
    for key in ("value", "rounded", "simulated"):
      known = [row[key] for row in own if row[key] is not None]
      worst = f"{np.mean(known):.4f} ({max(known):.4f})" if known else "-"
      cells.append(worst + f" of {len(known)}" * (len(known) < len(own)))
    cells.append(f"{np.mean([row['evaluations'] for row in own]):.0f}")
    cells.append(f"{np.mean([row['seconds'] for row in own]):.0f}")
    lines.append(cells)
  return summary.aligned(
    [
      "ln of the objective",
      "seeds",
      "found: mean (worst)",
      "rounded",
      "simulated",
      "points",
      "s",
    ],
    lines,
  )


def gap_table(gaps: Mapping[str, Mapping[str, float]]) -> str:
  """What is lost on the way to what can be built, and what each gap means.

  Args:
    gaps: name -> {"percent": of the objective, "drop_before", "drop_after":
      shares}.
  """
  meaning = {
    "rounding": "optimum to rounded, both on the curves searched",
    "surrogate": "rounded: from the curves searched to exact held-out ones",
    "optimum": "the same of the optimum, which rounding then mends",
  }
  lines = [
    [
      name,
      f"{own['percent']:+.2f}",
      f"{100 * own['drop_before']:.3f} to {100 * own['drop_after']:.3f}",
      meaning[name],
    ]
    for name, own in gaps.items()
  ]
  return summary.aligned(
    ["gap", "objective, %", "accuracy drop, %", "from where to where"], lines
  )


def certificate_sentence(found: Mapping[str, Any]) -> str:
  """How far the descent is from the best of all points of a small grid."""
  if found["gap"] is None:
    return (
      f"certificate: of {found['points']} points {found['feasible']} keep the"
      " limits, and the descent found none of them"
    )
  return (
    f"certificate: of {found['points']} points over"
    f" {', '.join(found['fields'])}, {found['feasible']} keep the limits; the"
    f" descent, rounded, is {100 * found['gap']:+.3f} % from the best"
  )


def verdict_sentence(
  name: str, by_model: band.Verdict, by_simulator: band.Verdict | None
) -> str:
  """Whether a design beats another everywhere, in words."""
  says = lambda verdict: (
    f"{verdict.centre:.3f} ({verdict.least:.3f} to {verdict.most:.3f} over"
    f" {verdict.points} point{'s' * (verdict.points != 1)} of the band)"
  )
  text = f"{name}: by the model {says(by_model)}"
  wins = by_model.wins
  if by_simulator is not None:
    text += f", by the simulator {says(by_simulator)}"
    wins = wins and by_simulator.wins
  where = "everywhere"
  if by_simulator is None or by_simulator.points < band.MOST_SIMULATED:
    where = "at every point that was priced"
  answer = f"better {where}" if wins else f"NOT better {where}"
  return f"{text}: {answer}"


def policy_text(
  design: space_lib.Design, choice: Mapping[str, Any], *, room: int
) -> str:
  """The thresholds of a design as --policy takes them.

  Args:
    design: with thresholds of frame, question and answer.
    choice: hash bits, Hamming threshold and table scope.
    room: clusters of a table; tokens that find none are read always.

  Example:
    >>> from vrex_jax.codesign import start
    >>> one = start.of_platform("vrex8", layers=1, kv_heads=1)
    >>> policy_text(one, {"table": "head"}, room=64)[:51]
    'resv(table=head, table_capacity=64, wicsum_ratio=[['
  """
  ratio = np.round(np.asarray(design.ratio, float), 6)
  by_stage = np.concatenate([ratio[:1], ratio]).tolist()  # Prompt as frames.
  fixed = ", ".join(f"{name}={value}" for name, value in choice.items())
  return f"resv({fixed}, table_capacity={room}, wicsum_ratio={by_stage})"


def write_platform(
  description: platforms.Description,
  problem: objective_lib.Problem,
  design: space_lib.Design,
  path: pathlib.Path,
) -> None:
  """Writes a design as a platform file that `platforms.read` reads.

  Args:
    description: of the platform that was sized anew.
    problem: with the same platform.
    design: sizes.
    path: of the file.
  """
  sized = sizing.apply(
    problem.base,
    jax.tree.map(lambda leaf: jnp.asarray(leaf, float), design),
    problem.stream.model,
  )
  numbers: dict[str, dict[str, params.Sourced]] = {}
  for part, own in description.numbers.items():
    numbers[part] = {}
    for field, number in own.items():
      value = float(getattr(getattr(sized.platform, part), field))
      before = units.to_si(field, number.value, number.unit)
      if np.isclose(value, before, rtol=1e-5, atol=0.0):
        numbers[part][field] = number
        continue
      numbers[part][field] = params.Sourced(
        float(f"{value:.7g}"),
        next(iter(units.SUFFIX_UNITS.get(units.suffix_of(field), {"1": 1.0}))),
        "derived",
        f"found by experiments/codesign.py from {description.platform.name}",
      )
  name = f"{description.platform.name}_codesign"
  platforms.write(
    platforms.Description(sized.platform.replace(name=name), numbers), path
  )
