"""The training loop: stages one after the other, steps of a stage in turn."""

import functools
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from vrex_jax.models import config as config_lib
from vrex_jax.tasks import rooms_batches
from vrex_jax.training import curriculum as curriculum_lib
from vrex_jax.training import drawing
from vrex_jax.training import objective
from vrex_jax.training import state as state_lib
from vrex_jax.typing import Parameters, PyTree

__all__ = ["Watch", "train", "update"]


class Watch(NamedTuple):
  """Static. Who is told how a training goes.

  Attributes:
    step: after every step: the stage and the step's outcome.
    keep: now and then, and at the end of a stage or where it was stopped: the
      training to write down.
    stopped: whether to end after the step under way.
    seconds: between two calls of `keep`.
  """

  step: Callable[[curriculum_lib.Stage, objective.Outcome], None]
  keep: Callable[[state_lib.TrainState], None]
  stopped: Callable[[], bool]
  seconds: float = 60.0


def train(
  config: config_lib.ModelConfig,
  stages: tuple[curriculum_lib.Stage, ...],
  state: state_lib.TrainState,
  seed: int,
  executor: futures.Executor,
  watch: Watch,
) -> state_lib.TrainState:
  """Trains from where a training stands to its end.

  Args:
    config: the model's shape.
    stages: of the curriculum.
    state: begun or loaded; not to be used again.
    seed: of the batches.
    executor: who draws batches.
    watch: who is told.

  Returns:
    The training after its last step, or where it was stopped.
  """
  while True:
    state = _finish_stage(config, stages, state, seed, executor, watch)
    watch.keep(state)
    stage_done = state.step == stages[state.stage].steps
    last = state.stage == len(stages) - 1
    if last or not stage_done or watch.stopped():
      return state
    state = state_lib.begin_stage(state, stages)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def update(
  config: config_lib.ModelConfig,
  stage: curriculum_lib.Stage,
  params: Parameters,
  optimiser: PyTree,
  batch: drawing.Drawn,
) -> tuple[Parameters, PyTree, objective.Outcome]:
  """One step.

  Args:
    config: the model's shape.
    stage: the stage the step belongs to.
    params: {"model", "heads"}; donated.
    optimiser: its state; donated.
    batch: as drawn.

  Returns:
    Both after the step, and the step's outcome before it.
  """

  def loss(tree):
    if isinstance(batch, rooms_batches.Labels):
      return objective.label_loss(config, tree["model"], tree["heads"], batch)
    return objective.loss(config, tree["model"], batch)

  (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  change, optimiser = state_lib.optimiser(stage).update(
    gradient, optimiser, params
  )
  slow = lambda tree: jax.tree.map(lambda leaf: stage.tower * leaf, tree)
  model = {
    part: tree if part == "decoder" else slow(tree)
    for part, tree in change["model"].items()
  }
  change = {**change, "model": model}
  return optax.apply_updates(params, change), optimiser, outcome


def _finish_stage(
  config: config_lib.ModelConfig,
  stages: tuple[curriculum_lib.Stage, ...],
  state: state_lib.TrainState,
  seed: int,
  executor: futures.Executor,
  watch: Watch,
) -> state_lib.TrainState:
  stage = stages[state.stage]
  outcomes: list[Any] = []
  kept = time.monotonic()
  batches = drawing.ahead(executor, stage, seed, state.stage, state.step)
  for batch in batches:
    params, optimiser, outcome = update(
      config, stage, state.params, state.optimiser, batch
    )
    outcome = jax.device_get(outcome)
    outcomes.append(outcome)
    state = state._replace(
      params=params, optimiser=optimiser, step=state.step + 1
    )
    watch.step(stage, outcome)
    if watch.stopped():
      break
    if time.monotonic() - kept > watch.seconds:
      state, outcomes = _with_outcomes(state, outcomes), []
      watch.keep(state)
      kept = time.monotonic()
  return _with_outcomes(state, outcomes)


def _with_outcomes(
  state: state_lib.TrainState, outcomes: list[Any]
) -> state_lib.TrainState:
  """The training with the log of its stage brought up to date."""
  if not outcomes:
    return state
  log = state_lib.Log(
    *(
      np.concatenate([old, np.stack(new).astype(old.dtype)])
      for old, new in zip(
        state.logs[-1], zip(*outcomes, strict=True), strict=True
      )
    )
  )
  return state._replace(logs=(*state.logs[:-1], log))
