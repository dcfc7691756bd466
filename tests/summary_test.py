"""The table a person reads: alignment, units, and what is not known."""

import math

import pytest

from vrex_jax import record
from vrex_jax import summary


def row(**changes):
  values = {
    "policy": "full",
    "frames": 12,
    "cached_tokens": 192,
    "retrieval_ratio": {"frame": 1.0, "question": 0.25, "answer": math.nan},
    "retrieval_ratio_by_layer": {
      "frame": [math.nan] * 2,
      "question": [math.nan, 0.25],
      "answer": [math.nan] * 2,
    },
    "attended_share": {"frame": 1.0, "question": 0.25, "answer": math.nan},
    "ms_per_frame": {"p50": 4.0, "p95": 8.0, "first": 9.0},
    "vision_ms": 1.25,
    "decode_ms": 1.0,
    "compile_s": {"frame": 2.0},
    "ttft_ms": None,
    "tpot_ms": 1234.5,
    "tokens_per_s": 4000.0,
    "kv_bytes": 3 * 2**19,
    "peak_rss_bytes": 1,
    "overflow": [],
    "answers": [],
    **changes,
  }
  assert set(values) == set(record.STREAMING_FIELDS)
  return values


def cells(text):
  """label -> cells of the table's lines, split where two spaces stand."""
  lines = [line for line in text.splitlines() if line and line[0] != " "]
  return {
    parts[0]: [cell.strip() for cell in parts[1:] if cell.strip()]
    for parts in (line.split("  ") for line in lines)
  }


def test_columns_are_as_wide_as_their_longest_cell():
  text = summary.aligned(
    ["name", "x", "long"], [["a", "12345", ""], ["longest", "1", "2"]]
  )
  assert text.splitlines() == [
    "name         x  long",
    "a        12345",
    "longest      1     2",
  ]


def test_figures_are_the_row_s_in_the_units_they_name():
  found = cells(summary.streaming_table([row()]))
  assert found["frames"] == ["12"]
  assert found["ms per frame, median"] == ["4"]
  assert found["ms per frame, 95 % of frames below"] == ["8"]
  assert found["ms of vision alone"] == ["1.25"]
  assert found["frames per second, model"] == ["250"]
  assert found["frames per second, with decoding"] == ["200"]
  assert found["past attended, frames"] == ["100.0 %"]
  assert found["past attended, questions"] == ["25.0 %"]
  assert found["tokens held at the end"] == ["192"]
  assert found["KV held, MiB"] == ["1.5"]
  assert found["ms per further token"] == ["1234"]


def test_what_is_not_known_is_a_dash():
  nothing = {"frame": math.nan, "question": None, "answer": math.inf}
  found = cells(
    summary.streaming_table(
      [
        row(
          retrieval_ratio=nothing,
          ms_per_frame={"p50": None, "p95": None, "first": None},
          vision_ms=None,
          decode_ms=None,
          kv_bytes=0,
        )
      ]
    )
  )
  for label in (
    "ms per frame, median",
    "ms of vision alone",
    "ms to decode and resize, before it",
    "frames per second, model",
    "frames per second, with decoding",
    "past attended, frames",
    "past attended, questions",
    "past attended, answers",
    "ms to first token",
  ):
    assert found[label] == ["-"], label
  assert found["KV held, MiB"] == ["0"]


def test_decoding_that_was_not_timed_costs_nothing():
  found = cells(summary.streaming_table([row(decode_ms=None)]))
  assert found["frames per second, with decoding"] == ["250"]


def test_policies_are_numbered_and_their_overflows_named():
  text = summary.streaming_table(
    [row(), row(policy="other(a=1)", frames=3, overflow=["Too long.", "Late."])]
  )
  lines = text.splitlines()
  assert lines[:3] == ["  1  full", "  2  other(a=1)", ""]
  assert cells(text)["policy"] == ["1", "2"]
  assert cells(text)["frames"] == ["12", "3"]
  assert lines[-2:] == [
    "warning (policy 2): Too long.",
    "warning (policy 2): Late.",
  ]


def by_layer(**stages):
  """A row's shares; stages that are not given have none."""
  layers = len(next(iter(stages.values())))
  nothing = dict.fromkeys(("frame", "question", "answer"), [None] * layers)
  return row(retrieval_ratio_by_layer={**nothing, **stages})


def layer_lines(*rows):
  """What is printed behind the figures."""
  lines = summary.streaming_table(rows).splitlines()
  last = [line.startswith("ms per further token") for line in lines].index(True)
  return lines[last + 1 :]


def test_layers_that_differ_are_listed_by_stage():
  nan = math.nan
  shares = by_layer(frame=[None, 0.5, 1.0, 0.0444], answer=[nan, nan, 0.2, 0.3])
  assert layer_lines(row(), shares) == [
    "",
    "policy 2, past attended by layer, %",
    "layer          0      1      2      3",
    "frames         -   50.0  100.0    4.4",
    "answers        -      -   20.0   30.0",
  ]


def test_layers_that_do_not_differ_are_not_listed():
  """As of a full cache or a window: the line of the stage says it all."""
  window = by_layer(frame=[0.25] * 4, question=[None, 0.5, 0.5, 0.5])
  assert layer_lines(row(), window, by_layer(frame=[None] * 4)) == []


@pytest.mark.parametrize("layers", [1, 9, 10, 11, 24, 32])
def test_layers_are_all_there_within_80_columns(layers):
  shares = [0.999 + index / 1e5 for index in range(layers - 1)]
  lines = layer_lines(by_layer(frame=[0.001, *shares]))
  if layers == 1:
    assert lines == []
    return
  assert max(map(len, lines)) <= 80
  assert len({len(line) for line in lines[2:4]}) == 1
  words = lambda name: [
    word
    for line in lines[2:]
    if line.startswith(name)
    for word in line.split()[1:]
  ]
  assert words("layer") == [str(index) for index in range(layers)]
  assert words("frames") == [f"{100 * share:.1f}" for share in [0.001, *shares]]
