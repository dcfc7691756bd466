"""The triple: what limits a context, and what a row says of the rest."""

import math

import pytest

from vrex_jax.study import triple

ROW = {
  "kv_bytes": 4e5,
  "held_growth": 0.5,
  "qa_old": 0.8,
  "qa_old_ci": (0.7, 0.9),
  "ms_per_frame": {"p50": 4.0},
}


def made(**changes):
  return triple.triple(
    {**ROW, **changes}, memory_bytes=1e6, seen_tokens=800, token_bytes=1e3
  )


def test_of_a_row():
  found = made()
  assert found.context_tokens == 800 + 1200
  assert (found.accuracy, found.accuracy_ci) == (0.8, (0.7, 0.9))
  assert found.frames_per_s == 250.0
  assert found.ttft_ms is None


def test_full_fills_the_memory_exactly():
  found = made(kv_bytes=8e5, held_growth=1.0)
  assert found.context_tokens * 1e3 == 1e6


@pytest.mark.parametrize("growth", [0.0, 0.004, -0.1])
def test_a_fixed_memory_has_no_end_unless_it_does_not_fit(growth):
  assert made(held_growth=growth).context_tokens is None
  assert made(held_growth=growth, kv_bytes=2e6).context_tokens == 0


def test_keeping_half_lasts_twice_as_long():
  full = made(kv_bytes=8e5, held_growth=1.0).context_tokens
  half = made(kv_bytes=4e5, held_growth=0.5).context_tokens
  assert math.isclose(half, 2 * full)
