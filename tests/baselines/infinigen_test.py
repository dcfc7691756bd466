"""InfiniGen against its formula: a turn that concentrates, partial scores."""

import numpy as np
import pytest

from tests.baselines import bare
from vrex_jax import policy_syntax
from vrex_jax.baselines import infinigen as infinigen_lib


def basis_of(query, key, columns):
  turn = np.linalg.svd(query)[2].T
  size = np.abs(query @ turn).sum(axis=0) + np.abs(key @ turn).sum(axis=0)
  return turn[:, np.argsort(-size, kind="stable")[:columns]]


@pytest.mark.parametrize("sampled", [False, True])
def test_partial_scores_near_the_best(sampled):
  alpha, columns, cap = 0.6, 2, 5
  sample = None
  if sampled:
    random = np.random.default_rng(3)
    draw = lambda heads: random.standard_normal((bare.LAYERS, heads, 12, 8))
    sample = {"query": draw(4), "key": draw(2)}
  policy = policy_syntax.make_policy(
    f"infinigenp(budget={cap}, alpha={alpha}, partial=0.25, dense_layers=0)"
  )
  bench = bare.Bare(policy, sample=sample)
  basis = {}
  for layer in range(bare.LAYERS):
    weights = bench.params["decoder"][f"layers_{layer}"]
    for head in range(bench.kv_heads):
      if sampled:
        query = sample["query"][layer, 2 * head : 2 * head + 2].reshape(-1, 8)
        key = sample["key"][layer, head]
      else:
        query = weights["q_proj"]["kernel"].reshape(-1, 2, 2, 8)[:, head]
        query = query.reshape(-1, 8)
        key = weights["k_proj"]["kernel"].reshape(-1, 2, 8)[:, head]
      basis[layer, head] = basis_of(query, key, columns)
  sizes = set()
  for valid in (4, 3, 4, 4, 4):
    past = bench.cursor
    sets = bench.frame_sets(valid=valid)
    for layer in range(bare.LAYERS):
      scores = []
      for row in range(bench.heads):
        fold = basis[layer, row // bench.group]
        asking = (
          bench.query[layer, row, :valid].astype("f8").mean(axis=0) @ fold
        )
        key = bench.key[layer, row // bench.group, :past] @ fold
        scores.append(key @ asking / bare.WIDTH**0.5)
      near = [np.sum(one > max(one, default=0) - alpha) for one in scores]
      number = min(int(np.mean(near)), cap)
      sizes.add(number)
      for row, score in enumerate(scores):
        expected = np.zeros(bare.SLOTS, bool)
        expected[:past] = bare.highest(score, number)
        np.testing.assert_array_equal(sets[layer][row], expected)
  assert len(sizes) > 2


def test_all_columns_give_the_exact_score():
  random = np.random.default_rng(0)
  query, key = random.standard_normal((2, 9, 8))
  basis = infinigen_lib.partial_basis(query, key, 8)
  np.testing.assert_allclose((query @ basis) @ (key @ basis).T, query @ key.T)
