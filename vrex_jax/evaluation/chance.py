"""What an answerer that sees nothing can reach on the rooms task."""

from collections import Counter
from collections.abc import Iterable, Mapping

from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["constant_answers", "drawn"]


def constant_answers(
  items: Iterable[episodes_lib.Item],
) -> dict[str, float]:
  """Accuracy of saying, for each kind of question, always one word.

    Σ_kinds max_word (items of the kind with this word) / items

  The word is the one that suits these very items best: an upper bound for any
  answerer that knows the question's kind and nothing of the stream. Of old
  items `exists` is always "yes", since a "no" has nothing that shows it.

  Args:
    items: questions; narration is left out.

  Returns:
    "qa", and "qa_old" of old items alone; a group without items is left out.

  Example:
    >>> import numpy as np
    >>> seen = np.array([0])
    >>> item = lambda word: episodes_lib.Item("count", "?", word, 99, seen)
    >>> constant_answers([item("one"), item("one"), item("two"), item("one")])
    {'qa': 0.75, 'qa_old': 0.75}
  """
  asked = [item for item in items if item.kind != "narration"]
  old = [item for item in asked if item.group == "old"]
  groups: Mapping[str, list[episodes_lib.Item]] = {"qa": asked, "qa_old": old}
  found = {}
  for name, members in groups.items():
    words: dict[str, Counter[str]] = {}
    for item in members:
      words.setdefault(item.kind, Counter())[item.word] += 1
    if members:
      best = sum(max(counts.values()) for counts in words.values())
      found[name] = best / len(members)
  return found


def drawn(
  shape: episodes_lib.EpisodeConfig, seed: int, streams: int
) -> dict[str, float]:
  """`constant_answers` of the questions of an evaluation.

  Args:
    shape: of its streams.
    seed: of the evaluation.
    streams: how many.
  """
  episodes = (episodes_lib.draw(shape, seed, index) for index in range(streams))
  return constant_answers(
    item
    for episode in episodes
    for asked in episode.questions
    for item in asked
  )
