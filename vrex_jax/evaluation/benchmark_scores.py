"""Whether an answer to a benchmark's question is right, without a judge."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["JUDGES", "distances", "judge", "nearest_label", "word_f1"]


def distances(said: str, labels: Sequence[str]) -> np.ndarray:
  """Levenshtein distance to every label: i64[labels].

  d(i, j) = min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + [a_i ≠ b_j])

  row by row of `said`, all labels at once; the minimum along a row is a running
  minimum of what remains when its slope of one is taken off.

  Example:
    >>> distances("kitten", ["sitting", "kitten", ""])
    array([3, 0, 6])
  """
  width = max(map(len, labels))
  codes = np.full((len(labels), width), -1)
  for row, label in enumerate(labels):
    codes[row, : len(label)] = list(map(ord, label))
  slope = np.arange(width + 1)
  row_before = np.broadcast_to(slope, (len(labels), width + 1))
  for character in said:
    changed = row_before[:, :-1] + (codes != ord(character))
    best = np.minimum(row_before[:, 1:] + 1, changed)
    best = np.concatenate([row_before[:, :1] + 1, best], axis=1)
    row_before = np.minimum.accumulate(best - slope, axis=1) + slope
  lengths = list(map(len, labels))
  return row_before[np.arange(len(labels)), lengths]


def nearest_label(said: str, labels: Sequence[str]) -> str:
  """The label with the smallest distance; the first of several.

  Example:
    >>> nearest_label("cut bred", ["Boil the egg.", "Cut the bread."])
    'Cut the bread.'
  """
  return labels[int(np.argmin(distances(said, labels)))]


def word_f1(said: str, answer: str) -> float:
  """Harmonic mean of precision and recall of words, as SQuAD counts them.

  Lower case, without punctuation and articles (Rajpurkar et al., arXiv
  1606.05250). No judge of meaning: a right answer in other words scores 0.

  Example:
    >>> word_f1("The red mug.", "a mug")
    0.6666666666666666
  """
  ours, theirs = _words(said), _words(answer)
  common = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
  if not common:
    return float(ours == theirs)
  return 2 * common / (len(ours) + len(theirs))


def _words(text: str) -> list[str]:
  words = re.findall(r"\w+", text.lower())
  return [word for word in words if word not in ("a", "an", "the")]


def _label(item: items_lib.Item, said: str) -> tuple[float, float]:
  return nearest_label(said, item.labels) == item.answer[0], 1


def _steps(item: items_lib.Item, said: str) -> tuple[float, float]:
  """Lines in order against steps in order; missing lines are wrong."""
  lines = said.split("\n")
  right = sum(
    nearest_label(line, item.labels) == step
    for line, step in zip(lines, item.answer, strict=False)
  )
  return right, len(item.answer)


def _letter(item: items_lib.Item, said: str) -> tuple[float, float]:
  """The first capital that stands alone; of "(B) a dog", B."""
  found = re.search(r"(?<![A-Za-z'])[A-Z](?![A-Za-z'])", said)
  return found is not None and found.group() == item.answer[0], 1


def _contains(item: items_lib.Item, said: str) -> tuple[float, float]:
  return item.answer[0] in said, 1


def _digits(item: items_lib.Item, said: str) -> tuple[float, float]:
  return "".join(re.findall(r"\d+", said)) == item.answer[0], 1


def _yes_no(item: items_lib.Item, said: str) -> tuple[float, float]:
  return said == item.answer[0][0] or item.answer[0] in said, 1


def _open(item: items_lib.Item, said: str) -> tuple[float, float]:
  """Nothing is right or wrong without a judge."""
  del item, said
  return 0, 0


JUDGES: Mapping[str, Callable[[items_lib.Item, str], tuple[float, float]]] = {
  "label": _label,
  "steps": _steps,
  "letter": _letter,
  "contains": _contains,
  "digits": _digits,
  "yes_no": _yes_no,
  "open": _open,
}
"""`Item.how` -> how an answer is judged."""


def judge(item: items_lib.Item, said: str) -> tuple[float, float]:
  """Right answers, and of how many.

  Args:
    item: what was asked.
    said: by the model.

  Example:
    >>> item = items_lib.Item(None, "", ("B",), "letter", "task")
    >>> judge(item, "(B) a dog"), judge(item, "a dog")
    ((1.0, 1.0), (0.0, 1.0))
  """
  right, asked = JUDGES[item.how](item, said)
  return float(right), float(asked)
