r"""What does one core of this machine deliver, and does that predict our step?

  python experiments/calibrate_platform.py --out runs/cpu
  python experiments/calibrate_platform.py --platform runs/cpu/cpu.toml \
      --validate --cache_tokens 4096,32768,131072 --frame_tokens 10,196 \
      --forced_ratio 0.05,0.21,0.33

Micro-benchmarks (vrex_jax/benchmark/micro.py) of products, copies, gathers and
the small things a selection is made of, on one core, CPU time, minimum of
rounds; and of the disk of --out. Their numbers go into a platform file, with
date and command as the source of each. With --validate the decoder step of
`full` and of ReSV at forced shares is predicted from such a file alone
(vrex_jax/hwmodel/cpu.py) and then measured: predicted, measured, error, and how
many pairs of cells are in the right order. Nothing is fitted to a step.

Load of the machine beside this is printed and kept: numbers measured under load
are no property of the machine.

Hardware: a CPU. A minute to calibrate; some minutes to validate two cells, an
hour up to 128K tokens.
"""

import datetime
import os
import pathlib
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import policy_syntax
from vrex_jax import summary
from vrex_jax.benchmark import cell
from vrex_jax.benchmark import forced_ratio
from vrex_jax.benchmark import micro
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import step as step_lib
from vrex_jax.benchmark import timing
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import cpu
from vrex_jax.hwmodel import params as params_lib
from vrex_jax.hwmodel import platforms
from vrex_jax.models import dense
from vrex_jax.models import video_llm

_PLATFORM = flags.DEFINE_string(
  "platform", None, "A file written before; nothing is calibrated."
)
_VALIDATE = flags.DEFINE_bool(
  "validate", False, "Predict decoder steps, then measure them."
)
_SHAPE = flags.DEFINE_enum("shape", "wide", plans.SHAPES, "Decoder.")
_CACHE_TOKENS = flags.DEFINE_list("cache_tokens", ["4096"], "Past tokens.")
_FRAME_TOKENS = flags.DEFINE_list("frame_tokens", ["10"], "Tokens of a frame.")
_FORCED_RATIO = flags.DEFINE_list(
  "forced_ratio", ["0.05", "0.33"], "Shares of the past that ReSV attends to."
)
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed rounds.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Folder for cpu.toml, metrics.json.")

_FILES = ("config.toml", "metrics.json", "cpu.toml")
_QUIET = 0.2
"""Load beside this process up to which a figure is the machine's."""


def _numbers(flag: flags.FlagHolder, kind: type) -> list[Any]:
  try:
    values = [kind(text) for text in flag.value]
  except ValueError:
    values = []
  if not values or min(values) <= 0 or (kind is float and max(values) > 1):
    rule = "shares up to 1" if kind is float else "whole numbers"
    raise InputError(
      f"--{flag.name} is {','.join(flag.value)!r}; it must be {rule} above 0,"
      " separated by commas: see --help"
    )
  return values


def _check() -> None:
  if _PLATFORM.value is not None and not _VALIDATE.value:
    raise InputError(
      "--platform is given without --validate; a file that exists is only"
      " needed for predictions: add --validate, or leave it out to calibrate"
    )
  for flag, kind in (
    (_CACHE_TOKENS, int), (_FRAME_TOKENS, int), (_FORCED_RATIO, float),
  ):  # fmt: skip
    _numbers(flag, kind)
  command.check_out(_OUT.value, _FILES)


def _load() -> float:
  """Runnable processes of the last minute, this one left out."""
  return max(os.getloadavg()[0] - 1.0, 0.0)


def _calibrate() -> platforms.Description:
  with tqdm.tqdm(
    total=_ROUNDS.value + 1, unit="round", disable=not sys.stderr.isatty()
  ) as bar:
    found = micro.measure(rounds=_ROUNDS.value, report=bar.update)
  out = pathlib.Path(_OUT.value or ".").absolute()
  there = next(one for one in (out, *out.parents) if one.is_dir())
  with tempfile.TemporaryDirectory(dir=there) as folder:
    disk = micro.disk(pathlib.Path(folder))
  now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
  source = f"{now}, load beside it {_load():.1f}: " + shlex.join(
    ["python", pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
  )
  return platforms.describe(_table(found, disk, source), "the calibration")


def _table(
  found: Mapping[str, float], disk: Mapping[str, float], source: str
) -> dict[str, Any]:
  """A platform file's table: what was measured, and what it stands for."""
  units = {
    "_bytes_per_s": ("GB/s", 1e-9),
    "_flops_per_s": ("GFLOPS", 1e-9),
    "_s": ("ns", 1e9),
  }

  def measured(name, value):
    suffix = next(end for end in units if name.endswith(end))
    unit, scale = units[suffix]
    return _line(float(f"{scale * value:.6g}"), unit, "measured", source)

  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  peak = 0.5e-9 * found["plain_flops_per_s"]
  assumed = lambda value, unit, why: _line(value, unit, "assumed", why)
  nothing = lambda unit: assumed(0, unit, "not measured")
  one = assumed(1, "1", "what was measured is what is delivered")
  return {
    "name": "cpu",
    "compute": {
      "cores": assumed(1, "1", "the step runs on one core"),
      "clock_hz": assumed(1, "GHz", "nominal; only the peak counts"),
      "dot_units": _line(
        float(f"{peak:.6g}"), "1", "derived", "plain products: MACs a cycle"
      ),
      "dot_inputs": assumed(1, "1", "see dot_units"),
      "vector_lanes": nothing("1"),
      "memory_bytes": nothing("B"),
      "dense_utilisation": one,
      "vision_utilisation": one,
    },
    "dram": {
      "bandwidth_bytes_per_s": measured(
        "bandwidth_bytes_per_s", 2.0 * found["copy_bytes_per_s"]
      ),
      "efficiency": one,
      "capacity_bytes": _line(memory, "B", "measured", source),
      "queue_depth": assumed(1, "1", "not known"),
      "access_j_per_byte": nothing("J/B"),
    },
    "link": {
      "bandwidth_bytes_per_s": measured(
        "bandwidth_bytes_per_s", disk["bandwidth_bytes_per_s"]
      ),
      "efficiency": one,
      "scattered_efficiency": one,
      "latency_s": measured("latency_s", disk["latency_s"]),
      "queue_depth": assumed(1, "1", "requests were made one by one"),
      "granularity_bytes": assumed(4096, "B", "a page"),
      "low_j_per_byte": nothing("J/B"),
      "high_j_per_byte": nothing("J/B"),
      "storage_w": nothing("W"),
    },
    "software": {"layer_s": nothing("s"), "score_s": nothing("s")},
    "power": {"static_w": nothing("W")},
    "cpu": {name: measured(name, value) for name, value in found.items()},
  }  # fmt: skip


def _line(value: float, unit: str, status: str, source: str) -> dict[str, Any]:
  return {"value": value, "unit": unit, "status": status, "source": source}


def _print_terms(description: platforms.Description) -> None:
  lines = [
    [name, f"{number.value:.4g}", number.unit]
    for name, number in description.numbers["cpu"].items()
  ]
  print(summary.aligned(["term, measured", "value", "unit"], lines))


def _rows(platform: params_lib.Platform) -> list[dict[str, Any]]:
  policies = [policy_syntax.make_policy(name) for name in ("full", "resv")]
  ratios = _numbers(_FORCED_RATIO, float)
  for ratio in ratios:
    forced_ratio.check(policies[1], ratio)
  rows = []
  for tokens in _numbers(_FRAME_TOKENS, int):
    for cached in _numbers(_CACHE_TOKENS, int):
      plan = plans.Plan(
        shape=_SHAPE.value, cache_tokens=cached, frame_tokens=tokens
      )
      for row in _measured(plan, policies, ratios):
        rows.append(_compared(platform, plan, row))
        print(_told(rows[-1]), flush=True)
  return rows


def _measured(plan, policies, ratios) -> list[dict[str, Any]]:
  model = plans.model_config(plan.shape, plan.frame_tokens)
  params = video_llm.random_parameters(
    model, jax.random.key(plan.seed), dtype="float32"
  )
  params = dense.store_for(params, plan.frame_tokens, 1)
  config = plans.stream_config(plan, model.decoder)
  frame = step_lib.random_frame(config, model, with_vision=False, seed=0)
  past = cell.random_past(plan)
  setting = cell.Setting(plan, model, params, frame, past, 1)
  return cell.measure(
    setting, policies, ratios=ratios, rounds=_ROUNDS.value
  ).rows


def _compared(
  platform: params_lib.Platform, plan: plans.Plan, row: Mapping[str, Any]
) -> dict[str, Any]:
  decoder = plans.model_config(plan.shape, plan.frame_tokens).decoder
  spent = cpu.step_time(
    platform,
    decoder,
    cached_tokens=plan.cache_tokens,
    frame_tokens=plan.frame_tokens,
    share=row["forced_ratio"],
  )
  measured_s = 1e-3 * row["cpu_ms"]
  return {
    "policy": "full" if row["forced_ratio"] is None else "resv, forced",
    "shape": plan.shape,
    "cache_tokens": plan.cache_tokens,
    "frame_tokens": plan.frame_tokens,
    "forced_ratio": row["forced_ratio"],
    "predicted_s": float(spent.total_s),
    "parts_s": {name: float(part) for name, part in spent._asdict().items()},
    "measured_s": measured_s,
    "error": float(spent.total_s) / measured_s - 1,
  }


def _told(row: Mapping[str, Any]) -> str:
  parts = ", ".join(
    f"{name.removesuffix('_s')} {1e3 * value:.1f}"
    for name, value in row["parts_s"].items()
  )
  return (
    f"{row['cache_tokens']} cached, T = {row['frame_tokens']}, {row['policy']}:"
    f" predicted ms {parts}; measured {1e3 * row['measured_s']:.1f}"
  )


def _agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Mean absolute error, the largest, and pairs in the right order."""
  errors = np.array([abs(row["error"]) for row in rows])
  guess = np.array([row["predicted_s"] for row in rows])
  truth = np.array([row["measured_s"] for row in rows])
  first, second = np.triu_indices(len(rows), 1)
  right = (guess[first] < guess[second]) == (truth[first] < truth[second])
  return {
    "mean_absolute_error": float(errors.mean()),
    "largest_error": float(errors.max()),
    "pairs_in_order": int(right.sum()),
    "pairs": len(right),
  }


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
  lines = [
    [
      row["policy"],
      str(row["cache_tokens"]),
      str(row["frame_tokens"]),
      "" if row["forced_ratio"] is None else f"{100 * row['forced_ratio']:g} %",
      f"{1e3 * row['predicted_s']:.1f}",
      f"{1e3 * row['measured_s']:.1f}",
      f"{100 * row['error']:+z.1f} %",
    ]
    for row in rows
  ]
  header = ["policy", "cached", "T", "kept", "predicted ms", "measured ms",
            "error"]  # fmt: skip
  print(summary.aligned(header, lines))


def _say_load(before: float) -> None:
  load = max(before, _load())
  print(f"\nload beside this process: {load:.1f} runnable")
  if load > _QUIET:
    print("measured under load: these are no figures of the machine")


def main(arguments: Sequence[str]) -> None:
  del arguments
  started, before = time.time(), _load()
  _check()
  with timing.pinned(1):
    if _PLATFORM.value is None:
      description = _calibrate()
      _print_terms(description)
    else:
      description = platforms.named(_PLATFORM.value)
      cpu.check(description.platform)
    rows, named = [], {"load": before}
    if _VALIDATE.value:
      rows = _rows(description.platform)
      named["agreement"] = _agreement(rows)
  if rows:
    print()
    _print_rows(rows)
    agreement = named["agreement"]
    print(
      f"\nmean absolute error {100 * agreement['mean_absolute_error']:.1f} %,"
      f" largest {100 * agreement['largest_error']:.1f} %;"
      f" {agreement['pairs_in_order']} of {agreement['pairs']} pairs of"
      " cells in order"
    )
  _say_load(before)
  if _OUT.value is not None:
    write = lambda path: platforms.write(description, path)
    command.write_study(
      _OUT.value, rows, seed=0, started=started, named=named,
      others={"cpu.toml": write},
    )  # fmt: skip


if __name__ == "__main__":
  command.run(main)
