"""Right answers of a real model at settings of ReSV.

The model streams, so what it does not read changes what it stores and says.
Settings of one static choice differ in knobs only, so they share one
compilation; those that differ in questions and answers alone share a prefill:

  frames ─► thresholds of question setting 1 ─► ask, undo ─► … setting 2 ─► …
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax.codesign import accuracy_settings as settings_lib
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.resv import resv as resv_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = [
  "Drawn",
  "Tunable",
  "compile_tunable",
  "drawn",
  "evaluate",
]

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
