r"""Which thresholds and which chip, together, beat the paper's own sizing?

  python experiments/codesign.py --platform vrex8 --area_mm2 15.12 \
      --power_w 35 --max_accuracy_drop 0.009 --objective energy_delay \
      --comparators --certificate --out runs/codesign
  python experiments/codesign.py --free engine --out runs/engine
  python experiments/codesign.py --smoke --out runs/smoke

Thresholds of every stage, layer and KV head of the model that ships and sizes
of the chip move together, by gradient, from many starts; limits of area,
average power, memory and accuracy are kept (vrex_jax/codesign). What the
thresholds keep is read from curves of a recording, what that costs in accuracy
from a model fitted to measured points; shares are transferred to --model by
relative depth. The result is rounded to what can be built, simulated event by
event, and its thresholds are run for real on the model that ships.

Printed: the paper's sizing | start | optimum | rounded | start, simulated |
confirmed (or "rounded, simulated" without a real run); elasticities; whether
the result is better than the start at every corner of the band of uncertain
constants. --out gets metrics.json, design.toml (for estimate_hardware.py
--platform), policy.txt (thresholds, for --policy "$(cat policy.txt)" of any
script that runs the model that ships), fronts.png. Everything is modelled or
simulated but the accuracy of columns that were run.

--comparators gives random search, CMA-ES and TPE as long as the descent took,
for --seeds seeds (needs the extra [codesign]). --certificate prices a small
grid point by point and holds the descent against it. Ctrl-C keeps what is done;
the same command with --resume goes on.

Hardware: any CPU. Minutes: under one with --smoke, about ten without, and some
for each seed of the comparators.
"""

import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import interrupt
from vrex_jax import plotting
from vrex_jax.codesign import campaign
from vrex_jax.codesign import campaign_types
from vrex_jax.codesign import comparators
from vrex_jax.codesign import descent
from vrex_jax.codesign import ledger as ledger_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import plots
from vrex_jax.codesign import report
from vrex_jax.codesign import rounding
from vrex_jax.codesign import setting
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import start as start_lib
from vrex_jax.codesign import study as study_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import units
from vrex_jax.hwmodel import workload
from vrex_jax.models import presets

_PLATFORM = flags.DEFINE_string(
  "platform", "vrex8", "Whose sizing is the start: a name or a .toml file."
)
_AREA = flags.DEFINE_float(
  "area_mm2", 15.12, "Most area, mm2.", lower_bound=1e-3
)
_POWER = flags.DEFINE_float(
  "power_w", 35.0, "Most average power of a turn, W.", lower_bound=1e-3
)
_DROP = flags.DEFINE_float(
  "max_accuracy_drop",
  0.009,
  "Most accuracy lost against attending to everything, a share.",
  lower_bound=0.0,
  upper_bound=1.0,
)
_MEMORY_GB = flags.DEFINE_float(
  "memory_gb", None, "Most DRAM, GB. Default: the platform's.", lower_bound=1.0
)
_OBJECTIVE = flags.DEFINE_enum(
  "objective", "energy_delay", list(objective_lib.OBJECTIVES), "To be small."
)
_MODEL = flags.DEFINE_enum(
  "model", "llama3-8b", sorted(presets.PRESETS), "Preset that is priced."
)
_CACHE_TOKENS = flags.DEFINE_integer(
  "cache_tokens", 40960, "Cached tokens.", 64, 2**24
)
_BATCH = flags.DEFINE_integer("batch", 1, "Streams side by side.", 1, 1024)
_KV_PRECISION = flags.DEFINE_enum(
  "kv_precision",
  "bf16",
  list(workload.KV_VALUE_BYTES),
  "Of stored KV. What int8 and int4 cost in accuracy is not measured here.",
)
_MEMORY = flags.DEFINE_enum(
  "memory",
  "queued",
  list(setting.MEMORIES),
  "What request sizes and queues of the link do.",
)
_CURVES = flags.DEFINE_string(
  "curves", None, "Of sweep_thresholds.py --curves. Default: the package's."
)
_HELD_OUT = flags.DEFINE_string(
  "held_out_curves",
  None,
  "Exact curves of another stream, that designs are judged by; empty: those of"
  " --curves. Default: the package's, or none beside --curves.",
)
_POINTS = flags.DEFINE_string(
  "accuracy_points", None, "Measured points. Default: the package's."
)
_RESIDENT = flags.DEFINE_float(
  "max_resident_tokens",
  8192.0,
  "Most further tokens kept on the device, of each layer and head. The past of"
  " a stream grows without end; at 40K all of it would fit.",
  lower_bound=64.0,
)
_FREE = flags.DEFINE_list(
  "free", ["all"], f"What moves: all, or some of {', '.join(space_lib.GROUPS)}."
)
_BOUNDS = flags.DEFINE_list(
  "bounds", [], "Other bounds, such as cores=4:16,clock_hz=0.6e9:1e9."
)
_STARTS = flags.DEFINE_integer("starts", 32, "Lanes of the descent.", 1, 4096)
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Outer rounds.", 1, 10000)
_STEPS = flags.DEFINE_integer("steps", 100, "Of Adam, a round.", 1, 100000)
_CHOICES = flags.DEFINE_integer(
  "choices", 4, "Static choices that are left after screening.", 1, 1000
)
_ATTEMPTS = flags.DEFINE_integer(
  "attempts",
  3,
  "Searches at most, each under a tighter modelled limit, where the real run"
  " loses more than --max_accuracy_drop.",
  1,
  20,
)
_TABLES = flags.DEFINE_multi_enum(
  "tables",
  ["head"],
  ["head", "layer"],
  "Scopes of a cluster table that are searched; repeatable. What a table that"
  " all heads share costs in accuracy has not been measured.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the starts.", 0, command.MAX_SEED)
_SEEDS = flags.DEFINE_integer(
  "seeds", 5, "Seeds of the comparison, from --seed on.", 1, 100
)
_COMPARATORS = flags.DEFINE_bool(
  "comparators", False, "Compare with random search, CMA-ES and TPE."
)
_CERTIFICATE = flags.DEFINE_bool(
  "certificate", False, "Hold the descent against brute force on a small grid."
)
_FRAMES = flags.DEFINE_integer(
  "confirm_frames", 512, "Frames of a stream of the real run.", 64, 8192
)
_QUESTIONS = flags.DEFINE_integer(
  "confirm_questions",
  640,
  "Questions of the real run; 0: no such run.",
  lower_bound=0,
)
_SIMULATED = flags.DEFINE_integer(
  "simulated_points", 17, "Points of the band that are simulated.", 1, 17
)
_SMOKE = flags.DEFINE_bool("smoke", False, "All parts, as short as can be.")
_RESUME = flags.DEFINE_bool(
  "resume", False, "Go on with what the same command left in --out."
)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.")

_SMOKE_SETTINGS = {
  "starts": 8,
  "rounds": 8,
  "steps": 40,
  "simulated_points": 1,
  "confirm_frames": 64,
  "confirm_questions": 0,
}
_FILES = (
  "config.toml", "metrics.json", "design.toml", "policy.txt", "fronts.png",
)  # fmt: skip
_SEARCH, _STEPS_FILE = "search.npz", "steps.json"
_FREE_TO_CHANGE = ("out", "resume")
_ANSWER = "the round under way is finished first; Ctrl-C again interrupts it"
_SHOWN = 0.02
_ROOM = 8
"""Clusters for each frame of a stream, which has 4 tokens and some text."""
_PAPERS = ("vrex8", "vrex48")


def _check_flags() -> None:
  if _COMPARATORS.value:
    comparators.check_installed()
  command.check_out(
    _OUT.value, (*_FILES, _SEARCH, _STEPS_FILE), resume=_RESUME.value
  )
  if _OUT.value is not None and not _RESUME.value:
    begun = pathlib.Path(_OUT.value) / _STEPS_FILE
    if begun.exists():
      raise InputError(
        f"--out {_OUT.value} holds a study that has not ended ({_STEPS_FILE});"
        " it is not overwritten: add --resume to go on with it, or name another"
        " folder"
      )
  if _OUT.value is not None:
    plotting.check_installed()


def _settings() -> dict[str, Any]:
  return {
    name: value
    for name, value in command.settings().items()
    if name not in _FREE_TO_CHANGE
  }


def _plan() -> descent.Plan:
  return descent.Plan(
    starts=_STARTS.value,
    rounds=_ROUNDS.value,
    steps=_STEPS.value,
    seed=_SEED.value,
  )


def _space(
  description: platforms.Description, shape: tuple[int, int]
) -> space_lib.Space:
  """What moves; the memory limit is a bound of the capacity."""
  base = description.platform
  start = start_lib.of_sizes(base, layers=shape[0], kv_heads=shape[1])
  groups = _FREE.value
  if groups == ["all"]:
    groups = list(space_lib.GROUPS)
  most = _MEMORY_GB.value
  most = base.dram.capacity_bytes if most is None else most * units.GB
  bounds = {
    "resident_tokens": (0.0, min(_RESIDENT.value, float(_CACHE_TOKENS.value))),
    "capacity_bytes": (0.25 * most, most),
    **space_lib.parse_bounds(_BOUNDS.value),
  }
  return space_lib.make(
    start,
    groups=groups,
    frozen=start_lib.fixed_fields(base),
    bounds=bounds,
  )


def _study() -> campaign_types.Study:
  description = platforms.named(_PLATFORM.value)
  curves = setting.read_curves(_CURVES.value)
  held_out = setting.held_out_curves(_HELD_OUT.value, _CURVES.value)
  space = _space(description, curves.kept.shape[2:4])
  rounding.ladder_of(space)  # Bounds in which nothing can be built end here.
  problem = setting.problem_of(
    description,
    curves,
    curves if held_out is None else held_out,
    setting.drop_of(_POINTS.value),
    model=_MODEL.value,
    cached_tokens=_CACHE_TOKENS.value,
    batch=_BATCH.value,
    kv_precision=_KV_PRECISION.value,
    objective=_OBJECTIVE.value,
    memory=_MEMORY.value,
  )
  folder = None if _OUT.value is None else pathlib.Path(_OUT.value)
  return campaign_types.Study(
    problem=problem,
    curves=curves,
    held_out=held_out is not None,
    space=space,
    limits=objective_lib.Limits(
      _AREA.value * units.MM2, _POWER.value, _DROP.value
    ),
    plan=_plan(),
    settings=_settings(),
    search=None if folder is None else folder / _SEARCH,
    ledger=ledger_lib.Ledger(
      None if folder is None else folder / _STEPS_FILE,
      _settings(),
      resume=_RESUME.value,
    ),
    resume=_RESUME.value,
  )


def _say_assumptions() -> None:
  print(
    f"shares of the shipped model are transferred to {_MODEL.value} by relative"
    " depth: another model might choose otherwise"
  )
  print(
    "a turn is 26 frames, a question of 25 tokens and 39 answer tokens, at"
    f" {_CACHE_TOKENS.value} cached tokens, batch {_BATCH.value}"
  )
  if not _HELD_OUT.value and (_CURVES.value or _HELD_OUT.value == ""):
    print(
      "no --held_out_curves: designs are judged by the curves that were"
      " searched"
    )
  if _KV_PRECISION.value != "bf16":
    print(
      f"what {_KV_PRECISION.value} costs in accuracy is not measured: the drop"
      " is that of bf16"
    )


def _bar(total: int, what: str) -> Callable[[descent.Round, Any], None]:
  """Rounds with rate and time left; silent where nobody looks."""
  bar = tqdm.tqdm(
    total=total, unit="round", desc=what, disable=None, leave=False
  )

  def told(round_: descent.Round, state: Any) -> None:
    del state
    bar.set_postfix_str(f"best {round_.best:.4f}, {round_.feasible} feasible")
    bar.update(1)
    if bar.n >= total:
      bar.close()

  return told


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  if _SMOKE.value:
    command.set_defaults(_SMOKE_SETTINGS)
  _check_flags()
  study = _study()
  _say_assumptions()
  try:
    with interrupt.graceful(_ANSWER) as stopped:
      results = _results(study, stopped)
  except study_lib.InfeasibleError:
    _forget(study)
    raise
  if results is None:
    print("interrupted; the same command with --resume goes on")
    sys.exit(130)
  _print(study, results)
  if _OUT.value is not None:
    _write(study, results, started)


def _forget(study: campaign_types.Study) -> None:
  """Leaves nothing of a study that cannot go on."""
  for path in (study.search, study.ledger.path):
    if path is not None:
      path.unlink(missing_ok=True)
      with contextlib.suppress(OSError):
        path.parent.rmdir()


def _results(
  study: campaign_types.Study, stopped: Callable[[], bool]
) -> campaign_types.Results | None:
  options = campaign_types.Options(
    frames=_FRAMES.value,
    questions=_QUESTIONS.value,
    simulated_points=_SIMULATED.value,
    choices=_CHOICES.value,
    tables=_TABLES.value,
    attempts=_ATTEMPTS.value,
    seeds=range(_SEED.value, _SEED.value + _SEEDS.value)
    if _COMPARATORS.value
    else (),
    certificate=_CERTIFICATE.value,
    small=_SMOKE.value,
  )
  return campaign.run(study, options, bar=_bar, stopped=stopped)


def _names() -> dict[str, str]:
  """How columns are called where their own name would say too much."""
  platform = platforms.named(_PLATFORM.value).platform.name
  own = platform in _PAPERS
  return {
    "paper": "paper" if own else platform,
    "confirmed": "confirmed" if _QUESTIONS.value else "rounded, simulated",
  }


def _print(
  study: campaign_types.Study, results: campaign_types.Results
) -> None:
  names = _names()
  run = "its accuracy measured" if _QUESTIONS.value else "without a real run"
  print(f"\nall figures are modelled; {names['confirmed']} is simulated, {run}")
  renamed = lambda columns: {
    names.get(name, name): one for name, one in columns.items()
  }
  print(report.figures_table(renamed(results.columns)))
  print()
  print(report.sizes_table(renamed(results.designs), study.space.free))
  print(f"\n{_OBJECTIVE.value}, % by %, above {_SHOWN}")
  print(report.elasticity_table(results.elasticities, least=_SHOWN))
  for sentence in results.sentences:
    print(f"\n{sentence}")


def _write(
  study: campaign_types.Study, results: campaign_types.Results, started: float
) -> None:
  description = platforms.named(_PLATFORM.value)
  name = pathlib.Path(_PLATFORM.value).stem
  drop = "measured" if _QUESTIONS.value else "modelled"
  sizing = f"the paper's\nsizing ({name})"
  if name not in _PAPERS:
    sizing = f"sizing of {name}"
  points = [
    plots.Point(
      label,
      results.columns[column],
      objective_lib.value_of(_OBJECTIVE.value, results.columns[column]),
    )
    for column, label in (
      ("paper", f"start: {sizing}"),
      ("rounded", "rounded result"),
      ("confirmed", f"confirmed: simulated,\ndrop {drop}"),
    )
  ]
  command.write_study(
    _OUT.value,
    results.rows,
    seed=_SEED.value,
    started=started,
    named=results.named,
    others={
      "policy.txt": lambda path: path.write_text(
        report.policy_text(
          results.designs["rounded"],
          next(r["choice"] for r in results.rows if r["design"] == "rounded"),
          room=_ROOM * _FRAMES.value,
        ),
        encoding="utf-8",
      ),
      "design.toml": functools.partial(
        report.write_platform,
        description,
        study.problem,
        results.designs["rounded"],
      ),
      "fronts.png": functools.partial(
        plots.save_fronts,
        results.fronts,
        points,
        {
          "latency": "latency of a turn, s",
          "energy": "energy of a turn, J",
          "energy_delay": "energy x delay of a turn, J s",
        }[_OBJECTIVE.value],
        asked={"area": _AREA.value * units.MM2, "accuracy": _DROP.value},
        title=f"{name}, {_MODEL.value}, {_CACHE_TOKENS.value} cached tokens,"
        f" batch {_BATCH.value}",
      ),
    },
  )
  for name in (_SEARCH, _STEPS_FILE):  # Of no use to a study that is done.
    (pathlib.Path(_OUT.value) / name).unlink(missing_ok=True)


if __name__ == "__main__":
  command.run(main)
