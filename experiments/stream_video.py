r"""Stream a video through a video LLM, frame by frame, and ask it questions.

  python experiments/stream_video.py --video clip.mp4 \
      --policy "full | streaming_llm" --question "12.5: what is happening?" \
      --out runs/a

Without --checkpoint the small model that ships with the package is used, which
knows rendered rooms and nothing else: timings and counts are real, answers
about other videos are noise. What the run would have cost on V-Rex8 and on an
AGX Orin is modelled from its counts (--hardware). With --out the run is kept as
config.toml, metrics.json, frames.csv and trace.npz (see docs/notation.md).

Hardware: any JAX device. Minutes: a 30 s clip at 2 fps takes seconds with the
small model on two CPU cores, about a minute a frame block with
--preset=onevision-0.5b.
"""

import contextlib
import functools
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import hardware_session
from vrex_jax import hardware_tables
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import model_source
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import record
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import session_report
from vrex_jax import summary
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params as params_lib
from vrex_jax.hwmodel import platforms as platforms_lib
from vrex_jax.models import dense

_VIDEO = flags.DEFINE_string("video", None, "Video file or URL.")
_CHECKPOINT = model_flags.checkpoint()
_PRESET = model_flags.preset()
_POLICY = flags.DEFINE_string(
  "policy", "full", 'KV-cache policies, e.g. "full | sliding_window(frames=8)".'
)
_FPS = model_flags.fps()
_MAX_FRAMES = model_flags.max_frames()
_LOOP = flags.DEFINE_bool("loop", False, "Play the video again and again.")
_QUESTION = flags.DEFINE_multi_string(
  "question", [], 'Repeatable: "seconds: text".'
)
_KEEP_QUESTIONS = flags.DEFINE_bool(
  "keep_questions",
  False,
  "Questions and answers stay in the cache; otherwise each is undone.",
)
_QUESTION_CHUNK = flags.DEFINE_integer(
  "question_chunk",
  64,
  "Tokens of one prompt or question chunk; its scores grow with the square.",
  lower_bound=1,
  upper_bound=4096,
)
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", 64, "Longest answer, in tokens.", lower_bound=1
)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", 0.0, "0 for greedy answers.", lower_bound=0.0
)
_SYSTEM = flags.DEFINE_string("system", None, "System text.")
_TEMPLATE = flags.DEFINE_string(
  "template", None, "Prompt template: a name, or a TOML file."
)
_CAPACITY = flags.DEFINE_integer(
  "capacity", None, "Cache slots; planned when not given.", lower_bound=1
)
_BLOCK_FRAMES = flags.DEFINE_integer(
  "block_frames",
  None,
  "Frames of one jitted scan. Default: 8, or 1 for a source without an end.",
  lower_bound=1,
)
_LOOKAHEAD = model_flags.lookahead()
_LOOKAHEAD_QUERY = flags.DEFINE_enum(
  "lookahead_query", "own", ["own", "next"], "Query of a look-ahead selection."
)
_RECENT_TOKENS = model_flags.recent_tokens()
_RESIDENT_TOKENS = flags.DEFINE_integer(
  "resident_tokens",
  None,
  "On the device; older slots count as fetched. All by default.",
  lower_bound=0,
  upper_bound=2**30,
)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Storage of weights and cache."
)
_SEED = flags.DEFINE_integer(
  "seed",
  0,
  "Of random weights and sampling.",
  lower_bound=0,
  upper_bound=command.MAX_SEED,
)
_RECORD = flags.DEFINE_bool(
  "record", False, "Also write queries, keys and values to record.npz in --out."
)
_PROFILE = flags.DEFINE_string(
  "profile", None, "Write a JAX profile of the run to this folder."
)
_COMPILATION_CACHE = flags.DEFINE_string(
  "compilation_cache",
  None,
  'Folder for compiled programs; "" for none. Default: the user\'s cache.',
)
_HARDWARE = flags.DEFINE_list(
  "hardware",
  ["vrex8", "agx_orin"],
  "Platforms on which the run is modelled when it has ended:"
  f" {', '.join(platforms_lib.PLATFORMS)}, .toml files, or none.",
)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.")

_ANSWER = "stopping after what is under way; Ctrl-C again ends at once"
_TABLES = ("config.toml", "metrics.json", "frames.csv")


def _check_flags(policies: Sequence[policy_lib.KVPolicy]) -> None:
  if _VIDEO.value is None:
    raise InputError(
      "--video is missing; it must name a video file or URL: for example"
      " --video=clip.mp4"
    )
  if _RECORD.value and _OUT.value is None:
    raise InputError(
      "--record is given without --out; record.npz needs a folder: add --out"
    )
  model_source.check_shape(_CHECKPOINT.value, _PRESET.value)
  for flag in (_OUT, _PROFILE):
    if flag.value == "":
      raise InputError(
        f"--{flag.name} is empty; it must name a folder: try"
        f" --{flag.name}=runs/a"
      )
  if not 0.0 <= _TEMPERATURE.value < float("inf"):
    raise InputError(
      f"--temperature is {_TEMPERATURE.value:g}; it must be 0 (greedy) or a"
      " positive number: try 0.7"
    )
  if _PROFILE.value is not None:
    record.check_folder(pathlib.Path(_PROFILE.value), "--profile", names=())
  if _OUT.value is not None:
    names = [*_TABLES, *_array_files("trace", policies)]
    if _RECORD.value:
      names += _array_files("record", policies)
    record.check_folder(pathlib.Path(_OUT.value), names=names)


def _options() -> session_plan.Options:
  return session_plan.Options(
    capacity=_CAPACITY.value,
    block_frames=_BLOCK_FRAMES.value,
    question_chunk=_QUESTION_CHUNK.value,
    max_tokens=_MAX_TOKENS.value,
    keep_questions=_KEEP_QUESTIONS.value,
    temperature=_TEMPERATURE.value,
    system=_SYSTEM.value,
    dtype=_DTYPE.value,
    seed=_SEED.value,
    lookahead=_LOOKAHEAD.value,
    lookahead_query=_LOOKAHEAD_QUERY.value,
    recent_tokens=_RECENT_TOKENS.value,
    resident_tokens=_RESIDENT_TOKENS.value,
    record=_RECORD.value,
  )


def _stream_all(
  model, policies, source, questions, stopped
) -> list[session.Result]:
  """Every policy on the same video; a bar with live frames per second.

  When stopped: those that have had a frame.
  """
  plans = [
    session_plan.plan_stream(model, policy, source, questions, _options())
    for policy in policies
  ]
  results = []
  for policy, plan in zip(policies, plans, strict=True):
    with tqdm.tqdm(
      total=source.expected,
      desc=policy.name,
      unit="frame",
      ncols=shutil.get_terminal_size().columns,
      disable=not sys.stderr.isatty(),
    ) as bar:
      progress = session.Progress(
        note=tqdm.tqdm.write,
        begin=functools.partial(_begin, bar),
        frames=bar.update,
        answer=_print_answer,
        compiling=lambda stage, bar=bar: bar.set_postfix_str(
          f"compiling {stage}"
        ),
      )
      with contextlib.suppress(interrupt.StoppedError):
        results.append(
          session.stream_policy(model, policy, plan, progress, stopped)
        )
    if stopped():
      break
  left = [policy.name for policy in policies[len(results) :]]
  if left:
    print("not run: " + ", ".join(left))
  if not results:
    raise KeyboardInterrupt
  return results


def _begin(bar: tqdm.tqdm) -> None:
  bar.set_postfix_str("")
  bar.reset()


def _platforms() -> list[params_lib.Platform]:
  if _HARDWARE.value in ([], ["none"]):
    return []
  return [platforms_lib.named(name).platform for name in _HARDWARE.value]


def _modelled(model, results, platforms) -> list[dict[str, Any]]:
  """Prices what ran, says so, and gives the rows."""
  rows, refused = hardware_session.price_runs(
    model.config,
    [(result.row["policy"], result.trace) for result in results],
    platforms,
  )
  if rows:
    print(f"\n{hardware_tables.short_table(rows)}")
    print(
      f"(docs/hardware_model.md; this run's own counts of {model.config.name},"
      " mean over its events, bf16)"
    )
  for sentence in refused:
    print(f"not modelled: {sentence}")
  return rows


def _print_answer(
  question: questions_lib.Question, answer: str, tokens: int
) -> None:
  if _PRESET.value is not None:
    answer = f"({tokens} tokens of noise: the weights are random)"
  tqdm.tqdm.write(f"  {question.time_s:7.1f} s  {question.text}  {answer}")


def _slug(name: str) -> str:
  return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _array_files(
  stem: str, policies: Sequence[policy_lib.KVPolicy]
) -> list[str]:
  """Names trace.npz, trace_2_<policy>.npz, …: one for each policy."""
  more = [
    f"{stem}_{number}_{_slug(policy.name)}.npz"
    for number, policy in enumerate(policies[1:], start=2)
  ]
  return [f"{stem}.npz", *more]


def _write(
  model,
  policies: Sequence[policy_lib.KVPolicy],
  results: Sequence[session.Result],
  started: float,
  hardware: Sequence[dict[str, Any]],
) -> None:
  """The run folder."""
  settings = command.settings()
  settings["planned"] = [
    {"policy": result.row["policy"], "capacity": result.capacity}
    for result in results
  ]
  done = policies[: len(results)]
  traces = {
    name: result.trace
    for name, result in zip(_array_files("trace", done), results, strict=True)
  }
  arrays = {
    name: session_report.record_arrays(model, result.records)
    for name, result in zip(_array_files("record", done), results, strict=True)
    if result.records
  }
  out = pathlib.Path(_OUT.value)
  written = record.write_folder(
    out,
    config=settings,
    metrics_object=record.metrics(
      [result.row for result in results],
      config=settings,
      dtype=_DTYPE.value,
      seed=_SEED.value,
      started=started,
      hardware=list(hardware),
      interrupted=len(results) < len(policies) or results[-1].interrupted,
    ),
    tables={"frames.csv": [row for one in results for row in one.frames]},
    traces=traces,
    arrays=arrays,
  )
  print(f"\nwritten to {out}: " + ", ".join(path.name for path in written))


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  policies = policy_syntax.parse_policies(_POLICY.value)
  _check_flags(policies)
  platforms = _platforms()
  command.use_compilation_cache(_COMPILATION_CACHE.value)
  questions = questions_lib.parse_questions(_QUESTION.value)
  source = session_plan.find_source(
    _VIDEO.value,
    fps=_FPS.value,
    max_frames=_MAX_FRAMES.value,
    loop=_LOOP.value,
  )
  if len(policies) > 1 and not video.opens_again(_VIDEO.value):
    raise InputError(
      f"--video is {_VIDEO.value}, a pipe, which can be read only once, and"
      f" --policy names {len(policies)} policies: name one, or save the stream"
      " to a file"
    )
  if source.end_s is not None:
    questions_lib.check_times(questions, source.end_s)
  device = jax.devices()[0]
  print(f"device {device.platform} ({device.device_kind})")
  model = model_source.load_model(
    _CHECKPOINT.value,
    _PRESET.value,
    dtype=_DTYPE.value,
    seed=_SEED.value,
    template=_TEMPLATE.value,
    report=lambda text: print(f"model  {text}"),
  )
  rows = model.config.tokens_per_frame
  cores = record.usable_cores()
  model = model._replace(params=dense.store_for(model.params, rows, cores))
  profile = contextlib.nullcontext()
  if _PROFILE.value is not None:
    profile = jax.profiler.trace(_PROFILE.value)
  with interrupt.graceful(_ANSWER) as stopped:
    with profile:
      results = _stream_all(model, policies, source, questions, stopped)
    print()
    print(summary.streaming_table([result.row for result in results]))
    hardware = _modelled(model, results, platforms)
    if _OUT.value is not None:
      _write(model, policies, results, started, hardware)


if __name__ == "__main__":
  command.run(main)
