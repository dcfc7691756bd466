"""Curricula fit the model they train."""

import dataclasses

import pytest

from vrex_jax.errors import InputError
from vrex_jax.training import curriculum
from vrex_jax.training import small_model


@pytest.mark.parametrize("name", curriculum.CURRICULA)
def test_every_position_trained_is_one_the_model_has(name):
  limit = small_model.shape().decoder.max_position_embeddings
  spans = []
  for stage in curriculum.curriculum(name):
    assert stage.steps > 0
    assert 0 < stage.floor <= stage.peak
    if not isinstance(stage.data, int):
      spans.append(stage.data.span)
      assert stage.data.tokens_per_frame == 4
      # <start>, frames, question and answer.
      assert 1 + 4 * stage.data.span + 5 <= limit
  assert max(spans) <= small_model.FRAMES


def test_full_curriculum_ends_on_the_longest_streams():
  last = curriculum.curriculum("full")[-1]
  assert last.data.span == small_model.FRAMES
  assert last.data.crowded


def test_scale_changes_steps_only():
  whole = curriculum.curriculum("full")
  half = curriculum.curriculum("full", 0.5)
  for one, other in zip(whole, half, strict=True):
    assert other == dataclasses.replace(one, steps=one.steps // 2)
  assert all(stage.steps == 1 for stage in curriculum.curriculum("full", 1e-9))


@pytest.mark.parametrize(
  ("name", "scale", "said"),
  [
    ("huge", 1.0, "--curriculum is 'huge'; it must be one of full, tiny"),
    ("full", 0.0, "--steps_scale is 0; it must be a positive number"),
    ("full", float("nan"), "--steps_scale is nan"),
  ],
)
def test_mistakes_are_told(name, scale, said):
  with pytest.raises(InputError, match=said):
    curriculum.curriculum(name, scale)
