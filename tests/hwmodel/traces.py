"""A made-up trace with counts that can be checked by hand."""

import numpy as np

from vrex_jax import trace as trace_lib

LAYERS, BATCH, HEADS, GROUP = 4, 2, 2, 2
EVENTS = 3
TOKENS, CLUSTERS, SEEN, ATTENDED, FETCHED = 16, 20, 640, 160, 96
ROWS = TOKENS * GROUP


def trace(*, fetched=FETCHED, stages=("frame",), lookahead=True):
  """Every event, layer, stream and head did the same.

  4 layers of 2 KV heads, as `--preset tiny`, which has 2 query heads to each.
  """
  shape = (EVENTS * len(stages), LAYERS, BATCH, HEADS)
  counts = trace_lib.zero_counts(shape)._replace(
    keys_hashed=np.full(shape, TOKENS),
    code_comparisons=np.full(shape, TOKENS * CLUSTERS),
    groups_live=np.full(shape, CLUSTERS),
    groups_scored=np.full(shape, CLUSTERS * ROWS),
    buckets_visited=np.full(shape, 3 * ROWS),
    buckets_visited_max=np.full(shape, 6),
    chunk_tokens=np.full(shape, TOKENS),
    past_seen=np.full(shape, SEEN),
    past_held=np.full(shape, SEEN),
    past_attended=np.full(shape, ATTENDED),
    past_loaded=np.full(shape, ATTENDED),
    past_fetched=np.full(shape, fetched),
    fetch_runs=np.full(shape, fetched // 8),
  )
  kinds = [trace_lib.STAGES.index(stage) for stage in stages]
  events = trace_lib.Event(
    stage=np.repeat(kinds, EVENTS),
    frame=np.zeros((shape[0], BATCH)),
    counts=counts,
    overflow=np.zeros(shape[:3]),
  )
  retrieves = np.ones((len(trace_lib.STAGES), LAYERS), bool)
  retrieves[:, 0] = not lookahead
  return trace_lib.from_events(
    events,
    time_s=np.zeros(shape[0]),
    retrieves=retrieves,
    rows_per_head=1,
  )
