"""One policy on one video: decode, stream, ask, measure.

decode ─► resize ─► blocks of frames ─► driver ─► trace, answers, times
                    questions in between
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import driver as driver_lib
from vrex_jax import interrupt
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import programs
from vrex_jax import questions as questions_lib
from vrex_jax import session_frames
from vrex_jax import session_plan
from vrex_jax import session_report
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.typing import Frame

__all__ = ["Progress", "Result", "compile_policy", "stream_policy"]


class Progress(NamedTuple):
  """Static. Who is told what during a run.

  Attributes:
    note: one line of text.
    begin: everything is compiled, frames follow.
    frames: frames done since the last call.
    answer: a question, its answer as text, and the tokens of it.
    compiling: a stage whose program is made next.
  """

  note: Callable[[str], None]
  begin: Callable[[], None]
  frames: Callable[[int], None]
  answer: Callable[[questions_lib.Question, str, int], None]
  compiling: Callable[[str], None] = lambda stage: None


class Result(NamedTuple):
  """Static. What one policy did.

  Attributes:
    row: streaming row of metrics.json.
    frames: one dict per frame, for frames.csv.
    trace: all events.
    records: recorded chunks; empty unless asked for.
    capacity: cache slots it had.
    interrupted: stopped by the user before the end.
  """

  row: dict[str, Any]
  frames: list[dict[str, Any]]
  trace: trace_lib.StreamTrace
  records: tuple[observing.Record, ...]
  capacity: int
  interrupted: bool


def stream_policy(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  plan: session_plan.Plan,
  progress: Progress,
  stopped: Callable[[], bool] = lambda: False,
  driver: programs.Driver | None = None,
) -> Result:
  """Streams a video through a model under one policy.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    plan: from `plan_stream`, for this policy.
    progress: who is told.
    stopped: asked before every compilation and after every frame whether the
      user wants to end (`interrupt.graceful`).
    driver: of `compile_policy`, for a plan of the same shapes; compiled when
      None. With it the vision tower is not timed by itself.

  Returns:
    The result; marked when it was stopped early.

  Raises:
    StoppedError: it was stopped before the first frame; there is no result.
    InputError: the video breaks off, or an endless stream outgrows the
      capacity.
  """
  source = plan.source
  frames = video.read_frames(
    source.path,
    fps=source.fps,
    max_frames=source.max_frames,
    loop=source.loop,
    first_frame=source.first_frame,
  )
  with contextlib.closing(frames):
    embed = None
    if driver is None:
      embed = session_frames.embed_function(model, plan.config)
      driver = compile_policy(model, policy, plan, progress, stopped)
    return _run(model, driver, embed, frames, plan, progress, stopped)


def _first_state(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  plan: session_plan.Plan,
) -> stream_state.StreamState:
  return stream_state.init(
    plan.config,
    policy,
    model.params,
    recent_tokens=plan.options.recent_tokens,
    resident_tokens=plan.options.resident_tokens,
  )


def compile_policy(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  plan: session_plan.Plan,
  progress: Progress,
  stopped: Callable[[], bool] = lambda: False,
) -> programs.Driver:
  """Programs for all streams of a plan's shapes under one policy.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    plan: from `plan_stream`, for this policy.
    progress: who is told.
    stopped: asked before every compilation.

  Raises:
    StoppedError: it was stopped.
  """
  size = model.config.image.size
  options = plan.options
  talk = ("question", "answer") if plan.questions else ()
  opening = ("prompt",) if plan.text.prompt else ()

  def end_if_stopped() -> None:
    if stopped():
      raise interrupt.StoppedError

  def go_on(stage: str) -> None:
    end_if_stopped()
    progress.compiling(stage)

  driver = programs.compile_stream(
    plan.config,
    policy,
    model.params,
    _first_state(model, policy, plan),
    session_frames.embed_function(model, plan.config),
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8),
    block_frames=options.block_frames or 1,
    max_tokens=options.max_tokens,
    stop_ids=model.stop_ids,
    stages=(*opening, "frame", *talk),
    report=go_on,
  )
  end_if_stopped()
  times = ", ".join(
    f"{stage} {seconds:.1f} s" for stage, seconds in driver.compile_s.items()
  )
  progress.note(f"compiled {policy.name}: {times}")
  progress.begin()
  return driver


def _run(
  model: checkpoint_lib.Checkpoint,
  driver: programs.Driver,
  embed: stream.EmbedFrame | None,
  frames: video.Frames,
  plan: session_plan.Plan,
  progress: Progress,
  stopped: Callable[[], bool],
) -> Result:
  """Streams all frames, asking every question at its time."""
  text, options = plan.text, plan.options
  run = driver_lib.Run(_first_state(model, driver.policy, plan))
  if text.prompt:
    run = driver_lib.feed_text(driver, run, [text.prompt])
  waiting = list(zip(plan.questions, text.questions, strict=True))
  replies: list[tuple[questions_lib.Question, driver_lib.Reply]] = []
  decode_s: list[float] = []
  block: list[session_frames.Sample] = []
  last = None

  def flush(run):
    if not block:
      return run
    _check_length(driver, plan, run.frames + len(block))
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

  for sample in session_frames.samples(frames, model):
    run = ask_until(run, sample.time_s)
    block.append(sample)
    decode_s.append(sample.decode_s)
    last = sample
    if len(block) == driver.block_frames:
      run = flush(run)
    if stopped():
      break
  run = flush(run)
  if not stopped():
    end_s = _end_s(run, frames, plan.source)
    questions_lib.check_times([question for question, _ in waiting], end_s)
    run = ask_until(run, float("inf"))
  interrupted = stopped()
  if interrupted:
    progress.note(
      f"interrupted after {run.frames} frames; what was done is being written"
    )
  trace = driver_lib.finish_trace(driver, run)
  vision_s = None
  if last is not None and embed is not None and not interrupted:
    vision_s = _time_vision(model, embed, last.pixels)
  return Result(
    row=session_report.streaming_row(
      model, driver, run, trace, replies, decode_s, vision_s
    ),
    frames=session_report.frame_rows(driver, run, trace),
    trace=trace,
    records=run.observations,
    capacity=plan.config.capacity,
    interrupted=interrupted,
  )


def _end_s(
  run: driver_lib.Run, frames: video.Frames, source: session_plan.Source
) -> float:
  """Time the stream has ended at: that of the video, or where it was cut."""
  next_s = run.time_s + 1.0 / source.fps
  if run.frames == source.max_frames:
    return next_s
  return min(next_s, max(frames.end_s, source.duration_s or 0.0))


def _check_length(
  driver: programs.Driver, plan: session_plan.Plan, frames: int
) -> None:
  """Refuses frames past the declared end that the cache was planned for."""
  expected = plan.source.expected
  if expected is None or frames <= expected or driver.policy.needs.evicts:
    return
  if plan.options.capacity is None:
    raise InputError(
      f"--video {plan.source.path} goes on after the"
      f" {expected / plan.source.fps:g} s that it declares, for which the cache"
      f" of {plan.config.capacity} slots was planned: give --max_frames"
      f" {expected}, or a larger --capacity"
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
