r"""Which constants of the hardware model are fits, and what they are worth.

  python experiments/fit_vrex8.py
  python experiments/fit_vrex8.py --out runs/fit

Prints every constant in the platform files that stands for a printed result of
the V-Rex paper, beside the file's value; then laws of fetched tokens against
cached tokens, each with two constants, fitted together with the seconds of
vision to five frame latencies of V-Rex8 at batch 1: their errors, and the error
at each length when that length is left out.

The law in use (vrex_jax/hwmodel/residency.py) and the platform files hold what
this prints; a test compares them. Nothing is written to the package.

Hardware: any CPU. Seconds.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from vrex_jax import command
from vrex_jax import summary
from vrex_jax.hwmodel import fitting
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import platforms
from vrex_jax.models import presets

_OUT = flags.DEFINE_string("out", None, "Folder for metrics.json.")


def _law_row(name: str, known: fitting.Table) -> dict[str, Any]:
  fitted = fitting.fit(name, known)
  errors = fitting.predict(fitted, known) / np.array(paper.FRAME_LATENCY_S) - 1
  return {
    "law": name,
    "a": fitted.a,
    "b": fitted.b,
    "vision_s": fitted.vision_s,
    "fetched_tokens": fitted.fetched(paper.CACHE_TOKENS).tolist(),
    "error": errors.tolist(),
    "error_left_out": fitting.leave_one_out(name, known).tolist(),
  }


def _percents(values: Sequence[float]) -> str:
  return " ".join(f"{100 * value:+z6.1f}" for value in values)


def _print_laws(rows: Sequence[dict[str, Any]]) -> None:
  lengths = "/".join(f"{tokens // 1024}K" for tokens in paper.CACHE_TOKENS)
  header = ["law", "a", "b", "vision ms", f"error, % at {lengths}",
            "the same, left out", "fetched tokens"]  # fmt: skip
  lines = [
    [
      row["law"] + (" *" if row["law"] == fitting.CHOSEN else ""),
      f"{row['a']:.3f}",
      f"{row['b']:.3f}",
      f"{1e3 * row['vision_s']:.1f}",
      _percents(row["error"]),
      _percents(row["error_left_out"]),
      " ".join(f"{tokens:.0f}" for tokens in row["fetched_tokens"]),
    ]
    for row in rows
  ]
  print(summary.aligned(header, lines))


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  command.check_out(_OUT.value, ["config.toml", "metrics.json"])
  model = presets.preset(paper.MODEL)
  vrex8 = platforms.named("vrex8").platform
  found = fitting.constants(vrex8, platforms.named("agx_orin").platform, model)
  known = fitting.table(vrex8, model)
  rows = [_law_row(name, known) for name in fitting.LAWS]
  chosen = next(row for row in rows if row["law"] == fitting.CHOSEN)
  found |= fitting.law_constants(chosen, vrex8, model)
  held = fitting.held_constants()
  lines = [
    [name, f"{value:.5g}", f"{held[name]:.5g}"] for name, value in found.items()
  ]
  print(summary.aligned(["constant", "found", "in use"], lines))
  print()
  _print_laws(rows)
  print(f"* in use: {fitting.VERDICT}")
  if _OUT.value is not None:
    command.write_study(
      _OUT.value,
      rows,
      seed=0,
      started=started,
      named={"constants": found, "in_use": held},
    )


if __name__ == "__main__":
  command.run(main)
