"""Clips of a benchmark streamed under a policy, one after the other.

  clips ─► plans, all of one shape ─► programs, once ─► each clip: frames and
           questions through `session.stream_policy` ─► a record of its answers

A record is plain data: what an interrupted evaluation leaves and the next one
takes over, and what rows are made of.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vrex_jax import policy as policy_lib
from vrex_jax import questions as questions_lib
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import trace as trace_lib
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.evaluation import benchmark_scores
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import prompt
from vrex_jax.tasks import benchmark_items as items_lib

__all__ = [
  "ANSWER_FIELDS",
  "RECORD_FIELDS",
  "check_vocabulary",
  "choose",
  "clip_sources",
  "plan_clips",
  "run_policy",
]

RECORD_FIELDS = (
  "policy",
  "clip",
  "video",
  "answers",
  "frames",
  "retrieval_ratio",
  "past_seen",
  "kv_bytes",
  "frame_ms",
  "compile_s",
  "overflow",
)
"""Fields of a clip's record, in order."""
ANSWER_FIELDS = (
  "time_s",
  "task",
  "question",
  "answer",
  "said",
  "right",
  "asked",
  "word_f1",
)
"""Fields of each of its answers."""


def choose(
  clips: Sequence[items_lib.Clip], tasks: Sequence[str], max_videos: int | None
) -> list[items_lib.Clip]:
  """Clips with the questions of some tasks, of the first videos.

  Args:
    clips: of a reader.
    tasks: groups, or what follows the "/" in them; all when empty.
    max_videos: at most so many; None for all.

  Raises:
    InputError: a task is unknown; lists the known ones.
  """
  groups = {item.group for clip in clips for item in clip.items}
  known = groups | {group.rpartition("/")[2] for group in groups}
  for task in tasks:
    if task not in known:
      raise InputError(
        f"--tasks has {task!r}; the annotation has"
        f" {', '.join(sorted(groups))}: choose of these"
      )
  wanted = lambda group: (
    not tasks or group in tasks or group.rpartition("/")[2] in tasks
  )
  kept = [
    clip._replace(
      items=tuple(item for item in clip.items if wanted(item.group))
    )
    for clip in clips
  ]
  kept = [clip for clip in kept if clip.items]
  videos = list(dict.fromkeys(clip.video for clip in kept))[:max_videos]
  return [clip for clip in kept if clip.video in set(videos)]


def check_vocabulary(
  model: checkpoint_lib.Checkpoint,
  clips: Iterable[items_lib.Clip],
  name: str,
) -> None:
  """Refuses a model that cannot read the questions or say the answers.

  A text that comes back from the tokenizer changed, white space aside, is not
  in its vocabulary; a few such may be odd characters, half of them are not.

  Args:
    model: whose tokenizer is asked.
    clips: with questions.
    name: of the checkpoint, for the message.

  Raises:
    InputError: more than half of the texts change.
  """
  items = [item for clip in clips for item in clip.items]
  texts = sorted({text for one in items for text in (one.text, *one.answer)})
  squeeze = lambda text: "".join(text.split())
  changed = [
    text
    for text in texts
    if squeeze(model.tokenizer.decode(model.tokenizer.encode(text)))
    != squeeze(text)
  ]
  if 2 * len(changed) > len(texts):
    raise InputError(
      f"--checkpoint {name} has no words for {len(changed)} of {len(texts)}"
      f" questions and answers, such as {changed[0]!r}; a benchmark in plain"
      " language needs a model of it: name one with --checkpoint"
    )


def clip_sources(
  clips: Sequence[items_lib.Clip],
  videos: Mapping[str, pathlib.Path],
  fps: float,
) -> list[session_plan.Source]:
  """Which frames every clip needs: from its start to its last question.

  Frame k shows the video at k / fps seconds; bounds of a clip are rounded up,
  as VideoLLM-Online does, and both are in it.

  Args:
    clips: with questions.
    videos: see `benchmark_items.find_videos`.
    fps: frames sampled per second.

  Raises:
    InputError: a video cannot be opened, says no length, or ends before a clip
      begins.
  """
  lengths = {
    name: video.probe(path).duration_s for name, path in videos.items()
  }
  sources = []
  for clip in clips:
    path, length = videos[clip.video], lengths[clip.video]
    if length is None:
      raise InputError(
        f"{path} does not say how long it is, so that its last frame is not"
        " known: write it anew, for example with ffmpeg -c copy"
      )
    there = max(1, math.ceil(length * fps))
    first = math.ceil(clip.start_s * fps)
    if first >= there:
      raise InputError(
        f"{path} ends at {length:g} s and clip {clip.name} begins at"
        f" {clip.start_s:g} s; the annotation is of another video: get it again"
      )
    ends = [clip.end_s if one.time_s is None else one.time_s
            for one in clip.items]  # fmt: skip
    known = [one for one in ends if one is not None]
    last = there - 1
    if len(known) == len(ends):
      whole = math.ceil if clip.end_s is not None else math.floor
      last = min(last, max(first, whole(max(known) * fps)))
    count = last - first + 1
    sources.append(
      session_plan.Source(
        path=str(path),
        fps=fps,
        max_frames=count,
        expected=count,
        duration_s=length,
        first_frame=first,
      )
    )
  return sources


def plan_clips(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  clips: Sequence[items_lib.Clip],
  sources: Sequence[session_plan.Source],
  options: session_plan.Options,
) -> list[session_plan.Plan]:
  """Plans of one shape, so that programs are compiled once for all.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    clips: with questions.
    sources: of `clip_sources`.
    options: how to stream; questions are undone.

  Raises:
    InputError: see `session_plan.plan_stream`.
  """
  plans = [
    _plan(model, policy, clip, source, options)
    for clip, source in zip(clips, sources, strict=True)
  ]
  capacity = max(plan.config.capacity for plan in plans)
  return [
    plan._replace(config=dataclasses.replace(plan.config, capacity=capacity))
    for plan in plans
  ]


def _plan(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  clip: items_lib.Clip,
  source: session_plan.Source,
  options: session_plan.Options,
) -> session_plan.Plan:
  last_s = (source.first_frame + (source.expected or 1) - 1) / source.fps
  questions = [
    questions_lib.Question(
      last_s if item.time_s is None else min(item.time_s, last_s), item.text
    )
    for item in clip.items
  ]
  plan = session_plan.plan_stream(model, policy, source, questions, options)
  if not clip.question_first:
    return plan
  opening, closing = prompt.question_before_tokens(
    model.template, model.tokenizer, clip.items[0].text, options.system
  )
  more = len(opening) + len(closing)
  config = dataclasses.replace(
    plan.config, capacity=plan.config.capacity + more
  )
  text = plan.text._replace(prompt=opening, questions=[closing])
  return plan._replace(config=config, text=text)


def run_policy(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  clips: Sequence[items_lib.Clip],
  plans: Sequence[session_plan.Plan],
  kept: Callable[[dict[str, Any]], None],
  told: Callable[[int], None] = lambda frames: None,
  stopped: Callable[[], bool] = lambda: False,
) -> None:
  """Streams clips and hands over a record of each as soon as it is done.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    clips: with questions.
    plans: of `plan_clips`.
    kept: called with each record.
    told: called with numbers of frames that are done.
    stopped: has the user asked to end? The clip under way is dropped.

  Raises:
    InputError: a video breaks off.
  """
  progress = session.Progress(
    note=lambda text: None,
    begin=lambda: None,
    frames=told,
    answer=lambda question, answer, tokens: None,
  )
  if not clips or stopped():
    return
  with_prompt = [plan for plan in plans if plan.text.prompt]
  driver = session.compile_policy(
    model, policy, (with_prompt or plans)[0], progress, stopped
  )
  for clip, plan in zip(clips, plans, strict=True):
    if stopped():
      return
    result = session.stream_policy(
      model, policy, plan, progress, stopped, driver
    )
    if result.interrupted:
      return
    kept(_record(policy, clip, result))


def _judged(item: items_lib.Item, time_s: float, said: str) -> dict[str, Any]:
  right, asked = benchmark_scores.judge(item, said)
  is_open = item.how == "open"
  return {
    "time_s": time_s,
    "task": item.group,
    "question": item.question,
    "answer": "\n".join(item.answer),
    "said": said,
    "right": right,
    "asked": asked,
    "word_f1": (
      benchmark_scores.word_f1(said, item.answer[0]) if is_open else None
    ),
  }


def _record(
  policy: policy_lib.KVPolicy, clip: items_lib.Clip, result: session.Result
) -> dict[str, Any]:
  row = result.row
  seen = {
    stage: int(
      result.trace.counts["past_seen"][result.trace.stage == index].sum()
    )
    for index, stage in enumerate(trace_lib.STAGES)
    if stage in row["retrieval_ratio"]
  }
  return {
    "policy": policy.name,
    "clip": clip.name,
    "video": clip.video,
    "answers": [
      _judged(item, one["time_s"], one["answer"])
      for item, one in zip(clip.items, row["answers"], strict=True)
    ],
    "frames": row["frames"],
    # Zero stands for the nan of a stage without a past.
    "retrieval_ratio": {
      stage: ratio if seen[stage] else 0.0
      for stage, ratio in row["retrieval_ratio"].items()
    },
    "past_seen": seen,
    "kv_bytes": row["kv_bytes"],
    "frame_ms": [frame["wall_ms"] for frame in result.frames],
    "compile_s": row["compile_s"],
    "overflow": row["overflow"],
  }
