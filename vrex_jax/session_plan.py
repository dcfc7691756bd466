"""What a run will be: video, options, texts, capacity. Nothing runs yet."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vrex_jax import model_source
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import questions as questions_lib
from vrex_jax import stream_state
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import prompt

__all__ = [
  "EVICTING_CAPACITY",
  "MAX_FPS",
  "Options",
  "Plan",
  "Source",
  "Texts",
  "find_source",
  "plan_stream",
]

MAX_FPS = 1_000_000
"""Most samples per second of video; no camera comes near."""
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
    expected: frames it will give, where that can be known (`find_source`).
    duration_s: declared length of the video, where it declares one.
    live: has no declared end: a camera, a network stream.
    first_frame: number of the first frame, counted from the video's begin.
  """

  path: str
  fps: float
  max_frames: int | None = None
  loop: bool = False
  expected: int | None = None
  duration_s: float | None = None
  live: bool = False
  first_frame: int = 0

  @property
  def end_s(self) -> float | None:
    """Time the stream ends at, seconds, where that can be known."""
    ends = []
    if self.expected is not None:
      ends.append((self.first_frame + self.expected) / self.fps)
    if self.duration_s is not None and not self.loop:
      ends.append(self.duration_s)
    return min(ends, default=None)

  def __post_init__(self):
    if not 0.0 < self.fps <= MAX_FPS:
      raise InputError(
        f"--fps is {self.fps:g}; it must be above 0 and at most {MAX_FPS}"
        " frames per second: try --fps=2"
      )
    if self.max_frames is not None and self.max_frames < 1:
      raise InputError(
        f"--max_frames is {self.max_frames}; it must be at least 1: leave it"
        " out to read the whole video"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Static. How to stream.

  Attributes:
    capacity: cache slots; None plans them.
    block_frames: frames of one jitted scan; None for 8, or 1 when the source
      is live and should be answered without delay.
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
    record: keep queries, keys and values.
  """

  capacity: int | None = None
  block_frames: int | None = None
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


class Texts(NamedTuple):
  """Static. Token ids of a run's texts."""

  prompt: list[int]
  questions: list[list[int]]
  resume: list[int]


class Plan(NamedTuple):
  """Static. A run that has been found possible.

  Attributes:
    config: shapes of the stream, capacity settled.
    source: the video.
    questions: in order of time.
    text: token ids of prompt and questions.
    options: how to stream.
  """

  config: stream_state.StreamConfig
  source: Source
  questions: tuple[questions_lib.Question, ...]
  text: Texts
  options: Options


def find_source(
  path: str, *, fps: float, max_frames: int | None = None, loop: bool = False
) -> Source:
  """Opens a video once, to learn whether and where it ends.

  A pipe is not opened, since it can be read only once: it counts as live.

  Args:
    path: file or URL.
    fps: samples per second of video.
    max_frames: stop after this many; None for all.
    loop: start again at the end, without end.

  Raises:
    InputError: `fps` or `max_frames` cannot be used, the source is empty or
      not a video (`video.probe`), or a pipe is to be looped.
  """
  source = Source(path=path, fps=fps, max_frames=max_frames, loop=loop)
  if video.is_empty(path):
    raise InputError(
      f"--video is {path}, which is empty; a video is expected: name a file, or"
      " check what writes to it"
    )
  opens_again = video.opens_again(path)
  if loop and not opens_again:
    raise InputError(
      f"--video is {path}, a pipe, which can be read only once, and --loop"
      " starts it again: leave out --loop or save the stream to a file"
    )
  duration_s = video.probe(path).duration_s if opens_again else None
  if loop or duration_s is None:
    expected = max_frames
  else:
    expected = max(1, int(np.ceil(duration_s * fps)))
    if max_frames is not None:
      expected = min(expected, max_frames)
  return dataclasses.replace(
    source,
    expected=expected,
    duration_s=duration_s,
    live=duration_s is None,
  )


def plan_stream(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  source: Source,
  questions: Sequence[questions_lib.Question],
  options: Options,
) -> Plan:
  """Settles the capacity of a run and refuses one that cannot work.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    source: the video.
    questions: in order of time.
    options: how to stream.

  Returns:
    The plan; nothing has been allocated yet.

  Raises:
    InputError: the video, a question's time, the capacity, the memory or an
      argument of the policy does not do.
  """
  if source.end_s is not None:
    questions_lib.check_times(questions, source.end_s)
  encode = lambda question: prompt.question_tokens(
    model.template, model.tokenizer, question.text
  )
  text = Texts(
    prompt.prompt_tokens(model.template, model.tokenizer, options.system),
    [encode(question) for question in questions],
    prompt.resume_tokens(model.template, model.tokenizer),
  )
  if options.block_frames is None:
    options = dataclasses.replace(options, block_frames=1 if source.live else 8)
  config = _stream_config(model, policy, source, options, text)
  stream_state.check_fits(config, policy, model.params)
  return Plan(config, source, tuple(questions), text, options)


def _stream_config(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  source: Source,
  options: Options,
  text: Texts,
) -> stream_state.StreamConfig:
  decoder = model.config.decoder
  capacity = _plan_capacity(model, policy, source, options, text)
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
    observe=observing.record_chunk if options.record else None,
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
    _smaller_cache(policy, source, options, capacity, text),
  )
  return config


def _talk_tokens(options: Options, text: Texts) -> int:
  """Slots for questions and answers: of all, or of the longest when undone."""
  asked = [len(ids) + options.max_tokens for ids in text.questions]
  if options.keep_questions:
    return sum(asked) + len(asked) * len(text.resume)
  return max(asked, default=0)


def _smaller_cache(
  policy: policy_lib.KVPolicy,
  source: Source,
  options: Options,
  capacity: int,
  text: Texts,
) -> str:
  """What makes a cache fit into memory: names the flag that made it large."""
  if options.capacity is not None:
    return "lower --capacity, or use --dtype=bfloat16"
  if 2 * _talk_tokens(options, text) > capacity:
    return "lower --max_tokens, or shorten or leave out a --question"
  if policy.needs.evicts:
    return (
      "give a smaller --capacity or --block_frames, or use --dtype=bfloat16"
    )
  fewer = "lower --fps, give --max_frames"
  if source.expected == source.max_frames:
    fewer = "lower --max_frames"
  return (
    f"{fewer}, use --dtype=bfloat16, or choose a policy that evicts"
    " (sliding_window, streaming_llm)"
  )


def _check_endless(
  policy: policy_lib.KVPolicy, source: Source, options: Options
) -> None:
  """Refuses to keep everything of a stream that outgrows the cache.

  A loop outgrows every capacity; what is live may end before it does.
  """
  if options.capacity is not None and not source.loop:
    return
  or_capacity = "" if source.loop else " or --capacity"
  raise InputError(
    f"the stream has no known end and policy {policy.name} keeps everything; a"
    f" fixed cache would run full: give --max_frames{or_capacity}, or choose a"
    " policy that evicts (sliding_window, streaming_llm)"
  )


def _plan_capacity(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  source: Source,
  options: Options,
  text: Texts,
) -> int:
  """Slots of the cache: what the stream needs, or what the user gave."""
  per_frame = model.config.tokens_per_frame
  expected = source.expected
  talk = _talk_tokens(options, text)
  whole = None
  if expected is not None:
    whole = len(text.prompt) + expected * per_frame + talk
  elif not policy.needs.evicts:
    _check_endless(policy, source, options)
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
  block = (options.block_frames or 1) * per_frame
  bounded = EVICTING_CAPACITY + block + talk
  if whole is None:
    return bounded
  return min(whole, bounded) if policy.needs.evicts else whole
