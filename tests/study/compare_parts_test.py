"""What a clip fetched, by hand; a policy without its rule."""

import numpy as np
import pytest

from vrex_jax import policy_syntax
from vrex_jax import trace as trace_lib
from vrex_jax.study import compare
from vrex_jax.study import compare_clip
from vrex_jax.study import compare_step

HEAD_BYTES = 8


def trace_of(fetched, runs, held):
  """Two frames of one stream, two layers, one head; then a question."""
  shape = (3, 2, 1, 1)
  wide = lambda values: np.broadcast_to(
    np.array(values)[:, None, None, None], shape
  ).astype(np.int32)
  counts = trace_lib.zero_counts(shape)._replace(
    past_fetched=wide([*fetched, 99]),
    past_exposed=wide([0, 1, 99]),
    fetch_runs=wide([*runs, 99]),
    past_held=wide([*held, 99]),
    chunk_tokens=wide([4, 4, 4]),
  )
  event = trace_lib.Event(
    np.array([1, 1, 2]), np.zeros((3, 1)), counts, np.zeros(shape[:3], int)
  )
  return trace_lib.from_events(
    event, time_s=np.zeros(3), retrieves=np.ones((4, 2)), rows_per_head=1
  )


def test_what_frames_fetched_by_hand():
  found = compare_clip.fetched(
    trace_of(fetched=[2, 6], runs=[1, 3], held=[4, 8]), HEAD_BYTES, window=10
  )
  assert found["fetched_bytes_per_frame"] == 2 * (2 + 6) / 2 * HEAD_BYTES
  assert found["exposed_bytes_per_frame"] == 2 * (0 + 1) / 2 * HEAD_BYTES
  assert found["run_tokens"] == 2.0
  assert found["resident_bytes"] == 2 * 10 * HEAD_BYTES


@pytest.mark.parametrize(("window", "tokens"), [(None, 12), (0, 0), (99, 12)])
def test_what_lies_on_the_device(window, tokens):
  found = compare_clip.fetched(
    trace_of(fetched=[0, 0], runs=[0, 0], held=[4, 8]), HEAD_BYTES, window
  )
  assert found["resident_bytes"] == 2 * tokens * HEAD_BYTES
  assert found["run_tokens"] is None


@pytest.mark.parametrize("text", ["quest(stages=all)", "freekv(stages=all)"])
def test_without_its_rule_a_policy_asks_the_same_of_the_driver(text):
  policy = policy_syntax.make_policy(text)
  bare = compare_step.without_rule(policy)
  same = ("stages", "dense_layers", "granularity", "evicts", "mass")
  for name in same:
    assert getattr(bare.needs, name) == getattr(policy.needs, name)
  assert bare.init(None, None, bare.knobs, None) == {}
  assert not bare.needs.prefetches


def test_a_ledger_finds_a_case_of_a_part_and_keeps_what_is_added():
  kept = []
  ledger = compare.Ledger([], lambda: kept.append(1), lambda: False)
  case = {"method": "quest", "variant": "all", "share": 0.1}
  ledger.add([{"part": "qa", **case, "disturb": "none"}])
  assert kept == [1]
  assert ledger.find("qa", case, disturb="none") is ledger.rows[0]
  assert ledger.find("qa", case, disturb="sink") is None
  assert ledger.find("clip", case) is None
  assert ledger.find("qa", compare.FULL) is None
