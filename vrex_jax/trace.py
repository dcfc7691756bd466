"""What a stream did, as integer counts.

One event per frame, question chunk or generated token. Every count has axes
[X, L, B, K]: event, layer, stream, KV head. There are no seconds of compute,
joules or bytes here; the hardware model prices the counts.
"""

import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.struct
import numpy as np

from vrex_jax import counts as counts_lib
from vrex_jax.errors import InputError

__all__ = [
  "STAGES",
  "Counts",
  "Event",
  "Overflow",
  "StreamTrace",
  "check",
  "concatenate",
  "empty",
  "from_events",
  "held_growth",
  "load",
  "retrieval_ratio",
  "retrieval_ratio_by_layer",
  "save",
  "zero_counts",
]

STAGES = counts_lib.STAGES
Counts = counts_lib.Counts
Event = counts_lib.Event
Overflow = counts_lib.Overflow
zero_counts = counts_lib.zero_counts

_REMEDY = {
  Overflow.CACHE_FULL: (
    "the KV cache had no room for the chunk, which was not stored: raise"
    " the capacity"
  ),
  Overflow.TABLE_FULL: (
    "a table of the policy was full: raise its capacity (resv: table_capacity,"
    " by default an eighth of the cache's slots)"
  ),
  Overflow.POSITION: (
    "a position passed the model's max_position_embeddings: shorten the"
    " stream or use a policy that re-indexes positions (streaming_llm)"
  ),
  Overflow.NON_FINITE: (
    "the hidden state was not finite: check the checkpoint and the dtype"
  ),
}


class StreamTrace(flax.struct.PyTreeNode):
  """Dynamic. All events of a run, on the host (numpy).

  Attributes:
    stage: index into `STAGES` of every event.
    time_s: time stamp in the video.
    frame: frame index per stream.
    counts: per name of `Counts` (overflow apart).
    overflow: `Overflow` bits.
    retrieves: the layer and stage take part in retrieval, so that they count
      for `retrieval_ratio`.
    rows_per_head: selection rows of one KV head: 1, or G when each query head
      has its own selection.
  """

  stage: np.ndarray  # i8 [X]
  time_s: np.ndarray  # f64 [X]
  frame: np.ndarray  # i32 [X, B]
  counts: dict[str, np.ndarray]  # i32 [X, L, B, K]
  overflow: np.ndarray  # u32 [X, L, B]
  retrieves: np.ndarray  # b [STAGES, L]
  rows_per_head: int = flax.struct.field(pytree_node=False, default=1)

  def __len__(self) -> int:
    return len(self.stage)

  def __getitem__(self, events: slice) -> "StreamTrace":
    """Events start … stop - 1, as a trace of their own."""
    return self.replace(
      stage=self.stage[events],
      time_s=self.time_s[events],
      frame=self.frame[events],
      counts={name: value[events] for name, value in self.counts.items()},
      overflow=self.overflow[events],
    )

  def total(self, name: str) -> np.ndarray:
    """Sum of one count over events: i64[L, B, K]; maximum for `*_max`."""
    values = self.counts[name].astype(np.int64)
    if name.endswith("_max"):
      return values.max(axis=0, initial=0)
    return values.sum(axis=0)


def from_events(
  events: Event,
  *,
  time_s: np.ndarray,
  retrieves: np.ndarray,
  rows_per_head: int,
) -> StreamTrace:
  """A trace from stacked events.

  Args:
    events: Event with a leading axis X on every leaf.
    time_s: f64[X].
    retrieves: b[STAGES, L].
    rows_per_head: selection rows of one KV head.
  """
  counts = {
    name: np.asarray(value, np.int32)
    for name, value in events.counts._asdict().items()
    if name != "overflow"
  }
  bits = np.bitwise_or.reduce(
    np.asarray(events.counts.overflow).astype(np.uint32), axis=-1
  )
  return StreamTrace(
    stage=np.asarray(events.stage, np.int8),
    time_s=np.asarray(time_s, np.float64),
    frame=np.asarray(events.frame, np.int32),
    counts=counts,
    overflow=np.asarray(events.overflow, np.uint32) | bits,
    retrieves=np.asarray(retrieves, bool),
    rows_per_head=rows_per_head,
  )


def empty(
  *,
  num_layers: int,
  batch: int,
  num_kv_heads: int,
  retrieves: np.ndarray,
  rows_per_head: int,
) -> StreamTrace:
  """A trace without events, the neutral element of `concatenate`."""
  shape = (0, num_layers, batch, num_kv_heads)
  return StreamTrace(
    stage=np.zeros((0,), np.int8),
    time_s=np.zeros((0,), np.float64),
    frame=np.zeros((0, batch), np.int32),
    counts={
      name: np.zeros(shape, np.int32)
      for name in Counts._fields
      if name != "overflow"
    },
    overflow=np.zeros(shape[:3], np.uint32),
    retrieves=np.asarray(retrieves, bool),
    rows_per_head=rows_per_head,
  )


def concatenate(traces: Iterable[StreamTrace]) -> StreamTrace:
  """Events of several traces in order; totals add."""
  traces = list(traces)
  join = lambda pick: np.concatenate([pick(trace) for trace in traces])
  return traces[0].replace(
    stage=join(lambda t: t.stage),
    time_s=join(lambda t: t.time_s),
    frame=join(lambda t: t.frame),
    counts={
      name: join(lambda t, name=name: t.counts[name])
      for name in traces[0].counts
    },
    overflow=join(lambda t: t.overflow),
  )


def retrieval_ratio(
  trace: StreamTrace, *, all_layers: bool = False
) -> dict[str, float]:
  """Share of past tokens attended, by stage.

  ratio = Σ past_attended / (rows_per_head · Σ past_seen)

  over events of the stage, retrieving layers, streams and KV heads. Evicted
  tokens count as seen, the current chunk does not count.

  Args:
    trace: events.
    all_layers: over all layers (`attended_share`), not only retrieving ones.

  Returns:
    {"frame": , "question": , "answer": }; 1.0 where a stage retrieves in no
    layer, nan where it has no event with a past.
  """
  ratios = {}
  for name in STAGES[1:]:
    index = STAGES.index(name)
    layers = trace.retrieves[index] | all_layers
    attended, seen = (total[layers].sum() for total in _past(trace, index))
    if not layers.any() and np.any(trace.stage == index):
      ratios[name] = 1.0
    else:
      ratios[name] = int(attended) / int(seen) if seen else math.nan
  return ratios


def retrieval_ratio_by_layer(trace: StreamTrace) -> dict[str, list[float]]:
  """`retrieval_ratio` of every layer by itself.

  Weighted with the past tokens that its layers saw, a stage's figures give the
  stage's ratio.

  Args:
    trace: events.

  Returns:
    {"frame": , "question": , "answer": }, L numbers each; nan where the layer
    does not retrieve at that stage, or saw no past there.
  """
  ratios = {}
  for name in STAGES[1:]:
    index = STAGES.index(name)
    known = zip(*_past(trace, index), trace.retrieves[index], strict=True)
    ratios[name] = [
      int(attended) / int(seen) if retrieves and seen else math.nan
      for attended, seen, retrieves in known
    ]
  return ratios


def _past(trace: StreamTrace, stage: int) -> tuple[np.ndarray, np.ndarray]:
  """Past tokens that rows attended, and could have: i64[L] each."""
  events = trace.stage == stage
  attended, seen = (
    trace.counts[name][events].sum(axis=(0, 2, 3), dtype=np.int64)
    for name in ("past_attended", "past_seen")
  )
  return attended, seen * trace.rows_per_head


def held_growth(trace: StreamTrace) -> float:
  """Tokens that a head holds more for every token seen, late in the stream.

    (held at the last frame - held at the middle one) / (seen, likewise)

  mean over layers, streams and heads: 1 where everything is kept, about 0 in a
  fixed memory, the share where a share is kept.

  Args:
    trace: events; frames in order of time.

  Returns:
    The growth; nan with fewer than two frames.
  """
  frames = np.flatnonzero(trace.stage == STAGES.index("frame"))
  if len(frames) < 2:
    return math.nan
  ends = frames[[len(frames) // 2 - 1, -1]]
  held, seen = (
    trace.counts[name][ends].mean(axis=(1, 2, 3), dtype=np.float64)
    for name in ("past_held", "past_seen")
  )
  return float((held[1] - held[0]) / (seen[1] - seen[0]))


def check(trace: StreamTrace) -> list[str]:
  """One sentence per overflow bit that was set: where first, and the remedy.

  Args:
    trace: events.

  Returns:
    Sentences, empty when nothing overflowed.

  Example:
    >>> retrieves = np.ones((len(STAGES), 1), bool)
    >>> check(empty(num_layers=1, batch=1, num_kv_heads=1,
    ...             retrieves=retrieves, rows_per_head=1))
    []
  """
  sentences = []
  for bit in Overflow:
    events, layers, streams = np.nonzero(trace.overflow & np.uint32(bit))
    if len(events) == 0:
      continue
    event, layer, stream = events[0], layers[0], streams[0]
    stage = STAGES[trace.stage[event]]
    sentences.append(
      f"At frame {trace.frame[event, stream]}, layer {layer}, stream"
      f" {stream} ({stage} stage; {len(np.unique(events))} events in all)"
      f" {_REMEDY[bit]}."
    )
  return sentences


def save(trace: StreamTrace, path: Path) -> None:
  """Writes a trace as compressed npz: plain arrays, no pickle."""
  arrays: dict[str, Any] = {
    f"counts.{name}": value for name, value in trace.counts.items()
  }
  np.savez_compressed(
    path,
    stage=trace.stage,
    time_s=trace.time_s,
    frame=trace.frame,
    overflow=trace.overflow,
    retrieves=trace.retrieves,
    rows_per_head=np.int64(trace.rows_per_head),
    stage_names=np.array(STAGES),
    **arrays,
  )


def load(path: Path) -> StreamTrace:
  """Reads what `save` wrote.

  Raises:
    InputError: the file is not a trace.
  """
  try:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
      names = tuple(stored["stage_names"].tolist())
      if names != STAGES:
        raise ValueError(f"its stages are {names}, not {STAGES}")
      return StreamTrace(
        stage=stored["stage"],
        time_s=stored["time_s"],
        frame=stored["frame"],
        counts={
          name.removeprefix("counts."): stored[name]
          for name in stored.files
          if name.startswith("counts.")
        },
        overflow=stored["overflow"],
        retrieves=stored["retrieves"],
        rows_per_head=int(stored["rows_per_head"]),
      )
  except (
    OSError,
    ValueError,
    KeyError,
    TypeError,  # an .npy file is one array, not a folder of them
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    # numpy takes what it does not know for a pickle, and says how to load it.
    reason = "no npz file" if "pickle" in str(error) else error
    raise InputError(
      f"{path} is not a trace ({reason}); it must be the trace.npz of a run:"
      " give the file stream_video.py wrote to its --out folder"
    ) from error
