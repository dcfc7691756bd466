"""How long a sweep takes, beside the stream it reads and beside replays.

All in one process, CPU time and wall time, each after a first run that is not
counted (compilation):

  stream    the same frames and questions under resv, nothing recorded
  sweep     all settings of the first variant
  replay    `replay.replay` of one setting; a loop of them does each setting so
  sort      rows of words as `ranking` sorts them, by numpy and by XLA
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import policy_syntax
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax import summary
from vrex_jax.codesign import closed_loop
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import rooms_run
from vrex_jax.codesign import settings

__all__ = ["HAMMING_THRESHOLDS", "Plan", "Timing", "measure", "swept", "table"]


HAMMING_THRESHOLDS = ("4", "5", "6", "7", "8", "9", "10", "12")
"""Th_hd of 32 bits that are swept by default."""


_WORDS = (128, 512, 1024, 2048)
"""Clusters of a row: of Th_hd 7 and 4 halfway through a stream of 512 frames,
of Th_hd 0 halfway and at its end."""
_REPEATS = 20


class Plan(NamedTuple):
  """Static. What is swept."""

  choices: list[curves_lib.StaticChoice]
  variants: list[settings.Variant]
  grid: np.ndarray  # f32 [ratios]


class Timing(NamedTuple):
  """Static. Measured seconds, and how far a replay and the sweep differ.

  Attributes:
    settings: of the sweep.
    stream: one streaming run.
    sweep: all settings.
    replay: one setting, its compilation included, as every call compiles.
    compiling: of it, a replay of the stream's first frames.
    sorts: words of a row -> CPU seconds a word, by numpy and by XLA.
    differs: largest difference of a share attended, over stages, layers, heads.
  """

  settings: int
  stream: rooms_run.Spent
  sweep: rooms_run.Spent
  replay: rooms_run.Spent
  compiling: rooms_run.Spent
  sorts: dict[int, tuple[float, float]]
  differs: float


def swept(
  recording: recording_lib.Recording,
  plan: Plan,
  variant: settings.Variant,
  evidence: Mapping[int, np.ndarray] | None,
) -> curves_lib.Curves:
  """The curves of one variant."""
  return curves_lib.of_recording(
    recording,
    plan.choices,
    plan.grid,
    evidence=evidence,
    **variant._asdict(),
  )


def measure(
  stream: closed_loop.Stream, recorded: rooms_run.Recorded, plan: Plan
) -> Timing:
  """Measures all three.

  Args:
    stream: the stream.
    recorded: its recording.
    plan: what is swept; its first variant is.
  """
  resv = policy_syntax.make_policy("resv")
  driver = rooms_run.compiled(stream.model, resv, stream.shape, record=False)
  runs = [
    rooms_run.time_episode(
      stream.model, driver, stream.episode, stream.word_ids
    )
    for _ in range(3)
  ]
  recording, variant = recorded.recording, plan.variants[0]
  sweep = lambda: swept(recording, plan, variant, recorded.evidence)
  curves = sweep()
  choice, place = plan.choices[-1], len(plan.grid) // 2
  policy = settings.policy_of(
    choice, variant, float(plan.grid[place]), len(recording.event)
  )
  play = lambda one: replay.replay(
    policy, one, recent_tokens=variant.recent_tokens, measure=False
  )
  played, whole = _spent(lambda: play(recording))
  few = recording_lib.chunks_of(recording)[8].last
  _, short = _spent(lambda: play(_first(recording, few)))
  kept = _kept(played)
  mine = np.asarray(curves.kept)[len(plan.choices) - 1, ..., place]
  return Timing(
    settings=len(plan.choices) * len(plan.grid),
    stream=_least(runs[1:]),
    sweep=_least([_spent(sweep)[1] for _ in range(3)]),
    replay=whole,
    compiling=short,
    sorts={words: sort_times(words) for words in _WORDS},
    differs=float(np.nanmax(np.abs(mine - kept))),
  )


def sort_times(words: int, rows: int = 64) -> tuple[float, float]:
  """CPU seconds a word that a sort of rows of u32 takes, by numpy and by XLA.

  Args:
    words: of a row.
    rows: sorted in one call, as many as an event of the shipped model has.
  """
  random = np.random.default_rng(0)
  array = random.integers(0, 2**32, (rows, words), np.uint32)
  sort = jax.jit(lambda one: jnp.sort(one, axis=-1))
  device = jnp.asarray(array)
  sort(device).block_until_ready()  # compiled
  found = []
  for one in (
    lambda: np.sort(array, axis=-1),
    lambda: sort(device).block_until_ready(),
  ):
    spent = [_spent(one)[1].cpu_s for _ in range(_REPEATS)]
    found.append(min(spent) / array.size)
  return found[0], found[1]


def _spent(work: Callable[[], Any]) -> tuple[Any, rooms_run.Spent]:
  wall, cpu = time.perf_counter(), time.process_time()
  result = work()
  return result, rooms_run.Spent(
    time.perf_counter() - wall, time.process_time() - cpu
  )


def _least(times: Sequence[rooms_run.Spent]) -> rooms_run.Spent:
  return rooms_run.Spent(*map(min, zip(*times, strict=True)))


def _first(
  recording: recording_lib.Recording, tokens: int
) -> recording_lib.Recording:
  """The first tokens of a recording."""
  cut = lambda name, array: (
    array
    if name == "frequencies"
    else array[:, :, :tokens]
    if array.ndim == 4
    else array[:tokens]
  )
  return recording_lib.Recording(
    **{name: cut(name, array) for name, array in recording._asdict().items()}
  )


def _kept(played: replay.Replayed) -> np.ndarray:
  """Σ attended / Σ seen of a replay: f64[3, L, K]; nan without a past."""
  stages = np.array([chunk.stage for chunk in played.chunks])
  shares = []
  for stage in curves_lib.STAGES:
    at = stages == stage
    seen = played.counts.past_seen[at].sum(axis=0)
    attended = played.counts.past_attended[at].sum(axis=0)
    shares.append(attended / np.where(seen > 0, seen, np.nan))
  return np.stack(shares)


def table(timing: Timing) -> str:
  """Seconds and quotients, for the screen."""
  lines = []
  for name, spent in (
    ("one streaming run", timing.stream),
    (f"sweep of {timing.settings} settings", timing.sweep),
    ("one replay, as called", timing.replay),
    ("  of it compilation (8 chunks)", timing.compiling),
  ):
    lines.append([name, f"{spent.wall_s:.2f}", f"{spent.cpu_s:.2f}"])
  over = lambda pick: [
    f"{value:.1f}"
    for value in (
      pick(timing.sweep) / pick(timing.stream),
      timing.settings * pick(timing.replay) / pick(timing.sweep),
      timing.settings
      * max(pick(timing.replay) - pick(timing.compiling), 0.0)
      / pick(timing.sweep),
    )
  ]
  names = (
    "sweep / stream",
    "loop of replays / sweep",
    "  without their compilation",
  )
  quotients = zip(
    names,
    over(lambda spent: spent.wall_s),
    over(lambda spent: spent.cpu_s),
    strict=True,
  )
  lines += [list(line) for line in quotients]
  sorts = [
    [
      str(words),
      *(f"{1e9 * each:.1f}" for each in (*pair, pair[1] / pair[0] / 1e9)),
    ]
    for words, pair in timing.sorts.items()
  ]
  return (
    summary.aligned(["measured", "wall s", "CPU s"], lines)
    + "\n"
    + summary.aligned(
      ["sort of rows of words", "numpy, CPU ns a word", "XLA", "XLA / numpy"],
      sorts,
    )
    + "\nlargest difference of a share attended between the sweep and the"
    f" replay: {timing.differs:.1e}"
  )
