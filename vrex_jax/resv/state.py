"""What ReSV carries from chunk to chunk, and how it begins."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax.resv import choices as choices_lib
from vrex_jax.resv import clustering
from vrex_jax.typing import Float, Int

__all__ = ["State", "create"]

LEAST_CLUSTERS = 64
"""Room of a table on a short stream."""
SLOTS_PER_CLUSTER = 8
"""Slots for one cluster of room; the paper counts 32 tokens in a cluster."""
_TEXT = ("question", "answer")


class State(flax.struct.PyTreeNode):
  """Dynamic. One stream's clusters and thresholds.

  Attributes:
    table: the clusters, R tables a layer.
    wicsum_ratio: threshold of every stage, layer and head.
    hamming_threshold: distances below it are near.
    center_sum: sum of all keys; None without key centering.
    center_count: how many.
  """

  table: clustering.Table
  wicsum_ratio: Float  # f32 [STAGES, L, K]
  hamming_threshold: Int  # []
  center_sum: Float | None  # f32 [L, R, width]
  center_count: Int | None  # []


def create(
  chosen: choices_lib.Choices, spec: policy_lib.Spec, knobs: Any
) -> State:
  """A table without clusters, and the thresholds of the knobs.

  Args:
    chosen: everything that is not swept.
    spec: shapes of the stream.
    knobs: of `resv.resv`; an array of thresholds broadcasts to [STAGES, L, K].
  """
  decoder = spec.decoder
  layers, heads = decoder.num_layers, decoder.num_kv_heads
  num_tables = heads if chosen.table == "head" else 1
  width = heads // num_tables * decoder.head_dim
  capacity = chosen.table_capacity
  if capacity is None:
    capacity = max(LEAST_CLUSTERS, -(-spec.capacity // SLOTS_PER_CLUSTER))
  center_sum = center_count = None
  if chosen.key_centering == "mean":
    center_sum = jnp.zeros((layers, num_tables, width), jnp.float32)
    center_count = jnp.int32(0)
  return State(
    table=clustering.create(
      num_layers=layers,
      num_tables=num_tables,
      capacity=capacity,
      num_slots=spec.num_slots,
      width=width,
      bits=chosen.hash_bits,
    ),
    wicsum_ratio=_ratios(knobs, layers, heads),
    hamming_threshold=jnp.asarray(knobs["hamming_threshold"], jnp.int32),
    center_sum=center_sum,
    center_count=center_count,
  )


def _ratios(knobs: Any, layers: int, heads: int) -> Float:
  """Of every stage, layer and head: f32[STAGES, L, K]."""
  shape = (len(policy_lib.STAGES), layers, heads)
  ratios = jnp.broadcast_to(
    jnp.asarray(knobs["wicsum_ratio"], jnp.float32), shape
  )
  if knobs.get("text_ratio") is None:
    return ratios
  text = jnp.broadcast_to(jnp.asarray(knobs["text_ratio"], jnp.float32), shape)
  is_text = np.array([name in _TEXT for name in policy_lib.STAGES])
  return jnp.where(is_text[:, None, None], text, ratios)
