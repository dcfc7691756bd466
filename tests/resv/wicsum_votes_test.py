"""From rows to a head's clusters: blocks in use, votes, batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from vrex_jax.resv import wicsum

rows_of = jax.jit(wicsum.row_thresholds, static_argnames=("form", "signed"))
clusters_of = jax.jit(wicsum.kept_clusters)


@pytest.mark.parametrize("form", ["exact", "buckets"])
@pytest.mark.parametrize("filled", [0, 1, 256, 257, 300])
def test_nothing_behind_the_filled_blocks_is_read(form, filled):
  """Garbage, infinite or not a number, from the next block on."""
  random = np.random.default_rng(filled)
  end = -(-filled // 256) * 256
  scores = np.full((4, 768), -np.inf, np.float32)
  scores[:, :filled] = random.standard_normal((4, filled))
  scores[:, end:] = np.where(np.arange(768 - end) % 2, np.nan, np.inf)
  counts = np.where(np.arange(768) < end, 0, 9).astype(np.float32)
  counts[:filled] = random.integers(1, 60, filled)
  valid = np.array([True, True, False, True])
  ratio = jnp.full(4, 0.3, jnp.float32)
  rows = rows_of(
    jnp.asarray(scores), jnp.asarray(counts), filled, ratio, valid, form=form
  )
  told = [
    oracle.early_exit(row[:filled], counts[:filled], np.float32(0.3))[1:]
    for row in scores
  ]
  told[2] = (0, 0)
  np.testing.assert_array_equal(np.stack(rows[1:], axis=1), told)
  keep = np.asarray(clusters_of(jnp.asarray(scores), rows, valid, filled))
  assert not keep[filled:].any()
  which = oracle.wicsum
  if form == "buckets":
    which = lambda *arguments: oracle.early_exit(*arguments)[0]
  expected = [
    which(scores[row, :filled], counts[:filled], np.float32(0.3))
    for row in (0, 1, 3)
  ]
  np.testing.assert_array_equal(keep[:filled], np.any(expected, axis=0))


def test_one_row_alone_decides_whatever_the_votes():
  """A token of an answer asks with fewer rows than there are votes."""
  scores = jnp.asarray([[3.0, 2.0, 1.0] + [-jnp.inf] * 61] * 4)
  counts = jnp.asarray([1.0] * 3 + [0.0] * 61)
  valid = np.array([False, True, False, False])
  for ratio, kept in ((0.4, 1), (0.6, 2), (1.0, 3)):
    rows = rows_of(scores, counts, 3, jnp.full(4, ratio), valid)
    keep = clusters_of(scores, rows, valid, 3, 4)
    assert int(keep.sum()) == kept


@pytest.mark.parametrize("votes", [1, 2, 3, 4, 5])
def test_votes_are_counted_over_valid_rows(votes):
  random = np.random.default_rng(2)
  scores = random.standard_normal((5, 64)).astype(np.float32)
  scores[:, 50:] = -np.inf
  counts = np.where(np.arange(64) < 50, 2, 0).astype(np.float32)
  valid = np.array([True, False, True, True, True])
  rows = rows_of(
    jnp.asarray(scores),
    jnp.asarray(counts),
    50,
    jnp.full(5, 0.75, jnp.float32),
    valid,
  )
  keep = clusters_of(jnp.asarray(scores), rows, valid, 50, votes)
  number = sum(
    oracle.wicsum(scores[row], counts, 0.75).astype(int) for row in (0, 2, 3, 4)
  )
  np.testing.assert_array_equal(keep, number >= min(votes, 4))
  assert set(number.tolist()) >= {0, 1, 2, 3}


def test_rows_of_a_batch_under_vmap_are_those_rows_alone():
  """Streams with 300, 2 and no clusters, and rows that are hard to decide."""
  random = np.random.default_rng(4)
  scores = np.full((3, 4, 512), -np.inf, np.float32)
  scores[0, :, :300] = 1e3 * random.standard_normal((4, 300)) ** 5
  scores[1, :, :2] = random.standard_normal((4, 2))
  counts = np.zeros((3, 512), np.float32)
  counts[0, :300], counts[1, :2] = random.integers(1, 60, 300), 7
  filled = np.array([300, 2, 0])
  ratio = np.float32([[0.0, 0.3, 0.9, 1.0]] * 3)
  valid = np.array([[True] * 4, [True, False, True, True], [True] * 4])
  arguments = (scores, counts, filled, ratio, valid)

  def both(*one):
    rows = wicsum.row_thresholds(*one)
    return rows, wicsum.kept_clusters(one[0], rows, one[4], one[2])

  together = jax.jit(jax.vmap(both))(*map(jnp.asarray, arguments))
  alone = jax.jit(both)
  for stream in range(3):
    rows, keep = alone(*(jnp.asarray(one[stream]) for one in arguments))
    found, kept_ = jax.tree.map(
      lambda leaf, stream=stream: leaf[stream], together
    )
    np.testing.assert_array_equal(kept_, keep)
    chex.assert_trees_all_equal(found[1:], rows[1:])
  assert np.asarray(together[1]).sum(axis=1).tolist()[1:] == [2, 0]
