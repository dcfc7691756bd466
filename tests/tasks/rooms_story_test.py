"""Stories: cuts, rooms and objects as the rules want them."""

import numpy as np
import pytest

from vrex_jax.errors import InputError
from vrex_jax.tasks import rooms_story

CONFIGS = [
  rooms_story.StoryConfig(),
  rooms_story.StoryConfig(frames=40, visible=1),
  rooms_story.StoryConfig(frames=512, visible=16, least_segments=2),
  rooms_story.StoryConfig(frames=3, least_segments=1),
  rooms_story.StoryConfig(frames=90, revisit=1.0, repeat=1.0),
  rooms_story.StoryConfig(frames=90, revisit=0.0, repeat=0.0),
]


def stories(config, number=40):
  random = np.random.default_rng(3)
  return [rooms_story.tell(config, random) for _ in range(number)]


@pytest.mark.parametrize("config", CONFIGS)
def test_segments_tile_the_frames_and_hold_their_objects(config):
  for story in stories(config):
    assert story.start[0] == 0
    assert story.frames == config.frames
    np.testing.assert_array_equal(story.start[1:], story.end[:-1])
    assert np.all(story.start < story.appears)
    assert np.all(story.appears < story.leaves)
    assert np.all(story.leaves < story.end)
    assert np.all(story.leaves - story.appears <= config.visible)
    assert len(story.room) <= config.segments


@pytest.mark.parametrize("config", CONFIGS)
def test_a_cut_changes_the_room_and_a_pair_is_seen_once(config):
  for story in stories(config):
    assert np.all(story.room[1:] != story.room[:-1])
    pairs = list(zip(story.shape, story.room, strict=True))
    assert len(set(pairs)) == len(pairs)
    for shape in set(story.shape.tolist()):
      colours = story.colour[story.shape == shape]
      assert len(set(colours.tolist())) == len(colours)


def test_chances_are_met():
  plain = stories(rooms_story.StoryConfig(revisit=0.0, repeat=0.0))
  assert all(len(set(s.room.tolist())) == len(s.room) for s in plain)
  assert all(len(set(s.shape.tolist())) == len(s.shape) for s in plain)
  config = rooms_story.StoryConfig(revisit=0.25, repeat=0.4)
  again = lambda values: 1 - len(set(values.tolist())) / len(values)
  drawn = stories(config, 300)
  # The first segment has nothing to come back to, the second no other room.
  np.testing.assert_allclose(
    np.mean([again(s.room) for s in drawn]), 0.25 * 10 / 12, atol=0.03
  )
  np.testing.assert_allclose(
    np.mean([again(s.shape) for s in drawn]), 0.4 * 11 / 12, atol=0.04
  )


def test_a_seed_tells_the_same_story():
  for one, other in zip(stories(CONFIGS[0]), stories(CONFIGS[0]), strict=True):
    for a, b in zip(one, other, strict=True):
      np.testing.assert_array_equal(a, b)


def test_frames_know_their_segment():
  story = stories(CONFIGS[0], 1)[0]
  frames = np.arange(story.frames)
  segment = story.segment_of(frames)
  for index in range(len(story.room)):
    expected = (story.start[index] <= frames) & (frames < story.end[index])
    np.testing.assert_array_equal(segment == index, expected)
  shown = story.shows_object(frames)
  assert shown.sum() == (story.leaves - story.appears).sum()


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    ({"visible": 0}, "visible is 0"),
    ({"frames": 2}, "frames is 2"),
    ({"segments": 13}, "segments is 12 to 13"),
    ({"segments": 4, "least_segments": 5}, "segments is 5 to 4"),
    ({"repeat": 1.5}, "repeat is 1.5"),
  ],
)
def test_mistakes_are_told(fields, told):
  with pytest.raises(InputError, match=told):
    rooms_story.StoryConfig(**fields)
