"""Right answers of a real model at settings of ReSV, and what they keep.

Closed loop: the model streams, and what it does not read changes what it stores
and says. Settings of one static choice differ in knobs only, so they share one
compilation; those that differ in questions and answers alone share a prefill:

  frames ─► thresholds of question setting 1 ─► ask, undo ─► … setting 2 ─► …

Open loop: what the same thresholds keep on recorded queries and keys, as
share of the past (`kept`) and of its attention (`mass`). A layer and head
then depends on its own threshold alone, so a few of them, tabulated, tell all.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax import session_report
from vrex_jax.baselines import full as full_lib
from vrex_jax.codesign import settings as settings_lib
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import prompt
from vrex_jax.resv import resv as resv_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = [
  "Drawn",
  "Table",
  "Tunable",
  "as_row",
  "compile_tunable",
  "drawn",
  "evaluate",
  "of_row",
  "open_loop",
  "record_episodes",
]

_STAGES = ("frame", "question", "answer")
_BLOCK = 64


class Drawn(NamedTuple):
  """Static. An episode whose pictures are kept; an `episodes.Stream`."""

  frames: int
  questions: tuple[tuple[episodes_lib.Item, ...], ...]
  narration: tuple[episodes_lib.Item, ...]
  shown: np.ndarray  # u8 [F, 48, 48, 3]

  def pictures(self, block: int) -> Iterator[np.ndarray]:
    """The frames, u8[up to `block`, 48, 48, 3]."""
    for first in range(0, self.frames, block):
      yield self.shown[first : first + block]


class Tunable(NamedTuple):
  """Static. Programs of ReSV whose thresholds are given with each run.

  Attributes:
    driver: compiled.
    choices: arguments of `resv` that are compiled in.
  """

  driver: programs.Driver
  choices: Mapping[str, Any]


class Table(NamedTuple):
  """Static. What thresholds keep of a recorded past; host arrays.

  Attributes:
    hamming_threshold: of every row.
    grid: thresholds, increasing from 0 to 1.
    kept: share of the past's tokens, mean over events.
    mass: share of its attention, mean over events, tokens and query heads.
  """

  hamming_threshold: tuple[int, ...]
  grid: np.ndarray  # f64 [G]
  kept: np.ndarray  # f64 [Z, 3, L, K, G]
  mass: np.ndarray  # f64 [Z, 3, L, K, G]

  def at(
    self, hamming_threshold: int, ratio: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Kept share and mass, f64[3, L, K] each, by straight lines.

    Args:
      hamming_threshold: one of the rows.
      ratio: thresholds of frames, questions and answers, f[3, L, K].
    """
    row = self.hamming_threshold.index(hamming_threshold)
    kept, mass = np.zeros(ratio.shape), np.zeros(ratio.shape)
    for place in np.ndindex(ratio.shape):
      for out, table in ((kept, self.kept), (mass, self.mass)):
        out[place] = np.interp(ratio[place], self.grid, table[row][place])
    return kept, mass


def as_row(table: Table) -> dict[str, Any]:
  """The table as JSON takes it."""
  return {
    name: np.asarray(value).tolist() for name, value in table._asdict().items()
  }


def of_row(row: Mapping[str, Any]) -> Table:
  """What `as_row` made."""
  return Table(
    tuple(row["hamming_threshold"]),
    *(np.asarray(row[name]) for name in Table._fields[1:]),
  )


def drawn(episode: episodes_lib.Episode) -> Drawn:
  """An episode that is shown many times, drawn once."""
  return Drawn(
    episode.frames,
    episode.questions,
    episode.narration,
    np.concatenate(list(episode.pictures(_BLOCK))),
  )


def compile_tunable(
  model: checkpoint_lib.Checkpoint,
  options: streaming.StreamOptions,
  shape: episodes_lib.EpisodeConfig,
  **choices: Any,
) -> Tunable:
  """Programs for all settings of one static choice.

  Args:
    model: weights and tokenizer.
    options: how episodes are streamed.
    shape: of the episodes.
    **choices: of `resv`; neither thresholds nor their stages.
  """
  decoder = model.config.decoder
  ones = np.ones((decoder.num_layers, decoder.num_kv_heads))
  policy = _policy(choices, 7, ones, ones)
  return Tunable(
    streaming.compile_batch(model, policy, options, shape), choices
  )


def evaluate(
  model: checkpoint_lib.Checkpoint,
  tunable: Tunable,
  options: streaming.StreamOptions,
  prefill: settings_lib.Prefill,
  batches: Sequence[Sequence[episodes_lib.Stream]],
  *,
  word_ids: Mapping[str, int],
  visible: int,
) -> list[dict[str, Any]]:
  """Streams episodes once and asks every question at every setting of text.

  Args:
    model: weights and tokenizer.
    tunable: programs.
    options: of the same.
    prefill: the settings.
    batches: of episodes.
    word_ids: token of every word.
    visible: frames an object is seen for, at most.

  Returns:
    A row of `cell.FIELDS` for each setting of text; streams are numbered from
    0 in the order given.
  """
  asked = tuple(
    dataclasses.replace(
      tunable.driver,
      policy=_policy(
        tunable.choices, prefill.hamming_threshold, prefill.frame, text
      ),
    )
    for text in prefill.text
  )
  group = streaming.Group(asked[0], asked, _lending(asked))
  outcomes = [
    streaming.run_batch(model, group, options, batch, place * options.batch)
    for place, batch in enumerate(batches)
  ]
  frames = batches[0][0].frames
  return [
    cell.row(
      driver,
      [batch[index] for batch in outcomes],
      frames=frames,
      visible=visible,
      word_ids=word_ids,
    )
    for index, driver in enumerate(asked)
  ]


def _policy(
  choices: Mapping[str, Any],
  hamming_threshold: int,
  frame: np.ndarray,
  text: np.ndarray,
) -> policy_lib.KVPolicy:
  return resv_lib.resv(
    wicsum_ratio=settings_lib.ratios(frame, text),
    hamming_threshold=hamming_threshold,
    **choices,
  )


def _lending(asked: Sequence[programs.Driver]) -> streaming.Lending:
  """One state for all: only its thresholds are exchanged."""

  def tuned(run: driver_lib.Run, index: int) -> driver_lib.Run:
    state = run.state
    ratio = jax.numpy.broadcast_to(
      asked[index].policy.knobs["wicsum_ratio"], state.policy.wicsum_ratio.shape
    )
    policy = state.policy.replace(wicsum_ratio=ratio)
    return dataclasses.replace(run, state=state.replace(policy=policy))

  return streaming.Lending(
    lend=lambda run, index: dataclasses.replace(tuned(run, index), traces=()),
    take_back=lambda run, lent, index: dataclasses.replace(
      run, state=lent.state
    ),
  )


# open loop


def record_episodes(
  model: checkpoint_lib.Checkpoint,
  options: streaming.StreamOptions,
  shape: episodes_lib.EpisodeConfig,
  episodes: Sequence[episodes_lib.Stream],
) -> list[recording_lib.Recording]:
  """Queries, keys and values of streams under `full`, questions undone.

  Args:
    model: weights and tokenizer.
    options: how they are streamed; one at a time.
    shape: of the episodes.
    episodes: the streams.
  """
  options = dataclasses.replace(options, batch=1)
  driver = streaming.compile_batch(
    model, full_lib.full(), options, shape, observe=observing.record_chunk
  )
  return [_recorded(model, driver, options, episode) for episode in episodes]


def _recorded(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  options: streaming.StreamOptions,
  episode: episodes_lib.Stream,
) -> recording_lib.Recording:
  run = streaming.begin(model, driver, options)
  pictures = np.concatenate(list(episode.pictures(_BLOCK)))
  done = 0
  for items in episode.questions:
    until = items[0].time + 1
    block = pictures[done:until, None]
    run = driver_lib.feed_frames(driver, run, block, [0.0] * len(block))
    done = until
    for item in items:
      tokens = prompt.question_tokens(
        model.template, model.tokenizer, item.text
      )
      run, _ = driver_lib.ask(driver, run, [tokens])
  arrays = session_report.record_arrays(model, run.observations)
  return recording_lib.from_arrays(arrays)


def open_loop(
  recordings: Sequence[recording_lib.Recording],
  hamming_thresholds: Sequence[int],
  grid: np.ndarray,
  choices: Mapping[str, Any],
) -> Table:
  """Tabulates what thresholds keep; the mean over recordings.

  Args:
    recordings: streams with questions.
    hamming_thresholds: of the rows.
    grid: thresholds of WiCSum, increasing from 0 to 1.
    choices: arguments of `resv` that are held.
  """
  policy = resv_lib.resv(**choices)
  knobs = {
    "wicsum_ratio": np.tile(
      np.asarray(grid, np.float32), len(hamming_thresholds)
    ),
    "hamming_threshold": np.repeat(
      np.asarray(hamming_thresholds, np.int32), len(grid)
    ),
    "text_ratio": None,
  }
  found = []
  for recording in recordings:
    played = replay.replay(policy, recording, knobs=knobs, sweep=True)
    found.append(_by_stage(played))
    jax.clear_caches()
  kept, mass = (np.mean(parts, axis=0) for parts in zip(*found, strict=True))
  split = lambda table: np.moveaxis(
    table.reshape(3, len(hamming_thresholds), len(grid), *table.shape[2:]),
    (1, 2),
    (0, -1),
  )
  return Table(
    tuple(map(int, hamming_thresholds)), np.asarray(grid), split(kept),
    split(mass),
  )  # fmt: skip


def _by_stage(played: replay.Replayed) -> tuple[np.ndarray, np.ndarray]:
  """Kept share and mass of a sweep, f64[3, Z, L, K] each."""
  stages = np.array([chunk.stage for chunk in played.chunks])
  seen = np.asarray(played.counts.past_seen, np.float64)  # [X, Z, L, K]
  share = np.asarray(played.counts.past_attended) / np.maximum(seen, 1.0)
  heads = np.asarray(played.mass, np.float64)  # [X, Z, L, N]
  mass = heads.reshape(*share.shape, -1).mean(axis=-1)
  past = seen[:, 0, 0, 0] > 0
  mean = lambda table: np.stack(
    [table[past & (stages == stage)].mean(axis=0) for stage in _STAGES]
  )
  return mean(share), mean(mass)
