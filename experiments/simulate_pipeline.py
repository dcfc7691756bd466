r"""How far is the hardware model from an exact simulation of the same events?

  python experiments/simulate_pipeline.py
  python experiments/simulate_pipeline.py --workloads 50 --out runs/simulated

Draws platforms around V-Rex8 (every parameter times 0.5 to 1.5), cache lengths
from 1K to 40K and batches of 1 to 4, and simulates a frame of each event by
event in whole picoseconds (vrex_jax/hwmodel/simulator.py). A row is one
approximation of the model that is simulated instead, at the end all of them: by
how much the simulated frame is longer than the model's, mean, least and most.
In the first row nothing is simulated but the order of events, for which the
model has a closed form: there the gap is rounding. The engine is rarely waited
for, so its own busy time has a row of its own.

Everything is modelled; nothing is measured. Hardware: any CPU. About a minute.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import summary
from vrex_jax.hwmodel import designs
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import simulated_step
from vrex_jax.hwmodel import smooth
from vrex_jax.models import presets

_WORKLOADS = flags.DEFINE_integer(
  "workloads", 10, "Random workloads.", lower_bound=1, upper_bound=10**6
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of the draw.", lower_bound=0, upper_bound=command.MAX_SEED
)
_OUT = flags.DEFINE_string("out", None, "Folder for metrics.json.")

_CACHED = (1024, 40960)
_TILES = 16
_ENGINE = "tables and rows: busy DRE"
_DETAILS = {
  "order of events": simulated_step.PLAIN,
  f"stages in {_TILES} tiles": simulated_step.Detail(tiles=_TILES),
  "whole tables and rows": simulated_step.Detail(engine=True),
  "request by request": simulated_step.Detail(requests=True),
  "and written on arrival": simulated_step.Detail(requests=True, arrivals=True),
  "all of these": simulated_step.Detail(
    tiles=_TILES, engine=True, requests=True, arrivals=True
  ),
}
_WHOLE = ("cores", "rows", "width", "buckets", "depth", "units", "inputs")
_SCHEDULE = latency.Schedule(on_engine=True, contiguous=True)


@jax.jit
def _work(cached, batch):
  model = presets.preset(paper.MODEL)
  return pricing.published_work(
    pricing.Setting(model, retrieval.METHODS["resv"], batch=batch),
    cached,
    stage="frame",
    chunk_tokens=paper.FRAME_TOKENS,
  )


@jax.jit
def _estimates(platform, work):
  hard = latency.estimate(platform, work, _SCHEDULE)
  sharp = smooth.DEFAULT_SHARPNESS
  rounded = latency.estimate(platform, work, _SCHEDULE, sharpness=sharp)
  engine_s = hard.resources.engine_s
  return hard.latency_s, rounded.latency_s, engine_s


def _platforms() -> params.Platform:
  """Random platforms with whole numbers of units; leaves f64[workloads]."""
  centre = params.as_arrays(platforms.named("vrex8").platform, float)
  drawn = designs.around(centre, jax.random.key(_SEED.value), _WORKLOADS.value)

  def whole(path, leaf):
    counted = path[-1].name.rsplit("_", maxsplit=1)[-1] in _WHOLE
    return jnp.maximum(jnp.round(leaf), 1.0) if counted else leaf

  return jax.tree_util.tree_map_with_path(whole, drawn)


def _rows() -> list[dict[str, Any]]:
  random = np.random.default_rng(_SEED.value)
  drawn = _platforms()
  smooth_name = f"smooth maxima, p = {smooth.DEFAULT_SHARPNESS:g}"
  names = [*_DETAILS, _ENGINE, smooth_name]
  gaps: dict[str, list[float]] = {name: [] for name in names}
  for index in tqdm.trange(
    _WORKLOADS.value, unit="workload", disable=not sys.stderr.isatty()
  ):
    platform = jax.tree.map(lambda leaf, i=index: leaf[i], drawn)
    batch = float(random.integers(1, 5))
    cached = float(np.exp(random.uniform(*np.log(_CACHED))))
    work = _work(cached, batch)
    hard, rounded, engine = map(float, _estimates(platform, work))
    gaps[smooth_name].append(rounded / hard - 1)
    for name, detail in _DETAILS.items():
      line = simulated_step.simulate(
        platform, work, _SCHEDULE, detail, tokens=paper.FRAME_TOKENS
      )
      gaps[name].append(1e-12 * line.finish_ps / hard - 1)
      if detail == simulated_step.Detail(engine=True):
        gaps[_ENGINE].append(1e-12 * line.busy_ps["engine"] / engine - 1)
  return [{"simulated": name, "gap": values} for name, values in gaps.items()]


def _table(rows: Sequence[dict[str, Any]]) -> str:
  # A hundredth of a per cent is as fine as these gaps mean anything.
  percent = lambda value: f"{100 * value:+z.2f} %"
  lines = [
    [row["simulated"], *(percent(f(row["gap"])) for f in (np.mean, min, max))]
    for row in rows
  ]
  header = ["beside the model's hard maxima", "mean", "least", "most"]
  return summary.aligned(header, lines)


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  command.check_out(_OUT.value, ["config.toml", "metrics.json"])
  with jax.enable_x64(True):
    rows = _rows()
  print(_table(rows))
  print("\nall but the last row are simulated; the last is the smooth model")
  if _OUT.value is not None:
    command.write_study(_OUT.value, rows, seed=_SEED.value, started=started)


if __name__ == "__main__":
  command.run(main)
