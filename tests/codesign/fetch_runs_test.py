"""Runs by segments against a loop over tokens."""

import numpy as np

from vrex_jax.codesign import fetch_runs

HEADS, CLUSTERS, RATIOS = 2, 7, 5


def by_hand(free, sinks, entry, place):
  """Runs of one head at one ratio, token by token."""
  laid = []
  for cluster in range(CLUSTERS):
    laid += [True] * sinks[cluster]
    laid += [bool(entry[cluster] <= place)] * free[cluster]
  return int((np.diff(np.array([0, *laid], int)) == 1).sum())


def test_runs_of_every_ratio():
  """Also with clusters that are empty, or hold sinks alone."""
  random = np.random.default_rng(0)
  for _ in range(20):
    free = random.integers(0, 3, (HEADS, CLUSTERS))
    sinks = np.zeros_like(free)
    sinks[:, :3] = random.integers(0, 2, (HEADS, 3))
    entry = random.integers(0, RATIOS + 1, (HEADS, CLUSTERS))
    begins, there, joins, joined = fetch_runs.ends(free, sinks, entry)
    weights = (entry[..., None] <= np.arange(RATIOS)).astype(float)
    soft = fetch_runs.soft(free, sinks, weights)
    for head, place in np.ndindex(HEADS, RATIOS):
      runs = np.sum(there[head] & (begins[head] <= place))
      runs -= np.sum(joined[head] & (joins[head] <= place))
      expected = by_hand(free[head], sinks[head], entry[head], place)
      assert runs == expected
      assert soft[head, place] == expected
