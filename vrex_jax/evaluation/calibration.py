"""Sizes of a model's keys and queries, which disturbances are given in."""

from collections.abc import Sequence

import numpy as np

from vrex_jax import disturbing
from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax.baselines import full as full_lib
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["sizes_of", "statistics"]

_FRAMES = 64


def sizes_of(
  model: checkpoint_lib.Checkpoint, seed: int = 0
) -> disturbing.Statistics:
  """Statistics of a short stream of the rooms task under `full`.

  Args:
    model: weights and shapes.
    seed: of the stream.
  """
  shape = episodes_lib.EpisodeConfig(frames=_FRAMES)
  options = streaming.StreamOptions(batch=1)
  driver = streaming.compile_batch(
    model,
    full_lib.full(),
    options,
    shape,
    observe=observing.record_chunk,
    stages=("prompt", "frame"),
  )
  run = streaming.begin(model, driver, options)
  # An index no evaluation reaches.
  episode = episodes_lib.draw(shape, seed, 2**31)
  for pixels in episode.pictures(driver.block_frames):
    run = driver_lib.feed_frames(
      driver, run, pixels[:, None], [0.0] * len(pixels)
    )
  return statistics(run.observations)


def statistics(records: Sequence[observing.Record]) -> disturbing.Statistics:
  """Sizes of recorded chunks.

  Args:
    records: of `observing.record_chunk`.
  """
  squares, queries = np.zeros(()), np.zeros(())
  tokens = 0
  for record in records:
    valid = np.asarray(record.valid)[None, :, None, :, None]
    key, query = np.asarray(record.key), np.asarray(record.query)
    layers, batch, heads, length, width = key.shape
    grouped = query.reshape(layers, batch, heads, -1, length, width).mean(3)
    squares = squares + np.where(valid, key**2, 0.0).sum(axis=(1, 3, 4))
    queries = queries + np.where(valid, grouped, 0.0).sum(axis=(1, 3))
    tokens += int(valid.sum())
  return disturbing.Statistics(np.sqrt(squares / tokens), queries / tokens)
