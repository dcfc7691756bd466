"""Training: what an update does, and that an interruption changes nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from vrex_jax.errors import InputError
from vrex_jax.training import curriculum
from vrex_jax.training import drawing
from vrex_jax.training import loop
from vrex_jax.training import small_model
from vrex_jax.training import state as state_lib

STAGES = tuple(
  dataclasses.replace(stage, steps=3)
  for stage in (
    curriculum.curriculum("tiny")[0],
    curriculum.curriculum("tiny")[2],
  )
)
SETTINGS = {"seed": 4, "curriculum": "test"}


def shape():
  config = small_model.shape()
  return dataclasses.replace(
    config,
    decoder=dataclasses.replace(
      config.decoder, num_layers=1, hidden_size=32, intermediate_size=32
    ),
    vision=dataclasses.replace(
      config.vision, num_layers=1, hidden_size=16, intermediate_size=16
    ),
  )


def run(state, keep, stop_after=None, seconds=1e9):
  """Trains; stops after so many steps."""
  seen = []
  watch = loop.Watch(
    lambda stage, outcome: seen.append((stage.name, outcome.loss)),
    keep,
    lambda: len(seen) == stop_after,
    seconds,
  )
  with drawing.pool(0) as executor:
    return loop.train(shape(), STAGES, state, 4, executor, watch), seen


def begin():
  return state_lib.begin(shape(), STAGES, 4)


def leaves(state):
  return jax.tree.leaves((state.params, state.optimiser, state.logs))


@pytest.fixture(scope="module")
def whole():
  """A training without an interruption, and the steps it reported."""
  return run(begin(), lambda state: None)


def test_every_step_is_reported_and_logged(whole):
  state, seen = whole
  names = [stage.name for stage in STAGES for _ in range(stage.steps)]
  assert [name for name, _ in seen] == names
  logged = np.concatenate([log.loss for log in state.logs])
  np.testing.assert_array_equal(logged, [loss for _, loss in seen])
  assert (state.stage, state.step) == (1, 3)
  assert [log.right.shape for log in state.logs] == [(3, 3), (3, 13)]
  assert (state.logs[0].asked == 12 * 4).all()


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_taken_up_again_it_ends_bit_by_bit_the_same(
  whole, tmp_path, stop_after
):
  path = tmp_path / "checkpoint.safetensors"
  keep = lambda state: state_lib.save(state, path, SETTINGS)
  first, seen = run(begin(), keep, stop_after)
  assert len(seen) == stop_after
  loaded = state_lib.load(path, shape(), STAGES, SETTINGS)
  assert (loaded.stage, loaded.step) == (first.stage, first.step)
  for one, other in zip(leaves(first), leaves(loaded), strict=True):
    np.testing.assert_array_equal(one, other)
  last, _ = run(loaded, keep)
  for one, other in zip(leaves(whole[0]), leaves(last), strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_checkpoint_written_in_the_middle_is_whole(whole, tmp_path):
  """What a crash leaves: the last of the checkpoints kept now and then."""
  path = tmp_path / "checkpoint.safetensors"
  kept = []

  def keep(state):
    if len(kept) < 2:
      state_lib.save(state, path, SETTINGS)
    kept.append(state.step)

  run(begin(), keep, seconds=0.0)
  assert kept == [1, 2, 3, 3, 1, 2, 3, 3]
  last, _ = run(
    state_lib.load(path, shape(), STAGES, SETTINGS), lambda state: None
  )
  for one, other in zip(leaves(whole[0]), leaves(last), strict=True):
    np.testing.assert_array_equal(one, other)
  assert list(tmp_path.iterdir()) == [path]


def test_updates_of_the_tower_are_scaled():
  stage = dataclasses.replace(STAGES[0], tower=0.25, steps=5)
  plain = dataclasses.replace(stage, tower=1.0)
  batch = drawing.draw(stage, 0, 0, 0)
  moved = {}
  for one in (stage, plain):
    state = state_lib.begin(shape(), (one,), 0)
    before = jax.tree.map(np.array, state.params)
    after, _, _ = loop.update(
      shape(), one, state.params, state.optimiser, batch
    )
    moved[one.tower] = jax.tree.map(
      lambda new, old: np.asarray(new) - old, after, before
    )
  slow, fast = moved[0.25], moved[1.0]
  for part, factor in (("vision", 0.25), ("connector", 0.25), ("decoder", 1)):
    for one, other in zip(
      jax.tree.leaves(slow["model"][part]),
      jax.tree.leaves(fast["model"][part]),
      strict=True,
    ):
      np.testing.assert_allclose(one, factor * other, atol=1e-7)
  for name, change in slow["heads"].items():
    np.testing.assert_array_equal(change, fast["heads"][name])
    assert np.abs(change).max() > 1e-5


def test_a_few_updates_on_one_batch_lower_its_loss():
  stage = dataclasses.replace(STAGES[1], steps=100, warm_up=2)
  batch = drawing.draw(stage, 0, 1, 0)
  state = state_lib.begin(shape(), (stage,), 0)
  params, optimiser, losses = state.params, state.optimiser, []
  for _ in range(30):
    params, optimiser, outcome = loop.update(
      shape(), stage, params, optimiser, batch
    )
    losses.append(float(outcome.loss))
  assert losses[-1] < 0.6 * losses[0]


def test_mistakes_with_checkpoints_are_told(tmp_path):
  path = tmp_path / "checkpoint.safetensors"
  state_lib.save(begin(), path, SETTINGS)
  with pytest.raises(InputError, match="had seed 4, this one 5"):
    state_lib.load(path, shape(), STAGES, {**SETTINGS, "seed": 5})
  with pytest.raises(InputError, match=r"lacks .* in the shape"):
    state_lib.load(path, small_model.shape(), STAGES, SETTINGS)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(InputError, match="not a training that can be taken up"):
    state_lib.load(path, shape(), STAGES, SETTINGS)
