"""One cell of an evaluation: a policy on streams of one length, as a row."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import session_report
from vrex_jax import trace as trace_lib
from vrex_jax.evaluation import scores
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib
from vrex_jax.tasks import rooms_film

__all__ = ["FIELDS", "evaluate", "number_of_streams", "paired", "row"]

FIELDS = (
  "policy",
  "frames",
  "visible",
  "streams",
  "questions",
  *(f"{group}{end}" for group in scores.GROUPS for end in ("", "_ci")),
  "minus_full",
  "accuracy_by_kind",
  "retrieval_recall",
  "retrieval_ratio",
  "kv_bytes",
  "held_growth",
  "ms_per_frame",
  "compile_s",
  "overflow",
  "tallies",
)
"""Fields of a row, in order; see docs/notation.md."""


def number_of_streams(questions: int, each: int, batch: int) -> tuple[int, int]:
  """Streams for at least so many questions, and a batch that divides them.

  Args:
    questions: wanted.
    each: questions of a stream.
    batch: most streams side by side.

  Returns:
    Streams, and how many of them side by side.

  Example:
    >>> number_of_streams(1000, 40, 8)
    (28, 7)
  """
  streams = math.ceil(questions / each)
  groups = math.ceil(streams / batch)
  side_by_side = math.ceil(streams / groups)
  return side_by_side * groups, side_by_side


def evaluate(
  model: checkpoint_lib.Checkpoint,
  policies: Sequence[policy_lib.KVPolicy],
  options: streaming.StreamOptions,
  shape: episodes_lib.EpisodeConfig,
  *,
  streams: int,
  word_ids: Mapping[str, int],
  seed: int = 0,
  film: bool = False,
  told: Callable[[int], None] = lambda frames: None,
  stopped: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
  """Streams all episodes under a policy, or under some that prefill alike.

  Args:
    model: weights and tokenizer.
    policies: see `streaming.compile_group`.
    options: how episodes are streamed; the batch divides `streams`.
    shape: of the episodes.
    streams: how many.
    word_ids: token of every word.
    seed: of the episodes.
    film: frames come from an mp4 written of each episode.
    told: called with numbers of frames, of all streams, that are done.
    stopped: has the user asked to end?

  Returns:
    For each policy, fields of `FIELDS` but for `minus_full` (see `paired`);
    nothing when stopped.
  """
  group = streaming.compile_group(model, policies, options, shape)
  outcomes = []
  for first in range(0, streams, options.batch):
    if stopped():
      return []
    episodes = [
      episodes_lib.draw(shape, seed, first + index)
      for index in range(options.batch)
    ]
    with _shown(episodes, film) as streams_shown:
      outcome = streaming.run_batch(
        model,
        group,
        options,
        streams_shown,
        first,
        lambda frames: told(frames * options.batch),
      )
    outcomes.append(outcome)
  return [
    row(
      driver,
      [batch[index] for batch in outcomes],
      frames=shape.frames,
      visible=shape.visible,
      word_ids=word_ids,
    )
    for index, driver in enumerate(group.asked)
  ]


@contextlib.contextmanager
def _shown(
  episodes: Sequence[episodes_lib.Episode], film: bool
) -> Iterator[Sequence[episodes_lib.Stream]]:
  if not film:
    yield episodes
    return
  with rooms_film.filmed(episodes) as films:
    yield films


def row(
  driver: programs.Driver,
  outcomes: Sequence[streaming.Outcome],
  *,
  frames: int,
  visible: int,
  word_ids: Mapping[str, int],
) -> dict[str, Any]:
  """The row of some batches.

  Args:
    driver: that ran them.
    outcomes: of all batches.
    frames: length of their streams.
    visible: frames an object is seen for, at most.
    word_ids: token of every word.

  Returns:
    Fields of `FIELDS`, `minus_full` still None.
  """
  batch = driver.config.batch
  streams = batch * len(outcomes)
  said = [one for outcome in outcomes for one in outcome.said]
  trace = trace_lib.concatenate([outcome.trace for outcome in outcomes])
  blocks = [block for outcome in outcomes for block in outcome.blocks]
  tallies = scores.tally(said, word_ids, streams)
  values: dict[str, Any] = {
    "policy": driver.policy.name,
    "frames": frames,
    "visible": visible,
    "streams": streams,
    "questions": int(tallies["qa"].asked.sum()),
    "accuracy_by_kind": _by_kind(said, word_ids),
    "retrieval_recall": scores.recall(said),
    "retrieval_ratio": trace_lib.retrieval_ratio(trace),
    "kv_bytes": float(np.mean([outcome.kv_bytes for outcome in outcomes])),
    "held_growth": float(
      np.mean([trace_lib.held_growth(outcome.trace) for outcome in outcomes])
    ),
    "ms_per_frame": _per_stream(blocks, batch),
    "compile_s": driver.compile_s,
    "overflow": trace_lib.check(trace),
    "tallies": {
      group: {"right": one.right.tolist(), "asked": one.asked.tolist()}
      for group, one in tallies.items()
    },
    "minus_full": None,
  }
  for group, one in tallies.items():
    values[group], values[f"{group}_ci"] = scores.accuracy(one)
  return {name: values[name] for name in FIELDS}


def paired(
  one_row: Mapping[str, Any], full: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Accuracy minus that of `full` on the same items, with intervals.

  Args:
    one_row: of `evaluate`.
    full: of the policy `full`, same streams.

  Returns:
    By group: {"difference", "ci"}.
  """
  found = {}
  for group in scores.GROUPS:
    one, other = (
      scores.Tally(
        np.array(each["tallies"][group]["right"]),
        np.array(each["tallies"][group]["asked"]),
      )
      for each in (one_row, full)
    )
    value, interval = scores.difference(one, other)
    found[group] = {"difference": value, "ci": interval}
  return found


def _by_kind(
  said: Sequence[streaming.Said], word_ids: Mapping[str, int]
) -> dict[str, float]:
  right: dict[str, list[bool]] = {kind: [] for kind in episodes_lib.KINDS}
  for one in said:
    right[one.item.kind].append(one.word == word_ids[one.item.word])
  return {kind: float(np.mean(all_)) for kind, all_ in right.items() if all_}


def _per_stream(
  blocks: Sequence[driver_lib.Block], batch: int
) -> dict[str, float | None]:
  """Time of a frame of one stream: that of a step by the streams in it."""
  times = session_report.ms_per_frame(blocks)
  return {
    name: None if value is None else value / batch
    for name, value in times.items()
  }
