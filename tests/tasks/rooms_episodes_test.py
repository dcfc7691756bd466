"""Episodes are drawn from their seed alone and say what shows each answer."""

import collections

import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax.tasks import rooms_episodes as episodes
from vrex_jax.tasks import rooms_story


def test_a_seed_and_an_index_are_one_episode():
  shape = episodes.EpisodeConfig(frames=96)
  one, same, other = (
    episodes.draw(shape, seed=3, index=index) for index in (5, 5, 6)
  )
  assert [i.text for i in one.questions[2]] == [
    i.text for i in same.questions[2]
  ]
  assert not np.array_equal(one.story.shape, other.story.shape)


def test_pictures_do_not_depend_on_blocks():
  episode = episodes.draw(episodes.EpisodeConfig(frames=70), seed=0, index=0)
  whole = np.concatenate(list(episode.pictures(70)))
  parts = np.concatenate(list(episode.pictures(16)))
  assert whole.shape == (70, 48, 48, 3)
  np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("frames", [64, 300])
def test_every_time_has_its_number_of_questions(frames):
  shape = episodes.EpisodeConfig(frames=frames, questions=48)
  for index in range(8):
    episode = episodes.draw(shape, seed=1, index=index)
    assert [len(asked) for asked in episode.questions] == [12] * 4
    times = [{item.time for item in asked} for asked in episode.questions]
    assert times == [{time} for time in shape.ask_times]
    assert max(shape.ask_times) == frames - 1


def test_evidence_is_past_and_old_means_behind_the_window():
  shape = episodes.EpisodeConfig(frames=256)
  groups = collections.Counter()
  for index in range(6):
    episode = episodes.draw(shape, seed=2, index=index)
    asked = [item for items in episode.questions for item in items]
    for item in [*asked, *episode.narration]:
      groups[item.group] += 1
      assert (item.evidence <= item.time).all()
      shown = episode.story.shows_object(item.evidence)
      assert shown.all()
      if item.group in ("old", "narration_old"):
        assert item.evidence.max() < item.time - episodes.OLD_FRAMES
  assert set(groups) == {
    "old", "present", "other", "narration_old", "narration_new"
  }  # fmt: skip


def test_narration_says_the_colour_its_evidence_shows():
  episode = episodes.draw(episodes.EpisodeConfig(frames=256), seed=4, index=1)
  old = [item for item in episode.narration if item.word != "new"]
  assert old
  for item in old:
    segment = episode.story.segment_of(item.evidence)
    assert len(set(segment.tolist())) == 1
    colour = rooms_story.COLOURS[episode.story.colour[segment[0]]]
    assert colour == item.word


@pytest.mark.parametrize(
  "changes", [{"frames": 12}, {"questions": 42}, {"kinds": ("exists", "where")}]
)
def test_shapes_that_cannot_be_are_refused(changes):
  with pytest.raises(errors.InputError, match="try"):
    episodes.EpisodeConfig(**changes)
