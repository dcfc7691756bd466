"""The closed loop: the model that ships, streamed with the found thresholds.

Curves are of a recording that does not react. Here frames are streamed, keys
change with what earlier layers read, and questions are answered: what was kept
and what was lost against `full` on the same items are measured.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import trace as trace_lib
from vrex_jax.codesign import turn
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.resv import resv as resv_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = [
  "FIGURES",
  "Measured",
  "from_json",
  "measure",
  "measure_designs",
  "policy_of",
]

FIGURES = ("qa", "narration_old")
"""Groups of items whose loss counts; the worse of both is the drop."""
_SEED = 3
"""Of the streams: curves are of 0 and 1, measured points of 2."""
_TEXT_FRAMES = 16
"""The prompt and one question at a time, in frames."""


class Measured(NamedTuple):
  """One policy on real streams.

  Attributes:
    kept: share of the past attended, f[3, L, K]; nan without such an event.
    drop: the worse of `FIGURES`, right answers less than `full`, a share.
    interval: of that difference, 95 %, by bootstrap over streams.
    accuracy: share of right answers of that group.
    row: as `evaluation.cell` has it.
  """

  kept: np.ndarray
  drop: float
  interval: tuple[float, float]
  accuracy: float
  row: dict[str, Any]


def policy_of(
  ratio: np.ndarray,
  *,
  hamming_threshold: int,
  hash_bits: int,
  table: str,
  room: int,
  name: str,
) -> policy_lib.KVPolicy:
  """ReSV with a threshold for every stage, layer and head.

  Args:
    ratio: f[3, L, K], frames, questions, answers; the prompt takes that of
      frames.
    hamming_threshold: Th_hd.
    hash_bits: N_hp.
    table: scope.
    room: clusters of a table; as many as tokens, as the curves have it: what is
      in no cluster would be read always.
    name: of the policy in tables.
  """
  ratio = np.asarray(ratio, np.float32)
  whole = np.concatenate([ratio[:1], ratio])
  policy = resv_lib.resv(
    wicsum_ratio=whole,
    hamming_threshold=hamming_threshold,
    hash_bits=hash_bits,
    table=table,
    table_capacity=room,
  )
  return policy._replace(name=name)


def measure(
  model: checkpoint_lib.Checkpoint,
  word_ids: dict[str, int],
  policies: Sequence[policy_lib.KVPolicy],
  shape: episodes_lib.EpisodeConfig,
  *,
  questions: int,
  full: Mapping[str, Any] | None = None,
  batch: int = 8,
  seed: int = 0,
  told: Callable[[int], None] = lambda frames: None,
) -> tuple[Mapping[str, Any], list[Measured]]:
  """Streams the same episodes under `full` and some policies.

  Args:
    model: weights and tokenizer.
    word_ids: token of every word.
    policies: to compare with `full`.
    shape: of the episodes.
    questions: at least so many.
    full: row of `full` on these episodes, where it has run before.
    batch: most streams side by side.
    seed: of the episodes.
    told: called with frames that are done.

  Returns:
    The row of `full`, and one for each policy, in order.
  """
  streams, batch = cell.number_of_streams(questions, shape.questions, batch)
  options = streaming.StreamOptions(batch=batch)
  found = []
  before = [policy_syntax.make_policy("full")] if full is None else []
  for policy in (*before, *policies):
    group = streaming.compile_group(model, [policy], options, shape)
    outcomes = []
    for first in range(0, streams, batch):
      episodes = [
        episodes_lib.draw(shape, seed, first + index) for index in range(batch)
      ]
      (outcome,) = streaming.run_batch(
        model,
        group,
        options,
        episodes,
        first,
        lambda frames: told(frames * batch),
      )
      outcomes.append(outcome)
    row = cell.row(
      group.prefill,
      outcomes,
      frames=shape.frames,
      visible=shape.visible,
      word_ids=word_ids,
    )
    found.append((row, [outcome.trace for outcome in outcomes]))
  if full is None:
    full = found.pop(0)[0]
  return full, [_measured(row, full, traces) for row, traces in found]


def measure_designs(
  designs: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]],
  *,
  frames: int,
  questions: int,
  full: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """`measure` on the model that ships, as JSON knows it (`from_json`).

  Args:
    designs: name -> thresholds f[3, L, K], and the static choice by name.
    frames: of a stream.
    questions: at least so many.
    full: row of `full` of an earlier call with the same frames and questions.

  Returns:
    {"full": its row, "designs": by name}.
  """
  model, ids = words.load_rooms_model(None)
  shape = episodes_lib.EpisodeConfig(frames=frames)
  room = (frames + _TEXT_FRAMES) * model.config.tokens_per_frame
  policies = [
    policy_of(ratio, **choice, room=room, name=name)
    for name, (ratio, choice) in designs.items()
  ]
  full, found = measure(
    model, ids, policies, shape, questions=questions, full=full, seed=_SEED
  )
  return {
    "full": full,
    "designs": {
      name: {**one._asdict(), "kept": one.kept.tolist()}
      for name, one in zip(designs, found, strict=True)
    },
  }


def from_json(kept: Mapping[str, Any]) -> Measured:
  """One of the designs that `measure_designs` gave."""
  low, high = kept["interval"]
  return Measured(
    np.array(kept["kept"]),
    kept["drop"],
    (low, high),
    kept["accuracy"],
    kept["row"],
  )


def _measured(
  row: dict[str, Any],
  full: Mapping[str, Any],
  traces: Sequence[trace_lib.StreamTrace],
) -> Measured:
  against = cell.paired(row, full)
  worst = min(FIGURES, key=lambda group: against[group]["difference"])
  low, high = against[worst]["ci"]
  return Measured(
    kept=_kept(trace_lib.concatenate(traces)),
    drop=0.0 - float(against[worst]["difference"]),
    interval=(0.0 - float(high), 0.0 - float(low)),
    accuracy=float(row[worst]),
    row={**row, "minus_full": against},
  )


def _kept(trace: trace_lib.StreamTrace) -> np.ndarray:
  """Past attended of past seen by stage, layer and head: f[3, L, K]."""
  shares = []
  for stage in turn.STAGES:
    events = trace.stage == trace_lib.STAGES.index(stage)
    total = lambda name, at=events: (
      trace.counts[name][at].astype(np.float64).sum(axis=(0, 2))
    )
    seen = trace.rows_per_head * total("past_seen")
    attended = total("past_attended")
    shares.append(attended / np.where(seen > 0, seen, np.nan))
  return np.stack(shares)
