"""One policy on one video: plan the capacity, stream, ask, measure.

plan     how many slots the stream needs; refuses what cannot fit
stream   decode ─► resize ─► blocks of frames ─► driver; questions between
report   the streaming row of metrics.json, a line per frame, the trace
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import model_source
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import questions as questions_lib
from vrex_jax import record
from vrex_jax import resize
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import prompt
from vrex_jax.models import rotary
from vrex_jax.models import video_llm
from vrex_jax.typing import Frame

__all__ = [
  "EVICTING_CAPACITY",
  "Options",
  "Progress",
  "Result",
  "Source",
  "expected_frames",
  "record_arrays",
  "stream_policy",
]

EVICTING_CAPACITY = 8192
"""Slots an evicting policy gets by default, beside one block and a question."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Static. Which frames of which video.

  Attributes:
    path: file or URL.
    fps: samples per second of video.
    max_frames: stop after this many; None for all.
    loop: start again at the end of the file, without end.
  """

  path: str
  fps: float
  max_frames: int | None = None
  loop: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Static. How to stream.

  Attributes:
    capacity: cache slots; None plans them.
    block_frames: frames of one jitted scan.
    question_chunk: tokens of one question chunk.
    max_tokens: longest answer.
    keep_questions: questions and answers stay in the cache; otherwise each is
      undone.
    temperature: 0 for greedy answers.
    system: system text; the template's own when None.
    dtype: storage of weights and cache, "float32" or "bfloat16".
    seed: of the sampler.
    lookahead: 0 or 1.
    lookahead_query: "own" or "next".
    recent_tokens: window always attended; one frame when None.
    resident_tokens: window on the device; everything when None.
    record: keep queries and keys.
  """

  capacity: int | None = None
  block_frames: int = 8
  question_chunk: int = 64
  max_tokens: int = 64
  keep_questions: bool = False
  temperature: float = 0.0
  system: str | None = None
  dtype: str = "float32"
  seed: int = 0
  lookahead: int = 0
  lookahead_query: str = "own"
  recent_tokens: int | None = None
  resident_tokens: int | None = None
  record: bool = False


class Progress(NamedTuple):
  """Static. Who is told what during a run.

  Attributes:
    note: one line of text.
    frames: frames done since the last call.
    answer: a question, its answer as text, and the tokens of it.
  """

  note: Callable[[str], None]
  frames: Callable[[int], None]
  answer: Callable[[questions_lib.Question, str, int], None]


class Result(NamedTuple):
  """Static. What one policy did.

  Attributes:
    row: streaming row of metrics.json.
    frames: one dict per frame, for frames.csv.
    trace: all events.
    records: recorded chunks; empty unless asked for.
    interrupted: stopped by the user before the end.
  """

  row: dict[str, Any]
  frames: list[dict[str, Any]]
  trace: trace_lib.StreamTrace
  records: tuple[stream.Record, ...]
  interrupted: bool


class _Text(NamedTuple):
  """Static. Token ids of a run's texts."""

  prompt: list[int]
  questions: list[list[int]]
  resume: list[int]


def expected_frames(source: Source) -> int | None:
  """Frames the stream will have; None when it has no known end.

  Raises:
    InputError: the source is not a video, see `video.probe`.
  """
  info = video.probe(source.path)
  if source.loop or info.duration_s is None:
    return source.max_frames
  count = max(1, int(np.ceil(info.duration_s * source.fps)))
  return count if source.max_frames is None else min(count, source.max_frames)


def stream_policy(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  source: Source,
  questions: Sequence[questions_lib.Question],
  options: Options,
  progress: Progress,
) -> Result:
  """Streams a video through a model under one policy.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    source: the video.
    questions: in order of time.
    options: how to stream.
    progress: who is told.

  Returns:
    The result. A keyboard interrupt ends the stream early and is marked.

  Raises:
    InputError: the video, a question's time or the capacity cannot be used;
      nothing that was computed before is lost to a full cache.
  """
  frames = video.read_frames(
    source.path,
    fps=source.fps,
    max_frames=source.max_frames,
    loop=source.loop,
  )
  try:
    expected = expected_frames(source)
    if expected is not None:
      questions_lib.check_times(questions, expected / source.fps)
    text = _Text(
      prompt.prompt_tokens(model.template, model.tokenizer, options.system),
      [
        prompt.question_tokens(model.template, model.tokenizer, question.text)
        for question in questions
      ],
      prompt.resume_tokens(model.template, model.tokenizer),
    )
    config = _stream_config(model, policy, options, text, expected)
    state = stream_state.init(
      config,
      policy,
      model.params,
      recent_tokens=options.recent_tokens,
      resident_tokens=options.resident_tokens,
    )
    embed = _embed_function(model, config)
    driver = _compile(model, policy, options, config, state, embed, questions,
                      progress)  # fmt: skip
    return _run(
      model, driver, state, embed, frames, source, questions, text, options,
      progress,
    )  # fmt: skip
  finally:
    frames.close()


def _stream_config(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  options: Options,
  text: _Text,
  expected: int | None,
) -> stream_state.StreamConfig:
  decoder = model.config.decoder
  capacity = _plan_capacity(model, policy, options, text, expected)
  grid = model.config.connector.pooled_grid
  config = stream_state.StreamConfig(
    decoder=decoder,
    capacity=capacity,
    frame_tokens=model.config.tokens_per_frame,
    question_chunk=options.question_chunk,
    dtype=model_source.activation_dtype(options.dtype),
    cache_dtype=model_source.storage_dtype(options.dtype),
    lookahead=options.lookahead,
    lookahead_query=options.lookahead_query,
    record=options.record,
    grid=(grid, grid),
  )
  slot_bytes = cache_lib.kv_bytes_per_slot(
    decoder.num_layers,
    decoder.num_kv_heads,
    decoder.head_dim,
    config.cache_dtype,
  )
  model_source.check_memory(
    config.num_slots * slot_bytes,
    f"a KV cache of {capacity} slots",
    "lower --max_frames or --capacity, use --dtype=bfloat16, or choose a"
    " policy that evicts (sliding_window, streaming_llm)",
  )
  return config


def _plan_capacity(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  options: Options,
  text: _Text,
  expected: int | None,
) -> int:
  """Slots of the cache: what the stream needs, or what the user gave."""
  per_frame = model.config.tokens_per_frame
  asked = [len(ids) + options.max_tokens for ids in text.questions]
  if options.keep_questions:
    talk = sum(asked) + len(asked) * len(text.resume)
  else:
    talk = max(asked, default=0)
  whole = None
  if expected is not None:
    whole = len(text.prompt) + expected * per_frame + talk
  if options.capacity is not None:
    short = whole is not None and options.capacity < whole
    if short and not policy.needs.evicts:
      raise InputError(
        f"--capacity is {options.capacity}; {expected} frames of {per_frame}"
        f" tokens, the prompt and the questions need {whole} slots under"
        f" policy {policy.name}, which keeps everything: raise it to {whole},"
        " lower --max_frames, or choose a policy that evicts"
        " (sliding_window, streaming_llm)"
      )
    return options.capacity
  if not policy.needs.evicts:
    if whole is None:
      raise InputError(
        f"the stream has no known end and policy {policy.name} keeps"
        " everything; a fixed cache would run full: give --max_frames or"
        " --capacity, or choose a policy that evicts (sliding_window,"
        " streaming_llm)"
      )
    return whole
  bounded = EVICTING_CAPACITY + options.block_frames * per_frame + talk
  return bounded if whole is None else min(whole, bounded)


def _embed_function(
  model: checkpoint_lib.Checkpoint, config: stream_state.StreamConfig
) -> stream.EmbedFrame:
  def embed(params, frame, first):
    return video_llm.embed_frame_tokens(
      model.config, params, frame, first, dtype=config.dtype
    )

  return embed


def _compile(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  options: Options,
  config: stream_state.StreamConfig,
  state: stream_state.StreamState,
  embed: stream.EmbedFrame,
  questions: Sequence[questions_lib.Question],
  progress: Progress,
) -> programs.Driver:
  size = model.config.image.size
  talk = ("question", "answer") if questions else ()
  driver = programs.compile_stream(
    config,
    policy,
    model.params,
    state,
    embed,
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8),
    block_frames=options.block_frames,
    max_tokens=options.max_tokens,
    stop_ids=model.stop_ids,
    stages=("prompt", "frame", *talk),
  )
  times = ", ".join(
    f"{stage} {seconds:.1f} s" for stage, seconds in driver.compile_s.items()
  )
  progress.note(f"compiled {policy.name}: {times}")
  return driver


class _Sample(NamedTuple):
  """Static. A resized frame and what it took to decode it."""

  pixels: Frame
  time_s: float
  decode_s: float


def _samples(
  frames: Generator[video.VideoFrame, None, None],
  model: checkpoint_lib.Checkpoint,
) -> Iterator[_Sample]:
  """Frames at the model's size, decoding timed."""
  image = model.config.image
  resizer: resize.Resizer | None = None
  while True:
    begun = time.perf_counter()
    frame = next(frames, None)
    if frame is None:
      return
    height, width = frame.pixels.shape[:2]
    if resizer is None or (resizer.height, resizer.width) != (height, width):
      resizer = resize.Resizer.create(height, width, image.size, image.resize)
    pixels = resizer(frame.pixels)
    yield _Sample(pixels, frame.time_s, time.perf_counter() - begun)


def _run(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  state: stream_state.StreamState,
  embed: stream.EmbedFrame,
  frames: Generator[video.VideoFrame, None, None],
  source: Source,
  questions: Sequence[questions_lib.Question],
  text: _Text,
  options: Options,
  progress: Progress,
) -> Result:
  """Streams all frames, asking every question at its time."""
  run = driver_lib.Run(state)
  if text.prompt:
    run = driver_lib.feed_text(driver, run, [text.prompt])
  waiting = list(zip(questions, text.questions, strict=True))
  replies: list[tuple[questions_lib.Question, driver_lib.Reply]] = []
  decode_s: list[float] = []
  block: list[_Sample] = []
  last = None
  interrupted = False

  def flush(run):
    if not block:
      return run
    pixels = np.stack([sample.pixels for sample in block])[:, None]
    times = [sample.time_s for sample in block]
    run = driver_lib.feed_frames(driver, run, pixels, times)
    progress.frames(len(block))
    block.clear()
    return run

  def ask_until(run, time_s):
    while waiting and waiting[0][0].time_s < time_s:
      question, ids = waiting.pop(0)
      run = flush(run)
      run, reply = driver_lib.ask(
        driver,
        run,
        [ids],
        keep=options.keep_questions,
        resume=text.resume,
        temperature=options.temperature,
        seed=options.seed + len(replies),
      )
      replies.append((question, reply))
      answer = model.tokenizer.decode(reply.tokens[0])
      progress.answer(question, answer, len(reply.tokens[0]))
    return run

  try:
    for sample in _samples(frames, model):
      run = ask_until(run, sample.time_s)
      block.append(sample)
      decode_s.append(sample.decode_s)
      last = sample
      if len(block) == driver.block_frames:
        run = flush(run)
    run = flush(run)
    end_s = run.time_s + 1.0 / source.fps
    questions_lib.check_times([question for question, _ in waiting], end_s)
    run = ask_until(run, float("inf"))
  except KeyboardInterrupt:
    interrupted = True
    progress.note(f"interrupted after {run.frames} frames; results are kept")
  trace = driver_lib.finish_trace(driver, run)
  vision_s = 0.0 if last is None else _time_vision(model, embed, last.pixels)
  return Result(
    row=_row(model, driver, run, trace, replies, decode_s, vision_s),
    frames=_frame_rows(driver, run, trace),
    trace=trace,
    records=run.records,
    interrupted=interrupted,
  )


def _time_vision(
  model: checkpoint_lib.Checkpoint, embed: stream.EmbedFrame, pixels: Frame
) -> float:
  """Seconds of tower and connector on one frame, by themselves."""
  program = jax.jit(embed)
  arguments = (model.params, pixels[None], np.zeros((1,), bool))
  compiled = program.lower(*arguments).compile()
  times = []
  for _ in range(3):
    begun = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    times.append(time.perf_counter() - begun)
    if times[0] > 1.0:
      break
  return min(times)


def _held_tokens(state: stream_state.StreamState) -> np.ndarray:
  """Live slots of every layer, stream and head: i64[L, B, K]."""
  cache = state.cache
  valid = np.asarray(cache.slots.valid)[..., : int(cache.cursor)]
  held = valid.sum(axis=-1)
  layers, batch, heads = cache.key.shape[:3]
  if not cache.per_head:
    held = held[None, :, None]
  return np.broadcast_to(held, (layers, batch, heads))


def _row(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  run: driver_lib.Run,
  trace: trace_lib.StreamTrace,
  replies: Sequence[tuple[questions_lib.Question, driver_lib.Reply]],
  decode_s: Sequence[float],
  vision_s: float,
) -> dict[str, Any]:
  """The streaming row of metrics.json."""
  config = driver.config
  per_frame = [
    1e3 * block.wall_s / block.frames
    for block in run.blocks
    for _ in range(block.frames)
  ]
  total_s = sum(block.wall_s for block in run.blocks)
  held = _held_tokens(run.state)
  head_bytes = (
    2 * config.decoder.head_dim * jnp.dtype(config.cache_dtype).itemsize
  )
  frame_tokens = trace.counts["chunk_tokens"][trace.stage == 1][:, 0, :, 0]
  mean_ms = lambda values: 1e3 * float(np.mean(values)) if values else None
  steady = (
    per_frame[run.blocks[0].frames :] if len(run.blocks) > 1 else per_frame
  )
  values = {
    "policy": driver.policy.name,
    "frames": run.frames,
    "cached_tokens": int(held.max(initial=0)),
    "retrieval_ratio": trace_lib.retrieval_ratio(trace),
    "attended_share": trace_lib.retrieval_ratio(trace, all_layers=True),
    "ms_per_frame": {
      "p50": float(np.percentile(steady, 50)) if steady else None,
      "p95": float(np.percentile(steady, 95)) if steady else None,
      "first": per_frame[0] if per_frame else None,
    },
    "vision_ms": 1e3 * vision_s,
    "decode_ms": mean_ms(list(decode_s)),
    "compile_s": driver.compile_s,
    "ttft_ms": mean_ms([reply.ttft_s for _, reply in replies]),
    "tpot_ms": mean_ms(
      [reply.tpot_s for _, reply in replies if np.isfinite(reply.tpot_s)]
    ),
    "tokens_per_s": float(frame_tokens.sum()) / total_s if total_s else None,
    "kv_bytes": int(held.sum()) * head_bytes,
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


def _frame_rows(
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
  model: checkpoint_lib.Checkpoint, records: Sequence[stream.Record]
) -> dict[str, np.ndarray]:
  """Recorded chunks as the arrays of record.npz.

  Tokens of all chunks lie end to end; padding is left out where no stream has
  a token.

  Args:
    model: its rotary settings go into the file, so that a replay can undo the
      rotation.
    records: chunks in order.

  Returns:
    query f[L, B, N, ΣT, H] and key f[L, B, K, ΣT, H], rotated; position,
    frame, kind, valid [B, ΣT]; event i32[ΣT], the chunk a token came in;
    frequencies f32[H / 2], radians per position.
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
    "key": join(lambda one: one.key, 3),
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
