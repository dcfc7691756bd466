"""Rows of a published method, and of the counts of a run."""

import pytest

from tests.hwmodel import points
from tests.hwmodel import traces
from vrex_jax import hardware_paper
from vrex_jax import hardware_rows
from vrex_jax import hardware_tables
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import retrieval
from vrex_jax.models import presets


@pytest.fixture(scope="module")
def row():
  point = hardware_rows.published(
    points.MODEL,
    retrieval.METHODS["resv"],
    cache_tokens=40960,
    batch=1,
    kv_value_bytes=2.0,
    frame_tokens=10,
  )
  return hardware_rows.row(points.platform(), point)


def test_a_row_is_what_the_model_says(row):
  frame = points.priced().time
  assert row["frame_latency_s"] == pytest.approx(
    float(frame.latency_s), rel=1e-5
  )
  token = points.priced(stage="answer").time
  assert row["token_latency_s"] == pytest.approx(
    float(token.latency_s), rel=1e-5
  )
  assert row["elasticities"] == {}


def test_a_run_is_priced_event_by_event():
  """All events of the made-up trace are alike, so the mean is one of them."""
  model = presets.preset("tiny")
  point = hardware_rows.traced(
    model, traces.trace(), "made up", kv_value_bytes=2.0
  )
  row = hardware_rows.row(points.platform(), point)
  assert row["token_latency_s"] is None
  assert row["batch"] == traces.BATCH
  # One latency a layer, and what it moves, at least.
  fetched = traces.LAYERS * 80e-6
  assert row["breakdown_s"]["fetch"] > fetched
  assert row["frame_latency_s"] > fetched


def test_tables_are_readable(row):
  text = hardware_tables.table([row])
  assert "vrex8 resv" in text
  assert "231" in text
  assert "fetch" in hardware_tables.breakdown_table([row])


def test_errors_are_to_the_nearer_end():
  inside = hardware_paper.entry("x", 5.0, [4.0, 6.0], "predicted")
  assert inside["error"] == 0
  above = hardware_paper.entry("x", 5.0, [6.0, 7.0], "predicted")
  assert above["error"] == pytest.approx(0.2)
  assert paper.FRAME_TOKENS == 10


def test_an_error_of_nothing_has_no_minus():
  """A figure that was fitted differs by rounding alone."""
  fitted = hardware_paper.entry("a token", 89.0, 88.99999, "fitted")
  assert "+0.0 %" in hardware_paper.table([fitted])
