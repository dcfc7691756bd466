"""Every answer is the only one that somebody who saw the frames can give."""

import itertools

import numpy as np
import pytest

from vrex_jax.tasks import rooms_questions
from vrex_jax.tasks import rooms_story

SHAPES, COLOURS = rooms_story.SHAPES, rooms_story.COLOURS
ROOMS = rooms_story.ROOMS


def told():
  """Stories, some of many repeats, and times of asking."""
  random = np.random.default_rng(5)
  for repeat in (0.0, 0.4, 0.9):
    config = rooms_story.StoryConfig(frames=100, repeat=repeat, revisit=0.4)
    for _ in range(6):
      story = rooms_story.tell(config, random)
      for time in random.integers(0, 100, 4).tolist():
        yield story, time


def sightings(story, time):
  """What was seen up to a frame: (frame, room, shape, colour) in words."""
  frames = np.arange(time + 1)
  frames = frames[story.shows_object(frames)]
  segment = story.segment_of(frames)
  return [
    (int(f), ROOMS[story.room[s]], SHAPES[story.shape[s]],
     COLOURS[story.colour[s]])
    for f, s in zip(frames, segment, strict=True)
  ]  # fmt: skip


def runs(frames):
  """Stretches of frames without a gap: segments apart by at least a frame."""
  return sum(b - a > 1 for a, b in itertools.pairwise(frames)) + 1


def answers(question, seen, story):
  """All answers that the sightings allow."""
  kind, keys = question.kind, question.keys
  of = [row for row in seen if row[2] in keys[:1]]
  inside = [row for row in seen if row[1] in keys[:1]]
  first = {key: min((r[0] for r in seen if r[2] == key), default=0)
           for key in keys}  # fmt: skip
  now = [row for row in seen if row[0] == question.time]
  room = ROOMS[story.room[story.segment_of(np.asarray(question.time))]]
  found = {
    "colour-of": lambda: [row[3] for row in of],
    "room-of": lambda: [row[1] for row in of],
    "shape-in": lambda: [row[2] for row in inside],
    "colour-in": lambda: [row[3] for row in inside],
    "colour-of-in": lambda: [row[3] for row in of if row[1] == keys[1]],
    "exists": lambda: ["yes" if of else "no"],
    "count": lambda: [["one", "two", "three"][runs([r[0] for r in of]) - 1]],
    "before": lambda: ["yes" if first[keys[0]] < first[keys[1]] else "no"],
    "colour-now": lambda: [row[3] for row in now],
    "shape-now": lambda: [row[2] for row in now],
    "room-now": lambda: [room],
  }
  return set(found[kind]())


def test_answers_are_the_only_ones():
  kinds = set()
  for story, time in told():
    seen = sightings(story, time)
    for question in rooms_questions.questions_at(story, time):
      assert answers(question, seen, story) == {question.answer}, question
      kinds.add(question.kind)
  assert kinds == set(rooms_questions.KINDS)


def test_all_that_is_counted_is_evidence():
  counted = 0
  for story, time in told():
    seen = sightings(story, time)
    for question in rooms_questions.questions_at(story, time):
      if question.kind == "count":
        expected = [row[0] for row in seen if row[2] == question.keys[0]]
        np.testing.assert_array_equal(question.evidence(story), expected)
        counted += runs(expected) > 1
  assert counted > 5


def test_evidence_shows_the_answer_before_it_is_asked_for():
  for story, time in told():
    for question in rooms_questions.questions_at(story, time):
      frames = question.evidence(story)
      assert np.all(frames <= time)
      assert np.all(story.shows_object(frames))
      needed = not (question.answer == "no" and question.kind == "exists")
      if needed and question.kind != "room-now":
        assert frames.size
      words = {
        word
        for row in sightings(story, time)
        if row[0] in frames
        for word in row[1:]
      }
      if question.answer in (*SHAPES, *COLOURS) and frames.size:
        assert question.answer in words


def test_questions_are_four_known_words():
  for story, time in told():
    for question in rooms_questions.questions_at(story, time):
      words = question.text.split()
      assert len(words) == 4
      assert {*words, question.answer} <= set(rooms_questions.WORDS)
  assert len(set(rooms_questions.WORDS)) == len(rooms_questions.WORDS) <= 64


def test_kinds_are_drawn_evenly_and_no_question_twice():
  random = np.random.default_rng(0)
  config = rooms_story.StoryConfig(frames=200)
  story = rooms_story.tell(config, random)
  drawn = rooms_questions.ask(story, 199, 16, random)
  assert len(set(drawn)) == len(drawn) == 16
  counts = [sum(q.kind == kind for q in drawn) for kind in
            {q.kind for q in drawn}]  # fmt: skip
  assert max(counts) - min(counts) <= 1
  few = rooms_questions.ask(story, 199, 5, random, kinds=("room-now",))
  assert [question.kind for question in few] == ["room-now"]


def test_narration_names_the_colour_before():
  for story, _ in told():
    said = rooms_questions.narration(story)
    seen = sightings(story, story.frames - 1)
    assert [row[0] for row in said] == [row[0] for row in seen]
    for (frame, word, source), (_, _, shape, _) in zip(said, seen, strict=True):
      here = story.start[story.segment_of(np.asarray(frame))]
      earlier = [row for row in seen if row[2] == shape and row[0] < here]
      assert word == (earlier[-1][3] if earlier else "new")
      assert (source == -1) == (word == "new")
      if source >= 0:
        assert story.appears[source] <= earlier[-1][0] < story.leaves[source]


@pytest.mark.parametrize("repeat", [0.0, 0.9])
def test_stories_without_repeats_have_nothing_old_to_narrate(repeat):
  random = np.random.default_rng(1)
  config = rooms_story.StoryConfig(repeat=repeat)
  said = rooms_questions.narration(rooms_story.tell(config, random))
  assert any(word != "new" for _, word, _ in said) is (repeat > 0)
