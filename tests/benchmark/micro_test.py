"""What micro-benchmarks make of times."""

import jax
import numpy as np
import pytest

from vrex_jax.benchmark import micro


def test_two_rates_are_found_from_exact_times():
  """bytes / 20e9 + operations / 80e9 at three row counts."""
  counts = [(1e8, rows * 5e7) for rows in (4, 10, 32)]
  seconds = [read / 20e9 + work / 80e9 for read, work in counts]
  assert micro._rates(counts, seconds) == pytest.approx((20e9, 80e9))


def test_a_rate_that_noise_makes_negative_stays_positive():
  read, work = micro._rates([(1e8, 1e8), (1e8, 2e8)], [3e-3, 1e-3])
  assert 0 < read < np.inf
  assert 0 < work < np.inf


def test_every_program_is_lowered_and_counts_what_it_does():
  """Shapes only; nothing runs."""
  shapes = {
    name: (count, jax.eval_shape(call, *arguments))
    for name, count, call, arguments in micro._small_programs(
      lambda seed, *shape: (
        jax.ShapeDtypeStruct(shape, np.float32)
        if len(shape) > 1 and shape[0] > 1000
        else np.zeros(shape, np.float32)
      )
    )
  }
  assert shapes["gather"][0] == (4.0 * 2**16 * 128,)
  assert shapes["slot"][1].shape == (4, 4096)
  names = "merge score weigh gather copy slot lookup compare operation"
  assert set(shapes) == set(names.split())


def test_operations_of_a_turn_are_those_of_the_compiled_loop():
  """XLA fuses some updates and copies between others; all are counted."""
  values = np.zeros(512, np.float32)
  text = jax.jit(micro._idle).lower(values).compile().as_text()
  assert 4 <= micro._operations_of_a_turn(text) <= 40

  def turn(step, carry):
    del step
    return jax.numpy.cumsum(carry)

  loop = jax.jit(lambda carry: jax.lax.fori_loop(0, 9, turn, carry))
  text = loop.lower(values).compile().as_text()
  assert micro._operations_of_a_turn(text) >= 2  # The sum and the counter.


def test_repeated_attention_stays_in_range():
  """Neither too large nor below what float32 takes for zero."""
  held = jax.random.normal(jax.random.key(0), (2, 1, 256, 128))
  query = jax.random.normal(jax.random.key(1), (1, 4, 128))
  out = np.abs(micro._attend_held(query, held))
  assert 1e-6 < np.median(out) < 1e6


def test_the_disk_is_read_and_left_as_it_was(tmp_path):
  found = micro.disk(tmp_path, megabytes=2)
  assert found["bandwidth_bytes_per_s"] > 0
  assert found["latency_s"] > 0
  assert list(tmp_path.iterdir()) == []
