"""One pass over a recording, for all settings of ReSV together.

  chunk ─► attention mass of every past token          once
        ─► for each static choice (Th_hd, N_hp, table):
             mean keys ─► scores ─► one sort a row      (`ranking`)
             ─► what is kept from which ratio on: tokens, mass, evidence, runs
        ─► its keys join clusters                       (`assignment`)

What is kept at a ratio r is all that enters at or below it, so a chunk adds to
histograms over the ratios, and their running sums are the curves. The walk does
what `replay.replay` does at each setting by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np

from vrex_jax import recording as recording_lib
from vrex_jax.codesign import assignment
from vrex_jax.codesign import buffers
from vrex_jax.codesign import tally
from vrex_jax.errors import InputError

__all__ = ["walk"]

_BATCH = 16
"""Events that are looked at together, at most."""
_LEAST_LOG = np.float32(-80.0)


class _Event(NamedTuple):
  """One event before its tokens join; A = layers times KV heads."""

  query: np.ndarray  # f32 [A, M, H]
  mass: np.ndarray  # f64 [past, A], those always attended 0
  always: np.ndarray  # i64 [always attended]
  always_mass: np.ndarray  # f64 [A]
  sinks: np.ndarray  # i64 [sinks that are not recent]
  evidence: np.ndarray | None  # f64 [past], those always attended 0
  always_evidence: float
  past: int
  recent: int


def walk(
  recording: recording_lib.Recording,
  choices: Sequence[tuple[int, int, str]],
  grid: np.ndarray,
  options: tally.Options,
  evidence: Mapping[int, np.ndarray] | None = None,
) -> tally.Sums:
  """Goes through a recording once.

  Args:
    recording: one stream.
    choices: Z times (Th_hd, N_hp, table).
    grid: f[ratios], rising.
    options: what all share.
    evidence: event -> frames that show what it needs.

  Raises:
    InputError: the recording has no frame with a past.
  """
  recording = _only_valid(recording)
  chunks = recording_lib.chunks_of(recording)
  branches = recording_lib.branches_of(recording, chunks)
  _check(chunks)
  layers, heads, tokens = recording.key.shape[:3]
  grid = np.asarray(grid, np.float32).astype(np.float64)
  if options.recent_tokens is None:
    longest = max(c.last - c.first for c in chunks if c.stage == "frame")
    options = options._replace(recent_tokens=longest)
  branch = np.full(tokens, -1, np.int32)
  for chunk, number in zip(chunks, branches, strict=True):
    branch[chunk.first : chunk.last] = number
  tables = _tables(recording, choices, branch, options.seed)
  sums = tally.zeros(len(choices), layers * heads, len(grid))
  slots = buffers.Slots(recording)
  with futures.ThreadPoolExecutor(1) as pool:
    saved = None
    adding: futures.Future | None = None
    for number, batch in _batches(chunks, branches):
      if saved is not None and saved[0] != number:
        _, slots.cursor, kept = saved
        for table, one in zip(tables, kept, strict=True):
          table.restore(one)
        saved = None
      if saved is None and number >= 0:
        saved = (number, slots.cursor, [table.save() for table in tables])
      name = batch[0].stage
      stage = tally.STAGES.index(name) if name in tally.STAGES else -1
      asked, room = _insert_batch(
        recording, batch, stage, slots, tables, sums, options, evidence
      )
      if room:
        if adding is not None:
          adding.result()
        adding = pool.submit(_add, sums, stage, grid, options, asked, room)
    if adding is not None:
      adding.result()
  return tally.shaped(sums, layers, heads)


def _insert_batch(
  recording: recording_lib.Recording,
  batch: Sequence[recording_lib.Chunk],
  stage: int,
  slots: buffers.Slots,
  tables: Sequence[buffers.Table],
  sums: tally.Sums,
  options: tally.Options,
  evidence: Mapping[int, np.ndarray] | None,
) -> tuple[list[list[tally.Clusters]], list[np.ndarray]]:
  """Chunk by chunk: what it asks of every table, then its tokens join.

  Returns:
    By table what the batch asked, and where the scores of that lie (`_room`);
    none where nothing was asked.
  """
  asked: list[list[tally.Clusters]] = [[] for _ in tables]
  room: list[np.ndarray] = []
  for chunk in batch:
    span = slice(chunk.first, chunk.last)
    if stage >= 0 and slots.cursor:
      event = _event(recording, slots, span, options, evidence)
      _add_event(sums, stage, event)
      room = room or [
        _room(table, event, len(batch), batch[-1].last) for table in tables
      ]
      for index, table in enumerate(tables):
        scores = room[index][len(asked[index])]
        asked[index].append(_clusters(table, event, scores))
    place = slots.append(recording, span)
    for table in tables:
      table.insert(slots.key[..., place], span, place)
  return asked, room


def _batches(
  chunks: Sequence[recording_lib.Chunk], branches: Sequence[int]
) -> Iterator[tuple[int, list[recording_lib.Chunk]]]:
  """Chunks of one stage, length and branch that follow each other, with it."""
  alike: list[recording_lib.Chunk] = []
  before = None
  for chunk, number in zip(chunks, branches, strict=True):
    kind = (number, chunk.stage, chunk.last - chunk.first)
    if alike and (kind != before or len(alike) == _BATCH):
      yield before[0], alike  # type: ignore[index]
      alike = []
    alike.append(chunk)
    before = kind
  if before is not None:
    yield before[0], alike


def _only_valid(recording: recording_lib.Recording) -> recording_lib.Recording:
  """Without padding, which takes no part in anything."""
  valid = recording.valid
  if valid.all():
    return recording
  return recording_lib.Recording(
    *(
      array
      if name == "frequencies"
      else array[:, :, valid]
      if array.ndim == 4
      else array[valid]
      for name, array in recording._asdict().items()
    )
  )


def _check(chunks: Sequence[recording_lib.Chunk]) -> None:
  if len(chunks) < 2 or all(chunk.stage != "frame" for chunk in chunks[1:]):
    raise InputError(
      "the recording has no frame with a past; a sweep reads what frames would"
      " have kept of it: record a longer stream"
    )


def _tables(
  recording: recording_lib.Recording,
  choices: Sequence[tuple[int, int, str]],
  branch: np.ndarray,
  seed: int,
) -> list[buffers.Table]:
  """A table for every choice; Th_hd side by side where the codes are alike."""
  tables: list[buffers.Table | None] = [None] * len(choices)
  for bits, kind in dict.fromkeys(choice[1:] for choice in choices):
    alike = [i for i, one in enumerate(choices) if one[1:] == (bits, kind)]
    codes = assignment.codes_of(
      recording.key, hash_bits=bits, table=kind, seed=seed
    )
    thresholds = np.array([choices[i][0] for i in alike], np.int32)
    found = jax.device_get(assignment.openers(codes, branch, thresholds))
    heads, width = recording.key.shape[1], recording.key.shape[3]
    for index, opener in zip(alike, found, strict=True):
      tables[index] = buffers.Table(opener, branch, heads, width)
  return [table for table in tables if table is not None]


def _event(
  recording: recording_lib.Recording,
  slots: buffers.Slots,
  span: slice,
  options: tally.Options,
  evidence: Mapping[int, np.ndarray] | None,
) -> _Event:
  layers, heads, _, width = recording.key.shape
  query = recording.query[:, :, span].astype(np.float32)
  query = query.reshape(layers * heads, -1, width)
  past = slots.cursor
  mass = _attention_mass(query, slots.key[..., :past])
  position = slots.position[:past]
  recent = recording.position[span.start] - position <= options.recent_tokens
  sink = position < options.sink_tokens
  always = np.flatnonzero(recent | sink)
  always_mass = mass[always].sum(axis=0)
  mass[always] = 0.0
  shown, always_shown = None, 0.0
  frames = (evidence or {}).get(int(recording.event[span.start]))
  if frames is not None and np.isin(slots.frame[:past], frames).any():
    shown = np.isin(slots.frame[:past], frames).astype(np.float64)
    shown /= shown.sum()
    always_shown = float(shown[always].sum())
    shown[always] = 0.0
  if options.rows == "pooled":
    query = query.mean(axis=1, keepdims=True)
  return _Event(
    query,
    mass,
    always,
    always_mass,
    np.flatnonzero(sink & ~recent),
    shown,
    always_shown,
    past,
    int(recent.sum()),
  )


def _attention_mass(query: np.ndarray, key: np.ndarray) -> np.ndarray:
  """Share of the past's attention on every token, mean over rows: [past, A]."""
  scores = np.matmul(query * query.shape[-1] ** -0.5, key)
  scores -= scores.max(axis=-1, keepdims=True)
  # Below that exp is not a normal number: no share, and slow to reckon with.
  np.maximum(scores, _LEAST_LOG, out=scores)
  weights = np.exp(scores, out=scores)
  share = 1.0 / (weights.sum(axis=-1, keepdims=True) * weights.shape[1])
  mass = np.matmul(share.swapaxes(1, 2), weights)[:, 0]
  return np.ascontiguousarray(mass.T, np.float64)


def _add_event(sums: tally.Sums, stage: int, event: _Event) -> None:
  sums.events[stage] += 1
  sums.seen[stage] += event.past
  sums.recent[stage] += event.recent
  sums.shown[stage] += event.evidence is not None
  for name, value in (
    ("kept", len(event.always)),
    ("mass", event.always_mass),
    ("recall", event.always_evidence),
  ):
    getattr(sums, name)[:, stage, :, 0] += value


def _room(
  table: buffers.Table, event: _Event, events: int, end: int
) -> np.ndarray:
  """For the scores of a batch: f32[events, A, M, C].

  Args:
    table: before the batch.
    event: its first.
    events: how many.
    end: token behind the batch; tables of all its events are cut alike.
  """
  most = int(table.number[:, end - 1].max())
  return np.empty((events, *event.query.shape[:2], most), np.float32)


def _clusters(
  table: buffers.Table, event: _Event, scores: np.ndarray
) -> tally.Clusters:
  """An event's scores and what stands behind each cluster.

  Args:
    table: before the event's tokens join.
    event: the event.
    scores: f32[A, M, C], where to write them.
  """
  most = scores.shape[-1]
  past = slice(event.past)
  tokens = table.count[:, :most].copy()
  np.matmul(event.query, table.total[..., :most], out=scores)
  scores /= np.maximum(tokens, 1)[:, None].astype(np.float32)
  always, sinks, mass = (
    found[:, :most]
    for found in (
      table.by_cluster(event.always),
      table.by_cluster(event.sinks),
      table.by_cluster(past, event.mass),
    )
  )
  evidence: np.ndarray = np.zeros_like(mass)
  if event.evidence is not None:
    wide = np.repeat(event.evidence, len(tokens))
    evidence = table.by_cluster(past, wide)[:, :most]
  return tally.Clusters(
    scores, tokens, tokens - always, sinks, mass, evidence, table.filled
  )


def _add(
  sums: tally.Sums,
  stage: int,
  grid: np.ndarray,
  options: tally.Options,
  asked: Sequence[Sequence[tally.Clusters]],
  room: Sequence[np.ndarray],
) -> None:
  """A batch at every table, while the next one is inserted."""
  for index, (own, scores) in enumerate(zip(asked, room, strict=True)):
    tally.add_batch(sums, stage, grid, options, index, own, scores)
