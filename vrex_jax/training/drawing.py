"""Batches drawn ahead, in the background, each from its own seed.

A batch is a function of (seed, stage, step) alone: whoever draws it, and
whenever, a training that is taken up again sees the batches it would have seen.
"""

import collections
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent import futures

import numpy as np

from vrex_jax.tasks import rooms_batches
from vrex_jax.training import curriculum as curriculum_lib

__all__ = ["Drawn", "ahead", "draw", "pool"]

Drawn = rooms_batches.Batch | rooms_batches.Labels


def draw(
  stage: curriculum_lib.Stage, seed: int, number: int, step: int
) -> Drawn:
  """The batch of one step.

  Args:
    stage: what is drawn.
    seed: of the training.
    number: of the stage.
    step: of the stage, from 0.

  Example:
    >>> stage = curriculum_lib.curriculum("tiny")[0]
    >>> draw(stage, 0, 0, 3).pictures.shape
    (12, 48, 48, 3)
  """
  random = np.random.default_rng([seed, number, step])
  if isinstance(stage.data, int):
    return rooms_batches.draw_labels(stage.data, random)
  return rooms_batches.draw_batch(stage.data, random)


@contextlib.contextmanager
def pool(workers: int) -> Iterator[futures.Executor]:
  """Who draws.

  Args:
    workers: processes; 0 for a thread of this one.

  Yields:
    The executor; what it has not begun is dropped at the end.
  """
  executor: futures.Executor
  if workers:
    executor = futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context("spawn"), _leave_interrupts
    )
  else:
    executor = futures.ThreadPoolExecutor(1)
  try:
    yield executor
  finally:
    executor.shutdown(cancel_futures=True)


def ahead(
  executor: futures.Executor,
  stage: curriculum_lib.Stage,
  seed: int,
  number: int,
  first: int,
  depth: int = 4,
) -> Iterator[Drawn]:
  """Batches of a stage's steps from `first` on, some of them drawn ahead.

  Args:
    executor: who draws.
    stage: what is drawn.
    seed: of the training.
    number: of the stage.
    first: step to begin with.
    depth: batches drawn ahead.

  Yields:
    The batches in order.
  """
  waiting: collections.deque[futures.Future[Drawn]] = collections.deque()
  for step in range(first, stage.steps):
    waiting.append(executor.submit(draw, stage, seed, number, step))
    if len(waiting) > depth:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def _leave_interrupts() -> None:
  """Ctrl-C reaches every process; the one that asked for batches answers."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
