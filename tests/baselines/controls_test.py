"""Controls of this project (random, hash codes, exact scores) and FlexGen."""

import numpy as np
import pytest

from tests import reference
from tests.baselines import bare
from vrex_jax import policy_syntax
from vrex_jax.resv import hashing


def make(text, **named):
  return bare.Bare(policy_syntax.make_policy(text), **named)


def rows_of(query, valid, group):
  """f[N, T, H] -> [K, G · valid, H]."""
  kept = query[:, :valid]
  return kept.reshape(len(query) // group, -1, query.shape[-1])


@pytest.mark.parametrize("heads", ["kv", "query"])
def test_the_oracle_takes_what_has_the_most_attention(heads):
  budget = 5
  bench = make(f"oracle_topk(budget={budget}, heads={heads})")
  for valid in (4, 4, 3, 4):
    live = bench.live()
    sets = bench.frame_sets(valid=valid)
    for layer in range(bare.LAYERS):
      for row, chosen in enumerate(sets[layer]):
        kv = row if heads == "kv" else row // bench.group
        rows = bench.query[layer, [row]]
        if heads == "kv":
          rows = bench.query[layer, row * bench.group : (row + 1) * bench.group]
        score = rows[:, :valid].reshape(-1, bare.WIDTH) @ bench.key[layer, kv].T
        mass = np.full(bare.SLOTS, -np.inf)
        if len(live):
          weights = reference.softmax_rows(score[:, live] / bare.WIDTH**0.5)
          mass[live] = weights.sum(axis=0)
        np.testing.assert_array_equal(chosen, bare.highest(mass, budget))


@pytest.mark.parametrize(("chunk", "heads"), [("mean", "kv"), ("max", "query")])
def test_hash_codes_nearest_to_the_query(chunk, heads):
  budget, bits = 5, 40
  bench = make(
    f"hash_topk(budget={budget}, hash_bits={bits}, chunk={chunk},"
    f" heads={heads})"
  )
  planes = hashing.hyperplanes(0, bare.WIDTH, bits)[:, :bits].astype("f8")
  for valid in (4, 4, 3, 4):
    live = bench.live()
    sets = bench.frame_sets(valid=valid)
    for layer in range(bare.LAYERS):
      asking = bench.query[layer, :, :valid].astype("f8")
      if chunk == "mean":
        asking = asking.mean(axis=1, keepdims=True)
      own = asking @ planes > 0  # [N, M, P]
      key = np.repeat(bench.key[layer], bench.group, axis=0) @ planes > 0
      distance = (own[:, :, None] != key[:, None]).sum(-1)  # [N, M, S]
      score = -distance.min(axis=1).astype(float)
      if heads == "kv":
        score = score.reshape(bench.kv_heads, bench.group, -1).sum(axis=1)
      there = np.isin(np.arange(bare.SLOTS), live)
      for row, chosen in enumerate(sets[layer]):
        mine = np.where(there, score[row], -np.inf)
        np.testing.assert_array_equal(chosen, bare.highest(mine, budget))


def test_random_sets_are_fixed_or_redrawn_and_fair():
  sizes, moved = {}, {}
  for redrawn in (False, True):
    bench = make(f"random(budget=0.5, redrawn={redrawn})")
    sets = [bench.frame_sets()[0] for _ in range(20)]
    sizes[redrawn] = [np.sum(one, axis=-1) for one in sets]
    # Tokens of an early set that are still chosen at the end.
    early, late = sets[10], sets[-1]
    moved[redrawn] = np.sum(early & late) / np.sum(early)
    assert not np.array_equal(early[0], early[1])
  for found in sizes.values():
    np.testing.assert_array_equal(
      found, np.repeat(np.arange(20)[:, None] * 2, 2, axis=1)
    )
  assert moved[True] < 0.75 < moved[False]


def test_a_seed_is_another_draw():
  first, second = (make(f"random(budget=0.5, seed={seed})") for seed in (0, 1))
  for bench in (first, second):
    for _ in range(6):
      bench.chunk()
  assert np.any(first.frame_sets()[0] != second.frame_sets()[0])


def test_flexgen_is_the_full_cache_off_the_device():
  policy = policy_syntax.make_policy("flexgen")
  assert policy.needs.resident == 0
  bench = bare.Bare(policy)
  bench.chunk()
  assert np.all(np.sum(bench.frame_sets(), axis=-1) == 4)
