"""One sort of a row against the rule that bisects, and the soft rule."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax.codesign import ranking
from vrex_jax.resv import relaxed
from vrex_jax.resv import wicsum

HEADS, ROWS, CLUSTERS = 2, 3, 8
RATIOS = np.array([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0])


@jax.jit
def bisected(scores, counts, ratio):
  """Kept clusters and visited buckets of one head, by the rule itself."""
  keep, rows = wicsum.wicsum(scores, counts, ratio)
  return keep, rows.buckets


@strategies.composite
def tables(draw):
  """Whole scores, negative ones and ties among them; some counts are 0."""
  whole = lambda low, high, size: strategies.lists(
    strategies.integers(low, high), min_size=size, max_size=size
  )
  scores = draw(whole(-3, 9, HEADS * ROWS * CLUSTERS))
  counts = draw(whole(0, 4, CLUSTERS).filter(any))
  counts = np.tile(np.array(counts, np.int64), (HEADS, 1))
  scores = np.array(scores, np.float32).reshape(HEADS, ROWS, CLUSTERS)
  return scores * (counts > 0)[:, None], counts


@hypothesis.settings(max_examples=25)
@hypothesis.given(tables())
def test_all_ratios_of_one_sort_are_those_of_the_rule(table):
  """Sums of whole numbers are exact, also at a threshold."""
  scores, counts = table
  ranked = ranking.rank(scores, counts)
  number = ranking.reached(ranked, RATIOS)
  visited = ranking.buckets_visited(ranked, number, scores, counts, RATIOS)
  enters = ranking.enters(ranked, scores, counts)
  first = ranking.places(ranked, number, scores, counts, RATIOS)
  for place, ratio in enumerate(RATIOS):
    for head in range(HEADS):
      keep, buckets = bisected(
        scores[head], counts[head].astype(np.int32), np.float32(ratio)
      )
      there = counts[head] > 0
      for mine in (enters[head] <= ratio, first[head] <= place):
        np.testing.assert_array_equal(
          mine[:, there], np.asarray(keep)[:, there]
        )
      if len(np.unique(scores[head][:, there])) > 1:
        np.testing.assert_array_equal(visited[head, :, place], buckets)


def entered(scores, counts):
  """e of every cluster."""
  return ranking.enters(ranking.rank(scores, counts), scores, counts)


def test_what_is_not_there_changes_nothing():
  random = np.random.default_rng(0)
  scores = random.standard_normal((1, 4, 6)).astype(np.float32)
  counts = random.integers(1, 9, (1, 6))
  wider = np.concatenate([scores, np.zeros_like(scores)], axis=-1)
  more = np.concatenate([counts, np.zeros_like(counts)], axis=-1)
  np.testing.assert_array_equal(
    entered(wider, more)[..., :6], entered(scores, counts)
  )


def test_minus_zero_is_zero():
  scores = np.float32([[[3.0, -0.0, 1.0]]])
  enters = entered(scores, np.array([[1, 1, 1]]))
  np.testing.assert_array_equal(enters, [[[0.0, 1.0, 0.75]]])


def test_votes_are_those_of_a_count():
  random = np.random.default_rng(1)
  enters = random.random((2, 5, 7))
  for votes in (1, 3, 5, 9):
    first = ranking.kept_from(enters, "vote", votes)
    for ratio in (0.2, 0.5, 0.9):
      counted = (enters <= ratio).sum(axis=1) >= min(votes, 5)
      np.testing.assert_array_equal(first <= ratio, counted)
  np.testing.assert_array_equal(
    ranking.kept_from(enters), ranking.kept_from(enters, "vote", 1)
  )


@pytest.mark.parametrize("temperature", [1e-3, 0.05])
def test_soft_weights_are_those_of_the_soft_rule(temperature):
  random = np.random.default_rng(2)
  scores = random.standard_normal((1, ROWS, CLUSTERS)).astype(np.float32)
  counts = random.integers(1, 9, (1, CLUSTERS))
  enters = entered(scores, counts)
  found = ranking.soft_weights(enters, RATIOS, temperature)[0]
  soft = jax.jit(
    functools.partial(relaxed.soft_wicsum, jnp.asarray(scores[0])),
  )
  for place, ratio in enumerate(RATIOS):
    weights = soft(counts[0].astype(np.int32), ratio, temperature)
    expected = 1.0 - np.prod(1.0 - np.asarray(weights, np.float64), axis=0)
    np.testing.assert_allclose(found[:, place], expected, atol=2e-4)
