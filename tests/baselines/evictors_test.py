"""H2O, SnapKV and Inf-MLLM against their formulas, chunk by chunk."""

import numpy as np
import pytest

from tests import reference
from tests.baselines import bare
from vrex_jax import policy_syntax

every_slot = np.arange(bare.SLOTS)


def make(text):
  return bare.Bare(policy_syntax.make_policy(text))


def rows_of(bench, heads):
  return bench.kv_heads if heads == "kv" else bench.heads


@pytest.mark.parametrize("heads", ["kv", "query"])
def test_h2o_keeps_what_has_received_most(heads):
  heavy, recent = 3, 4
  bench = make(f"h2o(heavy={heavy}, recent={recent}, heads={heads})")
  rows = rows_of(bench, heads)
  mass = np.zeros((bare.LAYERS, rows, bare.SLOTS))
  mine = np.zeros((bare.LAYERS, rows, bare.SLOTS), bool)
  for valid in (4, 3, 4, 4, 2, 4):
    start = bench.cursor
    sets = bench.frame_sets(valid=valid)
    np.testing.assert_array_equal(sets, mine)
    new = (every_slot >= start) & (every_slot < start + valid)
    for layer in range(bare.LAYERS):
      for head in range(bench.heads):
        row, kv = head * rows // bench.heads, head // bench.group
        for token in range(valid):
          seen = mine[layer, row] | (new & (every_slot <= start + token))
          score = bench.key[layer, kv, seen] @ bench.query[layer, head, token]
          weight = reference.softmax_rows(score[None] / bare.WIDTH**0.5)[0]
          mass[layer, row, seen] += weight
      for row in range(rows):
        held = mine[layer, row] | new
        newest = held & (every_slot >= start + valid - recent)
        score = np.where(held & ~newest, mass[layer, row], -np.inf)
        mine[layer, row] = newest | bare.highest(score, heavy)
        mass[layer, row, ~mine[layer, row]] = 0.0
    union = mine.reshape(bare.LAYERS, bench.kv_heads, -1, bare.SLOTS).any(
      axis=2
    )
    np.testing.assert_array_equal(bench.valid, union)


def window_weight(bench, window, live, layer, head):
  """Mean attention of the last `window` queries [(position, query)]."""
  weight = np.zeros(bare.SLOTS)
  for position, query in window:
    seen = live & (every_slot <= position)
    score = bench.key[layer, head // bench.group, seen] @ query[layer, head]
    weight[seen] += reference.softmax_rows(score[None] / bare.WIDTH**0.5)[0]
  return weight / len(window)


def remember(bench, window, start, valid, size):
  """Adds a chunk's queries to the window."""
  for token in range(valid):
    window.append((start + token, bench.query[:, :, token].astype("f8")))
  del window[:-size]


@pytest.mark.parametrize(
  ("heads", "pooling", "stages"),
  [("query", "mean", "all"), ("kv", "max", "published")],
)
def test_snapkv_keeps_what_the_window_looks_at(heads, pooling, stages):
  budget, size, kernel = 8, 5, 3
  bench = make(
    f"snapkv(budget={budget}, window_tokens={size}, kernel={kernel},"
    f" pooling={pooling}, heads={heads}, stages={stages})"
  )
  rows = rows_of(bench, heads)
  mine = np.zeros((bare.LAYERS, rows, bare.SLOTS), bool)
  window = []
  for stage, last in [("frame", False)] * 4 + [
    ("question", False), ("question", True), ("frame", False), ("answer", False)
  ]:  # fmt: skip
    valid = 4 if stage == "frame" else 3
    start = bench.cursor
    sets = bench.frame_sets(stage, valid=valid, last=last)
    np.testing.assert_array_equal(sets, mine)
    remember(bench, window, start, valid, size)
    mine |= (every_slot >= start) & (every_slot < start + valid)
    asking = stage == "question"
    if not (asking and last) and (asking or stages == "published"):
      continue
    live = mine.reshape(bare.LAYERS, bench.kv_heads, -1, bare.SLOTS).any(axis=2)
    for layer in range(bare.LAYERS):
      vote = (
        np.array(
          [
            window_weight(
              bench, window, live[layer, head // bench.group], layer, head
            )
            for head in range(bench.heads)
          ]
        )
        .reshape(rows, -1, bare.SLOTS)
        .sum(axis=1)
      )
      for row in range(rows):
        newest = mine[layer, row] & (every_slot >= start + valid - size)
        old = np.nonzero(mine[layer, row] & ~newest)[0]
        wide = np.pad(vote[row, old], kernel // 2)
        wide = [wide[at : at + kernel] for at in range(len(old))]
        score = np.full(bare.SLOTS, -np.inf)
        reduce = np.mean if pooling == "mean" else np.max
        score[old] = [reduce(one) for one in wide]
        mine[layer, row] = newest | bare.highest(score, budget - size)
    union = mine.reshape(bare.LAYERS, bench.kv_heads, -1, bare.SLOTS).any(
      axis=2
    )
    np.testing.assert_array_equal(bench.valid, union)
  # Published, a frame and an answer have come since the question.
  later = 0 if stages == "all" else 4 + 3
  assert np.all(mine.sum(axis=-1) == budget + later)


@pytest.mark.parametrize("age", ["share", "tokens"])
def test_inf_mllm_keeps_recent_and_relevant_tokens(age):
  relevant, size, slope = 3, 5, 0.02
  bench = make(
    f"inf_mllm(relevant_tokens={relevant}, window_tokens={size}, slope={slope},"
    f" age={age})"
  )
  mine = np.zeros((bare.LAYERS, bare.SLOTS), bool)
  window = []
  for valid in (4, 3, 4, 4, 2, 4):
    start = bench.cursor
    sets = bench.frame_sets(valid=valid)
    for row in range(bench.kv_heads):
      np.testing.assert_array_equal(np.array(sets)[:, row], mine)
    remember(bench, window, start, valid, size)
    end = start + valid
    mine |= (every_slot >= start) & (every_slot < end)
    for layer in range(bare.LAYERS):
      weight = np.mean(
        [
          window_weight(bench, window, mine[layer], layer, head)
          for head in range(bench.heads)
        ],
        axis=0,
      )
      old = (end - 1 - every_slot) / (end if age == "share" else 1)
      newest = mine[layer] & (every_slot >= end - size)
      score = np.where(mine[layer] & ~newest, weight - slope * old, -np.inf)
      mine[layer] = newest | bare.highest(score, relevant)
    np.testing.assert_array_equal(bench.valid[:, 0], mine)
