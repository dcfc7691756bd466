"""Settings of ReSV at which accuracy is measured, drawn from a seed.

What a frame reads decides what narration knows and what questions find in the
cache; so settings of the frames come first, and several settings of questions
are asked on each:

  Prefill  Th_hd, thresholds of frames ─► one prefill, narration
    ├── thresholds of questions and answers ─► answers
    └── …

Thresholds of layers and heads are drawn apart, so that a fit sees which of them
matters. Most are low: above 0.1 hardly anything is lost on these streams, and a
drop of 0 says little about where drops begin.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

__all__ = ["Prefill", "design", "ratios"]

_PATTERNS = ("all", "one layer", "but one layer", "layers", "heads")
_LOWEST = 0.005
_HIGHEST = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefill:
  """Static. Settings that share their frames.

  Attributes:
    number: of the prefill, from 0.
    hamming_threshold: distances below it are near.
    frame: thresholds of frames, f64[L, K].
    text: thresholds of questions and answers, f64[settings, L, K].
  """

  number: int
  hamming_threshold: int
  frame: np.ndarray
  text: np.ndarray


def design(
  number: int,
  shape: tuple[int, int],
  *,
  hamming_thresholds: Sequence[int],
  texts: int,
  seed: int,
) -> list[Prefill]:
  """Draws settings.

  Patterns take turns: one threshold for all; one layer low, the others 1
  (everything); one layer 1, the others low; each layer, or head, by itself. A
  low threshold is 0 (the best cluster only) four times in ten, else
  log-uniform from 0.005 to 0.1.

  Args:
    number: of prefills.
    shape: (L, K).
    hamming_thresholds: taken in turn.
    texts: settings of questions for each prefill.
    seed: of the draws.

  Example:
    >>> one, *_ = design(3, (4, 2), hamming_thresholds=(2, 7), texts=5, seed=0)
    >>> one.hamming_threshold, one.frame.shape, one.text.shape
    (2, (4, 2), (5, 4, 2))
  """
  random = np.random.default_rng([seed, number])
  found = []
  for index in range(number):
    # One step further each turn, so that every pattern meets every threshold.
    turn, pattern = divmod(index, len(_PATTERNS))
    found.append(
      Prefill(
        number=index,
        # One step further each round, so that every pattern meets every one.
        hamming_threshold=hamming_thresholds[
          (pattern + turn) % len(hamming_thresholds)
        ],
        frame=_drawn(_PATTERNS[pattern], shape, random),
        text=np.stack(
          [
            _drawn(_PATTERNS[(pattern + 1 + text) % 5], shape, random)
            for text in range(texts)
          ]
        ),
      )
    )
  return found


def ratios(frame: np.ndarray, text: np.ndarray) -> np.ndarray:
  """`wicsum_ratio` of `resv`, f32[STAGES, L, K]; prompts are not retrieved for.

  Args:
    frame: f[L, K].
    text: of questions and answers, f[L, K].
  """
  return np.stack([np.ones_like(frame), frame, text, text]).astype(np.float32)


def _drawn(
  pattern: str, shape: tuple[int, int], random: np.random.Generator
) -> np.ndarray:
  layers, heads = shape
  if pattern == "all":
    return np.full(shape, _threshold(random, high=False))
  if pattern in ("one layer", "but one layer"):
    low = np.full(heads, _threshold(random, high=False))
    chosen = np.arange(layers) == random.integers(layers)
    is_low = chosen if pattern == "one layer" else ~chosen
    return np.where(is_low[:, None], low, 1.0)
  if pattern == "layers":
    drawn = [[_threshold(random)] * heads for _ in range(layers)]
  else:
    drawn = [[_threshold(random) for _ in range(heads)] for _ in range(layers)]
  return np.array(drawn)


def _threshold(random: np.random.Generator, high: bool = True) -> float:
  kind, place = random.random(2)
  if kind < 0.4:
    return 0.0
  if high and kind < 0.55:
    return 1.0
  return float(_LOWEST * (_HIGHEST / _LOWEST) ** place)
