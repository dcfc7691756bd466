"""Timing that can be compared: one core, interleaved runs, minima.

  round 0   ours  hf  torch     warm-up, not counted
  round 1   ours  hf  torch
  round 2   hf  torch  ours     the order turns, so that nobody always
  round 3   torch  ours  hf     follows the same neighbour
  ──────────────────────────
  kept      the minimum of each column

Other load on the machine can only add time, and the turns spread it over all
sides; so the minimum of many short rounds is what the step costs. Why this way:
docs/design/0003-measuring.md.
"""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from vrex_jax.errors import InputError

__all__ = ["Runner", "Times", "pinned", "race"]


class Runner(NamedTuple):
  """Dynamic. One thing to be timed.

  Attributes:
    name: unique among the runners of a race.
    reset: brings back the state before a run; not timed.
    run: does the work and returns when it is finished.
  """

  name: str
  reset: Callable[[], None]
  run: Callable[[], Any]


class Times(NamedTuple):
  """Static. Minima over rounds.

  Attributes:
    cpu_ms: CPU time of the process, all its threads, milliseconds.
    wall_ms: wall time, milliseconds; its minimum may be of another round.
  """

  cpu_ms: float
  wall_ms: float


def race(
  runners: Sequence[Runner],
  *,
  rounds: int,
  report: Callable[[], None] = lambda: None,
) -> dict[str, Times]:
  """Runs everybody in turns and keeps each one's minimum.

  Args:
    runners: at least one.
    rounds: rounds that count, at least 1; one more warms up.
    report: called after every round, the warm-up included.

  Returns:
    Times by name, in the order of the runners.

  Example:
    >>> idle = Runner("idle", lambda: None, lambda: None)
    >>> race([idle], rounds=2)["idle"].wall_ms < 1e3
    True
  """
  best = {runner.name: Times(float("inf"), float("inf")) for runner in runners}
  for index in range(rounds + 1):
    turn = index % len(runners)
    for runner in [*runners[turn:], *runners[:turn]]:
      runner.reset()
      cpu_s, wall_s = _timed(runner.run)
      if index:
        old = best[runner.name]
        best[runner.name] = Times(
          min(old.cpu_ms, 1e3 * cpu_s), min(old.wall_ms, 1e3 * wall_s)
        )
    report()
  return best


def _timed(run: Callable[[], Any]) -> tuple[float, float]:
  """CPU and wall seconds of one run, Python's collector held back."""
  collecting = gc.isenabled()
  gc.disable()
  try:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall
  finally:
    if collecting:
      gc.enable()


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
  """Pins this process to as many cores as it may use threads.

  Must be entered before JAX touches its device: threads made later inherit the
  cores, and XLA reads its flags then. A machine without `sched_setaffinity`
  is not pinned.

  Args:
    threads: cores to keep, at least 1.

  Raises:
    InputError: the process may use fewer cores than that.
  """
  if not hasattr(os, "sched_setaffinity"):
    yield
    return
  allowed = os.sched_getaffinity(0)
  if threads > len(allowed):
    raise InputError(
      f"--threads is {threads} and this process may use {len(allowed)} cores;"
      f" give at most that: --threads {len(allowed)}"
    )
  flags = os.environ.get("XLA_FLAGS")
  if threads == 1:
    single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [flags, single]))
  # The first cores serve most interrupts.
  os.sched_setaffinity(0, sorted(allowed)[-threads:])
  try:
    yield
  finally:
    os.sched_setaffinity(0, allowed)
    if flags is None:
      os.environ.pop("XLA_FLAGS", None)
    else:
      os.environ["XLA_FLAGS"] = flags
