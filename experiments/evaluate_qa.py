r"""How many questions a video LLM answers when a policy chooses what it reads.

  python experiments/evaluate_qa.py --checkpoint DIR \
      --policy "full | resv | sliding_window" --frames 128,512,2048 \
      --visible 4 --questions 1000 --out runs/qa

Streams of the rooms task (vrex_jax/tasks) are drawn and prefilled frame by
frame; questions are asked on the way and at the end, each undone before the
next, and in frames that show an object the model says what it knows of its
shape.
Answers and narration are counted apart, old events apart from present ones;
intervals are of 95 %, by bootstrap over streams. `full` is always in the table.

  python experiments/evaluate_qa.py --benchmark coin --data DIR \
      --checkpoint DIR --policy "full | resv" --out runs/coin

evaluates a public benchmark from a local folder instead, with the videos as
streams: coin, mlvu, ovo, rvs_ego, rvs_movie, streamingbench (folder layouts and
metrics: docs/streaming_qa.md). Answers are kept in answers.jsonl and, a file a
policy, in predictions_N.jsonl.

Ctrl-C ends after the batch under way. Finished cells (a policy at a length, or
on a video) are in --out; the same command with --resume skips them.

Hardware: any JAX device. Minutes: about two a policy for 4000 questions on
streams of 512 frames, two cores.
"""

import functools
import pathlib
import time
from collections.abc import Sequence

from absl import flags

from vrex_jax import command
from vrex_jax import disturbing
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import model_source
from vrex_jax import plotting
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import session_plan
from vrex_jax.errors import InputError
from vrex_jax.evaluation import benchmark_cells
from vrex_jax.evaluation import benchmark_report
from vrex_jax.evaluation import benchmark_run
from vrex_jax.evaluation import calibration
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import chance
from vrex_jax.evaluation import report
from vrex_jax.evaluation import rooms_cells
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.study import resume
from vrex_jax.tasks import benchmark_items
from vrex_jax.tasks import benchmarks
from vrex_jax.tasks import rooms_episodes as episodes_lib

_BENCHMARK = flags.DEFINE_string(
  "benchmark",
  "rooms",
  f"rooms, or a public one: {', '.join(benchmarks.BENCHMARKS)}.",
)
_DATA = flags.DEFINE_string(
  "data", None, "Folder of a public benchmark: annotation and videos."
)
_TASKS = flags.DEFINE_list(
  "tasks", [], "Of a public benchmark, such as step,next; all by default."
)
_MAX_VIDEOS = flags.DEFINE_integer(
  "max_videos", None, "Of a public benchmark: the first so many.", 1
)
_FPS = model_flags.fps()
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", 64, "Of a public benchmark: longest answer, in tokens.", 1
)
_DTYPE = flags.DEFINE_enum(
  "dtype",
  "float32",
  ["float32", "bfloat16"],
  "Of a public benchmark: storage of weights and cache.",
)
_CHECKPOINT = model_flags.checkpoint()
_POLICY = flags.DEFINE_string(
  "policy", "full | resv | sliding_window", "KV-cache policies, apart by |."
)
_FRAMES = flags.DEFINE_list(
  "frames", ["128", "512"], "Lengths of streams, in frames."
)
_VISIBLE = flags.DEFINE_integer(
  "visible", 4, "Frames an object is seen for, at most.", lower_bound=1
)
_QUESTIONS = flags.DEFINE_integer(
  "questions", 1000, "Questions at each length, at least.", lower_bound=1
)
_KINDS = flags.DEFINE_list(
  "kinds",
  list(episodes_lib.EpisodeConfig().kinds),
  "Kinds of questions; by default those that the shipped model has learned.",
)
_BATCH = flags.DEFINE_integer(
  "batch", 8, "Most streams side by side.", lower_bound=1
)
_FILM = flags.DEFINE_bool(
  "film",
  False,
  "Write every stream as an mp4 and read its frames back from there.",
)
_LOOKAHEAD = model_flags.lookahead()
_RECENT_TOKENS = model_flags.recent_tokens()
_DISTURB = flags.DEFINE_enum(
  "disturb",
  "none",
  ["none", *disturbing.NAMES],
  "Make keys and queries as odd as those of real checkpoints.",
)
_DISTURB_SIZE = flags.DEFINE_float(
  "disturb_size",
  None,
  "Of the bias in lengths of a key (30); spread of log scales (1); score of the"
  " sink (8).",
  lower_bound=0.0,
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over the cells that the same command left in --out."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the streams.", 0, command.MAX_SEED)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_SIZES = {"key_bias": 30.0, "channel_scale": 1.0, "sink": 8.0}
_FILES = ("config.toml", "metrics.json", "accuracy.csv", "plot.png")
_ANSWER = "the batch under way is finished first; Ctrl-C again drops the cell"
_DROPS = "the clip under way is dropped, the others are kept"
_OF_ROOMS = (
  _FRAMES, _VISIBLE, _QUESTIONS, _KINDS, _BATCH, _FILM, _DISTURB, _DISTURB_SIZE,
  _SEED,
)  # fmt: skip
_OF_BENCHMARKS = (_DATA, _TASKS, _MAX_VIDEOS, _FPS, _MAX_TOKENS, _DTYPE)
_BENCHMARK_FILES = (
  "config.toml", "metrics.json", "accuracy.csv", benchmark_cells.ANSWERS
)  # fmt: skip


def _lengths() -> list[int]:
  texts = list(dict.fromkeys(_FRAMES.value))
  if not texts or not all(text.isdigit() for text in texts):
    raise InputError(
      f"--frames is {','.join(_FRAMES.value)!r}; it must be whole numbers apart"
      " by commas: try --frames=128,512"
    )
  return [int(text) for text in texts]


def _policies() -> list[policy_lib.KVPolicy]:
  """Those that were asked for, `full` first."""
  asked = policy_syntax.parse_policies(_POLICY.value)
  by_name = {policy.name: policy for policy in asked if policy.name != "full"}
  return [policy_syntax.make_policy("full"), *by_name.values()]


def _shapes() -> list[episodes_lib.EpisodeConfig]:
  return [
    episodes_lib.EpisodeConfig(
      frames=frames, visible=_VISIBLE.value, kinds=tuple(_KINDS.value)
    )
    for frames in _lengths()
  ]


def _check_flags() -> None:
  is_rooms = _BENCHMARK.value == "rooms"
  if _BENCHMARK.value not in ("rooms", *benchmarks.BENCHMARKS):
    raise InputError(
      f"--benchmark is {_BENCHMARK.value!r}; the known ones are rooms,"
      f" {', '.join(benchmarks.BENCHMARKS)}: choose one"
    )
  for flag in _OF_BENCHMARKS if is_rooms else _OF_ROOMS:
    if flag.present:
      raise InputError(
        f"--{flag.name} is given beside --benchmark={_BENCHMARK.value}, which"
        " does not take it: leave it out"
      )
  if not is_rooms and _DATA.value is None:
    raise InputError(
      f"--benchmark is {_BENCHMARK.value} and --data is missing; it must name"
      " the folder with the annotation and the videos: add --data"
    )
  command.check_out(
    _OUT.value, _FILES if is_rooms else _BENCHMARK_FILES, resume=_RESUME.value
  )
  if _OUT.value is not None and is_rooms:
    plotting.check_installed()


def _disturbance(
  model: checkpoint_lib.Checkpoint,
) -> disturbing.Disturbance | None:
  name = _DISTURB.value
  if name == "none":
    return None
  size = _DISTURB_SIZE.value
  return disturbing.make(
    name,
    _SIZES[name] if size is None else size,
    calibration.sizes_of(model),
    model.config.decoder,
  )


def _rooms(started: float) -> None:
  """The task that comes with the package."""
  policies, shapes = _policies(), _shapes()
  cells = [(policy, shape) for shape in shapes for policy in policies]
  rows: rooms_cells.Rows = {}
  if _RESUME.value:
    left = resume.rows_left(_OUT.value, command.settings())
    rows = {(row["policy"], row["frames"]): row for row in left}
    print(f"taken over from {_OUT.value}: {len(rows)} cells")
  model, ids = words.load_rooms_model(_CHECKPOINT.value)
  streams, batch = cell.number_of_streams(
    _QUESTIONS.value, shapes[0].questions, _BATCH.value
  )
  options = streaming.StreamOptions(
    batch=batch,
    lookahead=_LOOKAHEAD.value,
    recent_tokens=_RECENT_TOKENS.value,
    disturb=_disturbance(model),
  )

  def write() -> None:
    done = rooms_cells.ordered(cells, rows)
    if _OUT.value is None:
      return
    command.write_study(
      _OUT.value,
      done,
      seed=_SEED.value,
      started=started,
      named={"interrupted": len(done) < len(cells)},
      tables={"accuracy.csv": report.flat_rows(done)},
      others={"plot.png": functools.partial(report.save_plot, done)},
      quiet=True,
    )

  with interrupt.graceful(_ANSWER) as stopped:
    rooms_cells.evaluate(
      model,
      cells,
      options,
      rows,
      write,
      streams=streams,
      word_ids=ids,
      seed=_SEED.value,
      film=_FILM.value,
      stopped=stopped,
    )
  done = rooms_cells.ordered(cells, rows)
  if done:
    print(report.table(done))
  for shape in shapes:
    blind = chance.drawn(shape, _SEED.value, streams)
    print(
      f"{shape.frames} frames, always the likeliest word of a kind: "
      + ", ".join(
        f"{name} {100 * value:.1f} %" for name, value in blind.items()
      )
    )
  _say_end(len(done), len(cells), "cells", _FILES)


def _benchmark(started: float) -> None:
  """A public benchmark from a local folder."""
  policies, name = _policies(), _BENCHMARK.value
  data = pathlib.Path(_DATA.value)
  clips = benchmark_run.choose(
    benchmarks.read_benchmark(name, data), _TASKS.value, _MAX_VIDEOS.value
  )
  videos = benchmark_items.find_videos(data, clips)
  records = []
  if _RESUME.value and resume.rows_left(_OUT.value, command.settings()):
    records = benchmark_cells.records_left(_OUT.value)
    print(f"taken over from {_OUT.value}: {len(records)} clips")
  model = model_source.load_model(
    _CHECKPOINT.value,
    None,
    dtype=_DTYPE.value,
    seed=0,
    report=lambda text: print(f"model  {text}"),
  )
  benchmark_run.check_vocabulary(model, clips, _CHECKPOINT.value or "(shipped)")
  sources = benchmark_run.clip_sources(clips, videos, _FPS.value)
  options = session_plan.Options(
    max_tokens=_MAX_TOKENS.value,
    dtype=_DTYPE.value,
    lookahead=_LOOKAHEAD.value,
    recent_tokens=_RECENT_TOKENS.value,
  )
  names = [policy.name for policy in policies]
  total = len(clips) * len(policies)
  rows_of = functools.partial(benchmark_report.rows_of, name, names)

  def write(done) -> None:
    if _OUT.value is None:
      return
    rows = rows_of(done)
    texts = benchmark_cells.files(names, done)
    command.write_study(
      _OUT.value,
      rows,
      seed=0,
      started=started,
      named={"interrupted": len(done) < total},
      tables={"accuracy.csv": benchmark_report.flat_rows(rows)},
      others={
        name: functools.partial(
          pathlib.Path.write_text, data=text, encoding="utf-8"
        )
        for name, text in texts.items()
      },
      quiet=True,
    )

  with interrupt.graceful(_DROPS) as stopped:
    benchmark_cells.evaluate(
      model, policies, clips, sources, options, records, write, stopped
    )
  if records:
    print(benchmark_report.table(rows_of(records)))
  written = [*_BENCHMARK_FILES, *benchmark_cells.files(names, records)]
  _say_end(len(records), total, "clips", list(dict.fromkeys(written)))


def _say_end(done: int, total: int, what: str, files: Sequence[str]) -> None:
  if not done:
    raise KeyboardInterrupt
  if done < total:
    print(f"interrupted after {done} of {total} {what}")
  elif _OUT.value is not None:
    print(f"written to {_OUT.value}: {', '.join(files)}")


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  (_rooms if _BENCHMARK.value == "rooms" else _benchmark)(started)


if __name__ == "__main__":
  command.run(main)
