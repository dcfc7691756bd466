"""Batches: rows where the whole stream has them, answers the frames show."""

import dataclasses

import numpy as np
import pytest

from vrex_jax.tasks import rooms_batches
from vrex_jax.tasks import rooms_pictures
from vrex_jax.tasks import rooms_questions
from vrex_jax.tasks import rooms_story
from vrex_jax.tasks import rooms_words

CONFIG = rooms_batches.BatchConfig(
  streams=3, frames=24, span=200, questions=6, segments=8, least_segments=5
)
STREAM = 1 + 4 * CONFIG.frames


def draw(seed=0, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  return rooms_batches.draw_batch(config, np.random.default_rng(seed))


def test_a_seed_is_a_batch():
  same, again, other = draw(1), draw(1), draw(2)
  for one, two in zip(same, again, strict=True):
    np.testing.assert_array_equal(one, two)
  assert (same.words != other.words).any()


def test_shapes_and_types_are_as_documented():
  batch = draw()
  rows = STREAM + 5 * CONFIG.questions
  assert batch.pictures.shape == (3, 24, rooms_pictures.SIZE, 48, 3)
  assert batch.pictures.dtype == np.uint8
  assert batch.stands_for.shape == (3, 24)
  for name in ("words", "position", "frame", "owner", "target", "kind"):
    assert getattr(batch, name).shape == (3, rows)
    assert getattr(batch, name).dtype == np.int32
  assert batch.weight.dtype == batch.stands_for.dtype == np.float32


def test_frames_have_the_positions_of_the_whole_stream():
  batch = draw()
  inside = batch.position[:, 1:STREAM].reshape(3, CONFIG.frames, 4)
  number = (inside[..., 0] - 1) // 4
  np.testing.assert_array_equal(
    inside, 1 + 4 * number[..., None] + np.arange(4)
  )
  assert (np.diff(number, axis=1) > 0).all()
  assert (batch.position[:, 0] == 0).all()


def test_a_question_stands_behind_the_last_frame_it_sees():
  batch = draw()
  for row in range(3):
    for question in range(CONFIG.questions):
      mine = batch.owner[row] == question
      frame = batch.frame[row][mine]
      assert (frame == frame[0]).all()
      end = batch.position[row, 4 * (frame[0] + 1)]
      np.testing.assert_array_equal(
        batch.position[row][mine], end + 1 + np.arange(5)
      )


def test_answers_are_said_at_the_question_mark_and_then_nothing():
  batch = draw()
  words, target = batch.words[:, STREAM:], batch.target[:, STREAM:]
  ends = words.reshape(3, -1, 5)[..., 3]
  assert (ends == rooms_words.IDS["?"]).all()
  said = target.reshape(3, -1, 5)
  np.testing.assert_array_equal(said[..., 3], words.reshape(3, -1, 5)[..., 4])
  assert (said[..., 4] == rooms_words.STOP).all()
  assert (said[..., :3] == rooms_batches.IGNORED).all()
  first = words.reshape(3, -1, 5)[..., 0]
  kinds = batch.kind[:, STREAM:].reshape(3, -1, 5)[..., 3]
  for kind, word in zip(kinds.ravel(), first.ravel(), strict=True):
    assert rooms_words.IDS[rooms_batches.TARGET_KINDS[kind]] == word


def test_narration_is_said_by_the_last_token_of_a_frame():
  batch = draw()
  target = batch.target[:, 1:STREAM].reshape(3, CONFIG.frames, 4)
  assert (target[..., :3] == rooms_batches.IGNORED).all()
  said = target[..., 3]
  assert (said != rooms_batches.IGNORED).any()
  new = batch.kind == rooms_batches.TARGET_KINDS.index("narration-new")
  assert (batch.target[new] == rooms_words.IDS["new"]).all()
  silent = draw(narration=0.0)
  assert (silent.target[:, :STREAM] == rooms_batches.IGNORED).all()


def test_only_targets_weigh():
  batch = draw()
  np.testing.assert_array_equal(
    batch.weight > 0, batch.target != rooms_batches.IGNORED
  )
  assert (batch.kind[batch.target == rooms_batches.IGNORED] == -1).all()


@pytest.mark.parametrize("seed", range(5))
def test_frames_stand_for_the_whole_story(seed):
  """Counts add up to its length, which is the first thing drawn."""
  batch = draw(seed, streams=1)
  random = np.random.default_rng(seed)
  span = random.integers(CONFIG.frames, CONFIG.span + 1)
  assert batch.stands_for.sum() == pytest.approx(max(span, 24))
  assert (batch.stands_for >= 1 - 1e-6).all()


def test_a_whole_story_stands_for_itself():
  whole = draw(frames=64, span=64)
  np.testing.assert_array_equal(whole.stands_for, 1)
  np.testing.assert_array_equal(
    whole.position[:, : 1 + 4 * 64], np.tile(np.arange(1 + 4 * 64), (3, 1))
  )
  apart = draw(crowded=False)
  np.testing.assert_array_equal(apart.stands_for, 1)


def test_answers_of_objects_without_a_chosen_frame_are_never_asked():
  """An object nobody was shown is unknown to every question and narration."""
  random = np.random.default_rng(3)
  story = rooms_story.tell(rooms_story.StoryConfig(frames=120), random)
  # Frames up to the middle only: later objects have none.
  frames = np.arange(0, 60, 2)
  shown = rooms_batches._without_hidden(story, frames)
  seen = [
    segment
    for segment in range(len(story.room))
    if (
      (story.appears[segment] <= frames) & (frames < story.leaves[segment])
    ).any()
  ]
  assert 0 < len(seen) < len(story.room)
  asked = rooms_questions.questions_at(shown, int(frames[-1]))
  held = {segment for question in asked for segment in question.segments}
  assert held == set(seen)


def test_labels_name_what_frames_show():
  """A nearest-colour look at the brightest pixels finds the paint named."""
  labels = rooms_batches.draw_labels(40, np.random.default_rng(0))
  assert labels.pictures.shape == (40, 48, 48, 3)
  assert labels.shown.shape == (40, 3)
  sizes = (
    len(rooms_story.SHAPES), len(rooms_story.COLOURS), len(rooms_story.ROOMS),
  )  # fmt: skip
  assert (labels.shown >= 0).all()
  assert (labels.shown < np.array(sizes)[None]).all()
  flat = labels.pictures.reshape(40, -1, 3) / 255
  bright = np.argsort(flat.max(-1), axis=1)[:, -60:]
  paint = np.take_along_axis(flat, bright[..., None], axis=1).mean(1)
  distance = np.linalg.norm(
    paint[:, None] - rooms_pictures._PAINTS[None], axis=-1
  )
  assert (distance.argmin(1) == labels.shown[:, 1]).mean() > 0.9
