r"""Seconds, joules and square metres of a stream on V-Rex and on GPUs.

  python experiments/estimate_hardware.py --policy resv \
      --cache_tokens 1024,5120,10240,20480,40960 --platform vrex8,agx_orin
  python experiments/estimate_hardware.py --trace runs/resv/trace.npz \
      --transfer ratios --model llama3-8b --platform vrex8 --out runs/hardware
  python experiments/estimate_hardware.py --paper
  python experiments/estimate_hardware.py --design_points 200000

Every figure is modelled (docs/hardware_model.md). With --policy the work is
that of a published method, by the ratios the V-Rex paper prints; with --trace
that of a run: its counts, or with --transfer ratios its ratios on another
model, by relative depth of the layers. A row is a policy on a platform at one
cache length and batch: latency of a frame between its two bounds, of the first
and of each further answer token, energy over the disputed range of the link,
position under the roofline; then where a frame's time goes, and which parameter
moves it. --paper prints what the paper prints beside the model.

--out gets metrics.json, hardware.csv and a plot of stacked bars.

Hardware: any CPU. Seconds; --paper about half a minute.
"""

import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import hardware_paper
from vrex_jax import hardware_plot
from vrex_jax import hardware_rows
from vrex_jax import hardware_tables
from vrex_jax import plotting
from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError, check_whole_number
from vrex_jax.hwmodel import designs
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import memory_binding
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import smooth
from vrex_jax.hwmodel import transfer
from vrex_jax.hwmodel import workload
from vrex_jax.models import presets

_POLICY = flags.DEFINE_string(
  "policy",
  None,
  f"Published methods, separated by |, of: {', '.join(retrieval.METHODS)}.",
)
_TRACE = flags.DEFINE_string(
  "trace", None, "trace.npz of a run; instead of --policy."
)
_TRANSFER = flags.DEFINE_enum(
  "transfer",
  "none",
  ["none", "ratios"],
  "ratios: the trace's ratios price --model, whatever model ran.",
)
_MODEL = flags.DEFINE_string(
  "model", paper.MODEL, f"One of: {', '.join(presets.PRESETS)}."
)
_PLATFORM = flags.DEFINE_list(
  "platform",
  ["vrex8", "agx_orin"],
  f"Of {', '.join(platforms.PLATFORMS)}, or .toml files.",
)
_CACHE_TOKENS = flags.DEFINE_list(
  "cache_tokens",
  [],
  "Cached tokens. Default: the paper's lengths; with --trace its longest past.",
)
_BATCH = flags.DEFINE_list("batch", ["1"], "Streams that share the weights.")
_FRAME_TOKENS = flags.DEFINE_integer(
  "frame_tokens",
  None,
  "Tokens of a frame. Default: the model's, without a separator.",
  lower_bound=1,
  upper_bound=65536,
)
_KV_PRECISION = flags.DEFINE_enum(
  "kv_precision", "bf16", list(workload.KV_VALUE_BYTES), "Of stored KV."
)
_RESIDENT_TOKENS = flags.DEFINE_integer(
  "resident_tokens",
  None,
  "With --policy: window on the device. Default: the law fitted to V-Rex8.",
  lower_bound=0,
  upper_bound=2**30,
)
_SHARPNESS = flags.DEFINE_float(
  "sharpness",
  None,
  "Exponent of smooth maxima, 1 or more. Default: hard maxima.",
  lower_bound=1.0,
  upper_bound=2.0**20,
)
_MEMORY = flags.DEFINE_enum(
  "memory",
  "ideal",
  ["ideal", "validated"],
  "validated: sizes and queues cost what the models of docs/memory_models.md"
  " say. ideal: only what the fits of the platform files stand for.",
)
_PAPER = flags.DEFINE_bool(
  "paper",
  False,
  "Print the paper's figures beside the model's, and nothing else.",
)
_DESIGN_POINTS = flags.DEFINE_integer(
  "design_points",
  None,
  "Only measure how many random designs around V-Rex8 are priced a second.",
  lower_bound=1,
  upper_bound=10**8,
)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.")

_FILES = ("config.toml", "metrics.json", "hardware.csv", "plot.png")
_SHOWN_ELASTICITY = 0.05


def _check_flags() -> None:
  if not _PLATFORM.value:
    raise InputError(
      "--platform is empty; something must be priced: try --platform=vrex8"
    )
  if _TRACE.value is not None and _POLICY.value is not None:
    raise InputError(
      "--policy is given beside --trace; the trace says what was done: give one"
      " of the two"
    )
  if _TRACE.value is not None and _RESIDENT_TOKENS.value is not None:
    raise InputError(
      "--resident_tokens is given beside --trace; the run had its own window:"
      " set it when the stream runs"
    )
  if _TRANSFER.value != "none" and _TRACE.value is None:
    raise InputError(
      "--transfer is given without --trace; ratios are taken from a run: add"
      " --trace"
    )
  counted = _TRACE.value is not None and _TRANSFER.value == "none"
  for flag in (_CACHE_TOKENS, _BATCH, _FRAME_TOKENS):
    if counted and flag.present:
      raise InputError(
        f"--{flag.name} is given beside --trace; the run's own counts are"
        " priced: leave it out, or add --transfer ratios"
      )
  if _MEMORY.value != "ideal" and (_PAPER.value or _DESIGN_POINTS.value):
    raise InputError(
      "--memory validated is given beside --paper or --design_points; both use"
      " what the constants were fitted with: leave out --memory"
    )
  command.check_out(_OUT.value, _FILES)
  if _OUT.value is not None:
    plotting.check_installed()


def _numbers(flag: flags.FlagHolder, most: int) -> list[int]:
  numbers = []
  for text in flag.value:
    try:
      number = int(text)
    except ValueError:
      raise InputError(
        f"--{flag.name} has {text!r}; it must be whole numbers, separated by"
        f" commas: try --{flag.name}={','.join(flag.default) or '1024,40960'}"
      ) from None
    check_whole_number(f"--{flag.name}", number, least=1, hint=f"{most}")
    numbers.append(number)
  return numbers


def _points(model, engine: bool) -> list[hardware_rows.Point]:
  """What runs on platforms with a DRE, or on those without."""
  options: dict[str, Any] = {
    "kv_value_bytes": workload.KV_VALUE_BYTES[_KV_PRECISION.value]
  }
  sized = {
    **options,
    "frame_tokens": _FRAME_TOKENS.value or model.connector.tokens_per_frame,
  }
  lengths = _numbers(_CACHE_TOKENS, 40960)
  batches = _numbers(_BATCH, 1)
  if _TRACE.value is not None:
    trace = trace_lib.load(pathlib.Path(_TRACE.value))
    name = f"trace {pathlib.Path(_TRACE.value).absolute().parent.name}"
    if _TRANSFER.value == "none":
      return [hardware_rows.traced(model, trace, name, **options)]
    make = functools.partial(
      hardware_rows.transferred, model, trace, f"{name}, ratios"
    )
    lengths = lengths or [int(trace.counts["past_seen"].max())]
    makers = [make]
  else:
    lengths = lengths or list(paper.CACHE_TOKENS)
    names = (_POLICY.value or "resv").split("|")
    makers = [
      functools.partial(
        hardware_rows.published,
        model,
        retrieval.method(name.strip()),
        resident_tokens=_RESIDENT_TOKENS.value,
        engine=engine,
      )
      for name in names
    ]
  return [
    make(cache_tokens=length, batch=batch, **sized)
    for make in makers
    for batch in batches
    for length in lengths
  ]


def _say_assumptions(trace: trace_lib.StreamTrace, model) -> None:
  if _TRANSFER.value != "none":
    print(
      f"ratios of {_TRACE.value} are transferred to {model.name} by relative"
      " depth: another model might choose otherwise"
    )
  if trace.retrieves[trace_lib.STAGES.index("frame"), 0]:
    print(
      "the run chose without look-ahead: priced as if the same had been chosen"
      " one layer earlier"
    )
  if _TRANSFER.value == "none":
    print(
      f"counts are priced as those of {model.name}: a trace does not say which"
      " model ran"
    )
  if trace.counts["past_fetched"].any():
    return
  if _TRANSFER.value == "none":
    print("the run held everything on the device: nothing crosses the link")
  else:
    print(
      "the run held everything on the device: fetched tokens are those of the"
      " law fitted to V-Rex8"
    )


def _memory(found: platforms.Description) -> transfer.MemoryModel:
  if _MEMORY.value == "ideal":
    return transfer.IDEAL
  return memory_binding.validated(found.base or found.platform.name)


def _rows(found, model) -> list[dict[str, Any]]:
  kinds = {one.platform.engine is not None for one in found}
  points = {engine: _points(model, engine) for engine in sorted(kinds)}
  cases = [
    (one, point)
    for one in found
    for point in points[one.platform.engine is not None]
  ]
  return [
    hardware_rows.row(
      one.platform,
      point,
      sharpness=_SHARPNESS.value,
      elastic_sharpness=_SHARPNESS.value or smooth.DEFAULT_SHARPNESS,
      memory=_memory(one),
    )
    for one, point in tqdm.tqdm(cases, unit="row", disable=None, leave=False)
  ]


def _measure_designs() -> None:
  model = presets.preset(paper.MODEL)
  setting = pricing.Setting(model, retrieval.METHODS["resv"])
  work = pricing.published_work(
    setting, 40960, stage="frame", chunk_tokens=paper.FRAME_TOKENS
  )
  platform = platforms.named("vrex8").platform
  for name, sharpness in (("hard", None), ("smooth", smooth.DEFAULT_SHARPNESS)):
    rate = designs.points_per_s(
      platform,
      work,
      latency.Schedule(on_engine=True, contiguous=True),
      points=_DESIGN_POINTS.value,
      sharpness=sharpness,
    )
    print(
      f"{name} maxima: {rate:,.0f} design points a second (latency, energy,"
      f" area; {model.decoder.num_layers} layers; measured)"
    )


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  if _DESIGN_POINTS.value is not None:
    _measure_designs()
    return
  if _PAPER.value:
    print(hardware_paper.table(hardware_paper.compare()))
    return
  model = presets.preset(_MODEL.value)
  found = [platforms.named(name) for name in _PLATFORM.value]
  rows = _rows(found, model)
  if _TRACE.value is not None:
    _say_assumptions(trace_lib.load(pathlib.Path(_TRACE.value)), model)
  print("all figures are modelled\n")
  if _MEMORY.value == "validated":
    print(
      "memory models by size and queue; the constants of the platform files"
      " were fitted without them\n"
    )
  print(hardware_tables.table(rows))
  print()
  print(hardware_tables.breakdown_table(rows))
  chips = hardware_tables.chip_lines([one.platform for one in found])
  if chips:
    print(f"\n{chips}")
  print(f"\nframe latency, % by %, above {_SHOWN_ELASTICITY}")
  print(hardware_tables.elasticity_table(rows, least=_SHOWN_ELASTICITY))
  if _OUT.value is not None:
    command.write_study(
      _OUT.value,
      rows,
      seed=0,
      started=started,
      tables={"hardware.csv": hardware_rows.flat(rows)},
      others={"plot.png": functools.partial(hardware_plot.save_plot, rows)},
    )


if __name__ == "__main__":
  command.run(main)
