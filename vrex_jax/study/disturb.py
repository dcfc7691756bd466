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

from typing import Any

import numpy as np

from vrex_jax import replay

__all__ = ["add_sink", "full_outputs", "scale_pairs", "shift_keys"]


def _slow_pairs(recording: replay.Recording, share: float) -> np.ndarray:
  """Channels of the slowest rotary pairs: b[H]; pair i is (i, i + H / 2)."""
  slow = np.argsort(recording.frequencies, kind="stable")
  chosen = np.zeros(len(slow), bool)
  chosen[slow[: max(1, round(share * len(slow)))]] = True
  return np.concatenate([chosen, chosen])


def _key_size(recording: replay.Recording) -> float:
  valid = recording.key[:, :, recording.valid]
  return float(np.sqrt(np.mean(np.sum(valid**2, axis=-1))))


def shift_keys(
  recording: replay.Recording,
  size: float,
  *,
  share: float = 0.25,
  seed: int = 0,
) -> replay.Recording:
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
  recording: replay.Recording, spread: float, *, seed: int = 0
) -> replay.Recording:
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
  dtype = recording.key.dtype
  return recording._replace(
    key=(recording.key * scale[:, :, None]).astype(dtype),
    query=(recording.query / by_query[:, :, None]).astype(dtype),
  )


def add_sink(recording: replay.Recording, score: float) -> replay.Recording:
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
  recording: replay.Recording, layer: int, dtype: Any = np.float64
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
  query = recording.query[layer][:, valid].astype(dtype)
  group = query.shape[0] // recording.key.shape[1]
  key, value = (
    np.repeat(array[layer][:, valid], group, axis=0).astype(dtype)
    for array in (recording.key, recording.value)
  )
  scores = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]).astype(dtype)
  before = np.tril(np.ones(scores.shape[1:], bool))
  scores = np.where(before, scores, -np.inf)
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  return weights @ value / weights.sum(axis=-1, keepdims=True)
