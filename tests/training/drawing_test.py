"""Batches are functions of seed, stage and step, whoever draws them."""

import numpy as np
import pytest

from vrex_jax.training import curriculum
from vrex_jax.training import drawing

STAGES = curriculum.curriculum("tiny")


def equal(one, other):
  return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_seed_stage_and_step_each_change_the_batch():
  one = drawing.draw(STAGES[1], 0, 1, 0)
  assert equal(one, drawing.draw(STAGES[1], 0, 1, 0))
  for changed in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
    assert not equal(one, drawing.draw(STAGES[1], *changed))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("depth", [1, 8])
def test_batches_drawn_ahead_come_in_order(workers, depth):
  if workers and depth == 8:
    pytest.skip("starting a process takes a while; one depth is enough")
  stage = STAGES[0]
  with drawing.pool(workers) as executor:
    batches = list(drawing.ahead(executor, stage, 5, 0, 1, depth))
  assert len(batches) == stage.steps - 1
  for step, batch in enumerate(batches, start=1):
    assert equal(batch, drawing.draw(stage, 5, 0, step))


def test_leaving_early_drops_what_was_not_begun():
  with drawing.pool(0) as executor:
    batches = drawing.ahead(executor, STAGES[0], 0, 0, 0, depth=3)
    next(batches)
  with pytest.raises(RuntimeError, match="after shutdown"):
    executor.submit(int)
