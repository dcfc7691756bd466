"""Cases of a comparison: method, stages and share, with doses found for them.

Doses are searched on streams of the rooms task that no evaluation sees; one
compiled stream serves a whole search, since doses are knobs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vrex_jax import policy as policy_lib
from vrex_jax import trace as trace_lib
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.study import matching
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["Case", "cases", "find_doses", "held_out", "past_of", "policy_of"]

_FIRST_INDEX = 2**30
"""Of the streams that doses are searched on; no evaluation has as many."""


class Case(NamedTuple):
  """Static. One point of a comparison.

  Attributes:
    method: of `matching.METHODS`.
    variant: of `matching.VARIANTS`.
    share: of the past, wanted.
  """

  method: str
  variant: str
  share: float


def cases(
  methods: Sequence[str], variants: Sequence[str], shares: Sequence[float]
) -> list[Case]:
  """All that are asked for and differ; those of one share together.

  Example:
    >>> [case.variant for case in cases(["h2o"], ["asked", "all"], [0.1])]
    ['all']
  """
  return [
    Case(method, variant, share)
    for share in shares
    for method in methods
    for variant in variants
    if variant in matching.METHODS[method].variants
  ]


def past_of(model: checkpoint_lib.Checkpoint, frames: int) -> matching.Past:
  """The past at the end of a stream, without its text."""
  tokens = model.config.tokens_per_frame
  return matching.Past(frames * tokens, tokens)


def policy_of(
  case: Case, past: matching.Past, doses: matching.Doses, **more: Any
) -> policy_lib.KVPolicy:
  """The policy of a case."""
  return matching.make(
    case.method, case.variant, case.share, past, doses, **more
  )


def held_out(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  options: streaming.StreamOptions,
  shape: episodes_lib.EpisodeConfig,
  seed: int,
) -> Callable[[policy_lib.KVPolicy], dict[str, float]]:
  """Streams on which shares are counted, compiled once.

  Args:
    model: weights and tokenizer.
    policy: whose programs are compiled.
    options: how episodes are streamed.
    shape: of the episodes; one question is asked at each time.
    seed: of the streams; they differ from those of an evaluation.

  Returns:
    The same policy with other knobs -> its retrieval ratio by stage.
  """
  shape = dataclasses.replace(shape, questions=shape.asks)
  group = streaming.compile_group(model, [policy], options, shape)
  episodes = [
    episodes_lib.draw(shape, seed, _FIRST_INDEX + index)
    for index in range(options.batch)
  ]

  def reached(changed: policy_lib.KVPolicy) -> dict[str, float]:
    driver = dataclasses.replace(
      group.prefill, policy=policy._replace(knobs=changed.knobs)
    )
    again = streaming.Group(driver, (driver,))
    outcome = streaming.run_batch(model, again, options, episodes, 0)[0]
    return trace_lib.retrieval_ratio(outcome.trace)

  return reached


def find_doses(
  case: Case,
  past: matching.Past,
  streams: Callable[
    [policy_lib.KVPolicy],
    Callable[[policy_lib.KVPolicy], Mapping[str, float]],
  ],
  **limits: Any,
) -> matching.Search:
  """The doses of a case; without streaming where none is searched.

  Args:
    case: method, stages and share.
    past: that the share is of.
    streams: policy -> `held_out`, called once at most.
    **limits: of `matching.search`.
  """
  wanted = matching.searched(case.method, case.variant)
  if not wanted:
    return matching.search(lambda doses: {}, case.share, {})
  make = lambda doses: policy_of(case, past, doses)
  count = streams(make(matching.first_doses(case.share)))
  return matching.search(
    lambda doses: count(make(doses)), case.share, wanted, **limits
  )
