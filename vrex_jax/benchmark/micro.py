"""Micro-benchmarks of one core: what the terms of `hwmodel.cpu` cost.

Each program does one thing a decoder step does, at a shape it has there, and
nothing of the step around it: products of a few rows with kernels in panels
and plain, products at attention's shapes, softmax, a row gather, results merged
by row, slots of a bitmap, clusters of slots, thresholds of rows, hash codes, a
copy, an operation on next to nothing. Buffers that a step reads from memory are
larger than a CPU's caches; those it reads again are not.
"""

import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax.benchmark import timing
from vrex_jax.models import dense
from vrex_jax.models import work_list
from vrex_jax.resv import wicsum

__all__ = ["disk", "measure"]

_INPUTS, _OUTPUTS, _KERNELS = 1024, 4096, 6
_PANEL_ROWS = (4, 10, 32)
_PLAIN_ROWS = (48, 96, 196)
_HEADS, _WIDTH, _CHUNK = 4, 128, 512
_ATTEND_ROWS = (40, 256, 784)
_HELD_ROWS = (8, 40, 784)
_SEARCHED = ((40, 256), (40, 1024), (784, 256), (784, 1024))
_SEARCHED_FAR = (784, 4096)
_SLOTS = 8192
_REPEATS = 64
_SINGLE = (
  "score", "weigh", "merge", "slot", "lookup", "compare", "operation",
)  # fmt: skip


def measure(
  *, rounds: int, report: Callable[[], None] = lambda: None
) -> dict[str, float]:
  """Rates and seconds of every term, by field of `params.CpuParameters`.

  Args:
    rounds: minimum of so many, see `timing.race`.
    report: called after every round.
  """
  runners, counts = [], {}
  for name, count, call, arguments in _programs():
    compiled = jax.jit(call).lower(*arguments).compile()
    runners.append(_runner(name, compiled, arguments))
    counts[name] = count
    if name == "operation":
      counts[name] = (
        count[0] * _operations_of_a_turn(compiled.as_text() or ""),
      )
  times = timing.race(runners, rounds=rounds, report=report)
  seconds = {name: 1e-3 * one.cpu_ms for name, one in times.items()}
  rates = lambda names: _rates(
    [counts[name] for name in names], [seconds[name] for name in names]
  )
  found: dict[str, float] = {}
  for kind, rows in (
    ("panel", _PANEL_ROWS),
    ("plain", _PLAIN_ROWS),
    ("attend", _ATTEND_ROWS),
    ("held", _HELD_ROWS),
  ):
    bytes_rate, flops = rates([f"{kind} {number}" for number in rows])
    found[f"{kind}_bytes_per_s"] = bytes_rate
    found[f"{kind}_flops_per_s"] = flops
  row, score = (
    1.0 / rate for rate in rates([f"search {size}" for size in _SEARCHED])
  )
  rows, scores = counts["search far"]
  far = (seconds["search far"] - rows * row) / scores
  found["search_row_s"] = row
  found["search_score_s"] = score
  found["search_far_score_s"] = max(far, score)
  for name in ("gather", "copy"):
    found[f"{name}_bytes_per_s"] = counts[name][0] / seconds[name]
  for name in _SINGLE:
    found[f"{name}_s"] = seconds[name] / counts[name][0]
  return found


def disk(folder: pathlib.Path, *, megabytes: int = 64) -> dict[str, float]:
  """Reading what was written, past the page cache where the system allows it.

  Args:
    folder: on the disk that is measured.
    megabytes: of the file; it is deleted again.

  Returns:
    bandwidth_bytes_per_s of requests of 1 MiB one after the other, latency_s of
    one page at a random place, median.
  """
  path = folder / "calibrate_disk.bin"
  block = np.random.default_rng(0).bytes(2**20)
  page = 4096
  try:
    with path.open("wb") as file:
      for _ in range(megabytes):
        file.write(block)
      file.flush()
      os.fsync(file.fileno())
    descriptor = os.open(path, os.O_RDONLY)
    try:
      _forget(descriptor)
      begun = time.perf_counter()
      while os.read(descriptor, 2**20):
        pass
      rate = megabytes * 2**20 / (time.perf_counter() - begun)
      _forget(descriptor)
      places = np.random.default_rng(1).permutation(megabytes * 256)[:64]
      spent = []
      for place in places.tolist():
        begun = time.perf_counter()
        os.pread(descriptor, page, place * page)
        spent.append(time.perf_counter() - begun)
    finally:
      os.close(descriptor)
  finally:
    path.unlink(missing_ok=True)
  return {"bandwidth_bytes_per_s": rate, "latency_s": float(np.median(spent))}


def _forget(descriptor: int) -> None:
  """Asks the system to drop a file from its page cache."""
  if hasattr(os, "posix_fadvise"):
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _runner(
  name: str, call: Callable[..., Any], arguments: Sequence[Any]
) -> timing.Runner:
  return timing.Runner(
    name, lambda: None, lambda: jax.block_until_ready(call(*arguments))
  )


def _rates(
  counts: Sequence[tuple[float, float]], seconds: Sequence[float]
) -> tuple[float, float]:
  """Rates a and b of first / a + second / b, least relative squares.

  Where noise makes one of the two negative, that one is left out: its rate is
  what the whole time would be in the other's absence, ten times over.
  """
  system = np.asarray(counts) / np.asarray(seconds)[:, None]
  slopes, *_ = np.linalg.lstsq(system, np.ones(len(seconds)), rcond=None)
  alone = 0.1 * np.min(1.0 / system, axis=0)
  read, work = np.maximum(slopes, alone)
  return float(1.0 / read), float(1.0 / work)


def _programs():
  """(name, (bytes, operations) or (count,), function, arguments)."""
  normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
  kernels = tuple(normal(index, _INPUTS, _OUTPUTS) for index in range(_KERNELS))
  panels = tuple(
    kernel.reshape(_INPUTS, -1, dense.PANEL).swapaxes(0, 1)
    for kernel in kernels
  )
  product = lambda x, stored: [dense.product(x, one) for one in stored]
  weights = _KERNELS * _INPUTS * _OUTPUTS
  for kind, rows, stored in (
    ("panel", _PANEL_ROWS, panels),
    ("plain", _PLAIN_ROWS, kernels),
  ):
    for number in rows:
      counted = (4.0 * weights, 2.0 * number * weights)
      x = normal(7, number, _INPUTS)
      yield f"{kind} {number}", counted, product, (x, stored)
  past = normal(8, 2, _HEADS, _SLOTS, _WIDTH)
  for number in _ATTEND_ROWS:
    macs = 2.0 * _HEADS * number * _SLOTS * _WIDTH
    query = normal(9, _HEADS, number, _WIDTH)
    yield f"attend {number}", (4.0 * past.size, 2.0 * macs), _attend, (
      query, past,
    )  # fmt: skip
  yield from _held_programs(normal)
  yield from _small_programs(normal)


def _held_programs(normal):
  """Products and searches over what was written just before."""
  for number in _HELD_ROWS:
    items = work_list.group_size(number)
    held = normal(13, 2, items, work_list.CHUNK, _WIDTH)
    macs = 2.0 * number * items * work_list.CHUNK * _WIDTH
    counted = (_REPEATS * 4.0 * held.size, _REPEATS * 2.0 * macs)
    query = normal(14, items, number, _WIDTH)
    yield f"held {number}", counted, _attend_held, (query, held)
  sizes = {**{str(size): size for size in _SEARCHED}, "far": _SEARCHED_FAR}
  for name, (rows, width) in sizes.items():
    tables = normal(15, 4, rows, width)
    counted = (4.0 * rows, 4.0 * rows * width)
    yield f"search {name}", counted, _search, (tables,)


def _small_programs(normal):
  random = np.random.default_rng(0)
  summed = normal(16, _HEADS, 40, _WIDTH)
  row = jnp.arange(work_list.GROUP, dtype=jnp.int32) // 2
  merged = _REPEATS * work_list.GROUP * summed[0].size
  yield "merge", (merged,), _merge, (summed, row)
  scores = normal(10, _HEADS, 40, _CHUNK)
  yield "score", (_REPEATS * scores.size,), _softmax, (scores,)
  table = normal(11, 160, 1024)
  yield "weigh", (_REPEATS * table.size,), _weigh, (table, table[0])
  cache = normal(12, 2**18, _WIDTH)
  chosen = np.sort(random.permutation(len(cache))[: 2**16])
  index = jnp.asarray(chosen, jnp.int32)
  yield "gather", (4.0 * index.size * _WIDTH,), _gather, (cache, index)
  yield "copy", (4.0 * cache.size,), _copy, (cache,)
  words = bitmap.pack(jnp.asarray(random.random((_HEADS, 2**15)) < 0.2))
  ranks = jnp.arange(2**12, dtype=jnp.int32)
  yield "slot", (_HEADS * ranks.size,), _find, (words, ranks)
  kept = jnp.asarray(random.random((_HEADS, 1025)) < 0.2)
  member = jnp.asarray(random.integers(0, 1025, (_HEADS, 2**15)), jnp.int32)
  yield "lookup", (member.size,), _look_up, (kept, member)
  codes = jnp.asarray(random.integers(0, 2**32, 4096, np.uint32))
  yield "compare", (196 * codes.size,), _compare, (codes[:196], codes)
  yield "operation", (4096.0,), _idle, (jnp.zeros(512),)


def _attend(query, past):
  """Both products of attention, chunk by chunk; no softmax."""

  def body(step, out):
    at = (0, 0, step * _CHUNK, 0)
    size = (2, _HEADS, _CHUNK, _WIDTH)
    key, value = jax.lax.dynamic_slice(past, at, size)
    scores = jnp.einsum("kmh,ksh->kms", query, key)
    return out + jnp.einsum("kms,ksh->kmh", scores, value)

  steps = past.shape[2] // _CHUNK
  return jax.lax.fori_loop(0, steps, body, jnp.zeros_like(query))


def _attend_held(query, held):
  """The same of a group of the work list that is already in the cache."""
  key, value = held

  def body(step, query):
    del step
    scores = jnp.einsum("gmh,gch->gmc", query, key)
    out = jnp.einsum("gmc,gch->gmh", scores, value)
    return out * (_WIDTH * work_list.CHUNK) ** -0.5  # Stays about as large.

  return jax.lax.fori_loop(0, _REPEATS, body, query)


def _search(tables):
  """The threshold of every row, table by table."""
  _, rows, width = tables.shape
  weights, live = jnp.full(width, 32.0), jnp.ones(rows, bool)
  ratio = jnp.full(rows, 0.3)

  def body(total, scores):
    found = wicsum.row_thresholds(
      scores, weights, jnp.int32(width), ratio, live
    )
    return total + found.threshold, None

  return jax.lax.scan(body, jnp.zeros(rows), tables)[0]


def _merge(summed, row):
  """A group's query rows are picked, and its results added to their rows'."""

  def body(step, summed):
    del step
    return (summed * 0.5).at[row].add(0.1 * summed[row])

  return jax.lax.fori_loop(0, _REPEATS, body, summed)


def _softmax(scores):
  def body(step, carry):
    top, total = carry
    moved = scores + step.astype(jnp.float32)
    new = jnp.maximum(top, jnp.max(moved, axis=-1))
    weights = jnp.exp(moved - new[..., None])
    return new, total * jnp.exp(top - new) + jnp.sum(weights, axis=-1)

  start = jnp.zeros(scores.shape[:-1])
  return jax.lax.fori_loop(0, _REPEATS, body, (start, start))


def _weigh(scores, weights):
  def body(step, sums):
    bound = 0.01 * step.astype(jnp.float32)
    counted = jnp.where(scores >= bound, scores, 0.0)
    return sums + jnp.matmul(counted, weights)

  return jax.lax.fori_loop(0, _REPEATS, body, jnp.zeros(len(scores)))


def _gather(cache, index):
  """A group of the work list at a time, into a buffer that is used again."""
  groups = index.reshape(-1, 2048)
  body = lambda step, out: cache[groups[step]]
  return jax.lax.fori_loop(0, len(groups), body, jnp.zeros((2048, _WIDTH)))


def _copy(cache):
  """Piece by piece into one buffer, so that no new page is touched."""
  rows = len(cache) // _REPEATS

  def body(step, out):
    piece = jax.lax.dynamic_slice(cache, (step * rows, 0), (rows, _WIDTH))
    return jax.lax.dynamic_update_slice(out, piece, (step % 2 * rows, 0))

  return jax.lax.fori_loop(0, _REPEATS, body, jnp.zeros((2 * rows, _WIDTH)))


def _find(words, ranks):
  ends = jnp.cumsum(jax.lax.population_count(words).astype(jnp.int32), axis=-1)
  row = jnp.broadcast_to(jnp.arange(_HEADS)[:, None], (_HEADS, ranks.size))
  rank = jnp.broadcast_to(ranks[None], row.shape)
  return bitmap.select_ranked(words, ends, row, rank)


def _look_up(kept, member):
  return bitmap.pack(jnp.take_along_axis(kept, member, axis=1))


def _compare(own, codes):
  differing = jax.lax.population_count(own[:, None] ^ codes[None])
  return jnp.argmin(differing, axis=-1), jnp.min(differing, axis=-1)


def _idle(values):
  """Updates of a few numbers, in as many operations as XLA makes of them.

  XLA makes one function of a loop over less than a kilobyte.
  """

  def body(step, carry):
    for _ in range(4):
      carry = jax.lax.dynamic_update_slice(
        carry, jnp.tanh(carry[:1]), (step % 8,)
      )
    return carry

  return jax.lax.fori_loop(0, 4096, body, values)


_FREE = ("parameter", "get-tuple-element", "constant", "tuple", "bitcast")
"""Instructions that a compiled program does not execute."""


def _operations_of_a_turn(text: str) -> int:
  """Executed instructions of the largest loop body in a compiled program."""
  name = max(
    re.findall(r"body=(%[\w.-]+)", text),
    key=lambda name: len(_lines(text, name)),
  )
  return len(_lines(text, name))


def _lines(text: str, computation: str) -> list[str]:
  """Executed instructions of one computation."""
  body = text.split(f"\n{computation} (")[1].split("\n}")[0]
  lines = [line for line in body.splitlines() if " = " in line]
  free = re.compile(rf" ({'|'.join(_FREE)})\(")
  return [line for line in lines if not free.search(line)]
