"""ReSV's `select`: which clusters the rows of a chunk ask for.

  query rows ─► scores of mean keys ─► WiCSum per row ─► reduce rows
  ─► members of the kept clusters, + sinks, + tokens in no cluster

Source: V-Rex (arXiv 2512.12284), Secs. IV.A and IV.C.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import order
from vrex_jax import policy as policy_lib
from vrex_jax.resv import blocks
from vrex_jax.resv import choices as choices_lib
from vrex_jax.resv import clustering
from vrex_jax.resv import state as state_lib
from vrex_jax.resv import wicsum
from vrex_jax.typing import Bitmap, Bool, Float, Int

__all__ = ["select"]


class _HeadRows(NamedTuple):
  """What the rows of every head asked for."""

  kept: Bool  # [K, C]
  buckets: Int  # [K, M]
  visited: Int  # [K, M]


def select(
  chosen: choices_lib.Choices,
  state: state_lib.State,
  view: policy_lib.View,
  layer: int,
  queries: policy_lib.Queries,
  stage: str,
) -> tuple[policy_lib.Selection, state_lib.State, policy_lib.Counts]:
  """`KVPolicy.select`, for the choices given first."""
  heads = view.num_kv_heads
  query, valid = _rows(chosen, queries, heads)
  # A traced layer: all layers share what JAX makes of one.
  rows = _choose(chosen, state, jnp.int32(layer), query, valid, stage)
  slots = _slots(state.table, layer, rows.kept)
  slots = slots | _sinks(chosen, view, layer)
  tables = state.table.num.shape[1]
  num = jnp.broadcast_to(state.table.num[layer], (heads,))
  counts = policy_lib.zero_counts((heads,))._replace(
    groups_live=jnp.where(jnp.arange(heads) < tables, num, 0),
    groups_scored=num * jnp.sum(valid, dtype=jnp.int32),
    buckets_visited=jnp.sum(rows.buckets, axis=1, dtype=jnp.int32),
    buckets_visited_max=jnp.max(rows.buckets, axis=1),
    scores_visited=jnp.sum(rows.visited, axis=1, dtype=jnp.int32),
    scores_visited_max=jnp.max(rows.visited, axis=1),
  )
  part = policy_lib.Part(slots=slots)
  return policy_lib.Selection(parts=(part,)), state, counts


def _rows(
  chosen: choices_lib.Choices, queries: policy_lib.Queries, heads: int
) -> tuple[Float, Bool]:
  """Query rows of every KV head, f32[K, M, H], and which count, b[M]."""
  query_heads, length, width = queries.rotated.shape
  group = query_heads // heads
  query = queries.rotated.astype(jnp.float32)
  query = query.reshape(heads, group * length, width)
  valid = jnp.tile(queries.valid, group)
  if chosen.rows != "pooled":
    return query, valid
  live = valid.astype(jnp.float32)[None, :, None]
  number = jnp.maximum(jnp.sum(valid), 1).astype(jnp.float32)
  pooled = jnp.sum(query * live, axis=1, keepdims=True) / number
  return pooled, jnp.any(valid)[None]


@functools.partial(jax.jit, static_argnames=("chosen", "stage"))
def _choose(
  chosen: choices_lib.Choices,
  state: state_lib.State,
  layer: Int,
  query: Float,
  valid: Bool,
  stage: str,
) -> _HeadRows:
  """Clusters kept by every head, one head after the other.

  A head's scores then stay in a CPU's cache while they are read again, and a
  head with few clusters does not wait for one with many.
  """
  table = state.table
  heads, rank, width = query.shape
  size = table.count.shape[-1]
  ratio = state.wicsum_ratio[policy_lib.STAGES.index(stage), layer]
  scale = width**-0.5 if chosen.scores == "exp" else 1.0
  votes = chosen.votes if chosen.rows == "vote" else 1

  def body(scores, head):
    own = head if table.num.shape[1] > 1 else 0
    filled = table.num[layer, own]
    scores = _scores(table, layer, head, query[head] * scale, scores)
    treated = scores
    if chosen.scores in ("shift_min", "exp"):
      # Behind this head's clusters lie an earlier head's scores.
      there = (jnp.arange(size) < filled)[None]
      treated = wicsum.treat(jnp.where(there, scores, -jnp.inf), chosen.scores)
    asked = wicsum.row_thresholds(
      treated,
      table.count[layer, own].astype(jnp.float32),
      filled,
      jnp.broadcast_to(ratio[head], (rank,)),
      valid,
      signed=chosen.scores == "raw",
      form=chosen.form,
      buckets=chosen.buckets,
    )
    kept = wicsum.kept_clusters(treated, asked, valid, filled, votes)
    return scores, _HeadRows(kept, asked.buckets, asked.visited)

  empty = order.after(query, jnp.full((rank, size), -jnp.inf, jnp.float32))
  return jax.lax.scan(body, empty, jnp.arange(heads, dtype=jnp.int32))[1]


def _scores(
  table: clustering.Table, layer: Int, head: Int, query: Float, out: Float
) -> Float:
  """Rows times mean keys, f32[M, C], -inf past the clusters in use.

  Args:
    table: the clusters.
    layer: l.
    head: KV head.
    query: f32[M, H].
    out: f32[M, C], written over block by block.
  """
  width = query.shape[1]
  shared = table.num.shape[1] == 1
  own = 0 if shared else head
  column = head * width if shared else 0
  filled = table.num[layer, own]

  def body(first, out):
    at = tuple(map(jnp.int32, (layer, own, first, column)))
    total = jax.lax.dynamic_slice(
      table.key_sum, at, (1, 1, table.block, width)
    )[0, 0]
    count = jax.lax.dynamic_slice(table.count, at[:3], (1, 1, table.block))
    dot = jnp.einsum("mh,ch->mc", query, total)
    score = dot / jnp.maximum(count[0], 1).astype(jnp.float32)
    live = first + jnp.arange(table.block) < filled
    score = jnp.where(live[None], score, -jnp.inf)
    return jax.lax.dynamic_update_slice_in_dim(out, score, first, axis=1)

  return blocks.fold(filled, table.block, body, out)


def _slots(table: clustering.Table, layer: int, kept: Bool) -> Bitmap:
  """Members of kept clusters and tokens in none: u32[K, S / 32]."""
  heads, size = kept.shape
  member = table.member[layer]  # [R, S]
  member = jnp.broadcast_to(member, (heads, member.shape[1]))
  # The entry behind the last cluster stands for "in no cluster".
  answer = jnp.pad(kept, ((0, 0), (0, 1)), constant_values=True)
  index = jnp.where(member < 0, size, member)
  return bitmap.pack(jnp.take_along_axis(answer, index, axis=1))


def _sinks(
  chosen: choices_lib.Choices, view: policy_lib.View, layer: int
) -> Bitmap:
  """Slots of the stream's first tokens: u32[1, S / 32]."""
  del layer
  first = view.slots.position < chosen.sink_tokens
  return bitmap.pack(first & view.slots.valid)[None]
