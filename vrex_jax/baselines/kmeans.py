"""Clusters of a growing stream: k-means on one block of slots after another.

  slots    |-- block 0 --|-- block 1 --|-- not clustered yet ··· cursor
  label    0 … 3          4 … 7         -1

A block is clustered once, when the cursor has passed it, and never again.
Slots of sinks and padding stay unlabelled. Labels count through the stream; a
cluster may be empty.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.typing import Bool, Float, Int

__all__ = ["Clusters", "Rule", "create", "label_new_blocks", "lloyd"]


class Rule(NamedTuple):
  """Static. How a block is clustered.

  Attributes:
    block: slots clustered together.
    clusters: of one block.
    iterations: of k-means.
    sink_tokens: first tokens of the stream that are in no cluster.
    centered: subtract the block's mean key before comparing directions.
    seed: of the first centres.
  """

  block: int
  clusters: int
  iterations: int
  sink_tokens: int
  centered: bool
  seed: int


class Clusters(flax.struct.PyTreeNode):
  """Dynamic. All clusters of the stream.

  Attributes:
    blocks: clustered so far.
    label: cluster of every slot; -1 in none.
    rank: tokens of the slot's cluster in lower slots.
    center: mean key of the members.
    value: sum of the members' values; None unless asked for.
    size: members.
  """

  blocks: Int  # []
  label: Int  # [L, K, S]
  rank: Int  # [L, K, S]
  center: Float  # f32 [L, K, C, H]
  value: Float | None  # f32 [L, K, C, H]
  size: Int  # [L, K, C]


def create(spec: policy_lib.Spec, rule: Rule, values: bool) -> Clusters:
  """No clusters, and room for those of every whole block."""
  decoder = spec.decoder
  heads = decoder.num_layers, decoder.num_kv_heads
  room = max(1, spec.num_slots // rule.block) * rule.clusters
  centers = jnp.zeros((*heads, room, decoder.head_dim), jnp.float32)
  return Clusters(
    blocks=jnp.int32(0),
    label=jnp.full((*heads, spec.num_slots), -1, jnp.int32),
    rank=jnp.zeros((*heads, spec.num_slots), jnp.int32),
    center=centers,
    value=jnp.zeros_like(centers) if values else None,
    size=jnp.zeros((*heads, room), jnp.int32),
  )


@functools.partial(jax.jit, static_argnames="rule")
def label_new_blocks(
  clusters: Clusters, view: policy_lib.View, rule: Rule
) -> Clusters:
  """Clusters the blocks that the cursor has passed since the last call.

  Args:
    clusters: before.
    view: at `write`, the chunk in the cache.
    rule: how.

  Returns:
    Clusters with them; the same while no block is full.
  """
  layers, heads, slots, width = view.key.shape
  full = jnp.minimum(view.cursor // rule.block, slots // rule.block)
  joins = bitmap.unpack(view.live) & (view.slots.position >= rule.sink_tokens)

  def body(carry):
    first = carry.blocks * rule.block
    piece = lambda table: jax.lax.dynamic_slice_in_dim(
      table, first, rule.block, axis=2
    ).reshape(layers * heads, rule.block, width)
    member = jax.lax.dynamic_slice_in_dim(joins, first, rule.block)
    start = _starting_slots(rule, carry.blocks, member)

    def one_head(rows):
      key, value = rows
      label, center, size = lloyd(key.astype(jnp.float32), member, start, rule)
      total = None
      if value is not None:
        where = jnp.where(label < 0, rule.clusters, label)
        total = jax.ops.segment_sum(
          value.astype(jnp.float32), where, rule.clusters + 1
        )[:-1]
      return label, _ranks(label), center, total, size

    values = None if carry.value is None else piece(view.value)
    label, rank, center, total, size = jax.lax.map(
      one_head, (piece(view.key), values)
    )
    at = carry.blocks * rule.clusters
    named = jnp.where(label < 0, -1, label + at)
    put = lambda table, new, where: jax.lax.dynamic_update_slice_in_dim(
      table, new.reshape(layers, heads, *new.shape[1:]), where, axis=2
    )
    return Clusters(
      blocks=carry.blocks + 1,
      label=put(carry.label, named, first),
      rank=put(carry.rank, rank, first),
      center=put(carry.center, center, at),
      value=None if total is None else put(carry.value, total, at),
      size=put(carry.size, size, at),
    )

  return jax.lax.while_loop(lambda carry: carry.blocks < full, body, clusters)


def _ranks(label: Int) -> Int:
  """How many earlier slots have the same label: i32[S]."""
  order = jnp.argsort(label, stable=True)
  ordered = label[order]
  place = jnp.arange(len(label)) - jnp.searchsorted(ordered, ordered)
  return jnp.zeros_like(label).at[order].set(place.astype(label.dtype))


def _starting_slots(rule: Rule, block: Int, member: Bool) -> Int:
  """Distinct random members, the same for all heads: i32[clusters]."""
  key = jax.random.fold_in(jax.random.key(rule.seed), block)
  lot = jax.random.uniform(key, member.shape)
  return jnp.argsort(jnp.where(member, -lot, 1.0))[: rule.clusters]


def lloyd(
  key: Float, member: Bool, start: Int, rule: Rule
) -> tuple[Int, Float, Int]:
  """Cosine k-means of one head.

    label_i = argmax_c k_i · μ_c / |μ_c|           (k_i centred if asked)
    μ_c     = mean of its keys; an empty cluster keeps its centre

  a fixed number of times, and a last assignment.

  Args:
    key: f32[S, H].
    member: b[S], which keys take part.
    start: i32[clusters], keys that are the first centres.
    rule: how.

  Returns:
    i32[S] labels, -1 for non-members; f32[clusters, H] mean keys (not
    centred); i32[clusters] sizes.
  """
  share = member.astype(jnp.float32)[:, None]
  number = jnp.maximum(jnp.sum(share), 1.0)
  offset = jnp.zeros((1, key.shape[1]), jnp.float32)
  if rule.centered:
    offset = jnp.sum(key * share, axis=0, keepdims=True) / number
  moved = key - offset

  def assign(center):
    size = jnp.sqrt(jnp.sum(center * center, axis=-1, keepdims=True))
    score = moved @ (center / jnp.maximum(size, 1e-30)).T
    hot = jax.nn.one_hot(jnp.argmax(score, axis=-1), rule.clusters)
    return hot * share

  def body(_, center):
    hot = assign(center)
    count = jnp.sum(hot, axis=0)[:, None]
    return jnp.where(count > 0, hot.T @ moved / jnp.maximum(count, 1.0), center)

  center = jax.lax.fori_loop(0, rule.iterations, body, moved[start])
  hot = assign(center)
  size = jnp.sum(hot, axis=0)
  label = jnp.where(member, jnp.argmax(hot, axis=-1), -1)
  mean = hot.T @ key / jnp.maximum(size, 1.0)[:, None]
  mean = jnp.where(size[:, None] > 0, mean, center + offset)
  return label.astype(jnp.int32), mean, size.astype(jnp.int32)
