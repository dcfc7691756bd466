"""The host's side of a stream: feed frames, ask questions.

A `Run` is passed in and returned like any state; its device arrays are donated
to the next call, so an old `Run` must not be used again.

  state = stream_state.init(config, policy, params)
  driver = programs.compile_stream(config, policy, params, state, …)
  run = Run(state)
  run = feed_text(driver, run, prompt)
  run = feed_frames(driver, run, frames, times)     # any number of times
  run, reply = ask(driver, run, question)           # undone, or kept
  run, logits = follow(driver, run, question, answer)       # a given answer
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.typing import PyTree

__all__ = [
  "Block",
  "Reply",
  "Run",
  "ask",
  "feed_frames",
  "feed_text",
  "finish_trace",
  "follow",
]


class Block(NamedTuple):
  """Static. Measured time of one block of frames.

  Attributes:
    frames: frames in it.
    wall_s: wall time, seconds, from the call to the last result.
    cpu_s: CPU time of the process over the same span, seconds.
  """

  frames: int
  wall_s: float
  cpu_s: float


class Reply(NamedTuple):
  """Static. Answers of all streams to one question.

  Attributes:
    tokens: generated ids of each stream, stop token left out.
    stopped: the stream's answer ended by a stop id.
    logits: after the question, f32[B, vocabulary].
    ttft_s: wall time from the question to the first token, seconds.
    tpot_s: wall time per decoder step of the answer, seconds; nan without one.
  """

  tokens: list[list[int]]
  stopped: list[bool]
  logits: np.ndarray
  ttft_s: float
  tpot_s: float


@dataclasses.dataclass(frozen=True)
class Run:
  """Dynamic. A stream under way.

  Attributes:
    state: on the device; donated to the next call.
    cursor: slots in use.
    frames: frames prefilled.
    time_s: time stamp of the last frame.
    traces: events so far, in order.
    observations: of the observer so far, in order.
    blocks: measured times of the blocks.
    text_chunks: prompt and question chunks so far (`first` of the prompt).
  """

  state: stream_state.StreamState
  cursor: int = 0
  frames: int = 0
  time_s: float = 0.0
  traces: tuple[trace_lib.StreamTrace, ...] = ()
  observations: tuple[PyTree, ...] = ()
  blocks: tuple[Block, ...] = ()
  text_chunks: int = 0


def _retrieves(driver: programs.Driver) -> np.ndarray:
  """b[STAGES, L]: layers that take part in retrieval."""
  layers = stream_state.retrieving_layers(driver.config, driver.policy)
  return np.asarray(layers, bool)


def finish_trace(driver: programs.Driver, run: Run) -> trace_lib.StreamTrace:
  """All events of a run as one trace."""
  decoder = driver.config.decoder
  nothing = trace_lib.empty(
    num_layers=decoder.num_layers,
    batch=driver.config.batch,
    num_kv_heads=decoder.num_kv_heads,
    retrieves=_retrieves(driver),
    rows_per_head=_rows_per_head(driver),
  )
  return trace_lib.concatenate([nothing, *run.traces])


def feed_text(
  driver: programs.Driver,
  run: Run,
  tokens: Sequence[Sequence[int]],
  *,
  stage: str = "prompt",
) -> Run:
  """Prefills text that is not answered (system prompt, end of a turn).

  Args:
    driver: compiled programs.
    run: before the text.
    tokens: ids of each stream, B sequences of any length.
    stage: "prompt" or "question".

  Returns:
    The run after it.

  Raises:
    InputError: the cache has no room for it.
  """
  longest = _longest(tokens, stage)
  run = _make_room(driver, run, longest)
  run, _ = _prefill_text(driver, run, tokens, stage)
  return run


def feed_frames(
  driver: programs.Driver, run: Run, frames: np.ndarray, times: Sequence[float]
) -> Run:
  """Prefills frames in blocks of `block_frames`.

  Args:
    driver: compiled programs.
    run: before the frames.
    frames: [n, B, ...], n at least 1.
    times: time stamp of each, seconds.

  Returns:
    The run after them.

  Raises:
    InputError: the cache has no room; nothing of the block is stored. Earlier
      blocks of the same call have used up `run`: to keep them, feed one block
      a call.
  """
  size = driver.block_frames
  for begin in range(0, len(frames), size):
    block = frames[begin : begin + size]
    run = _feed_block(driver, run, block, times[begin : begin + size])
  return run


def ask(
  driver: programs.Driver,
  run: Run,
  tokens: Sequence[Sequence[int]],
  *,
  keep: bool = False,
  resume: Sequence[int] = (),
  temperature: float = 0.0,
  seed: int = 0,
) -> tuple[Run, Reply]:
  """Asks every stream a question and decodes the answers.

  Args:
    driver: compiled programs, stages "question" and "answer" among them.
    run: before the question.
    tokens: ids of each stream's question, B sequences.
    keep: leave question and answer in the cache; otherwise they are undone
      and the stream goes on as if nothing had been asked.
    resume: ids that close a kept answer's turn.
    temperature: 0 for greedy decoding.
    seed: of the sampler.

  Returns:
    The run, and the reply.

  Raises:
    InputError: the cache has no room for the question and its answer.
  """
  longest = _longest(tokens, "question", all_streams=True)
  needed = longest + driver.max_tokens + (len(resume) if keep else 0)
  run = _make_room(driver, run, needed)
  cursor = run.cursor
  saved = None if keep else driver.programs["snapshot"](run.state)
  begun = time.perf_counter()
  run, logits = _prefill_text(driver, run, tokens, "question")
  first_token = time.perf_counter()
  state, answer, observations = driver.programs["answer"](
    driver.params,
    run.state,
    logits,
    np.float32(temperature),
    jax.random.key(seed),
  )
  steps = int(answer.steps)
  ended = time.perf_counter()
  run = dataclasses.replace(run, state=state, cursor=int(state.cache.cursor))
  events = jax.tree.map(
    lambda leaf: leaf[:steps], jax.device_get(answer.events)
  )
  run = _add(driver, run, events, observations, steps, [run.time_s] * steps)
  if keep:
    if resume:
      run, _ = _prefill_text(
        driver, run, [resume] * driver.config.batch, "question"
      )
  else:
    state = driver.programs["restore"](run.state, saved)
    run = dataclasses.replace(run, state=state, cursor=cursor)
  lengths = np.asarray(answer.length)
  ids = np.asarray(answer.tokens)
  reply = Reply(
    tokens=[row[:n].tolist() for row, n in zip(ids, lengths, strict=True)],
    stopped=np.asarray(answer.stopped).tolist(),
    logits=logits,
    ttft_s=first_token - begun,
    tpot_s=(ended - first_token) / steps if steps else float("nan"),
  )
  return run, reply


def follow(
  driver: programs.Driver,
  run: Run,
  tokens: Sequence[Sequence[int]],
  answers: Sequence[Sequence[int]],
) -> tuple[Run, np.ndarray]:
  """Asks every stream a question and feeds it a given answer; undone.

  Teacher forcing: what the stream would have said itself is not fed. Events
  and observations are those of `ask`, had it answered so.

  Args:
    driver: compiled programs, stages "question" and "given" among them.
    run: before the question.
    tokens: ids of each stream's question, B sequences.
    answers: ids of each stream's answer, B sequences; may be empty.

  Returns:
    The run, and logits after each stream's last token, f32[B, vocabulary].

  Raises:
    InputError: the cache has no room for the question and its answer.
  """
  longest = _longest(tokens, "question", all_streams=True)
  given = max(len(ids) for ids in answers)
  run = _make_room(driver, run, longest + given)
  cursor = run.cursor
  saved = driver.programs["snapshot"](run.state)
  run, logits = _prefill_text(driver, run, tokens, "question")
  if given:
    run, after = _prefill_text(driver, run, answers, "answer")
    has_answer = np.array([len(ids) > 0 for ids in answers])
    logits = np.where(has_answer[:, None], after, logits)
  state = driver.programs["restore"](run.state, saved)
  return dataclasses.replace(run, state=state, cursor=cursor), logits


def _rows_per_head(driver: programs.Driver) -> int:
  rows = policy_lib.rows_of(driver.policy.needs, driver.config.decoder)
  return rows // driver.config.decoder.num_kv_heads


def _longest(
  tokens: Sequence[Sequence[int]], stage: str, *, all_streams: bool = False
) -> int:
  """Tokens of the longest text, which (or all of which) must not be empty."""
  lengths = [len(ids) for ids in tokens]
  if (min(lengths) if all_streams else max(lengths)) == 0:
    raise InputError(
      f"the {stage} is empty; it must hold at least one token: give it text"
    )
  return max(lengths)


def _make_room(driver: programs.Driver, run: Run, tokens: int) -> Run:
  """Compacts if that helps; raises before anything is lost or donated."""
  capacity = driver.config.capacity
  if run.cursor + tokens <= capacity:
    return run
  held = run.cursor
  if driver.policy.needs.evicts:
    held = int(driver.programs["held"](run.state))
    if held + tokens <= capacity:
      state = driver.programs["compact"](run.state)
      cursor = int(state.cache.cursor)
      return dataclasses.replace(run, state=state, cursor=cursor)
  hint = ", or choose a policy that evicts (sliding_window, streaming_llm)"
  if driver.policy.needs.evicts:
    hint = ", or lower --block_frames"
  raise InputError(
    f"--capacity is {capacity} slots; after {run.frames} frames"
    f" {held} hold tokens that policy {driver.policy.name} keeps and the"
    f" next step needs {tokens} more: raise it to at least"
    f" {held + tokens}{hint}"
  )


def _feed_block(
  driver: programs.Driver, run: Run, frames: np.ndarray, times: Sequence[float]
) -> Run:
  count, size = len(frames), driver.block_frames
  run = _make_room(driver, run, count * driver.config.frame_tokens)
  live = np.arange(size) < count
  if count < size:
    padding = np.zeros((size - count, *frames.shape[1:]), frames.dtype)
    frames = np.concatenate([frames, padding])
  wall, cpu = time.perf_counter(), time.process_time()
  state, events, observations = driver.programs["frame"](
    driver.params, run.state, frames, live
  )
  cursor = int(state.cache.cursor)
  jax.block_until_ready(state)
  block = Block(count, time.perf_counter() - wall, time.process_time() - cpu)
  run = dataclasses.replace(
    run,
    state=state,
    cursor=cursor,
    frames=run.frames + count,
    time_s=float(times[-1]),
    blocks=(*run.blocks, block),
  )
  events = jax.tree.map(lambda leaf: leaf[:count], jax.device_get(events))
  return _add(driver, run, events, observations, count, times)


def _prefill_text(
  driver: programs.Driver, run: Run, tokens: Sequence[Sequence[int]], stage: str
) -> tuple[Run, np.ndarray]:
  """Chunks of `question_chunk` tokens, the last padded; logits of each stream.

  A given answer goes token by token, as one that is decoded does. Streams of a
  batch may differ in length: a stream whose text has ended is padded and keeps
  the logits of its own last chunk.
  """
  is_answer = stage == "answer"
  program = driver.programs["given" if is_answer else stage]
  size = 1 if is_answer else driver.config.question_chunk
  longest = max(len(ids) for ids in tokens)
  chunks = -(-longest // size)
  logits = np.zeros((len(tokens), driver.config.decoder.vocab_size), np.float32)
  for index in range(chunks):
    window = [ids[index * size : (index + 1) * size] for ids in tokens]
    padded = np.zeros((len(tokens), size), np.int32)
    for row, ids in enumerate(window):
      padded[row, : len(ids)] = ids
    lengths = np.array([len(ids) for ids in window])
    valid = np.arange(size)[None] < lengths[:, None]
    first = index == 0 and (stage != "prompt" or run.text_chunks == 0)
    last = index == chunks - 1 and not is_answer
    state, new, event, observation = program(
      driver.params,
      run.state,
      padded,
      valid,
      np.asarray(first),
      np.asarray(last),
    )
    logits = np.where((lengths > 0)[:, None], np.asarray(new), logits)
    run = dataclasses.replace(
      run,
      state=state,
      cursor=int(state.cache.cursor),
      text_chunks=run.text_chunks + 1,
    )
    stack = lambda tree: jax.tree.map(
      lambda leaf: leaf[None], jax.device_get(tree)
    )
    run = _add(driver, run, stack(event), stack(observation), 1, [run.time_s])
  return run, logits


def _add(
  driver: programs.Driver,
  run: Run,
  events: trace_lib.Event,
  observations: PyTree,
  count: int,
  times: Sequence[float],
) -> Run:
  """Appends `count` events and observations, moved to the host."""
  trace = trace_lib.from_events(
    events,
    time_s=np.asarray(times, np.float64),
    retrieves=_retrieves(driver),
    rows_per_head=_rows_per_head(driver),
  )
  run = dataclasses.replace(run, traces=(*run.traces, trace))
  if observations is None:
    return run
  observations = jax.device_get(observations)
  rows = [
    jax.tree.map(lambda leaf, row=row: leaf[row], observations)
    for row in range(count)
  ]
  return dataclasses.replace(run, observations=(*run.observations, *rows))
