"""The trace: it adds, it survives a file, and it says what went wrong."""

import re

import chex
import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax import trace as trace_lib

LAYERS, BATCH, HEADS = 3, 2, 2


def events_of(stages, seed=0, overflow=0):
  """Random stacked events, one per stage index."""
  random = np.random.default_rng(seed)
  shape = (len(stages), LAYERS, BATCH, HEADS)
  counts = trace_lib.Counts(
    *(random.integers(0, 50, shape) for _ in trace_lib.Counts._fields)
  )
  return trace_lib.Event(
    stage=np.asarray(stages),
    frame=random.integers(0, 9, (len(stages), BATCH)),
    counts=counts._replace(overflow=np.zeros(shape, int)),
    overflow=np.full(shape[:3], overflow, np.uint32),
  )


def trace_of(stages, retrieves=None, rows_per_head=1, **kwargs):
  if retrieves is None:
    retrieves = np.ones((4, LAYERS), bool)
  return trace_lib.from_events(
    events_of(stages, **kwargs),
    time_s=np.arange(len(stages)) / 2,
    retrieves=retrieves,
    rows_per_head=rows_per_head,
  )


def test_counts_add_and_each_field_knows_how():
  one, two = (
    trace_lib.Counts(*(np.array([base + i]) for i in range(19)))
    for base in (1, 30)
  )
  total = one.plus(two)
  for name, found in total._asdict().items():
    a, b = getattr(one, name), getattr(two, name)
    expected = a + b
    if name.endswith("_max"):
      expected = np.maximum(a, b)
    if name == "overflow":
      expected = a | b
    np.testing.assert_array_equal(found, expected, err_msg=name)
  zero = trace_lib.zero_counts((1,))
  chex.assert_trees_all_equal(
    trace_lib.Counts(*map(np.asarray, zero.plus(one))), one
  )


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_events_before_and_after_a_cut_add_up(cut):
  whole = trace_of([0, 1, 1, 1, 2, 3, 3])
  parts = whole[:cut], whole[cut:]
  assert len(parts[0]) == cut
  chex.assert_trees_all_equal(trace_lib.concatenate(parts), whole)
  for name in whole.counts:
    expected = whole.total(name)
    one, two = (part.total(name) for part in parts)
    joined = np.maximum(one, two) if name.endswith("_max") else one + two
    np.testing.assert_array_equal(joined, expected)
  assert whole.total("past_seen").dtype == np.int64


def test_totals_do_not_overflow_int32():
  trace = trace_of([1, 1])
  trace.counts["past_seen"][:] = 2**31 - 1
  assert np.all(trace.total("past_seen") == 2 * (2**31 - 1))
  trace.counts["past_attended"][:] = 2**31 - 1
  assert trace_lib.retrieval_ratio(trace)["frame"] == 1.0


def test_the_empty_trace_is_neutral():
  whole = trace_of([0, 1, 2])
  nothing = trace_lib.empty(
    num_layers=LAYERS,
    batch=BATCH,
    num_kv_heads=HEADS,
    retrieves=whole.retrieves,
    rows_per_head=1,
  )
  chex.assert_trees_all_equal(trace_lib.concatenate([nothing, whole]), whole)
  chex.assert_trees_all_equal(trace_lib.concatenate([whole, nothing]), whole)
  assert len(nothing) == 0
  assert nothing.total("buckets_visited_max").shape == (LAYERS, BATCH, HEADS)


def test_retrieval_ratio_by_hand():
  """Σ attended / (rows · Σ seen) over events, retrieving layers and heads."""
  retrieves = np.ones((4, LAYERS), bool)
  retrieves[:, 0] = False  # layer 0 under look-ahead
  retrieves[3] = False  # answers attend to everything
  trace = trace_of([0, 1, 1, 3], retrieves=retrieves, rows_per_head=2)
  attended = np.zeros((4, LAYERS, BATCH, HEADS), np.int32)
  seen = np.zeros_like(attended)
  seen[1], seen[2], seen[3] = 10, 30, 40
  attended[1, 1:], attended[2, 1:] = 4, 20
  attended[1:, 0] = 2 * seen[1:, 0]
  attended[3] = 2 * seen[3]
  trace = trace.replace(
    counts={**trace.counts, "past_attended": attended, "past_seen": seen}
  )
  ratio = trace_lib.retrieval_ratio(trace)
  assert ratio["frame"] == pytest.approx((4 + 20) / (2 * (10 + 30)))
  assert np.isnan(ratio["question"])
  assert ratio["answer"] == 1.0
  assert set(ratio) == {"frame", "question", "answer"}
  share = trace_lib.retrieval_ratio(trace, all_layers=True)
  dense = 2 * (10 + 30)
  assert share["frame"] == pytest.approx((2 * 24 + dense) / (3 * dense))
  assert share["answer"] == 1.0


def test_a_stage_without_a_past_has_no_ratio():
  trace = trace_of([1])
  trace.counts["past_seen"][:] = 0
  trace.counts["past_attended"][:] = 0
  assert np.isnan(trace_lib.retrieval_ratio(trace)["frame"])
  by_layer = trace_lib.retrieval_ratio_by_layer(trace)
  assert np.isnan(by_layer["frame"]).tolist() == [True] * LAYERS


def test_ratios_of_layers_by_hand():
  retrieves = np.ones((4, LAYERS), bool)
  retrieves[:, 0] = False  # layer 0 under look-ahead
  trace = trace_of([0, 1, 1, 3], retrieves=retrieves, rows_per_head=2)
  attended = np.zeros((4, LAYERS, BATCH, HEADS), np.int32)
  seen = np.zeros_like(attended)
  seen[1], seen[2], seen[3, 2] = 10, 30, 40
  attended[1, 1], attended[2, 1] = 4, 20
  attended[1, 2], attended[2, 2], attended[3, 2] = 16, 0, 80
  trace = trace.replace(
    counts={**trace.counts, "past_attended": attended, "past_seen": seen}
  )
  nan = np.nan
  found = trace_lib.retrieval_ratio_by_layer(trace)
  assert set(found) == {"frame", "question", "answer"}
  np.testing.assert_allclose(found["frame"], [nan, 24 / 80, 16 / 80])
  np.testing.assert_allclose(found["question"], [nan, nan, nan])
  np.testing.assert_allclose(found["answer"], [nan, nan, 1.0])


@pytest.mark.parametrize("seed", range(3))
def test_layers_weighted_with_what_they_saw_are_the_stage(seed):
  retrieves = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]], bool)
  trace = trace_of(
    [0, 1, 1, 2, 3, 1, 2], retrieves=retrieves, rows_per_head=3, seed=seed
  )
  whole = trace_lib.retrieval_ratio(trace)
  for name, ratios in trace_lib.retrieval_ratio_by_layer(trace).items():
    stage = trace_lib.STAGES.index(name)
    layers = retrieves[stage]
    np.testing.assert_array_equal(np.isfinite(ratios), layers)
    seen = trace.counts["past_seen"][trace.stage == stage].sum(axis=(0, 2, 3))
    mean = np.average(np.array(ratios)[layers], weights=seen[layers])
    assert mean == pytest.approx(whole[name])


REMEDIES = {
  trace_lib.Overflow.CACHE_FULL: "raise the capacity",
  trace_lib.Overflow.TABLE_FULL: "raise its capacity",
  trace_lib.Overflow.POSITION: "shorten the stream",
  trace_lib.Overflow.NON_FINITE: "check the checkpoint",
}


@pytest.mark.parametrize(
  ("held", "growth"),
  [
    (lambda seen: seen, 1.0),
    (lambda seen: np.minimum(seen, 20), 0.0),
    (lambda seen: seen // 4, 0.25),
  ],
)
def test_growth_of_what_is_held_late_in_the_stream(held, growth):
  stages = [0, *[1] * 8, 2]
  trace = trace_of(stages)
  seen = np.arange(10)[:, None, None, None] * 12 + np.zeros_like(
    trace.counts["past_seen"]
  )
  counts = {**trace.counts, "past_seen": seen, "past_held": held(seen)}
  assert trace_lib.held_growth(trace.replace(counts=counts)) == growth
  assert np.isnan(trace_lib.held_growth(trace[:2]))


def test_every_bit_has_a_sentence():
  assert set(REMEDIES) == set(trace_lib.Overflow)


@pytest.mark.parametrize("bit", list(trace_lib.Overflow))
def test_a_bit_becomes_one_sentence_with_place_and_remedy(bit):
  trace = trace_of([0, 1, 1, 2])
  trace.frame[2:] = [[7, 8], [7, 8]]
  trace.overflow[2, 1, 1] |= bit
  trace.overflow[3, 0, 0] |= bit
  (sentence,) = trace_lib.check(trace)
  assert sentence.startswith("At frame 8, layer 1, stream 1 (frame stage")
  assert "2 events" in sentence
  assert REMEDIES[bit] in sentence
  assert sentence.count(".") == 1


def test_bits_are_told_one_by_one():
  trace = trace_of([1], overflow=1 | 4)
  sentences = trace_lib.check(trace)
  assert len(sentences) == 2
  assert trace_lib.check(trace_of([1])) == []


def test_a_policy_s_bits_join_the_driver_s():
  events = events_of([1, 1])
  events.counts.overflow[1, 2, 0, 1] = int(trace_lib.Overflow.TABLE_FULL)
  events.overflow[1, 2, 0] = trace_lib.Overflow.POSITION
  trace = trace_lib.from_events(
    events, time_s=[0, 1], retrieves=np.ones((4, 3), bool), rows_per_head=1
  )
  expected = np.zeros((2, LAYERS, BATCH), np.uint32)
  expected[1, 2, 0] = 2 | 4
  np.testing.assert_array_equal(trace.overflow, expected)
  assert "overflow" not in trace.counts


def test_a_file_holds_the_trace_without_pickle(tmp_path):
  retrieves = np.random.default_rng(1).random((4, LAYERS)) < 0.5
  trace = trace_of([0, 1, 1, 2, 3], retrieves=retrieves, rows_per_head=4)
  trace.overflow[2, 1, 0] = 9
  path = tmp_path / "trace.npz"
  trace_lib.save(trace, path)
  loaded = trace_lib.load(path)
  chex.assert_trees_all_equal(loaded, trace)
  chex.assert_trees_all_equal_dtypes(loaded, trace)
  assert loaded.rows_per_head == 4
  with np.load(path, allow_pickle=False) as stored:
    assert stored["stage_names"].tolist() == list(trace_lib.STAGES)


def junk(tmp_path):
  """Files that are no trace, by what is wrong with them."""
  trace = tmp_path / "whole.npz"
  trace_lib.save(trace_of([1, 2]), trace)
  whole = trace.read_bytes()
  damaged = bytearray(whole)
  damaged[100:160] = b"\0" * 60
  files = {
    "empty": b"",
    "text": b"not a trace at all\n",
    "half": whole[: len(whole) // 2],
    "damaged": bytes(damaged),
  }
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  np.save(tmp_path / "array.npy", np.arange(3))
  np.savez(tmp_path / "other.npz", stage=np.zeros(3))
  with np.load(trace) as stored:
    arrays = {**stored, "stage_names": np.array(["frame", "prompt"])}
  np.savez(tmp_path / "renamed.npz", **arrays)
  return [*files, "array.npy", "other.npz", "renamed.npz", "nowhere.npz"]


def test_a_file_that_is_no_trace_is_one_sentence(tmp_path):
  for name in junk(tmp_path):
    path = tmp_path / name
    with pytest.raises(errors.InputError, match=re.escape(str(path))) as told:
      trace_lib.load(path)
    assert "must be the trace.npz of a run" in str(told.value), name
