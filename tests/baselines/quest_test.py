"""Quest against its formula: bounds of pages, the best of each query head."""

import numpy as np
import pytest

from tests.baselines import bare
from vrex_jax import policy_syntax


@pytest.mark.parametrize(("chunk", "heads"), [("mean", "query"), ("max", "kv")])
def test_pages_with_the_highest_bound(chunk, heads):
  page, budget = 4, 12
  bench = bare.Bare(
    policy_syntax.make_policy(
      f"quest(budget={budget}, page={page}, dense_layers=0, chunk={chunk},"
      f" heads={heads}, stages=all)"
    )
  )
  for valid in (4, 3, 4, 5, 2, 5, 5, 5):
    past = bench.cursor
    sets = bench.frame_sets(length=5, valid=valid)
    for layer in range(bare.LAYERS):
      asking = bench.query[layer, :, :valid].astype("f8")
      if chunk == "mean":
        asking = asking.mean(axis=1, keepdims=True)
      expected = []
      for head, rows in enumerate(asking):
        key = bench.key[layer, head // bench.group, :past].astype("f8")
        parts = [key[at : at + page] for at in range(0, past, page)]
        score = np.array(
          [
            np.maximum(rows * one.min(0), rows * one.max(0)).sum(-1).max()
            for one in parts
          ]
        )
        if chunk == "max":
          for one, highest in zip(parts, score, strict=True):
            assert (rows @ one.T).max() <= highest + 1e-9
        mask = np.zeros(bare.SLOTS, bool)
        if parts:
          score[-1] = np.inf
          chosen = np.nonzero(bare.highest(score, budget // page))[0]
          mask[:past] = np.isin(np.arange(past) // page, chosen)
        expected.append(mask)
      if heads == "kv":
        expected = np.reshape(expected, (bench.kv_heads, bench.group, -1))
        expected = expected.any(axis=1)
      np.testing.assert_array_equal(sets[layer], expected)


def test_published_it_reads_all_of_a_frame_and_in_its_first_layers():
  bench = bare.Bare(
    policy_syntax.make_policy("quest(dense_layers=1, budget=16)")
  )
  for _ in range(8):
    assert np.all(np.sum(bench.frame_sets(), axis=-1) == bench.seen - 4)
  dense, chosen = bench.frame_sets("answer", 1)
  assert np.all(dense.sum(axis=-1) == 32)
  assert np.all(chosen.sum(axis=-1) == 16)
