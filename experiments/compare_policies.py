r"""All policies on the same streams, at the same share of the past.

  python experiments/compare_policies.py --out runs/compare
  python experiments/compare_policies.py --parts qa,clip --video clip.mp4 \
      --policies resv,quest,rekv --shares 0.1,0.3 --frames 256 --questions 400 \
      --out runs/compare_small
  python experiments/compare_policies.py --parts step --shares 0.05 \
      --out runs/compare_step

A method retrieves as published, at questions and answers after a dense prefill
(`asked`), or at frames too (`all`). Its own knob is set to each of --shares;
where that is not a share (thresholds, windows, memories) it is searched on
streams that are not evaluated, and what was reached is always beside what was
wanted. Layers that a method keeps dense retrieve here as all others do.

  qa     the rooms task on the shipped model: old answers and old narration with
         intervals, retrieval recall, share read; --disturb as evaluate_qa.py
  clip   --video: attention error and KL against full, share by layer, bytes
         fetched from outside the last --resident_tokens, time to first token
  step   CPU time of a decoder step over --cache_tokens at exactly the share,
         methods per KV head, and what choosing costs of it; pinned to one core
         when it is the only part

Every policy gets a triple (context, accuracy, performance): the stream that
--memory_bytes of keys and values hold, old answers right, frames a second.

Ctrl-C ends after what is under way; the same command with --resume goes on.

Hardware: any JAX device. Minutes: --smoke about one; a share of all policies,
4000 questions on 512 frames, about as long as that many runs of evaluate_qa.py
on two cores, less the dense prefills, which are shared.
"""

import contextlib
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from vrex_jax import command
from vrex_jax import disturbing
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import plotting
from vrex_jax import questions as questions_lib
from vrex_jax import record
from vrex_jax import session_plan
from vrex_jax import video
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import timing
from vrex_jax.errors import InputError
from vrex_jax.evaluation import calibration
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import words
from vrex_jax.study import compare
from vrex_jax.study import compare_report
from vrex_jax.study import compare_step
from vrex_jax.study import matched
from vrex_jax.study import matching
from vrex_jax.study import resume
from vrex_jax.tasks import rooms_episodes as episodes_lib

_PARTS = flags.DEFINE_list("parts", ["qa"], "Of qa, clip, step.")
_POLICIES = flags.DEFINE_list(
  "policies",
  list(matching.METHODS),
  f"Methods beside full, of {', '.join(matching.METHODS)}.",
)
_VARIANTS = flags.DEFINE_list(
  "variants",
  list(matching.VARIANTS),
  f"Stages that retrieve, of {', '.join(matching.VARIANTS)}.",
)
_SHARES = flags.DEFINE_list(
  "shares", ["0.1"], "Shares of the past to match, above 0 and up to 1."
)
_CHECKPOINT = model_flags.checkpoint()
_FRAMES = flags.DEFINE_integer("frames", 512, "Length of the streams of qa.")
_VISIBLE = flags.DEFINE_integer(
  "visible", 4, "Frames an object is seen for, at most.", lower_bound=1
)
_QUESTIONS = flags.DEFINE_integer(
  "questions", 4000, "Questions of qa, at least.", lower_bound=1
)
_BATCH = flags.DEFINE_integer(
  "batch", 8, "Most streams side by side.", lower_bound=1
)
_DISTURB = flags.DEFINE_list(
  "disturb", ["none"], f"Of none, {', '.join(disturbing.NAMES)}."
)
_MEMORY_BYTES = flags.DEFINE_float(
  "memory_bytes", 1e9, "For keys and values, of the triple.", lower_bound=1.0
)
_VIDEO = flags.DEFINE_string("video", None, "Clip of the part clip.")
_FPS = model_flags.fps()
_MAX_FRAMES = model_flags.max_frames()
_QUESTION = flags.DEFINE_multi_string(
  "question",
  [],
  'Repeatable, of the clip: "seconds: text". Default: one at its end.',
)
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", 8, "Longest answer about the clip, in tokens.", lower_bound=1
)
_RESIDENT_TOKENS = flags.DEFINE_integer(
  "resident_tokens", 64, "Of the clip: last tokens on the device.", 0
)
_SHAPE = flags.DEFINE_enum(
  "shape", "wide", list(plans.SHAPES), "Decoder of the part step."
)
_CACHE_TOKENS = flags.DEFINE_integer(
  "cache_tokens", 40960, "Past tokens of the part step.", lower_bound=1
)
_FRAME_TOKENS = flags.DEFINE_integer(
  "frame_tokens", 10, "New tokens of the part step.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer(
  "rounds", 5, "Timed rounds of the part step.", lower_bound=1
)
_SMOKE = flags.DEFINE_bool(
  "smoke", False, "About a minute: two policies, short streams."
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over the rows that the same command left in --out."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the streams.", 0, command.MAX_SEED)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_ANSWER = "the cell under way is finished first; Ctrl-C again drops it"
_ALL_PARTS = ("qa", "clip", "step")
_FILES = (
  "config.toml", "metrics.json", "qa.csv", "clip.csv", "step.csv", "plot.png",
  "table.md",
)  # fmt: skip
_SIZES = {"key_bias": 30.0, "channel_scale": 1.0, "sink": 8.0}
_SMOKE_SETTINGS: dict[str, Any] = {
  "policies": ["quest", "sliding_window"],
  "variants": ["all"],
  "shares": ["0.3"],
  "frames": 64,
  "questions": 40,
  "shape": "smoke",
  "cache_tokens": 512,
  "rounds": 2,
}


def _one_of(flag: flags.FlagHolder, allowed: Sequence[str]) -> list[str]:
  """The values of a list, each of which is allowed."""
  unknown = [one for one in flag.value if one not in allowed]
  if unknown or not flag.value:
    given = repr(unknown[0]) if unknown else "empty"
    raise InputError(
      f"--{flag.name} is {given}; it must be some of {', '.join(allowed)},"
      " apart by commas: correct it"
    )
  return list(dict.fromkeys(flag.value))


def _shares() -> list[float]:
  try:
    shares = [float(text) for text in _SHARES.value]
    if shares and all(0.0 < share <= 1.0 for share in shares):
      return list(dict.fromkeys(shares))
  except ValueError:
    pass
  raise InputError(
    f"--shares is {','.join(_SHARES.value)!r}; it must be numbers above 0 and"
    " up to 1, apart by commas: try --shares=0.05,0.1,0.2"
  )


def _check_flags() -> tuple[list[str], list[matched.Case]]:
  """Every mistake that can be seen before the work; parts and cases."""
  if _SMOKE.value:
    command.set_defaults(_SMOKE_SETTINGS)
  parts = _one_of(_PARTS, _ALL_PARTS)
  matching.check_methods(_POLICIES.value)
  variants = _one_of(_VARIANTS, matching.VARIANTS)
  _one_of(_DISTURB, ["none", *disturbing.NAMES])
  cases = matched.cases(
    list(dict.fromkeys(_POLICIES.value)), variants, _shares()
  )
  if not cases:
    raise InputError(
      f"--variants is {','.join(variants)}, which none of the policies has; the"
      " stages of those that evict are all: add all"
    )
  if "step" in parts and not compare.step_policies(_plan(), cases):
    raise InputError(
      f"--variants is {','.join(variants)} and --parts has step, which times"
      " what retrieves at frames: add all, or leave out step"
    )
  if ("clip" in parts) != (_VIDEO.value is not None):
    raise InputError(
      f"--parts is {','.join(parts)} and --video is {_VIDEO.value}; the part"
      " clip needs a video, and nothing else does: give both or neither"
    )
  if not math.isfinite(_MEMORY_BYTES.value):
    raise InputError(
      f"--memory_bytes is {_MEMORY_BYTES.value}; it must be a number of bytes:"
      " try --memory_bytes=1e9"
    )
  command.check_out(_OUT.value, _FILES, resume=_RESUME.value)
  if _OUT.value is not None:
    plotting.check_installed()
  return parts, cases


def _plan() -> plans.Plan:
  return plans.Plan(
    shape=_SHAPE.value,
    cache_tokens=_CACHE_TOKENS.value,
    frame_tokens=_FRAME_TOKENS.value,
    seed=_SEED.value,
  )


def _rooms() -> compare.Rooms:
  shape = episodes_lib.EpisodeConfig(
    frames=_FRAMES.value, visible=_VISIBLE.value
  )
  model, ids = words.load_rooms_model(_CHECKPOINT.value)
  streams, batch = cell.number_of_streams(
    _QUESTIONS.value, shape.questions, _BATCH.value
  )
  return compare.Rooms(model, ids, shape, streams, batch, _SEED.value)


def _disturbances(
  rooms: compare.Rooms,
) -> dict[str, disturbing.Disturbance | None]:
  names = [name for name in _DISTURB.value if name != "none"]
  found: dict[str, disturbing.Disturbance | None] = {}
  if "none" in _DISTURB.value:
    found["none"] = None
  if names:
    sizes, decoder = (
      calibration.sizes_of(rooms.model),
      rooms.model.config.decoder,
    )
    for name in names:
      found[name] = disturbing.make(name, _SIZES[name], sizes, decoder)
  return found


def _source() -> session_plan.Source:
  if not video.opens_again(_VIDEO.value):
    raise InputError(
      f"--video is {_VIDEO.value}, a pipe, which can be read only once, and"
      " every policy reads it: save the stream to a file"
    )
  source = session_plan.find_source(
    _VIDEO.value, fps=_FPS.value, max_frames=_MAX_FRAMES.value
  )
  if source.end_s is None or source.expected is None:
    raise InputError(
      f"--video is {_VIDEO.value}, which has no known end; policies are"
      " compared on the same frames: give --max_frames"
    )
  return source


def _questions(
  source: session_plan.Source | None,
) -> list[questions_lib.Question]:
  """What the clip is asked; a time past its end is told before the work."""
  end_s = 0.0 if source is None else source.end_s or 0.0
  asked = questions_lib.parse_questions(_QUESTION.value)
  if asked and source is None:
    raise InputError(
      "--question is given without the part clip, and nothing else asks it:"
      " leave it out, or add --parts=clip and --video"
    )
  questions_lib.check_times(asked, end_s)
  return list(asked) or [questions_lib.Question(end_s, "room-now - - ?")]


def _write(rows: Sequence[dict[str, Any]], started: float, **named: Any):
  if _OUT.value is None or not rows:
    return
  lines = {
    "qa.csv": compare_report.qa_lines(rows),
    "clip.csv": compare_report.clip_lines(rows),
    "step.csv": compare_report.step_lines(rows),
  }
  has_qa = bool(compare_report.part_of(rows, "qa"))
  others = {
    "plot.png": functools.partial(compare_report.save_plot, rows),
    "table.md": lambda path: path.write_text(compare_report.markdown(rows)),
  }
  command.write_study(
    _OUT.value,
    rows,
    seed=_SEED.value,
    started=started,
    named=named,
    tables={name: table for name, table in lines.items() if table},
    others=others if has_qa else {},
    quiet=True,
  )


def _run(
  parts: Sequence[str],
  cases: Sequence[matched.Case],
  source: session_plan.Source | None,
  questions: Sequence[questions_lib.Question],
  ledger: compare.Ledger,
) -> None:
  if {"qa", "clip"} & set(parts):
    rooms = _rooms()
    compare.match(rooms, cases, ledger)
    if "qa" in parts:
      compare.qa(
        rooms,
        cases,
        ledger,
        _disturbances(rooms),
        memory_bytes=_MEMORY_BYTES.value,
      )
    if source is not None:
      options = session_plan.Options(
        max_tokens=_MAX_TOKENS.value, resident_tokens=_RESIDENT_TOKENS.value
      )
      compare.clip(rooms.model, source, questions, options, cases, ledger)
  if "step" in parts:
    alone = len(parts) == 1
    with timing.pinned(1) if alone else contextlib.nullcontext():
      threads = 1 if alone else record.usable_cores()
      setting = compare_step.random_setting(_plan(), threads)
      compare.step(setting, cases, ledger, rounds=_ROUNDS.value)


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  parts, cases = _check_flags()
  source = None if _VIDEO.value is None else _source()
  questions = _questions(source)
  rows: list[dict[str, Any]] = []
  if _RESUME.value:
    rows = resume.rows_left(_OUT.value, command.settings())
    print(f"taken over from {_OUT.value}: {len(rows)} rows")
  with interrupt.graceful(_ANSWER) as stopped:
    write = lambda: _write(rows, started, interrupted=True)
    ledger = compare.Ledger(rows, write, stopped)
    _run(parts, cases, source, questions, ledger)
    interrupted = stopped()
  _write(rows, started, interrupted=interrupted)
  print(compare_report.tables(rows))
  if interrupted:
    print(f"interrupted; {len(rows)} rows are done")
  elif _OUT.value is not None:
    print(f"written to {_OUT.value}")


if __name__ == "__main__":
  command.run(main)
