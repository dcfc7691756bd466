"""A film is its episode again, but for what compression costs."""

import json

import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax.tasks import rooms_episodes
from vrex_jax.tasks import rooms_film

pytest.importorskip("av")
SHAPE = rooms_episodes.EpisodeConfig(frames=64)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  path = tmp_path_factory.mktemp("film") / "rooms.mp4"
  episode = rooms_episodes.draw(SHAPE, 0, 0)
  return episode, rooms_film.write_film(episode, path, 2.0)


def test_items_come_back(written):
  episode, (path, _) = written
  film = rooms_film.load_film(path)
  assert film.frames == episode.frames
  pairs = zip(
    [*film.questions, film.narration],
    [*episode.questions, episode.narration],
    strict=True,
  )
  for mine, theirs in pairs:
    for one, other in zip(mine, theirs, strict=True):
      np.testing.assert_array_equal(one.evidence, other.evidence)
      assert one[:4] == other[:4]
      assert one.group == other.group


def test_pictures_come_back_nearly(written):
  episode, (path, _) = written
  film = rooms_film.load_film(path)
  ours = np.concatenate(list(film.pictures(24))).astype(float)
  drawn = np.concatenate(list(episode.pictures(64))).astype(float)
  assert ours.shape == drawn.shape
  # The camera's noise alone moves a pixel by 0.06 of 255.
  assert np.abs(ours - drawn).mean() < 0.06 * 255
  shuffled = np.abs(ours[::-1] - drawn).mean()
  assert np.abs(ours - drawn).mean() < shuffled / 2


def test_films_of_a_batch_are_each_of_its_episode_and_leave_nothing():
  episodes = [rooms_episodes.draw(SHAPE, 0, index) for index in range(2)]
  drawn = [
    np.concatenate(list(one.pictures(64))).astype(float) for one in episodes
  ]
  with rooms_film.filmed(episodes) as films:
    assert films[0].path != films[1].path
    for index, film in enumerate(films):
      frames = np.concatenate(list(film.pictures(24))).astype(float)
      own, other = (
        np.abs(frames - drawn[which]).mean() for which in (index, 1 - index)
      )
      assert own < other / 2
  assert not films[0].path.parent.exists()


@pytest.mark.parametrize(
  "text", ["{", "[]", '{"fps": 2}', '{"fps": 2, "frames": 3, "questions": 1}']
)
def test_broken_questions_are_refused(tmp_path, text):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(errors.InputError, match="write both anew"):
    rooms_film.load_film(tmp_path / "a.mp4")


def test_a_film_without_questions_is_refused(tmp_path):
  with pytest.raises(errors.InputError, match="write both with"):
    rooms_film.load_film(tmp_path / "a.mp4")


def test_the_json_is_plain(written):
  _, (_, beside) = written
  text = json.loads(beside.read_text())
  assert set(text) == {"fps", "frames", "questions", "narration"}
