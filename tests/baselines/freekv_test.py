"""FreeKV against its formula, step by step."""

import numpy as np
import pytest

from tests import reference
from tests.baselines import bare
from vrex_jax import policy_syntax


def digest_of(keys, kind):
  """Lower and upper bound of a page's keys."""
  low, high = keys.min(axis=0), keys.max(axis=0)
  if kind == "arkvale":
    center = (low + high) / 2
    away = np.abs(keys - center).mean(axis=0)
    low, high = center - away, center + away
  return low, high


@pytest.mark.parametrize(
  ("digest", "threshold"), [("quest", 0.3), ("arkvale", 1.0)]
)
def test_last_steps_pages_unless_the_query_has_turned(digest, threshold):
  page, sink, recent, budget = 4, 2, 3, 16
  bench = bare.Bare(
    policy_syntax.make_policy(
      f"freekv(budget={budget}, page={page}, sink_tokens={sink},"
      f" recent_tokens={recent}, dense_layers=0, digest={digest},"
      f" threshold={threshold}, stages=all)"
    )
  )
  last_query, last_pages = {}, {}
  corrections = 0
  for step, valid in enumerate((4, 3, 4, 4, 4, 4, 2, 4)):
    past = bench.cursor
    before = bench.valid & (np.arange(bare.SLOTS) < past)
    found = bench.chunk(valid=valid)
    slots = np.arange(bare.SLOTS)
    for layer, (selection, counts) in enumerate(found):
      asking = bench.query[layer, :, :valid].astype("f8").mean(axis=1)
      for head in range(bench.kv_heads):
        rows = asking[head * bench.group : (head + 1) * bench.group]
        key = bench.key[layer, head, :past].astype("f8")
        bounds = [
          digest_of(key[at : at + page], digest) for at in range(0, past, page)
        ]
        best = np.zeros(bare.SLOTS, bool)
        if bounds:
          score = np.array(
            [
              [np.maximum(row * low, row * high).sum() for low, high in bounds]
              for row in rows
            ]
          )
          weight = reference.softmax_rows(score).mean(axis=0)
          number = max((budget - sink - recent) // page, 1)
          number = number if budget < past else len(bounds)
          chosen = np.nonzero(bare.highest(weight, number))[0]
          best = np.isin(slots // page, chosen)
        asked_before = last_query.get((layer, head))
        turned = True
        if asked_before is not None:
          size = np.linalg.norm(rows, axis=1) * np.linalg.norm(
            asked_before, axis=1
          )
          turned = np.mean((rows * asked_before).sum(axis=1) / size) < threshold
        mine = best if turned else last_pages[layer, head]
        fixed = (slots < sink) | (slots >= past - recent)
        live = before[layer, head]
        np.testing.assert_array_equal(
          bare.unpack(selection.parts[0].slots)[head] & live,
          (mine | fixed) & live,
        )
        np.testing.assert_array_equal(
          bare.unpack(selection.prefetch)[head] & live, (best | fixed) & live
        )
        assert counts.corrections[head] == turned
        corrections += step > 0 and turned
        last_query[layer, head], last_pages[layer, head] = rows, best
  total = 7 * bare.LAYERS * bench.kv_heads
  assert corrections == total if threshold == 1.0 else 0 < corrections < total
