"""A policy on a video, compared with `full` token by token.

  full    frames ─► … question ─► what it answers ──┐ kept on disk: logits and
                                                    │ attention of last tokens
  policy  frames ─► … question ─► the same answer ◄─┘ ─► KL, agreement, errors

Distributions can be compared only behind the same tokens, so every policy is
fed the answers of `full` (teacher forcing), whatever it would have said.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import session_frames
from vrex_jax import session_plan
from vrex_jax import session_report
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax import video
from vrex_jax.evaluation import fidelity
from vrex_jax.models import checkpoint as checkpoint_lib

__all__ = [
  "Compared",
  "Followed",
  "Reference",
  "Where",
  "follow_policy",
  "reference_of",
]


class Where(NamedTuple):
  """Static. A last token.

  Attributes:
    stage: "frame", "question" or "answer".
    time_s: of its frame, or of the last one before it.
    question: number of the question; -1 at frames.
    token: tokens of the answer up to it; 0 outside answers.
  """

  stage: str
  time_s: float
  question: int = -1
  token: int = 0


class Compared(NamedTuple):
  """Static. One token under a policy and under `full`.

  Attributes:
    where: which.
    kl: divergence of the next token's distribution from that of `full`, nats.
    agrees: the likeliest next token is the same.
    error: of the attention output, accumulated; by layer.
    alone: of the layer's choice alone; by layer, nan where unknown.
  """

  where: Where
  kl: float
  agrees: bool
  error: np.ndarray  # f64 [L]
  alone: np.ndarray  # f64 [L]


class Followed(NamedTuple):
  """Static. A policy's whole stream.

  Attributes:
    compared: every token, in order.
    trace: all events.
    kv_bytes: keys and values held at the end.
    compile_s: by stage.
  """

  compared: list[Compared]
  trace: trace_lib.StreamTrace
  kv_bytes: int
  compile_s: dict[str, float]


class Reference:
  """Dynamic. What `full` predicted and attended to, in a file.

  With a large vocabulary that is about a megabyte a token.

  Attributes:
    answers: of `full`, token ids.
  """

  def __init__(self, file: BinaryIO):
    self.answers: list[list[int]] = []
    self._file = file
    self._shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

  def __len__(self) -> int:
    return len(self._shapes)

  def add(self, logits: np.ndarray, attended: np.ndarray) -> None:
    """Appends one token: f32[V] and f32[L, N, H]."""
    for array in (logits, attended):
      self._file.write(np.ascontiguousarray(array, np.float32).tobytes())
    self._shapes.append((logits.shape, attended.shape))

  def rewind(self) -> None:
    """Begins again with the first token."""
    self._file.seek(0)

  def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The next token, `index`, as it was added.

    Raises:
      ValueError: no more were added.
    """
    if index >= len(self):
      raise ValueError(
        f"the stream goes on after {len(self)} tokens that `full` was seen at;"
        " both must see the same video: give a file that does not change"
      )
    first, second = (
      np.frombuffer(self._file.read(4 * int(np.prod(shape))), np.float32)
      for shape in self._shapes[index]
    )
    logits, attended = self._shapes[index]
    return first.reshape(logits), second.reshape(attended)


_See = Callable[[Where, fidelity.Glimpse], None]


def reference_of(
  model: checkpoint_lib.Checkpoint,
  full: policy_lib.KVPolicy,
  plan: session_plan.Plan,
  file: BinaryIO,
  told: Callable[[int], None] = lambda frames: None,
  stopped: Callable[[], bool] = lambda: False,
) -> tuple[Reference, Followed] | None:
  """Streams the video under `full`, answers the questions, keeps all of it.

  Args:
    model: configuration, weights, tokenizer, template.
    full: the policy `full`.
    plan: of `session_plan.plan_stream`, for it.
    file: new and open for reading and writing; the reference lives in it.
    told: called with numbers of frames that are done.
    stopped: has the user asked to end?

  Returns:
    The reference, and `full` compared with itself: no divergence, full
    agreement and no accumulated error by definition. None when stopped.
  """
  reference = Reference(file)
  compared: list[Compared] = []

  def see(where: Where, glimpse: fidelity.Glimpse) -> None:
    reference.add(
      np.asarray(glimpse.logits[0]), np.asarray(glimpse.attended[:, 0])
    )
    alone = np.asarray(glimpse.alone[:, 0], np.float64)
    compared.append(Compared(where, 0.0, True, np.zeros_like(alone), alone))

  if stopped():
    return None
  driver = _compile(model, full, plan, ("answer",))
  run = _stream(model, driver, plan, reference.answers, see, told, stopped)
  return None if run is None else (reference, _followed(driver, run, compared))


def follow_policy(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  plan: session_plan.Plan,
  reference: Reference,
  told: Callable[[int], None] = lambda frames: None,
  stopped: Callable[[], bool] = lambda: False,
) -> Followed | None:
  """Streams the same video and answers under a policy, and compares.

  Args:
    model: of the reference.
    policy: any.
    plan: of the same video and questions, for this policy.
    reference: of `reference_of`.
    told: called with numbers of frames that are done.
    stopped: has the user asked to end?

  Returns:
    What was found; None when stopped.

  Raises:
    ValueError: the video gave other frames than before.
  """
  reference.rewind()
  compared: list[Compared] = []

  def see(where: Where, glimpse: fidelity.Glimpse) -> None:
    logits, attended = reference.read(len(compared))
    compared.append(
      Compared(
        where,
        fidelity.divergence(logits, np.asarray(glimpse.logits[0])),
        bool(np.argmax(logits) == np.argmax(glimpse.logits[0])),
        fidelity.relative_error(attended, np.asarray(glimpse.attended[:, 0])),
        np.asarray(glimpse.alone[:, 0], np.float64),
      )
    )

  if stopped():
    return None
  driver = _compile(model, policy, plan, ())
  answers = [list(ids) for ids in reference.answers]
  run = _stream(model, driver, plan, answers, see, told, stopped)
  return None if run is None else _followed(driver, run, compared)


def _followed(
  driver: programs.Driver, run: driver_lib.Run, compared: list[Compared]
) -> Followed:
  return Followed(
    compared,
    driver_lib.finish_trace(driver, run),
    session_report.kv_bytes(driver.config, run.state),
    driver.compile_s,
  )


def _compile(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  plan: session_plan.Plan,
  more: tuple[str, ...],
) -> programs.Driver:
  options = plan.options
  config = dataclasses.replace(
    plan.config,
    observe=fidelity.last_token(plan.config.decoder, plan.config.dtype),
  )
  talk = ("question", "given", *more) if plan.questions else ()
  opening = ("prompt",) if plan.text.prompt else ()
  size = model.config.image.size
  return programs.compile_stream(
    config,
    policy,
    model.params,
    _init(model, config, policy, options),
    session_frames.embed_function(model, config),
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8),
    block_frames=options.block_frames or 1,
    max_tokens=options.max_tokens,
    stop_ids=model.stop_ids,
    stages=(*opening, "frame", *talk),
  )


def _init(
  model: checkpoint_lib.Checkpoint,
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  options: session_plan.Options,
) -> stream_state.StreamState:
  return stream_state.init(
    config,
    policy,
    model.params,
    recent_tokens=options.recent_tokens,
    resident_tokens=options.resident_tokens,
  )


def _stream(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  plan: session_plan.Plan,
  answers: list[list[int]],
  see: _See,
  told: Callable[[int], None],
  stopped: Callable[[], bool],
) -> driver_lib.Run | None:
  """All frames and questions; answers that are not there yet are decoded."""
  source, text = plan.source, plan.text
  run = driver_lib.Run(_init(model, driver.config, driver.policy, plan.options))
  if text.prompt:
    run = driver_lib.feed_text(driver, run, [text.prompt])
  frames = video.read_frames(
    source.path, fps=source.fps, max_frames=source.max_frames
  )
  with contextlib.closing(frames):
    parts = session_frames.in_order(
      session_frames.samples(frames, model), plan.questions, driver.block_frames
    )
    for part in parts:
      if stopped():
        return None
      run = dataclasses.replace(run, observations=())
      if isinstance(part, int):
        run = _ask(driver, run, text.questions[part], answers, part)
        _show_answer(driver, run, part, see)
        continue
      pixels = np.stack([sample.pixels for sample in part])[:, None]
      times = [sample.time_s for sample in part]
      run = driver_lib.feed_frames(driver, run, pixels, times)
      for time_s, glimpse in zip(times, run.observations, strict=True):
        see(Where("frame", time_s), glimpse)
      told(len(part))
  return run


def _ask(
  driver: programs.Driver,
  run: driver_lib.Run,
  question: list[int],
  answers: list[list[int]],
  number: int,
) -> driver_lib.Run:
  if number == len(answers):
    traces = run.traces
    run, reply = driver_lib.ask(driver, run, [question])
    answers.append(reply.tokens[0])
    # As if it had not been asked: what counts is the answer that is given.
    run = dataclasses.replace(run, observations=(), traces=traces)
  run, _ = driver_lib.follow(driver, run, [question], [answers[number]])
  return run


def _show_answer(
  driver: programs.Driver, run: driver_lib.Run, number: int, see: _See
) -> None:
  """The question's last token and every token of the answer."""
  glimpses: tuple[Any, ...] = run.observations
  stages = run.traces[-len(glimpses) :]
  kinds = [int(trace.stage[0]) for trace in stages]
  answer = kinds.count(policy_lib.STAGES.index("answer"))
  last = len(glimpses) - answer - 1
  see(Where("question", run.time_s, number), glimpses[last])
  for token, glimpse in enumerate(glimpses[last + 1 :], start=1):
    see(Where("answer", run.time_s, number, token), glimpse)
