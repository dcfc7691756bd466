"""Recordings changed as real checkpoints differ from random ones.

Real models have what random weights do not: keys with a large constant part
(biases of Qwen2 reach hundreds), channels of very different size, and a first
token that draws most of the attention. The first two leave the attention of
the full cache as it is, and may still upset a method that looks at keys:

  shift   k' = k + c for every rotated key      q · k' = q · k + q · c
  scale   k' = s k, q' = q / s per rotary pair  q' · k' = q · k

The softmax takes the same amount q · c off every key of a row. The third one is
another attention, judged against the full cache with the same sink:

  sink    the first key points along the mean query
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vrex_jax import recording as recording_lib

__all__ = [
  "DISTURBANCES",
  "add_sink",
  "full_outputs",
  "scale_pairs",
  "shift_keys",
]

_QUERY_ROWS = 256
"""Queries whose scores are held at a time."""


def _slow_pairs(recording: recording_lib.Recording, share: float) -> np.ndarray:
  """Channels of the slowest rotary pairs: b[H]; pair i is (i, i + H / 2)."""
  slow = np.argsort(recording.frequencies, kind="stable")
  chosen = np.zeros(len(slow), bool)
  chosen[slow[: max(1, round(share * len(slow)))]] = True
  return np.concatenate([chosen, chosen])


def _key_size(recording: recording_lib.Recording) -> float:
  valid = recording.key[:, :, recording.valid]
  return float(np.sqrt(np.mean(np.sum(valid**2, axis=-1))))


def shift_keys(
  recording: recording_lib.Recording,
  size: float,
  *,
  share: float = 0.25,
  seed: int = 0,
) -> recording_lib.Recording:
  """Adds one constant vector to every rotated key of a layer and head.

  Args:
    recording: the stream.
    size: length of the vector, in root-mean-square lengths of a key.
    share: of the rotary pairs, the slowest, that it lies in.
    seed: of its direction.
  """
  layers, heads, _, width = recording.key.shape
  draws = np.random.default_rng(seed).standard_normal((layers, heads, width))
  draws *= _slow_pairs(recording, share)
  draws /= np.linalg.norm(draws, axis=-1, keepdims=True)
  constant = size * _key_size(recording) * draws[:, :, None]
  key = recording.key + constant.astype(recording.key.dtype)
  return recording._replace(key=key)


def scale_pairs(
  recording: recording_lib.Recording, spread: float, *, seed: int = 0
) -> recording_lib.Recording:
  """Scales keys by s and queries by 1 / s, s of each rotary pair its own.

  Args:
    recording: the stream.
    spread: standard deviation of log s.
    seed: of the draw.
  """
  pairs = len(recording.frequencies)
  layers, heads = recording.key.shape[:2]
  draws = np.random.default_rng(seed).standard_normal((layers, heads, pairs))
  scale = np.exp(spread * np.concatenate([draws, draws], axis=-1))
  group = recording.query.shape[1] // heads
  by_query = np.repeat(scale, group, axis=1)
  # The next query of a layer meets the keys of the layer above it.
  above = np.concatenate([by_query[1:], by_query[-1:]])
  dtype = recording.key.dtype
  return recording._replace(
    key=(recording.key * scale[:, :, None]).astype(dtype),
    query=(recording.query / by_query[:, :, None]).astype(dtype),
    query_next=(recording.query_next / above[:, :, None]).astype(dtype),
  )


def add_sink(
  recording: recording_lib.Recording, score: float
) -> recording_lib.Recording:
  """Lets the first token draw attention, as in trained models.

  Args:
    recording: the stream.
    score: mean of q · k / √H that queries give to the new first key.
  """
  layers, heads, _, width = recording.key.shape
  group = recording.query.shape[1] // heads
  valid = recording.query[:, :, recording.valid]
  grouped = valid.reshape(layers, heads, group, -1, width)
  mean = grouped.mean(axis=(2, 3))
  size = np.sum(mean**2, axis=-1, keepdims=True)
  key = np.array(recording.key)
  value = np.array(recording.value)
  first = int(np.flatnonzero(recording.valid)[0])
  key[:, :, first] = score * np.sqrt(width) * mean / size
  value[:, :, first] = 0.0
  return recording._replace(key=key, value=value)


def full_outputs(
  recording: recording_lib.Recording, layer: int, dtype: Any = np.float64
) -> np.ndarray:
  """Causal attention of all valid tokens to all before: [N, tokens, H].

  In numpy, in `dtype`, for comparing recordings that should not differ. Undone
  questions are part of the past here.

  Args:
    recording: the stream.
    layer: l.
    dtype: of the arithmetic.
  """
  valid = recording.valid
  query, key, value = (
    array[layer][:, valid].astype(dtype) for array in recording[:3]
  )
  group = query.shape[0] // key.shape[0]
  out = np.empty_like(query)
  for head, queries in enumerate(query):
    for first in range(0, len(queries), _QUERY_ROWS):
      last = min(first + _QUERY_ROWS, len(queries))
      past = slice(last)
      scores = queries[first:last] @ key[head // group, past].T
      scores /= np.sqrt(query.shape[-1]).astype(dtype)
      before = np.arange(last) <= np.arange(first, last)[:, None]
      scores = np.where(before, scores, -np.inf)
      weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
      attended = weights @ value[head // group, past]
      out[head, first:last] = attended / weights.sum(axis=-1, keepdims=True)
  return out


DISTURBANCES: Mapping[
  str, Callable[[recording_lib.Recording], recording_lib.Recording]
] = {
  "none": lambda recording: recording,
  "shift 3": lambda recording: shift_keys(recording, 3.0),
  "shift 30": lambda recording: shift_keys(recording, 30.0),
  "scale 0.5": lambda recording: scale_pairs(recording, 0.5),
  "scale 1.0": lambda recording: scale_pairs(recording, 1.0),
  "sink 8": lambda recording: add_sink(recording, 8.0),
}
"""Name -> change of a recording, from none to what real keys are said to be."""
