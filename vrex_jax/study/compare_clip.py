"""A policy on a clip: fidelity to `full`, what was fetched, first token.

The clip is streamed twice: once beside `full`, with its answers
(`evaluation.following`), and once as a user would, for the times.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import trace as trace_lib
from vrex_jax.evaluation import fidelity_report
from vrex_jax.evaluation import following
from vrex_jax.models import checkpoint as checkpoint_lib

__all__ = ["FIELDS", "fetched", "row"]

_OF_FIDELITY = (
  "policy",
  "frames",
  "questions",
  "kl",
  "top1_agreement",
  "attention_error_by_layer",
  "attention_error_alone_by_layer",
  "retrieval_ratio",
  "retrieval_ratio_by_layer",
  "kv_bytes",
  "overflow",
)
FIELDS = (
  *_OF_FIDELITY,
  "resident_bytes",
  "fetched_bytes_per_frame",
  "exposed_bytes_per_frame",
  "run_tokens",
  "ttft_ms",
  "ms_per_frame",
)
"""Fields of a row, in order; see docs/notation.md."""


def row(
  model: checkpoint_lib.Checkpoint,
  policy: policy_lib.KVPolicy,
  plan: session_plan.Plan,
  followed: following.Followed,
  stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
  """The row of a policy; streams the clip once more, for its times.

  Args:
    model: configuration, weights, tokenizer, template.
    policy: the policy.
    plan: of the clip, for it.
    followed: of `following`.
    stopped: has the user asked to end?

  Returns:
    Fields of `FIELDS`.

  Raises:
    StoppedError: the user has.
  """
  seen = fidelity_report.row(policy.name, followed)
  quiet = session.Progress(
    note=lambda text: None,
    begin=lambda: None,
    frames=lambda frames: None,
    answer=lambda question, answer, tokens: None,
  )
  timed = session.stream_policy(model, policy, plan, quiet, stopped).row
  head_bytes = 2 * plan.config.decoder.head_dim
  head_bytes *= np.dtype(plan.config.cache_dtype).itemsize
  window = plan.options.resident_tokens
  if policy.needs.resident is not None:
    window = policy.needs.resident
  values = {
    **{name: seen[name] for name in _OF_FIDELITY},
    **fetched(followed.trace, head_bytes, window),
    "ttft_ms": timed["ttft_ms"],
    "ms_per_frame": timed["ms_per_frame"]["p50"],
  }
  return {name: values[name] for name in FIELDS}


def fetched(
  trace: trace_lib.StreamTrace, head_bytes: int, window: int | None
) -> Mapping[str, float | None]:
  """What frames needed from outside a window on the device.

  Args:
    trace: of a stream with that window.
    head_bytes: key and value of a token in one layer and KV head.
    window: last tokens on the device; None for all.

  Returns:
    resident_bytes: on the device after the last frame, of one stream;
    fetched_bytes_per_frame: loaded from outside, mean; exposed_…: of these, not
    asked for a step before; run_tokens: mean length of a fetched run in time
    order, in tokens; None where nothing was fetched.
  """
  frames = np.flatnonzero(trace.stage == trace_lib.STAGES.index("frame"))
  streams = trace.frame.shape[1]
  total = lambda name: int(trace.counts[name][frames].sum(dtype=np.int64))
  each = len(frames) * streams
  last = {
    name: trace.counts[name][frames[-1]].astype(np.int64)
    for name in ("past_held", "chunk_tokens")
  }
  held = last["past_held"] + last["chunk_tokens"]
  here = held if window is None else np.minimum(held, window)
  runs = total("fetch_runs")
  return {
    "resident_bytes": int(here.sum()) * head_bytes / streams,
    "fetched_bytes_per_frame": total("past_fetched") * head_bytes / each,
    "exposed_bytes_per_frame": total("past_exposed") * head_bytes / each,
    "run_tokens": total("past_fetched") / runs if runs else None,
  }
