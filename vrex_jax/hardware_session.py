"""What a run that has just ended would have cost on modelled platforms."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vrex_jax import hardware_rows
from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.models import config as config_lib

__all__ = ["price_runs"]


def price_runs(
  model: config_lib.ModelConfig,
  runs: Sequence[tuple[str, trace_lib.StreamTrace]],
  platforms: Sequence[params.Platform],
) -> tuple[list[dict[str, Any]], list[str]]:
  """Hardware rows of what ran: the model that ran, its own counts, bf16 KV.

  Args:
    model: the video LLM that ran.
    runs: policy and trace of each; one that has no frame is left out.
    platforms: to price it on.

  Returns:
    Rows (`hardware_rows.FIELDS`), and a sentence for each that was refused.
  """
  rows, refused = [], []
  frame = trace_lib.STAGES.index("frame")
  for policy, trace in runs:
    if not np.any(trace.stage == frame):
      continue
    point = hardware_rows.traced(model, trace, policy, kv_value_bytes=2.0)
    for platform in platforms:
      try:
        rows.append(hardware_rows.row(platform, point))
      except InputError as error:
        refused.append(f"{platform.name} {policy}: {error}")
  return rows, refused
