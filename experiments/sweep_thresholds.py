r"""Every threshold of ReSV at once, on one recorded stream.

  python experiments/sweep_thresholds.py --out runs/sweep --closed_loop 12
  python experiments/sweep_thresholds.py --record runs/a/record.npz \
      --hamming_thresholds 5,7,9 --rows union,vote:4 --out runs/sweep_a
  python experiments/sweep_thresholds.py --time
  python experiments/sweep_thresholds.py --hash_bits 16,32,64 \
      --hamming_thresholds 0,2,4,5,6,7,8,10 --tables head,layer \
      --curves rooms_curves.npz

For every Th_hd, N_hp, table, recent window, reduction of rows and Th_r: share
of the past attended by stage, layer and head, attention mass on it, share of
the evidence's tokens among it where the recording knows the evidence, tokens
per cluster; and modelled latency and energy on --platform, by ratios
transferred to --model. Th_hd is given for 32 hash bits and scaled with N_hp.

The recording does not react to a setting (open loop). With --closed_loop N
settings are really run on the same stream (on the task's own recording only),
and the difference is printed and kept.

Without --record a stream of the rooms task is recorded first, with its
questions. --record takes record.npz of stream_video.py --record or of
--keep_record. --curves writes the curves alone, for vrex_jax.codesign.
--time measures: one streaming run, this sweep, and replays one by one.

--out gets metrics.json, sweep.csv, heat_maps.png and fronts.png. Ctrl-C keeps
what is done; the same command with --resume does not run again what was run.

Hardware: any CPU. Minutes: --smoke under one, --closed_loop 12 about two.
"""

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from vrex_jax import command
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import plotting
from vrex_jax.codesign import closed_loop
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import rooms_run
from vrex_jax.codesign import settings
from vrex_jax.codesign import settings_cost
from vrex_jax.codesign import sweep_plots
from vrex_jax.codesign import sweep_tables
from vrex_jax.codesign import sweep_time
from vrex_jax.errors import InputError, check_whole_number
from vrex_jax.evaluation import words
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms
from vrex_jax.models import presets
from vrex_jax.study import resume
from vrex_jax.tasks import rooms_episodes as episodes_lib

_RECORD = flags.DEFINE_string(
  "record", None, "Recording to sweep; without it the rooms task is recorded."
)
_CHECKPOINT = model_flags.checkpoint()
_FRAMES = flags.DEFINE_integer("frames", 512, "Of the stream that is recorded.")
_HAMMING = flags.DEFINE_list(
  "hamming_thresholds",
  list(sweep_time.HAMMING_THRESHOLDS),
  "Th_hd, of 32 bits.",
)
_HASH_BITS = flags.DEFINE_list("hash_bits", ["32"], "N_hp.")
_TABLES = flags.DEFINE_list("tables", ["head"], "Of head, layer.")
_RATIOS = flags.DEFINE_list(
  "ratios",
  [f"{ratio:.6g}" for ratio in curves_lib.default_grid(32)],
  "Th_r-wics, rising from 0 to 1.",
)
_RECENT = flags.DEFINE_list(
  "recent_tokens", ["frame"], "Windows that are always attended, in tokens."
)
_ROWS = flags.DEFINE_list("rows", ["union"], "Of union, pooled, vote:n.")
_PLATFORM = flags.DEFINE_string(
  "platform", "vrex8", f"Of {', '.join(platforms.PLATFORMS)}, or a .toml file."
)
_MODEL = flags.DEFINE_string(
  "model", "llama3-8b", f"Priced, one of: {', '.join(presets.PRESETS)}."
)
_CACHE_TOKENS = flags.DEFINE_integer(
  "cache_tokens", 40960, "Past of the priced model.", 1, 2**30
)
_BATCH = flags.DEFINE_integer("batch", 1, "Streams of the priced model.", 1)
_CLOSED_LOOP = flags.DEFINE_integer(
  "closed_loop", 0, "Settings that are really run, spread over both Th.", 0
)
_CURVES = flags.DEFINE_string(
  "curves", None, "Write the curves of the first window and rows to this .npz."
)
_KEEP_RECORD = flags.DEFINE_bool(
  "keep_record", False, "Keep the recording made here in --out."
)
_TIME = flags.DEFINE_bool(
  "time", False, "Measure the sweep beside a stream and beside replays."
)
_SMOKE = flags.DEFINE_bool("smoke", False, "Under a minute: 64 frames.")
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over the runs that the same command left in --out."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the stream.", 0, command.MAX_SEED)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_FILES = (
  "config.toml", "metrics.json", "sweep.csv", "heat_maps.png", "fronts.png",
)  # fmt: skip
_ANSWER = "the run under way is finished first; Ctrl-C again drops it"
_SMOKE_SETTINGS: dict[str, Any] = {
  "frames": 64,
  "hamming_thresholds": ["4", "7", "10"],
  "ratios": ["0", "0.1", "0.3", "0.6", "1"],
}


def _whole(flag: flags.FlagHolder, least: int) -> list[int]:
  found = []
  for text in flag.value:
    number = int(text) if text.isdigit() else text
    check_whole_number(
      f"--{flag.name}", number, least=least, hint=f"--{flag.name}={least + 8}"
    )
    found.append(number)
  if not found:
    raise InputError(
      f"--{flag.name} is empty; it must name at least one value: leave it out,"
      " or give one"
    )
  return list(dict.fromkeys(found))


def _ratios() -> list[float]:
  try:
    return [float(text) for text in _RATIOS.value]
  except ValueError:
    raise InputError(
      f"--ratios is {','.join(_RATIOS.value)!r}; it must be numbers from 0 to"
      " 1, apart by commas: try --ratios=0,0.1,0.3,1"
    ) from None


def _recent() -> list[int | None]:
  windows: list[int | None] = []
  for text in _RECENT.value:
    if text == "frame":
      windows.append(None)
      continue
    number = int(text) if text.isdigit() else text
    check_whole_number(
      "--recent_tokens", number, least=0, hint="--recent_tokens=frame,64"
    )
    windows.append(int(number))
  return windows


def _check_flags() -> sweep_time.Plan:
  """Every mistake that can be seen before the work."""
  if _SMOKE.value:
    command.set_defaults(_SMOKE_SETTINGS)
  of_stream = (_CHECKPOINT, _FRAMES, _SEED, _CLOSED_LOOP, _KEEP_RECORD, _TIME)
  beside = [flag.name for flag in of_stream if flag.present and flag.value]
  if _RECORD.value is not None and beside:
    raise InputError(
      f"--{beside[0]} is given beside --record; only a stream that is made here"
      " can be run again: give one of the two"
    )
  if _OUT.value is None and (_RESUME.value or _KEEP_RECORD.value):
    name = "resume" if _RESUME.value else "keep_record"
    raise InputError(
      f"--{name} is given without --out; it is about files of that folder: add"
      " --out"
    )
  plan = sweep_time.Plan(
    choices=settings.static_choices(
      _whole(_HAMMING, 0), _whole(_HASH_BITS, 1), _TABLES.value
    ),
    variants=settings.variants(_recent(), _ROWS.value),
    grid=curves_lib.checked_grid(_ratios()),
  )
  _platform()
  presets.preset(_MODEL.value)
  if (
    _CURVES.value is not None
    and not pathlib.Path(_CURVES.value).parent.is_dir()
  ):
    raise InputError(
      f"--curves is {_CURVES.value}, whose folder does not exist; the file is"
      " written there: make the folder, or name another"
    )
  command.check_out(_OUT.value, _FILES)
  if _OUT.value is not None:
    plotting.check_installed()
  return plan


def _platform() -> params.Platform:
  return platforms.named(_PLATFORM.value).platform


def _costs(curves: curves_lib.Curves) -> settings_cost.Costs:
  return settings_cost.of_curves(
    curves,
    _platform(),
    presets.preset(_MODEL.value),
    cache_tokens=_CACHE_TOKENS.value,
    batch=_BATCH.value,
  )


def _stream() -> closed_loop.Stream:
  model, ids = words.load_rooms_model(_CHECKPOINT.value)
  shape = episodes_lib.EpisodeConfig(frames=_FRAMES.value)
  episode = episodes_lib.draw(shape, _SEED.value, 0)
  return closed_loop.Stream(model, ids, shape, episode)


def _write(rows: Sequence[dict[str, Any]], started: float, **named: Any):
  if _OUT.value is None:
    return
  others = {
    "heat_maps.png": functools.partial(
      sweep_plots.save_heat_maps, sweep_tables.first_of(rows)
    ),
    "fronts.png": functools.partial(
      sweep_plots.save_fronts,
      sweep_tables.first_of(rows),
      platform=_PLATFORM.value,
    ),
  }
  recorded = named.pop("recorded", None)
  if _KEEP_RECORD.value and recorded is not None:
    others["record.npz"] = functools.partial(rooms_run.save, recorded=recorded)
  command.write_study(
    _OUT.value,
    rows,
    seed=_SEED.value,
    started=started,
    named=named,
    tables={"sweep.csv": settings.flat(rows)},
    others=others,
    quiet=True,
  )


def _save_curves(curves: curves_lib.Curves) -> None:
  config = {name: str(value) for name, value in command.settings().items()}
  curves_lib.save(curves, _CURVES.value, config)
  print(f"curves of {len(curves.choices)} choices written to {_CURVES.value}")


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  plan = _check_flags()
  earlier: dict[Any, dict[str, Any]] = {}
  if _RESUME.value:
    left = resume.rows_left(_OUT.value, command.settings())
    earlier = {
      settings.key_of(row): row["closed"] for row in left if row["closed"]
    }
    print(f"taken over from {_OUT.value}: {len(earlier)} runs")
  stream, recorded = None, None
  if _RECORD.value is not None:
    recording, evidence = rooms_run.load(_RECORD.value)
  else:
    stream = _stream()
    recorded = closed_loop.record(stream)
    recording, evidence = recorded.recording, recorded.evidence
  if _TIME.value:
    print(sweep_time.table(sweep_time.measure(stream, recorded, plan)))
    return
  rows, first = [], None
  for variant in plan.variants:
    curves = sweep_time.swept(recording, plan, variant, evidence)
    first = curves if first is None else first
    rows += settings.rows_of(curves, variant, _costs(curves))
  for row in rows:
    row["closed"] = earlier.get(settings.key_of(row))
  if _CURVES.value is not None:
    _save_curves(first)
  write = functools.partial(_write, rows, started, recorded=recorded)
  chosen = settings.spread(sweep_tables.first_of(rows), _CLOSED_LOOP.value)
  with interrupt.graceful(_ANSWER) as stopped:
    if stream is not None and chosen:
      write(interrupted=True)
      closed_loop.run(
        stream,
        [row for row in chosen if row["closed"] is None],
        functools.partial(write, interrupted=True),
        stopped,
      )
    interrupted = stopped()
  done = [row for row in rows if row["closed"] is not None]
  gap = sweep_tables.gaps(done) if done else None
  write(interrupted=interrupted, gap=gap)
  print(sweep_tables.assumptions(_PLATFORM.value, _MODEL.value,
                                 _CACHE_TOKENS.value))  # fmt: skip
  print(sweep_tables.table(rows, _OUT.value))
  if done:
    print(f"\n{sweep_tables.gap_table(done)}")
  if interrupted:
    print(f"interrupted after {len(done)} of {len(chosen)} runs")
  if _OUT.value is not None:
    print(f"written to {_OUT.value}")


if __name__ == "__main__":
  command.run(main)
