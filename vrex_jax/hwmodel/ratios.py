"""A run in quotients, which another model can be priced with.

How much a policy attends to, fetches and compares, by past token and layer.
Ratios of a small model say something of a large one only if that would choose
alike; whoever transfers them says so (`--transfer ratios`).
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import retrieval
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = ["Ratios", "by_depth", "from_ratios", "ratios_of"]


class Ratios(flax.struct.PyTreeNode):
  """Dynamic. A run in quotients, by layer: what carries over to another model.

  Attributes:
    attended: past tokens attended, of those seen.
    fetched: fetched, of those attended.
    run_tokens: fetched, by run.
    groups: clusters (frames, pages) in a table, by past token.
    hashes: 1 where keys are hashed.
    buckets: visited by a row, mean.
    worst_buckets: by the slowest row.
  """

  attended: Float | np.ndarray  # [L]
  fetched: Float | np.ndarray  # [L]
  run_tokens: Float | np.ndarray  # [L]
  groups: Float | np.ndarray  # [L]
  hashes: Float | np.ndarray  # [L]
  buckets: Float | np.ndarray  # [L]
  worst_buckets: Float | np.ndarray  # [L]


def ratios_of(trace: trace_lib.StreamTrace, stage: str) -> Ratios:
  """Quotients of the totals of one stage of a run.

  Raises:
    InputError: the stage has no event with a past.
  """
  events = trace.stage == trace_lib.STAGES.index(stage)
  total = {
    name: value[events].astype(np.float64).sum(axis=(0, 2, 3))
    for name, value in trace.counts.items()
  }
  seen = total["past_seen"]
  if not seen.all():
    raise InputError(
      f"the trace has no {stage} event with a past; its ratios are unknown:"
      " choose another stage, or a longer run"
    )
  over = lambda a, b: np.where(b > 0, a / np.where(b > 0, b, 1.0), 0.0)
  rows = over(total["groups_scored"], total["groups_live"])
  # Sums over rows were taken event by event; so are the rows here.
  heads = np.prod(trace.counts["past_seen"].shape[2:]) * events.sum()
  worst = total["buckets_visited_max"] / heads
  return Ratios(
    attended=total["past_attended"] / (trace.rows_per_head * seen),
    fetched=over(total["past_fetched"], total["past_loaded"]),
    run_tokens=np.maximum(over(total["past_fetched"], total["fetch_runs"]), 1),
    groups=total["groups_live"] / seen,
    hashes=(total["keys_hashed"] > 0).astype(np.float64),
    buckets=over(total["buckets_visited"] / heads, rows),
    worst_buckets=worst,
  )


def by_depth(layers: int, own_layers: int) -> np.ndarray:
  """Weights of linear interpolation by relative depth, f32[layers, own].

  Example:
    >>> by_depth(3, 2).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
  """
  depth = np.linspace(0.0, 1.0, layers)
  own = np.linspace(0.0, 1.0, own_layers)
  columns = [np.interp(depth, own, one) for one in np.eye(own_layers)]
  return np.stack(columns, axis=1).astype(np.float32)


def from_ratios(
  ratios: Ratios,
  decoder: config_lib.DecoderConfig,
  cached_tokens: Float | float,
  *,
  chunk_tokens: Float | float,
  law: Callable[[Float], Float] | None = None,
) -> retrieval.Retrieval:
  """A run's quotients on another model, by relative depth.

  Layer l of L takes them at l / (L - 1) of the depth of the run's model, with
  linear interpolation. Layer 0 stays layer 0.

  Args:
    ratios: of the run.
    decoder: of the model to price.
    cached_tokens: S.
    chunk_tokens: T.
    law: instead of the run's own residency, when it held everything.

  Returns:
    Retrieval.
  """
  weights = by_depth(decoder.num_layers, len(ratios.attended))
  moved = jax.tree.map(lambda leaf: weights @ jnp.asarray(leaf, float), ratios)
  rows = jnp.asarray(chunk_tokens * decoder.num_heads, float)
  attended = moved.attended * cached_tokens
  fetched = moved.fetched * attended
  if law is not None:
    fetched = jnp.minimum(law(jnp.asarray(cached_tokens, float)), attended)
  scored = jnp.where(moved.groups > 0, 1.0, 0.0)
  return retrieval.Retrieval(
    attended_tokens=attended,
    fetched_tokens=fetched,
    run_tokens=moved.run_tokens
    if law is None
    else jnp.full_like(attended, retrieval.TOKENS_PER_CLUSTER),
    candidates=moved.groups * cached_tokens,
    score_rows=rows * scored,
    hashes=moved.hashes,
    reads_table=scored,
    buckets=moved.buckets,
    worst_buckets=moved.worst_buckets,
  )
