"""ReSV (V-Rex, arXiv 2512.12284, HPCA 2026) as a KV-cache policy.

  write   keys of a chunk ─► hash bits ─► join or open clusters
  select  query rows ─► scores of mean keys ─► WiCSum per row ─► reduce rows
          ─► members of the kept clusters, + sinks, + tokens in no cluster

per layer and KV head, for frames, questions and answers alike. Training-free;
original keys and values stay as they are. Nothing is evicted: a cluster left
out now can be chosen later.

The chunk is clustered after its last layer, so a token is attended by its own
chunk and first scored by the next one.
"""

import dataclasses
import functools
import inspect
import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import order
from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError
from vrex_jax.resv import blocks
from vrex_jax.resv import choices as choices_lib
from vrex_jax.resv import clustering
from vrex_jax.resv import hashing
from vrex_jax.resv import wicsum
from vrex_jax.typing import Bitmap, Bool, Float, Int

__all__ = ["State", "resv"]

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


def resv(
  *,
  wicsum_ratio: float | Float | np.ndarray = 0.3,
  hamming_threshold: int = 7,
  text_ratio: float | Float | np.ndarray | None = None,
  hash_bits: int = 32,
  hash_keys: str = "rotated",
  key_centering: str = "none",
  table: str = "head",
  code: str = "first",
  min_join_cosine: float | None = None,
  rows: str = "union",
  votes: int = 2,
  scores: str = "clamped",
  form: str = "exact",
  buckets: int = wicsum.BUCKETS,
  sink_tokens: int = 4,
  stages: tuple[str, ...] = ("frame", "question", "answer"),
  table_capacity: int | None = None,
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """Hash-bit key clustering and WiCSum thresholding.

  Args:
    wicsum_ratio: share of a row's weighted score sum that its clusters must
      pass (paper: 0.3); 0 keeps the best cluster, 1 everything. A knob, which
      may also be an array that broadcasts to [STAGES, L, K].
    hamming_threshold: keys whose codes differ in fewer bits are near (paper:
      7). A knob.
    text_ratio: `wicsum_ratio` of questions and answers, where it is not that of
      frames (paper: one threshold, and one retrieval ratio each, Table II). A
      knob; None for the same.
    hash_bits: this and all that follow: see `choices.Choices`.
    hash_keys: see there.
    key_centering: see there.
    table: see there.
    code: see there.
    min_join_cosine: see there.
    rows: see there.
    votes: see there.
    scores: see there.
    form: see there.
    buckets: see there.
    sink_tokens: see there.
    stages: see there.
    table_capacity: see there.
    seed: see there.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> resv(wicsum_ratio=0.2, rows="pooled").name
    'resv(wicsum_ratio=0.2, hamming_threshold=7, rows=pooled)'
    >>> resv(text_ratio=0.02).name
    'resv(wicsum_ratio=0.3, hamming_threshold=7, text_ratio=0.02)'

  Source: Secs. IV.B-C, settings of Sec. VI.E.
  """
  chosen = choices_lib.Choices(
    hash_bits=hash_bits,
    hash_keys=hash_keys,
    key_centering=key_centering,
    table=table,
    code=code,
    min_join_cosine=min_join_cosine,
    rows=rows,
    votes=votes,
    scores=scores,
    form=form,
    buckets=buckets,
    sink_tokens=sink_tokens,
    stages=stages,
    table_capacity=table_capacity,
    seed=seed,
  )
  _check_ratio("wicsum_ratio", wicsum_ratio, 0.3)
  if text_ratio is not None:
    _check_ratio("text_ratio", text_ratio, 0.02)
  _check_threshold(hamming_threshold, chosen.hash_bits)
  knobs = {
    "wicsum_ratio": wicsum_ratio,
    "hamming_threshold": hamming_threshold,
    "text_ratio": text_ratio,
  }
  return policy_lib.KVPolicy(
    name=_name(knobs, chosen),
    needs=policy_lib.Needs(stages=chosen.stages),
    knobs=knobs,
    init=lambda spec, params, knobs, sample: _init(chosen, spec, knobs),
    select=lambda *arguments: _select(chosen, *arguments),
    write=lambda *arguments: _write(chosen, *arguments),
    groups=_groups,
  )


def _check_ratio(name: str, ratio: Any, usual: float) -> None:
  if not _is_ratio(ratio):
    raise InputError(
      f"resv: {name} is {ratio!r}; it must be a number from 0 (the best"
      f" cluster) to 1 (everything, as above it): try {name}={usual}"
    )


def _check_threshold(threshold: Any, bits: int) -> None:
  whole = isinstance(threshold, (int, np.integer))
  if not whole or isinstance(threshold, bool) or not 0 <= threshold <= bits + 1:
    raise InputError(
      f"resv: hamming_threshold is {threshold!r}; it must be a whole number"
      f" from 0 (every key its own cluster) to {bits + 1} (one cluster), as"
      f" codes of {bits} bits differ in at most {bits}: try hamming_threshold=7"
    )


def _is_ratio(value: Any) -> bool:
  """Finite numbers from 0 on, one or an array of them."""
  if isinstance(value, (bool, str)):
    return False
  try:
    values = np.asarray(value, np.float64)
  except (TypeError, ValueError):
    return False
  return bool(np.all(values >= 0.0) and np.all(values < math.inf))


def _name(knobs: dict[str, Any], chosen: choices_lib.Choices) -> str:
  """Knobs, and every choice that is not the default."""
  defaults = inspect.signature(resv).parameters
  given: dict[str, Any] = {
    name: value if np.ndim(value) == 0 else np.asarray(value).tolist()
    for name, value in knobs.items()
    if value is not None
  }
  for name, value in dataclasses.asdict(chosen).items():
    if value != defaults[name].default:
      given[name] = value
  return f"resv({', '.join(f'{key}={value}' for key, value in given.items())})"


def _init(
  chosen: choices_lib.Choices, spec: policy_lib.Spec, knobs: Any
) -> State:
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


# write


def _per_table(keys: Float, num_tables: int) -> Float:
  """f[L, K, T, H] -> f[L, R, T, width]: heads side by side in one table."""
  layers, heads, length, width = keys.shape
  if num_tables == heads:
    return keys
  return keys.swapaxes(1, 2).reshape(layers, 1, length, heads * width)


def _write(
  chosen: choices_lib.Choices,
  state: State,
  view: policy_lib.View,
  chunk: policy_lib.Chunk,
  stage: str,
) -> tuple[State, None, policy_lib.Counts]:
  del view, stage
  layers, heads = chunk.k_rotated.shape[:2]
  num_tables, _, width = state.table.key_sum.shape[1:]
  keys = _per_table(chunk.k_rotated, num_tables)
  hashed = keys
  if chosen.hash_keys == "raw":
    hashed = _per_table(chunk.k_raw, num_tables)
  hashed = hashed.astype(jnp.float32)
  center = None
  if state.center_sum is not None and state.center_count is not None:
    live = chunk.valid[None, None, :, None]
    total = state.center_sum + jnp.sum(jnp.where(live, hashed, 0.0), axis=2)
    number = state.center_count + jnp.sum(chunk.valid, dtype=jnp.int32)
    state = state.replace(center_sum=total, center_count=number)
    center = total / jnp.maximum(number, 1).astype(jnp.float32)
    hashed = hashed - center[:, :, None]
  planes = hashing.hyperplanes(chosen.seed, width, chosen.hash_bits)
  tokens = clustering.Tokens(
    code=hashing.hash_codes(hashed, planes),
    key=keys,
    valid=chunk.valid,
    start=chunk.start,
  )
  arguments = (
    state.table,
    tokens,
    state.hamming_threshold,
    chosen.min_join_cosine,
  )
  if chosen.code == "following":
    table, done = clustering.insert_tokens(*arguments, planes, center)
  else:
    table, done = clustering.insert_chunk(*arguments)

  number = jnp.sum(chunk.valid, dtype=jnp.int32)
  # A table that all heads share did its work once: on the first head's account.
  own = (jnp.arange(heads) < num_tables)[None]
  wide = lambda value: jnp.where(
    own, jnp.broadcast_to(value, (layers, heads)), 0
  )
  bit = jnp.where(done.full, int(policy_lib.Overflow.TABLE_FULL), 0)
  counts = policy_lib.zero_counts((layers, heads))._replace(
    keys_hashed=wide(number),
    code_comparisons=wide(done.comparisons),
    overflow=wide(bit).astype(jnp.int32),
  )
  return state.replace(table=table), None, counts


# select


class _HeadRows(NamedTuple):
  """What the rows of every head asked for."""

  kept: Bool  # [K, C]
  buckets: Int  # [K, M]
  visited: Int  # [K, M]


def _select(
  chosen: choices_lib.Choices,
  state: State,
  view: policy_lib.View,
  layer: int,
  queries: policy_lib.Queries,
  stage: str,
) -> tuple[policy_lib.Selection, State, policy_lib.Counts]:
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
  state: State,
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


def _groups(state: State, layer: int) -> Int:
  """Cluster of every slot, the paper's unit of placement: i32[K or 1, S]."""
  return state.table.member[layer]
