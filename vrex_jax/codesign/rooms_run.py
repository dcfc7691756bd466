"""One stream of the rooms task, recorded: what a sweep reads, and its check.

The same programs stream an episode under any thresholds (they are traced), and
every chunk's queries, keys and values are taken along:

  full             ─► the recording that a sweep reads           open loop
  resv, thresholds ─► a recording of what that run really asked  closed loop

The task knows which frames show what is asked, so recall can be told.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import recording as recording_lib
from vrex_jax import session_report
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import prompt
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = [
  "Recorded",
  "Spent",
  "compiled",
  "load",
  "save",
  "stream_episode",
  "time_episode",
]


class Spent(NamedTuple):
  """Static. Measured seconds of a stream, questions included."""

  wall_s: float
  cpu_s: float


class Recorded(NamedTuple):
  """Static. One streamed episode.

  Attributes:
    recording: queries, keys and values.
    evidence: event -> frames that show what is old and wanted there.
    trace: counts of the run.
    right: answers that were right.
    asked: of how many.
    spent: time of the stream, without compilation.
  """

  recording: recording_lib.Recording
  evidence: dict[int, np.ndarray]
  trace: trace_lib.StreamTrace
  right: int
  asked: int
  spent: Spent


def compiled(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  shape: episodes_lib.EpisodeConfig,
  *,
  record: bool = True,
) -> programs.Driver:
  """Programs for single episodes of a shape.

  Args:
    model: weights and shapes.
    policy: the policy; its knobs may change from stream to stream.
    shape: of the episodes.
    record: take queries, keys and values along.
  """
  observe = observing.record_chunk if record else None
  return streaming.compile_batch(
    model, policy, streaming.StreamOptions(batch=1), shape, observe=observe
  )


def stream_episode(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  episode: episodes_lib.Episode,
  word_ids: Mapping[str, int],
  *,
  knobs: Any = None,
  recent_tokens: int | None = None,
  told: Callable[[int], None] = lambda frames: None,
) -> Recorded:
  """Streams an episode and asks all its questions, each undone.

  Args:
    model: weights and tokenizer.
    driver: of `compiled`, recording.
    episode: of its shape.
    word_ids: token of every word.
    knobs: of the policy; its own when None.
    recent_tokens: always attended; one frame when None.
    told: called with numbers of frames that are done.
  """
  done = _stream(model, driver, episode, word_ids, knobs, recent_tokens, told)
  arrays = session_report.record_arrays(model, done.run.observations)
  return Recorded(
    recording_lib.from_arrays(arrays),
    done.evidence,
    driver_lib.finish_trace(driver, done.run),
    done.right,
    done.asked,
    done.spent,
  )


def time_episode(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  episode: episodes_lib.Episode,
  word_ids: Mapping[str, int],
) -> Spent:
  """How long `stream_episode` takes, without what it takes along.

  Args:
    model: weights and tokenizer.
    driver: of `compiled`, not recording.
    episode: of its shape.
    word_ids: token of every word.
  """
  return _stream(
    model, driver, episode, word_ids, None, None, lambda frames: None
  ).spent


class _Streamed(NamedTuple):
  """A stream at its end."""

  run: driver_lib.Run
  evidence: dict[int, np.ndarray]
  right: int
  asked: int
  spent: Spent


def _stream(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  episode: episodes_lib.Episode,
  word_ids: Mapping[str, int],
  knobs: Any,
  recent_tokens: int | None,
  told: Callable[[int], None],
) -> _Streamed:
  state = stream_state.init(
    driver.config,
    driver.policy,
    model.params,
    knobs=knobs,
    recent_tokens=recent_tokens,
  )
  first = prompt.prompt_tokens(model.template, model.tokenizer)
  wall, cpu = time.perf_counter(), time.process_time()
  run = driver_lib.Run(state)
  if first:
    run = driver_lib.feed_text(driver, run, [first])
  times = [asked[0].time for asked in episode.questions]
  narrated = {item.time: item for item in episode.narration}
  evidence: dict[int, np.ndarray] = {}
  done = right = asked = 0
  for pixels in streaming.parts([episode], driver.block_frames, times):
    stamps = [float(frame) for frame in range(done, done + len(pixels))]
    event = _events(run)
    run = driver_lib.feed_frames(driver, run, pixels, stamps)
    for offset in range(len(pixels)):
      _note(evidence, [event + offset], narrated.get(done + offset))
    done += len(pixels)
    told(len(pixels))
    if done - 1 not in times:
      continue
    for item in episode.questions[times.index(done - 1)]:
      event = _events(run)
      text = prompt.question_tokens(model.template, model.tokenizer, item.text)
      run, reply = driver_lib.ask(driver, run, [text])
      _note(evidence, range(event, _events(run)), item)
      right += reply.tokens[0][:1] == [word_ids[item.word]]
      asked += 1
  spent = Spent(time.perf_counter() - wall, time.process_time() - cpu)
  return _Streamed(run, evidence, right, asked, spent)


def _events(run: driver_lib.Run) -> int:
  return sum(len(trace) for trace in run.traces)


def _note(
  evidence: dict[int, np.ndarray],
  events: Any,
  item: episodes_lib.Item | None,
) -> None:
  if item is not None and item.group in ("old", "narration_old"):
    evidence.update(dict.fromkeys(events, item.evidence))


def save(path: Any, recorded: Recorded) -> None:
  """Writes a recording with its evidence, as `--record` reads it."""
  recording = recorded.recording
  arrays = {
    name: array
    if name in ("event", "frequencies")
    else array[:, None]
    if array.ndim == 4
    else array[None]
    for name, array in recording._asdict().items()
  }
  frames = list(recorded.evidence.values())
  sizes = [len(one) for one in frames]
  np.savez(
    path,
    evidence_event=np.repeat(
      np.array(list(recorded.evidence), np.int32), sizes
    ),
    evidence_frame=np.concatenate([np.zeros(0, np.int64), *frames]),
    **arrays,
  )


def load(
  path: Any,
) -> tuple[recording_lib.Recording, dict[int, np.ndarray]]:
  """A recording, and the evidence of its events where the file has it.

  Raises:
    InputError: see `recording.load`; or evidence of no event of the recording.
  """
  recording = recording_lib.load(path)
  with np.load(path, allow_pickle=False) as arrays:
    if "evidence_event" not in arrays:
      return recording, {}
    event, frame = arrays["evidence_event"], arrays["evidence_frame"]
  if event.shape != frame.shape or not np.isin(event, recording.event).all():
    raise InputError(
      f"{path} has evidence of events that it does not have; the file was"
      " changed: record it anew"
    )
  return recording, {int(one): frame[event == one] for one in np.unique(event)}
