"""Settings that are really run: what a stream keeps when it reacts.

A sweep reads the queries of a run that attended to everything. Here the same
stream runs under a setting, so that its hidden states, and what later queries
ask for, are those of that setting:

  gap = closed loop - open loop,   of shares attended, mass and recall

Th_hd and Th_r are traced: settings of one N_hp and table share their programs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from vrex_jax import policy_syntax
from vrex_jax import programs
from vrex_jax import trace as trace_lib
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import rooms_run
from vrex_jax.codesign import settings
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["Stream", "record", "run"]


class Stream(NamedTuple):
  """Static. A stream that can be run again.

  Attributes:
    model: that streams it.
    word_ids: token of every word.
    shape: of the episode.
    episode: the stream.
  """

  model: checkpoint_lib.Checkpoint
  word_ids: Mapping[str, int]
  shape: episodes_lib.EpisodeConfig
  episode: episodes_lib.Episode


def record(stream: Stream) -> rooms_run.Recorded:
  """Records the stream under `full`; a bar shows frames."""
  full = policy_syntax.make_policy("full")
  driver = rooms_run.compiled(stream.model, full, stream.shape)
  with tqdm.tqdm(
    total=stream.shape.frames, desc="record", unit="frame", disable=None
  ) as bar:
    return rooms_run.stream_episode(
      stream.model, driver, stream.episode, stream.word_ids, told=bar.update
    )


def run(
  stream: Stream,
  rows: Sequence[dict[str, Any]],
  write: Callable[[], None],
  stopped: Callable[[], bool],
) -> None:
  """Runs settings and puts what was found in their rows, as `closed`.

  Args:
    stream: the stream.
    rows: of `settings.rows_of`, all of one N_hp, table and variant.
    write: called after each.
    stopped: has the user asked to end?
  """
  driver = None
  with tqdm.tqdm(rows, desc="closed loop", unit="run", disable=None) as bar:
    for row in bar:
      if stopped():
        return
      driver = _driver(stream, row) if driver is None else driver
      row["closed"] = _closed(stream, driver, row)
      write()


def _of_row(
  row: Mapping[str, Any],
) -> tuple[curves_lib.StaticChoice, settings.Variant]:
  choice = curves_lib.StaticChoice(
    hamming_threshold=row["hamming_threshold"],
    hash_bits=row["hash_bits"],
    table=row["table"],
  )
  return choice, settings.Variant(
    row["recent_tokens"], row["rows"], row["votes"]
  )


def _driver(stream: Stream, row: Mapping[str, Any]) -> programs.Driver:
  """Programs with room for a cluster a token."""
  tokens = stream.model.config.tokens_per_frame
  policy = settings.policy_of(
    *_of_row(row), row["wicsum_ratio"], (stream.shape.frames + 16) * tokens
  )
  return rooms_run.compiled(stream.model, policy, stream.shape)


def _closed(
  stream: Stream, driver: programs.Driver, row: Mapping[str, Any]
) -> dict[str, Any]:
  """One run: shares of its trace, mass and recall of its own queries."""
  choice, variant = _of_row(row)
  ratio = row["wicsum_ratio"]
  knobs = {
    **driver.policy.knobs,
    "wicsum_ratio": ratio,
    "hamming_threshold": choice.hamming_threshold,
  }
  found = rooms_run.stream_episode(
    stream.model,
    driver,
    stream.episode,
    stream.word_ids,
    knobs=knobs,
    recent_tokens=variant.recent_tokens,
  )
  own = curves_lib.of_recording(
    found.recording,
    [choice],
    np.array([ratio / 2, ratio]),
    evidence=found.evidence,
    **variant._asdict(),
  )
  mean = lambda array: {
    stage: None if array is None else float(np.mean(array[0, at, ..., 1]))
    for at, stage in enumerate(curves_lib.STAGES)
  }
  return {
    "kept": trace_lib.retrieval_ratio(found.trace),
    "mass": mean(own.mass),
    "recall": mean(own.recall),
    "right": found.right,
    "asked": found.asked,
    "overflow": trace_lib.check(found.trace),
    "seconds": found.spent.wall_s,
  }
