"""RetroInfer against its formula: three zones."""

import numpy as np

from tests import reference
from tests.baselines import bare
from vrex_jax import policy_syntax


def test_steady_exact_and_estimated_zones():
  block, sink, recent, exact, estimated = 12, 2, 3, 0.3, 0.4
  bench = bare.Bare(
    policy_syntax.make_policy(
      f"retroinfer(block={block}, cluster_tokens=3, sink_tokens={sink},"
      f" recent_tokens={recent}, exact_share={exact},"
      f" estimated_share={estimated}, stages=all)"
    )
  )
  weighed = 0
  for valid in (4, 3, 4, 4, 4, 2, 4, 4, 4):
    past = bench.cursor
    label = np.asarray(bench.state.clusters.label)
    before = bench.valid & (np.arange(bare.SLOTS) < past)
    found = bench.chunk(valid=valid)
    for layer, (selection, _) in enumerate(found):
      part = selection.parts[0]
      key_rows, value_rows, log_weight = map(np.asarray, part.extra)
      for head in range(bench.kv_heads):
        names = np.unique(label[layer, head][label[layer, head] >= 0])
        members = [np.nonzero(label[layer, head] == name)[0] for name in names]
        key = bench.key[layer, head].astype("f8")
        means = np.array([key[mine].mean(axis=0) for mine in members])
        rank = np.zeros(len(names))
        if len(names):
          rows = bench.query[
            layer, head * bench.group : (head + 1) * bench.group
          ]
          rows = rows[:, :valid].reshape(-1, bare.WIDTH)
          score = rows @ means.T / bare.WIDTH**0.5
          rank = reference.softmax_rows(score).sum(axis=0)
        first = np.ceil(np.float32(exact) * len(names))
        both = np.ceil(np.float32(exact + estimated) * len(names))
        near = bare.highest(rank, first)
        far = bare.highest(rank, both) & ~near
        taken = [
          slot for index in np.nonzero(near)[0] for slot in members[index]
        ]
        slots = np.arange(bare.SLOTS)
        expected = np.isin(slots, taken) | (label[layer, head] == -1)
        expected |= slots >= past - recent
        live = before[layer, head]
        np.testing.assert_array_equal(
          bare.unpack(part.slots)[head] & live, expected & live
        )
        on = np.nonzero(log_weight[head] > -np.inf)[0]
        np.testing.assert_array_equal(on, names[far])
        for cluster in on:
          mine = np.nonzero(label[layer, head] == cluster)[0]
          np.testing.assert_allclose(
            key_rows[head, cluster], key[mine].mean(axis=0), atol=1e-5
          )
          np.testing.assert_allclose(
            value_rows[head, cluster],
            bench.value[layer, head, mine].mean(axis=0),
            atol=1e-5,
          )
          np.testing.assert_allclose(
            log_weight[head, cluster], np.log(len(mine)), atol=1e-5
          )
          weighed += len(mine) > 1
  assert weighed > 0
