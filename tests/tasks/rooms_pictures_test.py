"""Pictures of rooms: objects that can be told apart, frames drawn alone."""

import itertools

import numpy as np
import pytest

from vrex_jax.tasks import rooms_pictures
from vrex_jax.tasks import rooms_story


@pytest.fixture
def without_noise(monkeypatch):
  monkeypatch.setattr(rooms_pictures, "NOISE", 0.0)


def a_story(frames=120, seed=0):
  random = np.random.default_rng(seed)
  story = rooms_story.tell(rooms_story.StoryConfig(frames=frames), random)
  return story, rooms_pictures.look_at(story, random)


def draw(story, look, frames, seed=0):
  random = np.random.default_rng(seed)
  return rooms_pictures.draw_frames(story, look, np.asarray(frames), random)


def test_a_frame_is_the_same_alone(without_noise):
  story, look = a_story()
  frames = np.arange(story.frames)
  whole = draw(story, look, frames)
  assert whole.shape == (120, 48, 48, 3)
  assert whole.dtype == np.uint8
  for frame in (0, 17, 119):
    np.testing.assert_array_equal(draw(story, look, [frame])[0], whole[frame])


def test_only_frames_with_an_object_show_one(without_noise):
  """Without it the segment looks the same but for the object's pixels."""
  story, look = a_story()
  gone = story._replace(appears=story.end + 1, leaves=story.end + 1)
  frames = np.arange(story.frames)
  differs = np.any(
    draw(story, look, frames) != draw(gone, look, frames), axis=(1, 2, 3)
  )
  np.testing.assert_array_equal(differs, story.shows_object(frames))


def test_noise_has_the_size_it_says():
  story, look = a_story()
  difference = draw(story, look, [5], 1).astype(float) - draw(story, look, [5])
  spread = np.std(difference[..., 1]) / 255
  # Dark walls lose some of it at black.
  assert spread > 0.5 * 2**0.5 * rooms_pictures.NOISE
  assert spread < 1.1 * 2**0.5 * rooms_pictures.NOISE


def test_shapes_colours_and_rooms_differ(without_noise):
  """Any two shapes of one size overlap in less than nine tenths."""
  story, look = a_story()
  number = len(story.room)
  look = look._replace(
    size=np.full(number, 9.0),
    from_x=np.full(number, 24.0),
    from_y=np.full(number, 24.0),
    to_x=np.full(number, 24.0),
    to_y=np.full(number, 24.0),
  )
  each = np.arange(number)
  gone = story._replace(appears=story.end + 1, leaves=story.end + 1)
  frames = story.appears
  story = story._replace(shape=each, colour=np.full(number, 7))
  with_shape = draw(story, look, frames).astype(int)
  cover = np.abs(with_shape - draw(gone, look, frames)).sum(-1) > 150
  for one, other in itertools.combinations(cover, 2):
    shared = np.sum(one & other) / np.sum(one | other)
    assert shared < 0.9
  rooms = story._replace(room=each, appears=story.end, leaves=story.end)
  walls = draw(rooms, look._replace(light=np.ones(number)), story.start)
  means = walls.reshape(number, -1, 3).mean(axis=1)
  hues = means.reshape(6, 2, 3).mean(axis=1)
  for one, other in itertools.combinations(hues, 2):
    assert np.abs(one - other).max() > 15


def test_objects_move_and_stay_near_the_picture(without_noise):
  random = np.random.default_rng(2)
  config = rooms_story.StoryConfig(frames=300, visible=20)
  story = rooms_story.tell(config, random)
  look = rooms_pictures.look_at(story, random)
  first = draw(story, look, story.appears)
  last = draw(story, look, story.leaves - 1)
  assert np.all(np.any(first != last, axis=(1, 2, 3)))
