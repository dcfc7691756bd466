"""ClusterKV and its k-means against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.baselines import bare
from vrex_jax import policy_syntax
from vrex_jax.baselines import kmeans

RULE = kmeans.Rule(
  block=16, clusters=4, iterations=5, sink_tokens=0, centered=False, seed=0
)


@pytest.mark.parametrize("centered", [False, True])
def test_k_means_is_that_of_numpy(centered):
  random = np.random.default_rng(0)
  key = random.standard_normal((16, 8)).astype("f4")
  member = np.arange(16) != 5
  start = np.array([0, 3, 7, 9])
  rule = RULE._replace(centered=centered)
  label, center, size = kmeans.lloyd(
    jnp.asarray(key), jnp.asarray(member), jnp.asarray(start), rule
  )
  wide = key.astype("f8")
  offset = wide[member].mean(axis=0) if centered else 0.0
  moved = wide - offset
  mean = moved[start]
  for _ in range(rule.iterations + 1):
    direction = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    expected = np.where(member, np.argmax(moved @ direction.T, axis=1), -1)
    mean = np.stack(
      [
        moved[expected == c].mean(axis=0) if np.any(expected == c) else mean[c]
        for c in range(4)
      ]
    )
  np.testing.assert_array_equal(label, expected)
  np.testing.assert_array_equal(size, [np.sum(expected == c) for c in range(4)])
  np.testing.assert_allclose(center, mean + offset, atol=1e-5)


def test_clusters_by_score_cut_inside_the_last_one():
  block, sink, budget = 12, 2, 9
  bench = bare.Bare(
    policy_syntax.make_policy(
      f"clusterkv(budget={budget}, block={block}, cluster_tokens=4,"
      f" sink_tokens={sink}, dense_layers=0, stages=all)"
    )
  )
  for valid in (4, 3, 4, 4, 4, 2, 4, 4, 4, 4):
    past = bench.cursor
    label = np.asarray(bench.state.clusters.label)
    sets = bench.frame_sets(valid=valid)
    done = past // block * block
    assert np.all(
      (label[..., sink:done] >= 0) & (label[..., :sink] == -1).all()
    )
    assert np.all(label[..., done:] == -1)
    for layer in range(bare.LAYERS):
      for row, chosen in enumerate(sets[layer]):
        kv = row // bench.group
        asking = bench.query[layer, row, :valid].astype("f8").mean(axis=0)
        key = bench.key[layer, kv].astype("f8")
        names = np.unique(label[layer, kv][label[layer, kv] >= 0])
        members = [np.nonzero(label[layer, kv] == name)[0] for name in names]
        score = [asking @ key[mine].mean(axis=0) for mine in members]
        order = np.argsort(-np.array(score), kind="stable")
        taken = [slot for index in order for slot in members[index]]
        taken = taken[: min(budget, past) - sink]
        loose = np.nonzero(label[layer, kv, :past] == -1)[0]
        expected = np.isin(np.arange(bare.SLOTS), [*taken, *loose])
        np.testing.assert_array_equal(chosen, expected)
