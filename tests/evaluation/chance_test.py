"""An answerer that sees nothing, against counting by hand."""

import numpy as np

from vrex_jax.evaluation import chance
from vrex_jax.tasks import rooms_episodes


def item(kind, word, last):
  evidence = np.array([] if last is None else [last], np.int64)
  return rooms_episodes.Item(kind, "?", word, 99, evidence)


def test_the_best_word_of_each_kind_counts():
  items = [
    item("count", "one", 3),
    item("count", "one", 98),
    item("count", "two", 3),
    item("exists", "yes", 3),
    item("exists", "no", None),
    item("exists", "no", None),
    item("narration", "red", 3),
  ]
  found = chance.constant_answers(items)
  # Two of three counts, two of three of existence.
  assert found["qa"] == 4 / 6
  # Old are one, two, yes: a count, and the yes.
  assert found["qa_old"] == 2 / 3


def test_of_old_items_existence_is_no_question():
  shape = rooms_episodes.EpisodeConfig(frames=128, kinds=("exists",))
  found = chance.drawn(shape, 0, 3)
  assert found["qa_old"] == 1.0
  assert found["qa"] < 1.0


def test_nothing_asked_has_no_chance():
  assert chance.constant_answers([item("narration", "red", 3)]) == {}
