"""Operations and bytes of one event, by stage of the step and by layer.

Two ways to the same value, `Work`:

  `from_retrieval`          cache length, batch and what a method does there
                            (`retrieval.Retrieval`), for any decoder
  `traced_work.from_trace`  the integer counts of a run, event by event

  field of a layer             when in the layer            memory level
  qkv_macs, qkv_weight_bytes   before everything            DRAM
  predict_macs, table_bytes    scores of clusters, on LXE   DRAM
  comparisons, scores, passes  HCU, WTU                     on chip
  fetch_bytes, fetch_requests  for the next layer           link, then DRAM
  attention_macs, kv_…_bytes   attention                    DRAM
  feed_macs, feed_weight_…     output projection, FFN       DRAM

A work is additive: counts of two events add, and a batch multiplies all but
weights, which are read once. One MAC is two floating-point operations.
"""

import jax.numpy as jnp
import numpy as np

from vrex_jax import trace as trace_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import cost
from vrex_jax.hwmodel import retrieval as retrieval_lib
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = [
  "KV_VALUE_BYTES",
  "WEIGHT_VALUE_BYTES",
  "LayerWork",
  "Work",
  "check_fits",
  "dense_layers",
  "from_retrieval",
  "kv_bytes_per_token",
  "vision_counts",
  "with_ends",
]

KV_VALUE_BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes of one stored key or value number, by precision; scales left out."""
WEIGHT_VALUE_BYTES = 2.0
"""Weights are bf16 on every platform of the paper."""
HASH_BITS = 32
"""N_hp (V-Rex, Sec. VI.E)."""


class LayerWork(cost.Additive):
  """Dynamic. Counts of decoder layers; f[L] each.

  Attributes:
    qkv_macs: query, key and value projections.
    qkv_weight_bytes: their weights.
    predict_macs: hashing of keys, scores of clusters (or keys, or frames).
    table_bytes: representatives that are read for it.
    attention_macs: scores and values of what is attended, the chunk included.
    kv_read_bytes: keys and values read for it.
    kv_write_bytes: keys and values of the chunk.
    feed_macs: output projection and feed-forward layer.
    feed_weight_bytes: their weights.
    comparisons: pairs of hash codes compared.
    live_codes: codes in all tables.
    live_tables: tables.
    scores: scores thresholded, summed over rows.
    passes: scores looked at again in the buckets of their rows: Σ over rows of
      scores × buckets visited.
    straggler_passes: the same if every row needed as many buckets as the worst.
    score_rows: rows.
    fetch_bytes: keys and values over the link.
    fetch_requests: contiguous pieces they come in.
  """

  qkv_macs: Float
  qkv_weight_bytes: Float
  predict_macs: Float
  table_bytes: Float
  attention_macs: Float
  kv_read_bytes: Float
  kv_write_bytes: Float
  feed_macs: Float
  feed_weight_bytes: Float
  comparisons: Float
  live_codes: Float
  live_tables: Float
  scores: Float
  passes: Float
  straggler_passes: Float
  score_rows: Float
  fetch_bytes: Float
  fetch_requests: Float


class Work(cost.Additive):
  """Dynamic. Counts of one event.

  Attributes:
    vision_macs: tower and connector; 0 for text.
    vision_weight_bytes: their weights.
    layers: by layer.
    head_macs: output head; 0 where no token is chosen.
    head_weight_bytes: its weights.
    held_bytes: what must be in DRAM at once: weights, table, keys and values
      that are attended.
  """

  vision_macs: Float  # []
  vision_weight_bytes: Float  # []
  layers: LayerWork  # [L]
  head_macs: Float  # []
  head_weight_bytes: Float  # []
  held_bytes: Float  # []

  @property
  def macs(self) -> Float:
    """All multiply-accumulates of the event."""
    layers = self.layers
    inner = (
      layers.qkv_macs
      + layers.predict_macs
      + layers.attention_macs
      + layers.feed_macs
    )
    return self.vision_macs + self.head_macs + jnp.sum(inner, axis=-1)

  @property
  def dram_bytes(self) -> Float:
    """All bytes over the DRAM bus; a fetch is written there first."""
    layers = self.layers
    inner = (
      layers.qkv_weight_bytes
      + layers.table_bytes
      + layers.kv_read_bytes
      + layers.kv_write_bytes
      + layers.feed_weight_bytes
      + layers.fetch_bytes
    )
    outer = self.vision_weight_bytes + self.head_weight_bytes
    return outer + jnp.sum(inner, axis=-1)

  @property
  def link_bytes(self) -> Float:
    """All bytes over the link."""
    return jnp.sum(self.layers.fetch_bytes, axis=-1)


def kv_bytes_per_token(
  decoder: config_lib.DecoderConfig, value_bytes: float = 2.0
) -> float:
  """Keys and values of one token in one layer: 2 K H · value_bytes.

  Example:
    >>> from vrex_jax.models import presets
    >>> 32 * kv_bytes_per_token(presets.preset("llama3-8b").decoder)
    131072.0
  """
  return 2.0 * decoder.num_kv_heads * decoder.head_dim * value_bytes


def vision_counts(model: config_lib.ModelConfig) -> tuple[float, float]:
  """MACs of one frame, and parameters, of tower and connector.

  Example:
    >>> from vrex_jax.models import presets
    >>> macs, parameters = vision_counts(presets.preset("llama3-8b"))
    >>> round(2e-9 * macs), round(1e-6 * parameters)
    (384, 337)
  """
  tower, connector = model.vision, model.connector
  patches, width = tower.grid**2, tower.hidden_size
  embed = 3 * tower.patch_size**2 * width
  layer = 4 * width**2 + 2 * width * tower.intermediate_size
  attention = 2 * patches**2 * width
  macs = patches * embed + tower.num_layers * (patches * layer + attention)
  parameters = embed + patches * width + tower.num_layers * layer
  if tower.use_head:  # one query pools the patches, then a feed-forward layer
    macs += 2 * patches * width**2 + 2 * patches * width
    macs += 2 * width**2 + 2 * width * tower.intermediate_size
    parameters += layer
  hidden = model.decoder.hidden_size
  projector = width * hidden + hidden**2
  projected = (
    patches if connector.kind == "onevision" else connector.tokens_per_frame
  )
  return float(macs + projected * projector), float(parameters + projector)


def from_retrieval(
  model: config_lib.ModelConfig,
  done: retrieval_lib.Retrieval,
  *,
  stage: str,
  chunk_tokens: Float | float,
  batch: Float | float = 1.0,
  kv_value_bytes: Float | float = 2.0,
) -> Work:
  """Counts of one event from what a method does there.

  Args:
    model: the video LLM.
    done: tokens attended and fetched and so on, f[L] each.
    stage: "frame", "question" or "answer"; vision belongs to frames, the head
      to the other two.
    chunk_tokens: T.
    batch: streams that share the weights.
    kv_value_bytes: of KV_VALUE_BYTES; what crosses link and DRAM.

  Returns:
    Work.
  """
  decoder = model.decoder
  heads, kv_heads = decoder.num_heads, decoder.num_kv_heads
  width = decoder.head_dim
  tokens = batch * chunk_tokens
  rows = tokens * heads
  kv_bytes = kv_bytes_per_token(decoder, 1.0) * kv_value_bytes
  # A key that stands for others is kept in bf16 whatever the cache is kept in.
  key_bytes = WEIGHT_VALUE_BYTES * width
  score_rows = batch * done.score_rows
  candidates = score_rows * done.candidates
  layers = dense_layers(decoder, tokens, done.attended_tokens)
  layers = layers.replace(
    predict_macs=candidates * width
    + tokens * kv_heads * width * HASH_BITS * done.hashes,
    table_bytes=batch
    * kv_heads
    * done.candidates
    * key_bytes
    * done.reads_table,
    attention_macs=2.0
    * width
    * rows
    * (done.attended_tokens + 0.5 * (chunk_tokens + 1.0)),
    kv_read_bytes=batch * done.attended_tokens * kv_bytes,
    kv_write_bytes=tokens * kv_bytes * jnp.ones_like(done.attended_tokens),
    comparisons=tokens * kv_heads * done.candidates * done.hashes,
    live_codes=batch * kv_heads * done.candidates * done.hashes,
    live_tables=batch * kv_heads * done.hashes,
    scores=candidates,
    passes=candidates * done.buckets,
    straggler_passes=candidates * done.worst_buckets,
    score_rows=score_rows,
    fetch_bytes=batch * done.fetched_tokens * kv_bytes,
    fetch_requests=batch * kv_heads * done.fetched_tokens / done.run_tokens,
  )
  return with_ends(model, layers, stage=stage, batch=batch)


def check_fits(
  work: Work, capacity_bytes: float, name: str, *, what: str = "the batch"
) -> None:
  """Refuses work that needs more DRAM than there is.

  Args:
    work: one event, or many with a leading axis.
    capacity_bytes: of the platform.
    name: of the platform.
    what: needs it, for the message.

  Raises:
    InputError: it says by how much.
  """
  needed = float(np.max(np.asarray(work.held_bytes)))
  if needed > capacity_bytes:
    raise InputError(
      f"{what} needs {needed / 1e9:.1f} GB of DRAM (weights, tables and what is"
      f" attended) and {name} has {capacity_bytes / 1e9:.1f} GB,"
      f" {(needed - capacity_bytes) / 1e9:.1f} GB less: lower --batch,"
      " --cache_tokens or --kv_precision"
    )


def dense_layers(
  decoder: config_lib.DecoderConfig, tokens: Float | float, like: Float
) -> LayerWork:
  """Dense matrices of every layer; all other counts 0."""
  heads, kv_heads = decoder.num_heads, decoder.num_kv_heads
  hidden, width = decoder.hidden_size, decoder.head_dim
  qkv = hidden * (heads + 2 * kv_heads) * width
  feed = heads * width * hidden + 3 * hidden * decoder.intermediate_size
  one, zero = (
    jnp.ones_like(like, dtype=float),
    jnp.zeros_like(like, dtype=float),
  )
  counts = dict.fromkeys(LayerWork.__dataclass_fields__, zero)
  counts["qkv_macs"] = tokens * float(qkv) * one
  counts["feed_macs"] = tokens * float(feed) * one
  counts["qkv_weight_bytes"] = WEIGHT_VALUE_BYTES * qkv * one
  counts["feed_weight_bytes"] = WEIGHT_VALUE_BYTES * feed * one
  return LayerWork(**counts)


def with_ends(
  model: config_lib.ModelConfig,
  layers: LayerWork,
  *,
  stage: str,
  batch: Float | float,
  axis: int = 0,
) -> Work:
  """Adds vision and head, and what has to be held."""
  if stage not in trace_lib.STAGES[1:]:
    raise InputError(
      f"stage is {stage!r}; it must be one of {', '.join(trace_lib.STAGES[1:])}"
    )
  is_frame = stage == "frame"
  macs, parameters = vision_counts(model)
  decoder = model.decoder
  head = float(decoder.vocab_size * decoder.hidden_size)
  table = 1.0 if decoder.tie_embeddings else 2.0
  weights = jnp.sum(layers.qkv_weight_bytes + layers.feed_weight_bytes, axis)
  kept = jnp.sum(
    layers.kv_read_bytes + layers.table_bytes + layers.kv_write_bytes, axis
  )
  return Work(
    vision_macs=batch * macs * is_frame * jnp.ones_like(weights),
    vision_weight_bytes=WEIGHT_VALUE_BYTES
    * parameters
    * is_frame
    * jnp.ones_like(weights),
    layers=layers,
    head_macs=batch * head * (not is_frame) * jnp.ones_like(weights),
    head_weight_bytes=WEIGHT_VALUE_BYTES
    * head
    * (not is_frame)
    * jnp.ones_like(weights),
    held_bytes=weights
    + WEIGHT_VALUE_BYTES * (parameters + table * head)
    + kept,
  )
