"""Operations and bytes of the events of a run, from its integer counts.

Source: the counts are those of `vrex_jax.trace.Counts`; docs/notation.md says
what each one counts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib

__all__ = ["from_trace"]


def from_trace(
  model: config_lib.ModelConfig,
  trace: trace_lib.StreamTrace,
  *,
  stage: str,
  kv_value_bytes: float = 2.0,
) -> workload.Work:
  """Counts of every event of one stage of a run: leaves f[X], f[X, L].

  Args:
    model: the video LLM that ran; its layers and heads must be the trace's.
    trace: the run.
    stage: "frame", "question" or "answer".
    kv_value_bytes: of KV_VALUE_BYTES.

  Returns:
    Work with a leading axis of events; price it with `jax.vmap`.

  Raises:
    InputError: the trace is of another model, or has no such event.
  """
  counts = _stage_counts(model, trace, stage)
  decoder = model.decoder
  width, group = decoder.head_dim, decoder.group_size
  summed = {name: value.sum(axis=(2, 3)) for name, value in counts.items()}
  tokens = counts["chunk_tokens"][..., 0].sum(axis=2)  # [X, L]
  batch = counts["chunk_tokens"].shape[2]
  head_bytes = 2.0 * width * kv_value_bytes
  # With one selection per KV head its G query heads attend to the same tokens.
  heads_a_row = group / trace.rows_per_head
  per_stream = counts["chunk_tokens"]
  attended = (per_stream * counts["past_attended"]).sum(axis=(2, 3))
  inside = (per_stream * (per_stream + 1.0) / 2.0).sum(axis=(2, 3)) * group
  live = counts["groups_live"]
  scored, rows = counts["groups_scored"], per_stream * group
  buckets_times = lambda buckets: (live * buckets).sum(axis=(2, 3))
  layers = workload.dense_layers(decoder, tokens, tokens).replace(
    predict_macs=width * (scored.sum(axis=(2, 3)) + summed["keys_scored"])
    + width * workload.HASH_BITS * summed["keys_hashed"],
    table_bytes=workload.WEIGHT_VALUE_BYTES * width * live.sum(axis=(2, 3)),
    attention_macs=2.0 * width * (heads_a_row * attended + inside),
    kv_read_bytes=head_bytes * summed["past_loaded"],
    kv_write_bytes=head_bytes * per_stream.sum(axis=(2, 3)),
    comparisons=summed["code_comparisons"],
    live_codes=live.sum(axis=(2, 3)) * (summed["keys_hashed"] > 0),
    live_tables=(live > 0).sum(axis=(2, 3)).astype(float),
    scores=summed["groups_scored"],
    passes=buckets_times(counts["buckets_visited"]),
    straggler_passes=buckets_times(counts["buckets_visited_max"] * rows),
    score_rows=(rows * (scored > 0)).sum(axis=(2, 3)),
    fetch_bytes=head_bytes * summed["past_fetched"],
    fetch_requests=summed["fetch_runs"],
  )
  whole = workload.with_ends(model, layers, stage=stage, batch=batch, axis=-1)
  events = len(tokens)
  spread = lambda leaf: jnp.broadcast_to(
    jnp.asarray(leaf, float), (events, *np.shape(leaf)[1:])
  )
  return jax.tree.map(spread, whole)


def _stage_counts(
  model: config_lib.ModelConfig, trace: trace_lib.StreamTrace, stage: str
) -> dict[str, np.ndarray]:
  """Counts of one stage as floats, f64[X, L, B, K]."""
  shape = trace.counts["past_seen"].shape
  wanted = (model.decoder.num_layers, model.decoder.num_kv_heads)
  if (shape[1], shape[3]) != wanted:
    raise InputError(
      f"the trace has {shape[1]} layers of {shape[3]} KV heads and"
      f" {model.name} has {wanted[0]} of {wanted[1]}; counts belong to the"
      " model that ran: add --transfer ratios, or name with --model the preset"
      " that ran, if one did"
    )
  events = trace.stage == trace_lib.STAGES.index(stage)
  if not events.any():
    raise InputError(
      f"the trace has no {stage} event; there is nothing to price: choose"
      " another stage, or a run that has one"
    )
  return {
    name: value[events].astype(np.float64)
    for name, value in trace.counts.items()
  }
