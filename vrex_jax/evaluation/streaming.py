"""Episodes streamed under a policy: what was said, and what was read for it.

Streams run side by side in batches. Their frames go through the same driver as
`stream_video.py`; at each time of asking every stream is asked its questions,
one after the other, each undone before the next:

  frames ─► frames ─► snapshot ─► question ─► answer ─► restore ─► … ─► frames

What a chunk read of every frame comes from `observing.frames_read`. Policies
that prefill alike share the frames (`sharing`); each is asked by itself.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import disturbing
from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import session_report
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.evaluation import sharing
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import prompt
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = [
  "Group",
  "Lending",
  "Outcome",
  "Said",
  "StreamOptions",
  "begin",
  "compile_batch",
  "compile_group",
  "parts",
  "run_batch",
]

_MAX_TOKENS = 2
"""The word, and the token that ends the answer."""
_EXAMPLE = "exists disc - ?"
"""A question; all are as long."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
  """Static. How episodes are streamed; see the flags of the same names.

  Attributes:
    batch: streams side by side.
    block_frames: frames of one scan.
    lookahead: 0 or 1.
    recent_tokens: always attended; None for one frame.
    disturb: done to queries, keys and values.
  """

  batch: int = 8
  block_frames: int = 8
  lookahead: int = 0
  recent_tokens: int | None = None
  disturb: disturbing.Disturbance | None = None


class Said(NamedTuple):
  """Static. What was said where one word was asked for.

  Attributes:
    stream: index of the episode.
    item: what was asked.
    word: token id that was said.
    recall: share of the evidence's tokens read, by layer and selection row;
      None without evidence.
    read: share of every frame's tokens read, mean over layers and rows.
  """

  stream: int
  item: episodes_lib.Item
  word: int
  recall: np.ndarray | None  # f64 [L, A]
  read: np.ndarray  # f32 [F]


class Outcome(NamedTuple):
  """Static. One batch.

  Attributes:
    said: questions and narration of all its streams.
    trace: of all events.
    kv_bytes: keys and values held by one stream at the end, mean.
    blocks: measured times.
  """

  said: list[Said]
  trace: trace_lib.StreamTrace
  kv_bytes: float
  blocks: tuple[driver_lib.Block, ...]


class Lending(NamedTuple):
  """Static. A prefill that several policies ask about in turn.

  Attributes:
    lend: (run, index of the policy) -> its run, without events; uses `run` up.
    take_back: (run, the lent one after its questions, index) -> the run again.
  """

  lend: Callable[[driver_lib.Run, int], driver_lib.Run]
  take_back: Callable[[driver_lib.Run, driver_lib.Run, int], driver_lib.Run]


class Group(NamedTuple):
  """Static. Programs of policies that share a prefill, or of one alone.

  Attributes:
    prefill: runs prompt and frames.
    asked: run questions and answers, one for each policy; the only one is
      `prefill` itself.
    lending: the run as each policy is to see it before it is asked; None where
      the only one has it for itself.
  """

  prefill: programs.Driver
  asked: tuple[programs.Driver, ...]
  lending: Lending | None = None


def compile_group(
  model: checkpoint_lib.Checkpoint,
  policies: Sequence[policy_lib.KVPolicy],
  options: StreamOptions,
  shape: episodes_lib.EpisodeConfig,
) -> Group:
  """Programs for one policy, or for some of which all prefill densely.

  Args:
    model: weights and shapes.
    policies: at least one; if more, `sharing.prefills_densely` is true of all.
    options: how episodes are streamed.
    shape: of the episodes.
  """
  if len(policies) == 1:
    driver = compile_batch(model, policies[0], options, shape)
    return Group(driver, (driver,))
  prefill = compile_batch(
    model,
    sharing.together(policies),
    options,
    shape,
    stages=("prompt", "frame"),
  )
  late = ("question", "answer")
  return Group(
    prefill,
    tuple(
      compile_batch(model, policy, options, shape, stages=late)
      for policy in policies
    ),
    Lending(sharing.lend, sharing.take_back),
  )


def compile_batch(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  options: StreamOptions,
  shape: episodes_lib.EpisodeConfig,
  observe: observing.Observer | None = None,
  stages: Sequence[str] = policy_lib.STAGES,
  report: Callable[[str], None] = lambda stage: None,
) -> programs.Driver:
  """Programs for batches of episodes of one shape.

  Args:
    model: weights and shapes.
    policy: the policy.
    options: how episodes are streamed.
    shape: of the episodes.
    observe: what is taken along; which frames are read and what is said by
      default, as `run_batch` needs it.
    stages: to compile.
    report: called with each stage's name before it is compiled.
  """
  tokens = model.config.tokens_per_frame
  first = len(prompt.prompt_tokens(model.template, model.tokenizer))
  words = prompt.question_tokens(model.template, model.tokenizer, _EXAMPLE)
  chunk = max(first, len(words))
  config = stream_state.StreamConfig(
    decoder=model.config.decoder,
    batch=options.batch,
    capacity=first + shape.frames * tokens + chunk + _MAX_TOKENS,
    frame_tokens=tokens,
    question_chunk=chunk,
    lookahead=options.lookahead,
    disturb=options.disturb,
    observe=observe
    or observing.frames_read(model.config.decoder, shape.frames, jnp.float32),
  )
  state = _init(config, policy, model, options)
  side = model.config.image.size
  frame = jax.ShapeDtypeStruct((options.batch, side, side, 3), jnp.uint8)
  return programs.compile_stream(
    config,
    policy,
    model.params,
    state,
    lambda params, pixels, first: video_llm.embed_frame_tokens(
      model.config, params, pixels, first, dtype=config.dtype
    ),
    frame,
    block_frames=options.block_frames,
    max_tokens=_MAX_TOKENS,
    stop_ids=model.stop_ids,
    stages=stages,
    report=report,
  )


def run_batch(
  model: checkpoint_lib.Checkpoint,
  group: Group,
  options: StreamOptions,
  episodes: Sequence[episodes_lib.Stream],
  first_index: int,
  told: Callable[[int], None] = lambda frames: None,
) -> list[Outcome]:
  """Streams a batch of episodes and asks all their questions.

  Args:
    model: weights and tokenizer.
    group: of `compile_group`.
    options: of the same.
    episodes: as many as the batch holds, all of one shape.
    first_index: of the first episode, for `Said.stream`.
    told: called with the number of frames that every stream went on.

  Returns:
    An outcome for each policy of the group.
  """
  driver = group.prefill
  run = begin(model, driver, options)
  narrated: list[Said] = []
  answers: list[list[Said]] = [[] for _ in group.asked]
  events: list[list[trace_lib.StreamTrace]] = [[] for _ in group.asked]
  narration = [
    {item.time: item for item in episode.narration} for episode in episodes
  ]
  times = [asked[0].time for asked in episodes[0].questions]
  done = 0
  for pixels in parts(episodes, driver.block_frames, times):
    run = dataclasses.replace(run, observations=())
    stamps = [float(frame) for frame in range(done, done + len(pixels))]
    run = driver_lib.feed_frames(driver, run, pixels, stamps)
    for offset, reading in enumerate(run.observations):
      for stream, items in enumerate(narration):
        item = items.get(done + offset)
        if item is not None:
          one = _said(driver, first_index, stream, item, reading)
          narrated.append(one)
    done += len(pixels)
    if done - 1 in times:
      moment = times.index(done - 1)
      asked = [episode.questions[moment] for episode in episodes]
      for index, asking in enumerate(group.asked):
        lending = group.lending
        lent = run if lending is None else lending.lend(run, index)
        before = len(lent.traces)
        lent, said = _ask_all(model, asking, lent, asked, first_index)
        answers[index] += said
        events[index] += lent.traces[before:]
        if lending is None:
          run = dataclasses.replace(lent, traces=lent.traces[:before])
        else:
          run = lending.take_back(run, lent, index)
    told(len(pixels))
  kv_bytes = session_report.kv_bytes(driver.config, run.state) / len(episodes)
  frames = driver_lib.finish_trace(driver, run)
  outcomes = []
  for asking, said, own in zip(group.asked, answers, events, strict=True):
    # Not `frames` first: whether a layer retrieves is the policy's own affair.
    empty = driver_lib.finish_trace(asking, driver_lib.Run(run.state))
    trace = trace_lib.concatenate([empty, frames, *own])
    outcomes.append(Outcome([*narrated, *said], trace, kv_bytes, run.blocks))
  return outcomes


def parts(
  episodes: Sequence[episodes_lib.Stream], block: int, times: Sequence[int]
) -> Iterator[np.ndarray]:
  """Frames side by side, u8[F, B, …], cut where questions are asked.

  Args:
    episodes: B of one length.
    block: most frames of a part.
    times: frames after which is asked.
  """
  done = 0
  for blocks in zip(
    *(episode.pictures(block) for episode in episodes), strict=True
  ):
    pixels = np.stack(blocks, axis=1)
    ends = [t + 1 - done for t in times if done < t + 1 < done + len(pixels)]
    done += len(pixels)
    yield from np.split(pixels, ends)


def begin(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  options: StreamOptions,
) -> driver_lib.Run:
  """A batch before its first frame."""
  run = driver_lib.Run(_init(driver.config, driver.policy, model, options))
  tokens = prompt.prompt_tokens(model.template, model.tokenizer)
  if not tokens:
    return run
  return driver_lib.feed_text(driver, run, [tokens] * driver.config.batch)


def _init(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  model: checkpoint_lib.Checkpoint,
  options: StreamOptions,
) -> stream_state.StreamState:
  return stream_state.init(
    config, policy, model.params, recent_tokens=options.recent_tokens
  )


def _ask_all(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  run: driver_lib.Run,
  asked: Sequence[Sequence[episodes_lib.Item]],
  first_index: int,
) -> tuple[driver_lib.Run, list[Said]]:
  """One question of every stream at a time; answers of one word."""
  said: list[Said] = []
  for items in zip(*asked, strict=True):
    run = dataclasses.replace(run, observations=())
    run, reply = driver_lib.ask(
      driver,
      run,
      [
        prompt.question_tokens(model.template, model.tokenizer, item.text)
        for item in items
      ],
    )
    reading = run.observations[0]
    for stream, item in enumerate(items):
      one = _said(driver, first_index, stream, item, reading)
      # An empty answer is the token that ends it.
      word = reply.tokens[stream][0] if reply.tokens[stream] else one.word
      said.append(one._replace(word=word))
  return run, said


def _said(
  driver: programs.Driver,
  first_index: int,
  stream: int,
  item: episodes_lib.Item,
  reading: observing.Reading,
) -> Said:
  share = np.asarray(reading.tokens)[:, stream] / driver.config.frame_tokens
  return Said(
    stream=first_index + stream,
    item=item,
    word=int(reading.said[stream]),
    recall=share[..., item.evidence].mean(-1) if item.evidence.size else None,
    read=share.mean(axis=(0, 1)).astype(np.float32),
  )
