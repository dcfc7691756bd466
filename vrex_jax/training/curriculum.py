"""What is trained on, in which order: stages from single frames to streams."""

import dataclasses

from vrex_jax.errors import InputError
from vrex_jax.tasks import rooms_batches
from vrex_jax.training import small_model

__all__ = ["CURRICULA", "LABELS", "Stage", "curriculum"]

LABELS = ("shape", "colour", "room")
"""What a single frame is asked in the first stage."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """Static. A part of the training with its own data and learning rate.

  The rate rises to its peak in `warm_up` steps and falls to its floor at the
  last one along a cosine; the optimiser starts anew.

  Attributes:
    name: as curves and messages call it.
    steps: updates.
    data: streams with questions, or the number of single frames of a step.
    peak: highest learning rate.
    floor: last learning rate.
    warm_up: steps of the rise.
    tower: factor of the updates of vision tower and connector.
  """

  name: str
  steps: int
  data: rooms_batches.BatchConfig | int
  peak: float
  floor: float
  warm_up: int = 20
  tower: float = 0.5

  @property
  def kinds(self) -> tuple[str, ...]:
    """What answers are counted by."""
    if isinstance(self.data, int):
      return LABELS
    return rooms_batches.TARGET_KINDS


def curriculum(name: str, steps_scale: float = 1.0) -> tuple[Stage, ...]:
  """Stages of a named curriculum.

  Args:
    name: a key of `CURRICULA`.
    steps_scale: factor of every stage's steps; at least one step is left.

  Raises:
    InputError: no curriculum has this name, or the factor is not positive.

  Example:
    >>> [stage.steps for stage in curriculum("tiny", steps_scale=0.5)]
    [2, 2, 2]
  """
  if name not in CURRICULA:
    raise InputError(
      f"--curriculum is {name!r}; it must be one of {', '.join(CURRICULA)}:"
      " choose one of these"
    )
  if not 0 < steps_scale < float("inf"):
    raise InputError(
      f"--steps_scale is {steps_scale:g}; it must be a positive number: try 1"
    )
  return tuple(
    dataclasses.replace(stage, steps=max(1, round(steps_scale * stage.steps)))
    for stage in CURRICULA[name]
  )


_FULL = (
  # Without this stage shapes stay at chance.
  Stage(name="frames", steps=2000, data=96, peak=2e-3, floor=1e-4, tower=1.0),
  Stage(
    name="few",
    steps=200,
    data=rooms_batches.BatchConfig(
      streams=64,
      frames=4,
      span=64,
      questions=4,
      segments=3,
      least_segments=2,
      narration=0.0,
      crowded=False,
    ),
    peak=2e-3,
    floor=1e-3,
  ),
  Stage(
    name="some",
    steps=400,
    data=rooms_batches.BatchConfig(
      streams=40,
      frames=8,
      span=192,
      questions=8,
      segments=6,
      least_segments=3,
      narration=0.5,
      crowded=False,
    ),
    peak=2e-3,
    floor=1e-3,
  ),
  Stage(
    name="many",
    steps=1400,
    data=rooms_batches.BatchConfig(
      streams=20,
      frames=24,
      span=640,
      questions=12,
      segments=12,
      least_segments=6,
    ),
    peak=2e-3,
    floor=2e-4,
  ),
  Stage(
    name="long",
    steps=900,
    data=rooms_batches.BatchConfig(
      streams=10,
      frames=48,
      span=small_model.FRAMES,
      questions=16,
      segments=12,
      least_segments=10,
    ),
    peak=1.2e-3,
    floor=5e-5,
  ),
)

_TINY = (
  Stage(name="frames", steps=4, data=12, peak=2e-3, floor=2e-4, tower=1.0),
  Stage(
    name="few",
    steps=4,
    data=rooms_batches.BatchConfig(
      streams=2,
      frames=4,
      span=32,
      questions=3,
      segments=3,
      least_segments=2,
      narration=0.0,
      crowded=False,
    ),
    peak=2e-3,
    floor=1e-3,
  ),
  Stage(
    name="many",
    steps=4,
    data=rooms_batches.BatchConfig(
      streams=2,
      frames=6,
      span=64,
      questions=3,
      segments=4,
      least_segments=3,
    ),
    peak=1e-3,
    floor=1e-4,
  ),
)

CURRICULA: dict[str, tuple[Stage, ...]] = {"full": _FULL, "tiny": _TINY}
"""Curricula by name; "tiny" proves in seconds that a training runs through."""
