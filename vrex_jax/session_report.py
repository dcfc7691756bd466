"""What a run did, as rows and arrays: metrics.json, frames.csv, record.npz."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax import programs
from vrex_jax import questions as questions_lib
from vrex_jax import record
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import rotary

__all__ = [
  "frame_rows",
  "kv_bytes",
  "ms_per_frame",
  "record_arrays",
  "streaming_row",
]


def _held_tokens(state: stream_state.StreamState) -> np.ndarray:
  """Live slots of every layer, stream and head: i64[L, B, K]."""
  cache = state.cache
  valid = np.asarray(cache.slots.valid)[..., : int(cache.cursor)]
  held = valid.sum(axis=-1)
  layers, batch, heads = cache.key.shape[:3]
  if not cache.per_head:
    held = held[None, :, None]
  return np.broadcast_to(held, (layers, batch, heads))


def kv_bytes(
  config: stream_state.StreamConfig, state: stream_state.StreamState
) -> int:
  """Bytes of the keys and values that all streams hold."""
  return _bytes_of(config, _held_tokens(state))


def _bytes_of(config: stream_state.StreamConfig, held: np.ndarray) -> int:
  itemsize = jnp.dtype(config.cache_dtype).itemsize
  return int(held.sum()) * 2 * config.decoder.head_dim * itemsize


def ms_per_frame(blocks: Sequence[driver_lib.Block]) -> dict[str, float | None]:
  """Wall time of a frame in milliseconds: p50, p95 and that of the first block.

  The first block is left out of p50 and p95 where there are others.
  """
  times = [
    1e3 * block.wall_s / block.frames
    for block in blocks
    for _ in range(block.frames)
  ]
  steady = times[blocks[0].frames :] if len(blocks) > 1 else times
  return {
    "p50": float(np.percentile(steady, 50)) if steady else None,
    "p95": float(np.percentile(steady, 95)) if steady else None,
    "first": times[0] if times else None,
  }


def streaming_row(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  run: driver_lib.Run,
  trace: trace_lib.StreamTrace,
  replies: Sequence[tuple[questions_lib.Question, driver_lib.Reply]],
  decode_s: Sequence[float],
  vision_s: float | None,
) -> dict[str, Any]:
  """The streaming row of metrics.json."""
  config = driver.config
  total_s = sum(block.wall_s for block in run.blocks)
  held = _held_tokens(run.state)
  frame_tokens = trace.counts["chunk_tokens"][trace.stage == 1][:, 0, :, 0]
  mean_ms = lambda values: 1e3 * float(np.mean(values)) if values else None
  values = {
    "policy": driver.policy.name,
    "frames": run.frames,
    "cached_tokens": int(held.max(initial=0)),
    "retrieval_ratio": trace_lib.retrieval_ratio(trace),
    "retrieval_ratio_by_layer": trace_lib.retrieval_ratio_by_layer(trace),
    "attended_share": trace_lib.retrieval_ratio(trace, all_layers=True),
    "ms_per_frame": ms_per_frame(run.blocks),
    "vision_ms": None if vision_s is None else 1e3 * vision_s,
    "decode_ms": mean_ms(list(decode_s)),
    "compile_s": driver.compile_s,
    "ttft_ms": mean_ms([reply.ttft_s for _, reply in replies]),
    "tpot_ms": mean_ms(
      [reply.tpot_s for _, reply in replies if np.isfinite(reply.tpot_s)]
    ),
    "tokens_per_s": float(frame_tokens.sum()) / total_s if total_s else None,
    "kv_bytes": _bytes_of(config, held),
    "peak_rss_bytes": record.peak_rss_bytes(),
    "overflow": trace_lib.check(trace),
    "answers": [
      {
        "time_s": question.time_s,
        "question": question.text,
        "answer": model.tokenizer.decode(reply.tokens[0]),
        "tokens": reply.tokens[0],
      }
      for question, reply in replies
    ],
  }
  return {name: values[name] for name in record.STREAMING_FIELDS}


def frame_rows(
  driver: programs.Driver, run: driver_lib.Run, trace: trace_lib.StreamTrace
) -> list[dict[str, Any]]:
  """One dict per frame. Times are means within the frame's block."""
  events = np.nonzero(trace.stage == 1)[0]
  blocks = [block for block in run.blocks for _ in range(block.frames)]
  rows = []
  for index, (event, block) in enumerate(zip(events, blocks, strict=True)):
    one = trace[event : event + 1]
    past = {
      name: one.counts[f"past_{name}"][0, :, 0]
      for name in ("seen", "held", "attended", "fetched")
    }
    rows.append(
      {
        "policy": driver.policy.name,
        "frame": index,
        "time_s": round(float(trace.time_s[event]), 6),
        "wall_ms": round(1e3 * block.wall_s / block.frames, 4),
        "cpu_ms": round(1e3 * block.cpu_s / block.frames, 4),
        "tokens": int(one.counts["chunk_tokens"][0, 0, 0, 0]),
        "past_seen": int(past["seen"].max()),
        "past_held": float(past["held"].mean()),
        "past_attended": float(past["attended"].mean()) / trace.rows_per_head,
        "past_fetched": float(past["fetched"].mean()),
        "retrieval_ratio": trace_lib.retrieval_ratio(one)["frame"],
      }
    )
  return rows


def record_arrays(
  model: checkpoint_lib.Checkpoint, records: Sequence[observing.Record]
) -> dict[str, np.ndarray]:
  """Recorded chunks as the arrays of record.npz.

  Tokens of all chunks lie end to end; padding is left out where no stream has
  a token.

  Args:
    model: its rotary settings go into the file, so that a replay can undo the
      rotation.
    records: chunks in order.

  Returns:
    query and query_next f[L, B, N, ΣT, H] and key f[L, B, K, ΣT, H], rotated
    (see `observing.Record`); value f[L, B, K, ΣT, H]; position, frame, kind,
    valid [B, ΣT]; event i32[ΣT], the chunk a token came in; frequencies
    f32[H / 2], radians per position.
  """
  decoder = model.config.decoder
  columns = [np.asarray(one.valid).any(axis=0) for one in records]
  join = lambda pick, axis: np.concatenate(
    [
      np.compress(column, np.asarray(pick(one)), axis=axis)
      for one, column in zip(records, columns, strict=True)
    ],
    axis=axis,
  )
  return {
    "query": join(lambda one: one.query, 3),
    "query_next": join(lambda one: one.query_next, 3),
    "key": join(lambda one: one.key, 3),
    "value": join(lambda one: one.value, 3),
    "position": join(lambda one: one.position, 1),
    "frame": join(lambda one: one.frame, 1),
    "kind": join(lambda one: one.kind, 1),
    "valid": join(lambda one: one.valid, 1),
    "event": np.concatenate(
      [
        np.full(int(column.sum()), index, np.int32)
        for index, column in enumerate(columns)
      ]
    ),
    "frequencies": rotary.inverse_frequencies(decoder.rope, decoder.head_dim),
  }
