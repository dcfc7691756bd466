"""A quick look at a model: held-out streams, every frame, full attention.

One pass over a whole stream with its questions as branches: what the streaming
driver computes with `full`, without a cache. The scores are [N, S, S], so it is
for streams of some hundred frames.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np

from vrex_jax.models import config as config_lib
from vrex_jax.tasks import rooms_batches
from vrex_jax.training import objective
from vrex_jax.typing import Parameters

__all__ = ["HELD_OUT", "evaluate", "summary"]

HELD_OUT = 2**31
"""Begins the seed of streams that no training draws."""


def evaluate(
  config: config_lib.ModelConfig,
  params: Parameters,
  *,
  frames: int,
  streams: int,
  questions: int = 64,
  visible: int = 4,
  seed: int = 0,
  told: Callable[[int], None] = lambda number: None,
) -> dict[str, tuple[int, int]]:
  """Right answers by kind on streams that were not trained on.

  Args:
    config: the model's shape.
    params: its parameters.
    frames: length of every stream.
    streams: how many.
    questions: of each stream.
    visible: frames an object is seen for, at most.
    seed: of the streams.
    told: called with the number of streams that are done.

  Returns:
    kind -> (right, asked), kinds of `rooms_batches.TARGET_KINDS`.
  """
  data = rooms_batches.BatchConfig(
    streams=1,
    frames=frames,
    span=frames,
    questions=questions,
    segments=12,
    least_segments=12,
    visible=visible,
    crowded=False,
  )
  totals = np.zeros((2, len(rooms_batches.TARGET_KINDS)), np.int64)
  for number in range(streams):
    random = np.random.default_rng([HELD_OUT, seed, number])
    batch = rooms_batches.draw_batch(data, random)
    outcome = jax.device_get(_outcome(config, params, batch))
    totals += np.stack([outcome.right, outcome.asked])
    told(number + 1)
  return {
    kind: (int(right), int(asked))
    for kind, right, asked in zip(
      rooms_batches.TARGET_KINDS, *totals, strict=True
    )
  }


def summary(counts: dict[str, tuple[int, int]]) -> dict[str, float]:
  """Shares of right answers: each kind's, and those of groups of kinds.

  Groups: `qa` (all questions), `qa-present` (kinds that end in -now), `qa-old`
  (the other questions). Kinds that were not asked are left out.

  Example:
    >>> summary({"count": (3, 4), "room-now": (1, 1)})
    {'count': 0.75, 'room-now': 1.0, 'qa': 0.8, 'qa-old': 0.75,
    'qa-present': 1.0}
  """
  asked = [kind for kind in counts if not kind.startswith("narration")]
  groups = {kind: [kind] for kind in counts}
  groups["qa"] = asked
  groups["qa-old"] = [kind for kind in asked if not kind.endswith("-now")]
  groups["qa-present"] = [kind for kind in asked if kind.endswith("-now")]
  shares = {}
  for name, kinds in groups.items():
    right = sum(counts[kind][0] for kind in kinds)
    number = sum(counts[kind][1] for kind in kinds)
    if number:
      shares[name] = right / number
  return shares


@functools.partial(jax.jit, static_argnums=0)
def _outcome(config, params, batch) -> objective.Outcome:
  return objective.loss(config, params, batch)[1]
