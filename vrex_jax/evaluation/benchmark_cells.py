"""A whole benchmark under some policies, kept as it goes."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm

from vrex_jax import policy as policy_lib
from vrex_jax import session_plan
from vrex_jax.errors import InputError
from vrex_jax.evaluation import benchmark_report
from vrex_jax.evaluation import benchmark_run
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["ANSWERS", "evaluate", "files", "records_left"]

ANSWERS = "answers.jsonl"
"""File of the records, one a line."""
_BETWEEN_S = 20.0
"""Seconds between two times that everything so far is written."""


def records_left(out: str) -> list[dict[str, Any]]:
  """Records that an earlier run left in its folder.

  Args:
    out: the folder; none where it holds no answers.

  Raises:
    InputError: the file is damaged.
  """
  path = pathlib.Path(out) / ANSWERS
  if not path.exists():
    return []
  try:
    # Not splitlines(): JSON leaves U+2028 and its like raw within a line.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [
      _checked(number, json.loads(line))
      for number, line in enumerate(lines, start=1)
      if line
    ]
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(
      f"--resume is given and {path} cannot be read ({error}); answers are"
      " taken over from a whole one: leave out --resume"
    ) from error


def _checked(number: int, record: Any) -> dict[str, Any]:
  """A record that has all its fields, and so have its answers."""
  _check_fields(f"line {number}", record, benchmark_run.RECORD_FIELDS)
  if not isinstance(record["answers"], list):
    raise ValueError(f"line {number}: 'answers' is no list")
  for answer in record["answers"]:
    _check_fields(
      f"line {number}, answers", answer, benchmark_run.ANSWER_FIELDS
    )
  return record


def _check_fields(where: str, value: Any, fields: Sequence[str]) -> None:
  if not isinstance(value, dict):
    raise ValueError(f"{where}: no object")
  lacking = [name for name in fields if name not in value]
  if lacking:
    raise ValueError(f"{where}: no {', '.join(lacking)}")


def _key(record: Mapping[str, Any]) -> tuple[str, str]:
  return record["policy"], record["clip"]


def evaluate(
  model: checkpoint_lib.Checkpoint,
  policies: Sequence[policy_lib.KVPolicy],
  clips: Sequence[items_lib.Clip],
  sources: Sequence[session_plan.Source],
  options: session_plan.Options,
  records: list[dict[str, Any]],
  write: Callable[[Sequence[Mapping[str, Any]]], None],
  stopped: Callable[[], bool],
) -> None:
  """Streams what has no record yet; a bar shows frames.

  Args:
    model: configuration, weights, tokenizer, template.
    policies: in order.
    clips: with questions.
    sources: of `benchmark_run.clip_sources`.
    options: how to stream.
    records: so far; new ones are appended.
    write: called with all records now and then, and at the end.
    stopped: has the user asked to end?

  Raises:
    InputError: see `benchmark_run`; what was done is written.
  """
  done = {_key(record) for record in records}
  plans = {
    policy.name: benchmark_run.plan_clips(
      model, policy, clips, sources, options
    )
    for policy in policies
  }
  written = time.monotonic()

  def keep(record: dict[str, Any]) -> None:
    nonlocal written
    records.append(record)
    if time.monotonic() - written > _BETWEEN_S:
      write(records)
      written = time.monotonic()

  waiting = {
    policy.name: [
      (clip, plan)
      for clip, plan in zip(clips, plans[policy.name], strict=True)
      if (policy.name, clip.name) not in done
    ]
    for policy in policies
  }
  total = sum(
    plan.source.expected or 0 for ones in waiting.values() for _, plan in ones
  )
  with tqdm.tqdm(total=total, unit="frame", disable=None) as bar:
    try:
      for policy in policies:
        ones = waiting[policy.name]
        bar.set_description(f"{policy.name}, {len(ones)} clips")
        benchmark_run.run_policy(
          model,
          policy,
          [clip for clip, _ in ones],
          [plan for _, plan in ones],
          keep,
          bar.update,
          stopped,
        )
    finally:
      if records:
        write(records)


def files(
  policies: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
  """Text files beside the rows: the records, and each policy's predictions.

  Args:
    policies: canonical texts, in order.
    records: of `benchmark_run.run_policy`.

  Returns:
    File name -> text.
  """
  texts = {ANSWERS: benchmark_report.json_lines(records)}
  for number, policy in enumerate(policies, start=1):
    lines = benchmark_report.predictions(policy, records)
    if lines:
      texts[f"predictions_{number}.jsonl"] = benchmark_report.json_lines(lines)
  return texts
