"""Races on a clock that only the runners move: minima are known exactly."""

import os

import pytest

from vrex_jax.benchmark import timing
from vrex_jax.errors import InputError


class Clock:
  """Stands for the module `time`; CPU time runs at half the wall's speed."""

  def __init__(self):
    self.now = 0.0

  def perf_counter(self):
    return self.now

  def process_time(self):
    return self.now / 2


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(timing, "time", clock)
  return clock


def runner(name, clock, costs, log):
  """Each run takes the next of `costs`, in seconds; each reset an hour."""
  left = iter(costs)

  def reset():
    clock.now += 3600.0
    log.append(f"reset {name}")

  def run():
    clock.now += next(left)
    log.append(name)

  return timing.Runner(name, reset, run)


def test_the_minimum_counts_and_the_first_round_does_not(clock):
  one = runner("one", clock, [0.001, 5.0, 3.0, 4.0], [])
  two = runner("two", clock, [9.0, 1.0, 2.0, 0.5], [])
  times = timing.race([one, two], rounds=3)
  assert list(times) == ["one", "two"]
  assert times["one"].wall_ms == pytest.approx(3000)
  assert times["one"].cpu_ms == pytest.approx(1500)
  assert times["two"].wall_ms == pytest.approx(500)


def test_runs_are_interleaved_reset_and_take_turns_at_the_front(clock):
  log, rounds = [], []
  runners = [runner(name, clock, [1.0] * 4, log) for name in "abc"]
  timing.race(runners, rounds=3, report=lambda: rounds.append(len(log)))
  order = "abc" + "bca" + "cab" + "abc"
  assert log == [text for name in order for text in (f"reset {name}", name)]
  assert rounds == [6, 12, 18, 24]


def test_what_a_run_raises_comes_through():
  def fail():
    raise KeyError("lost")

  with pytest.raises(KeyError, match="lost"):
    timing.race([timing.Runner("bad", lambda: None, fail)], rounds=1)


def test_pinned_keeps_that_many_cores_and_puts_all_back(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=")
  before = os.sched_getaffinity(0)
  with timing.pinned(1):
    assert len(os.sched_getaffinity(0)) == 1
    flags = os.environ["XLA_FLAGS"]
    assert flags.startswith("--xla_dump_to= --xla_cpu_multi_thread_eigen=false")
  assert os.sched_getaffinity(0) == before
  assert os.environ["XLA_FLAGS"] == "--xla_dump_to="


def test_more_threads_than_cores_are_refused():
  cores = len(os.sched_getaffinity(0))
  sentence = f"--threads is {cores + 1} and this process may use {cores} cores"
  with pytest.raises(InputError, match=sentence), timing.pinned(cores + 1):
    pass
