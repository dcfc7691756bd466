"""WiCSum on a few rows of up to 40 clusters, by one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.resv import oracle
from vrex_jax.resv import wicsum

__all__ = ["CLUSTERS", "ROWS", "by_sorting", "kept", "run", "whole_numbers"]

ROWS, CLUSTERS = 3, 40
STATIC = ("treatment", "form", "buckets")
run = jax.jit(wicsum.wicsum, static_argnames=STATIC)


def kept(scores, counts, ratio, **options):
  """b[M, C] and the rows; any number of clusters up to 40 in one program."""
  scores = np.atleast_2d(np.asarray(scores, np.float32))
  rows, clusters = scores.shape
  padding = ((0, ROWS - rows), (0, CLUSTERS - clusters))
  counts = np.pad(np.asarray(counts, np.int32), padding[1])
  padded = jnp.asarray(np.pad(scores, padding))
  keep, asked = run(padded, jnp.asarray(counts), ratio, **options)
  assert not np.any(np.asarray(keep)[:, clusters:])
  cut = lambda leaf: np.asarray(leaf)[:rows]
  return cut(keep)[:, :clusters], wicsum.Rows(*map(cut, asked))


def by_sorting(scores, counts, ratio, treatment="clamped"):
  return np.stack(
    [
      oracle.wicsum(row, counts, ratio, treatment)
      for row in np.atleast_2d(np.asarray(scores, np.float32))
    ]
  )


def whole_numbers(seed, clusters, low, high):
  """Scores and counts whose sums float32 holds exactly; many ties."""
  random = np.random.default_rng(seed)
  scores = random.integers(low, high + 1, (ROWS, clusters))
  counts = random.integers(0, 5, clusters)
  counts[random.integers(clusters)] = 3  # somewhere there is a cluster
  return scores.astype(np.float32), counts
