"""Counts of a run: by hand, and the same as from its ratios."""

import numpy as np
import pytest

from tests.hwmodel import traces
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import ratios
from vrex_jax.hwmodel import traced_work
from vrex_jax.hwmodel import workload
from vrex_jax.models import presets

MODEL = presets.preset("tiny")
WIDTH = MODEL.decoder.head_dim
STREAMS = traces.BATCH * traces.HEADS  # of KV heads, in a layer


@pytest.fixture(scope="module")
def work():
  return traced_work.from_trace(MODEL, traces.trace(), stage="frame")


def each(leaf, value):
  assert leaf.shape == (traces.EVENTS, traces.LAYERS)
  np.testing.assert_allclose(leaf, value, rtol=1e-6)


def test_counts_by_hand(work):
  layers = work.layers
  rows = traces.ROWS
  token = 2 * WIDTH * 2.0  # key and value of one head, bf16
  each(layers.kv_read_bytes, STREAMS * traces.ATTENDED * token)
  each(layers.kv_write_bytes, STREAMS * traces.TOKENS * token)
  each(layers.fetch_bytes, STREAMS * traces.FETCHED * token)
  each(layers.fetch_requests, STREAMS * traces.FETCHED / 8)
  each(layers.scores, STREAMS * rows * traces.CLUSTERS)
  each(layers.passes, STREAMS * rows * traces.CLUSTERS * 3)
  each(layers.straggler_passes, STREAMS * rows * traces.CLUSTERS * 6)
  each(layers.comparisons, STREAMS * traces.TOKENS * traces.CLUSTERS)
  pairs = rows * traces.ATTENDED + traces.GROUP * 16 * 17 / 2
  each(layers.attention_macs, STREAMS * 2 * WIDTH * pairs)


def test_ratios_of_a_run_give_the_run_back(work):
  """On the same model and length, quotients and counts are one."""
  found = ratios.ratios_of(traces.trace(), "frame")
  done = ratios.from_ratios(
    found, MODEL.decoder, float(traces.SEEN), chunk_tokens=traces.TOKENS
  )
  again = workload.from_retrieval(
    MODEL,
    done,
    stage="frame",
    chunk_tokens=traces.TOKENS,
    batch=float(traces.BATCH),
  )
  for name, value in vars(again.layers).items():
    np.testing.assert_allclose(
      np.broadcast_to(value, (traces.LAYERS,)),
      getattr(work.layers, name)[0],
      rtol=1e-5,
      err_msg=name,
    )
  np.testing.assert_allclose(again.macs, work.macs[0], rtol=1e-5)


def test_ratios_move_by_relative_depth():
  """From 4 layers to 7: every other one is an old one."""
  found = ratios.ratios_of(traces.trace(), "frame")
  slope = found.replace(attended=np.array([0.1, 0.2, 0.3, 0.4]))
  longer = presets.preset("llama3-8b").decoder
  decoder = type(longer)(**{**vars(longer), "num_layers": 7})
  done = ratios.from_ratios(slope, decoder, 1000.0, chunk_tokens=10)
  np.testing.assert_allclose(
    done.attended_tokens, [100, 150, 200, 250, 300, 350, 400], rtol=1e-5
  )


def test_a_trace_of_another_model_is_refused():
  with pytest.raises(InputError, match=r"4 layers of 2 KV heads .* --transfer"):
    traced_work.from_trace(
      presets.preset("llama3-8b"), traces.trace(), stage="frame"
    )


def test_a_stage_that_is_not_there_is_refused():
  with pytest.raises(InputError, match="no answer event"):
    traced_work.from_trace(MODEL, traces.trace(), stage="answer")
  with pytest.raises(InputError, match="no answer event with a past"):
    ratios.ratios_of(traces.trace(), "answer")
