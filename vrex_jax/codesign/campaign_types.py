"""What a study is given, and what it gives."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import descent
from vrex_jax.codesign import ledger as ledger_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import space as space_lib

__all__ = ["Options", "Results", "Study"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """Static. What is searched, and where results are kept.

  Attributes:
    problem: with all static choices of the curves.
    curves: their names.
    held_out: the exact rule sees another stream than the search.
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
  held_out: bool
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
    tables: scopes of a table that are searched.
    attempts: searches at most, where real runs lose too much.
    seeds: of the comparison; none for no comparison.
    certificate: brute force on a small grid.
    small: of few points.
  """

  frames: int
  questions: int
  simulated_points: int
  choices: int
  tables: Sequence[str]
  attempts: int
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
