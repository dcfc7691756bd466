"""Rows and arrays of a run, against loops over a run made by hand.

Two layers, one stream, two KV heads; five frames in three blocks, one answered
question. Counts are random integers, so that no two axes can be confused.
"""

import dataclasses
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax import programs
from vrex_jax import questions
from vrex_jax import record
from vrex_jax import session_report
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.baselines import full as full_lib
from vrex_jax.baselines import sliding_window as sliding_window_lib
from vrex_jax.models import tokenizer

LAYERS, HEADS, ROWS_PER_HEAD = 2, 2, 2
STAGE = [0, 1, 1, 1, 1, 1, 2, 3, 3]
FRAMES = [event for event, stage in enumerate(STAGE) if stage == 1]
BLOCKS = (
  driver_lib.Block(2, 0.2, 0.3),
  driver_lib.Block(2, 0.04, 0.08),
  driver_lib.Block(1, 0.03, 0.01),
)
HELD = 37


def a_trace():
  random = np.random.default_rng(0)
  shape = (len(STAGE), LAYERS, 1, HEADS)
  nothing = trace_lib.empty(
    num_layers=LAYERS,
    batch=1,
    num_kv_heads=HEADS,
    retrieves=np.array([[True, True], [False, True]] + [[True, True]] * 2),
    rows_per_head=ROWS_PER_HEAD,
  )
  counts = {
    name: random.integers(1, 100, shape).astype(np.int32)
    for name in nothing.counts
  }
  counts["past_seen"][FRAMES[0]] = 0
  counts["past_attended"][FRAMES[0]] = 0
  return nothing.replace(
    stage=np.array(STAGE, np.int8),
    time_s=np.array([0, 0, 1 / 3, 2 / 3, 1, 4 / 3, 4 / 3, 4 / 3, 4 / 3]),
    frame=np.array([[-1], [0], [1], [2], [3], [4], [4], [4], [4]], np.int32),
    counts=counts,
    overflow=np.zeros(shape[:3], np.uint32),
  )


def a_driver(policy, **changes):
  config = stream_state.StreamConfig(
    decoder=testing.decoder_config(),
    capacity=200,
    frame_tokens=5,
    question_chunk=8,
    **changes,
  )
  params = testing.decoder_parameters(config.decoder)
  return programs.Driver(config, policy, params, 2, 4, {}, {"frame": 1.5})


def a_run(driver, valid, cursor):
  """A run whose slots are `valid` and whose cursor stands at `cursor`."""
  state = stream_state.init(driver.config, driver.policy, driver.params)
  slots = state.cache.slots.replace(valid=jnp.asarray(valid))
  cache = state.cache.replace(slots=slots, cursor=jnp.int32(cursor))
  state = state.replace(cache=cache)
  return driver_lib.Run(state, cursor=cursor, frames=5, blocks=BLOCKS)


def a_full_run(driver):
  """HELD live slots; what lies beyond the cursor is an undone question."""
  valid = np.zeros((1, driver.config.num_slots), bool)
  valid[0, : HELD + 9] = True
  return a_run(driver, valid, HELD)


MODEL = types.SimpleNamespace(
  tokenizer=tokenizer.ByteTokenizer(),
  config=types.SimpleNamespace(decoder=testing.decoder_config()),
)


def a_reply(text, ttft_s, tpot_s):
  ids = list(text.encode())
  return driver_lib.Reply([ids], [False], np.zeros((1, 64)), ttft_s, tpot_s)


REPLIES = [
  (questions.Question(0.5, "one?"), a_reply("yes", 0.02, 0.004)),
  (questions.Question(1.0, "two?"), a_reply("", 0.04, math.nan)),
]


@pytest.fixture(scope="module")
def full():
  return a_driver(full_lib.full())


@pytest.fixture(scope="module")
def row(full):
  run = a_full_run(full)
  decode_s = [0.001, 0.002, 0.003, 0.004, 0.005]
  return session_report.streaming_row(
    MODEL, full, run, a_trace(), REPLIES, decode_s, 0.0125
  )


# The streaming row.


def test_the_row_has_the_schema_s_fields_in_order(row):
  assert tuple(row) == record.STREAMING_FIELDS
  assert row["policy"] == "full"
  assert row["frames"] == 5
  assert row["compile_s"] == {"frame": 1.5}
  assert row["overflow"] == []
  assert row["peak_rss_bytes"] > 2**20


def test_held_tokens_are_live_slots_before_the_cursor(row):
  head_dim = testing.decoder_config().head_dim
  assert row["cached_tokens"] == HELD
  assert row["kv_bytes"] == HELD * LAYERS * HEADS * 2 * head_dim * 4


def test_an_evicting_policy_holds_each_head_s_own():
  driver = a_driver(
    sliding_window_lib.sliding_window(frames=2), cache_dtype=jnp.bfloat16
  )
  valid = np.zeros((LAYERS, 1, HEADS, driver.config.num_slots), bool)
  for layer, head, count in ((0, 0, 3), (0, 1, 11), (1, 0, 7), (1, 1, 0)):
    valid[layer, 0, head, 20 - count : 20] = True
  row = session_report.streaming_row(
    MODEL, driver, a_run(driver, valid, 18), a_trace(), [], [], None
  )
  assert row["cached_tokens"] == 9  # two of the eleven lie past the cursor
  held = 1 + 9 + 5 + 0
  assert row["kv_bytes"] == held * 2 * driver.config.decoder.head_dim * 2


def test_times_per_frame_leave_out_the_first_block(row):
  assert row["ms_per_frame"]["first"] == pytest.approx(100.0)
  assert row["ms_per_frame"]["p50"] == pytest.approx(20.0)
  assert row["ms_per_frame"]["p95"] == pytest.approx(29.0)


def test_a_single_block_is_all_there_is(full):
  run = dataclasses.replace(a_full_run(full), blocks=BLOCKS[:1], frames=2)
  row = session_report.streaming_row(
    MODEL, full, run, a_trace(), [], [0.001], None
  )
  assert row["ms_per_frame"] == pytest.approx(
    {"p50": 100.0, "p95": 100.0, "first": 100.0}
  )


def test_the_rest_is_means_in_milliseconds(row):
  assert row["decode_ms"] == pytest.approx(3.0)
  assert row["vision_ms"] == pytest.approx(12.5)
  assert row["ttft_ms"] == pytest.approx(30.0)
  assert row["tpot_ms"] == pytest.approx(4.0)  # the empty answer has none
  counts = a_trace().counts["chunk_tokens"]
  tokens = sum(int(counts[event, 0, 0, 0]) for event in FRAMES)
  assert row["tokens_per_s"] == pytest.approx(tokens / 0.27)


def test_answers_are_texts_and_tokens(row):
  assert row["answers"] == [
    {
      "time_s": 0.5,
      "question": "one?",
      "answer": "yes",
      "tokens": [121, 101, 115],
    },
    {"time_s": 1.0, "question": "two?", "answer": "", "tokens": []},
  ]


def test_ratios_are_the_trace_s(row):
  trace = a_trace()
  for name, layers in (("retrieval_ratio", [1]), ("attended_share", [0, 1])):
    attended = seen = 0
    for event in FRAMES:
      for layer in layers:
        for head in range(HEADS):
          attended += int(trace.counts["past_attended"][event, layer, 0, head])
          seen += int(trace.counts["past_seen"][event, layer, 0, head])
    assert row[name]["frame"] == pytest.approx(attended / seen / ROWS_PER_HEAD)


def test_ratios_of_layers_are_the_trace_s(row):
  trace = a_trace()
  total = lambda name: int(trace.counts[name][FRAMES, 1].sum())
  share = total("past_attended") / total("past_seen") / ROWS_PER_HEAD
  first, second = row["retrieval_ratio_by_layer"]["frame"]
  assert math.isnan(first)  # layer 0 does not retrieve in frames
  assert second == pytest.approx(share)
  assert second == pytest.approx(row["retrieval_ratio"]["frame"])


def test_a_run_stopped_before_its_first_frame_has_no_times(full):
  empty = stream_state.init(full.config, full.policy, full.params)
  row = session_report.streaming_row(
    MODEL, full, driver_lib.Run(empty), a_trace()[0:0], [], [], None
  )
  assert row["frames"] == row["cached_tokens"] == row["kv_bytes"] == 0
  assert row["ms_per_frame"] == {"p50": None, "p95": None, "first": None}
  for name in ("decode_ms", "vision_ms", "ttft_ms", "tpot_ms", "tokens_per_s"):
    assert row[name] is None, name
  assert row["answers"] == []


def test_overflow_is_told(full):
  trace = a_trace()
  trace.overflow[3, 1, 0] = trace_lib.Overflow.POSITION
  row = session_report.streaming_row(
    MODEL, full, a_full_run(full), trace, [], [], None
  )
  (sentence,) = row["overflow"]
  assert "frame 2, layer 1" in sentence


# Rows of frames.csv.


def test_frame_rows_are_means_over_layers_and_heads(full):
  trace = a_trace()
  rows = session_report.frame_rows(full, a_full_run(full), trace)
  assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
  assert [row["time_s"] for row in rows] == [
    0.0,
    0.333333,
    0.666667,
    1,
    1.333333,
  ]
  assert [row["wall_ms"] for row in rows] == [100, 100, 20, 20, 30]
  assert [row["cpu_ms"] for row in rows] == [150, 150, 40, 40, 10]
  for row, event in zip(rows, FRAMES, strict=True):
    cells = {
      name: [
        int(trace.counts[name][event, layer, 0, head])
        for layer in range(LAYERS)
        for head in range(HEADS)
      ]
      for name in trace.counts
    }
    mean = lambda name, cells=cells: sum(cells[name]) / len(cells[name])
    assert row["policy"] == "full"
    assert row["tokens"] == cells["chunk_tokens"][0]
    assert row["past_seen"] == max(cells["past_seen"])
    assert row["past_held"] == mean("past_held")
    assert row["past_attended"] == mean("past_attended") / ROWS_PER_HEAD
    assert row["past_fetched"] == mean("past_fetched")
    if event == FRAMES[0]:
      assert math.isnan(row["retrieval_ratio"])  # it has no past
    else:
      # Layer 0 does not retrieve in frames; cells 2 and 3 are layer 1's.
      attended = sum(cells["past_attended"][2:]) / ROWS_PER_HEAD
      share = attended / sum(cells["past_seen"][2:])
      assert row["retrieval_ratio"] == pytest.approx(share)


def test_blocks_that_do_not_fit_the_trace_are_a_defect(full):
  run = dataclasses.replace(a_full_run(full), blocks=BLOCKS[:2])
  with pytest.raises(ValueError, match="zip"):
    session_report.frame_rows(full, run, a_trace())


# Arrays of record.npz.


def a_record(random, valid):
  valid = np.array(valid, bool)
  batch, length = valid.shape
  decoder = testing.decoder_config()
  heads = lambda count: random.standard_normal(
    (LAYERS, batch, count, length, decoder.head_dim)
  ).astype(np.float32)
  number = lambda: random.integers(0, 90, valid.shape).astype(np.int32)
  return observing.Record(
    query=heads(decoder.num_heads),
    query_next=heads(decoder.num_heads),
    key=heads(decoder.num_kv_heads),
    value=heads(decoder.num_kv_heads),
    position=number(),
    frame=number(),
    kind=number().astype(np.int8),
    valid=valid,
  )


def test_recorded_chunks_lie_end_to_end_without_shared_padding():
  random = np.random.default_rng(1)
  valids = [[[1, 1, 0, 0], [1, 0, 1, 0]], [[0, 0], [0, 0]], [[0], [1]]]
  records = [a_record(random, valid) for valid in valids]
  kept = [(0, 0), (0, 1), (0, 2), (2, 0)]  # (record, column)
  found = session_report.record_arrays(MODEL, records)
  decoder = testing.decoder_config()
  assert found["query"].shape == (LAYERS, 2, decoder.num_heads, 4, 8)
  assert found["key"].shape == (LAYERS, 2, decoder.num_kv_heads, 4, 8)
  for column, (one, source) in enumerate(kept):
    for name in ("query", "query_next", "key", "value"):
      np.testing.assert_array_equal(
        found[name][:, :, :, column],
        getattr(records[one], name)[:, :, :, source],
      )
    for name in ("position", "frame", "kind", "valid"):
      np.testing.assert_array_equal(
        found[name][:, column], getattr(records[one], name)[:, source]
      )
  np.testing.assert_array_equal(found["event"], [0, 0, 0, 2])
  width = np.arange(decoder.head_dim // 2)
  np.testing.assert_allclose(
    found["frequencies"],
    decoder.rope.theta ** (-2.0 * width / decoder.head_dim),
    rtol=1e-6,
  )
