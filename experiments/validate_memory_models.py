r"""How far are the memory models from simulators, also on rows left out?

  python experiments/validate_memory_models.py --fresh 150 --out runs/memory

Fits the constants of the DRAM, SSD and SRAM models on simulator rows and
prints, for each model and for what it is compared with: rows, numbers learnt,
and the mean and largest relative error in per cent, of the sample and with all
rows of one chunk size, queue depth, device, address map or memory size left out
in turn. Then the constants; those in the package are these. The systolic closed
forms have none. Rows that are not used are named with the reason.

With --fresh N the DRAM model, as the package holds it, is also judged on N rows
that no one looked at: devices drawn at random, scheduled burst by burst
(vrex_jax/hwmodel/dram_scheduler.py); how close that scheduler is to Ramulator
2.1 is printed beside.

Rows come with the package; --data DIR takes others in the same columns. --out
also gets a plot of predicted against simulated.

Hardware: any JAX device; deterministic. Minutes: under one on two CPU cores.
Expect: DRAM 3.5 % in sample, 3.5 to 4.1 % left out, 5.3 % fresh; SSD 3.2 % and
3.4 to 4.0 %; SRAM 1 to 4 % and 3 to 9 %; systolic 0.
"""

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import plotting
from vrex_jax import summary
from vrex_jax.hwmodel import dram
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_fit
from vrex_jax.hwmodel import memory_fresh
from vrex_jax.hwmodel import memory_plots
from vrex_jax.hwmodel import memory_rows
from vrex_jax.hwmodel import sram

_DATA = flags.DEFINE_string(
  "data", None, "Folder of simulator tables; those of the package without it."
)
_FRESH = flags.DEFINE_integer(
  "fresh", 0, "Rows of DRAM devices drawn at random, scheduled here.", 0, 10000
)
_SEED = flags.DEFINE_integer("seed", 0, "Of --fresh.", 0, command.MAX_SEED)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)
_FILES = ("config.toml", "metrics.json", "plot.png")


def _check_flags() -> None:
  command.check_out(_OUT.value, _FILES)
  if _OUT.value is not None:
    plotting.check_installed()


def _cases(folder: pathlib.Path) -> list[memory_fit.Case]:
  dram_rows = memory_rows.read_dram(folder)
  sram_rows = memory_rows.read_sram(folder)
  link_rows = memory_rows.read_link(folder)
  systolic_rows = memory_rows.read_systolic(folder)
  cases = [
    memory_fit.dram_case(dram_rows),
    memory_fit.dram_case(dram_rows, dram.AddressMap.COLUMN_LOW),
    memory_fit.link_case(link_rows),
    *(memory_fit.sram_case(sram_rows, name) for name in sram.QUANTITIES),
    memory_fit.systolic_case(systolic_rows),
  ]
  if _FRESH.value:
    cases.append(memory_fresh.scheduler_case(dram_rows))
    cases.append(memory_fresh.fresh_case(_FRESH.value, seed=_SEED.value))
  return cases


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
  header = [
    "",
    "rows",
    "learnt",
    "left out",
    "mean %",
    "max %",
    "worst group %",
  ]
  lines = []
  for row in rows:
    title = f"{row['model']}: {row['candidate']}"
    counts = [str(row["rows"]), str(row["learnt"])]
    lines.append([title, *counts, "nothing", *_errors(row["in_sample"]), "-"])
    for group, errors in row["left_out"].items():
      worst = max(errors["folds"].values())
      lines.append(["", "", "", group, *_errors(errors), f"{100 * worst:.1f}"])
  return summary.aligned(header, lines)


def _errors(errors: Mapping[str, float]) -> list[str]:
  return [f"{100 * errors['mean']:.1f}", f"{100 * errors['max']:.1f}"]


def _constants(rows: Sequence[Mapping[str, Any]]) -> str:
  lines = [
    f"{row['model']}: {row['candidate']}: {name} = {value:g}"
    for row in rows
    for name, value in row["constants"].items()
  ]
  unused = [f"{rows}: {why}" for rows, why in memory_rows.UNUSABLE.items()]
  return "\n".join(["constants", *lines, "", "rows not used", *unused])


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  folder = memory_devices.DATA
  if _DATA.value is not None:
    folder = pathlib.Path(_DATA.value)
  entries = [
    (case, candidate)
    for case in _cases(folder)
    for candidate in case.candidates
  ]
  rows = [
    memory_fit.validate(case, candidate)
    for case, candidate in tqdm.tqdm(entries, unit="model", disable=None)
  ]
  print(_table(rows))
  print()
  print(_constants(rows))
  if _OUT.value is not None:
    command.write_study(
      _OUT.value,
      rows,
      seed=_SEED.value,
      started=started,
      others={"plot.png": functools.partial(memory_plots.save, rows)},
    )


if __name__ == "__main__":
  command.run(main)
