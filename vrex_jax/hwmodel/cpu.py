"""What this package's own decoder step takes on one core of a CPU.

The pipeline of an accelerator does not fit: one core computes, reads and
chooses in turn, nothing overlaps, and what a product costs depends on how the
kernel is stored. So the parts add up, each a count times what one costs in a
micro-benchmark (`experiments/calibrate_platform.py`); no term is fitted to a
decoder step.

  part         counts of a layer                            each costs
  dense_s      weight bytes, operations                     panels or plain
  attention_s  bytes of keys and values, operations;        attend rate, or held
               scores M · n                                 score_s
               M H results of an item are added to its row  merge_s
  gather_s     2 K n rows of H numbers; K n slots found     gather rate, slot_s
  selection_s  M · C · H products and M · C scores written; held rate, weigh_s
               K clusters' mean keys                        attend rate
               M rows' thresholds over M · C scores         search_*_s
               K S slots look their cluster up; T K C codes lookup_s, compare_s
  overhead_s   operations of the program                    operation_s

with n attended tokens in whole groups of the work list, M = T N rows of
queries, C = S / 32 clusters in whole blocks. A product takes bytes / rate +
operations / rate: reading the kernel (and packing it) does not overlap with
arithmetic on one core, which is what its times at several row counts show. The
past is read from memory once: by attention itself where all of it is attended,
by the gather where it is chosen, and then attention finds it in the cache.
"""

import math
from typing import NamedTuple

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import retrieval
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = [
  "CLUSTER_BLOCK",
  "ITEM_SLOTS",
  "MOST_ITEMS",
  "MOST_PANEL_ROWS",
  "SCORE_BYTES",
  "StepTime",
  "check",
  "step_time",
]

MOST_PANEL_ROWS = 32
"""Rows up to which kernels lie in panels (`models.dense.MOST_ROWS`)."""
ITEM_SLOTS, MOST_ITEMS, SCORE_BYTES = 256, 8, 2**21
"""Slots of an item of the work list, most items of a group, and bytes of scores
that a group has at most (`models.work_list`)."""
CLUSTER_BLOCK = 256
"""Clusters handled in one step (`resv.blocks.BLOCK`)."""
_VALUE_BYTES = 4.0
_SCORE_PASSES = 2.0
"""A score is divided by its cluster's tokens and written."""
_FAR_BYTES = 2**23
"""A head's scores beyond this are read from memory each time: between the two
sizes of table whose searches are measured, 3 and 13 MB."""
_LAYER_OPERATIONS = 60.0
_PREFIX_OPERATIONS = 16.0
_CHOICE_OPERATIONS = 40.0
_HEAD_OPERATIONS = 34.0
_BLOCK_OPERATIONS = 39.0
_GROUP_OPERATIONS = 37.0
"""Operations that a trace of the compiled step executes (4K to 131K slots, 10
and 196 tokens): of a layer, and of a turn of the loop over a past that is
attended whole; where it is chosen, of a layer further, of a head, of a head's
block of clusters and of a group of the work list. Those of a search are in its
time."""
_PREFIX_CHUNK = 512


class StepTime(NamedTuple):
  """Dynamic. CPU seconds of one decoder step, by part.

  Attributes:
    dense_s: projections and feed-forward layers.
    attention_s: past and own chunk.
    gather_s: finding and copying what is attended.
    selection_s: choosing it, and clustering the chunk.
    overhead_s: of the program.
  """

  dense_s: Float | float
  attention_s: Float | float
  gather_s: Float | float
  selection_s: Float | float
  overhead_s: Float | float

  @property
  def total_s(self) -> Float | float:
    """Nothing overlaps on one core."""
    return sum(self)


def check(platform: params.Platform) -> params.CpuParameters:
  """The CPU terms of a platform.

  Raises:
    InputError: it has none.
  """
  if platform.cpu is None:
    raise InputError(
      f"{platform.name} has no [cpu] part; a decoder step is predicted for a"
      " calibrated CPU: write its file with experiments/calibrate_platform.py"
    )
  return platform.cpu


def step_time(
  platform: params.Platform,
  decoder: config_lib.DecoderConfig,
  *,
  cached_tokens: int,
  frame_tokens: int,
  share: float | None = None,
) -> StepTime:
  """Seconds of the step of one frame, without head; float32, one stream.

  Args:
    platform: a calibrated CPU.
    decoder: the decoder.
    cached_tokens: S.
    frame_tokens: T.
    share: of the past that is attended after choosing with ReSV; None for all
      of it, without choosing and without a gather.

  Raises:
    InputError: the platform has no CPU terms.
  """
  cpu = check(platform)
  if share is None:
    layer = _whole_past(cpu, decoder, cached_tokens, frame_tokens)
  else:
    layer = _chosen_past(cpu, decoder, cached_tokens, frame_tokens, share)
  return StepTime(*(decoder.num_layers * part for part in layer))


def _whole_past(
  cpu: params.CpuParameters,
  decoder: config_lib.DecoderConfig,
  cached: int,
  tokens: int,
) -> StepTime:
  macs = 2.0 * decoder.head_dim * decoder.num_heads * tokens * cached
  scores = float(tokens * decoder.num_heads * cached)
  turns = math.ceil(cached / _PREFIX_CHUNK)
  operations = _LAYER_OPERATIONS + _PREFIX_OPERATIONS * turns
  return StepTime(
    dense_s=_dense_s(cpu, decoder, tokens),
    attention_s=_kv_bytes(decoder, cached) / cpu.attend_bytes_per_s
    + 2.0 * macs / cpu.attend_flops_per_s
    + scores * cpu.score_s
    + _own_chunk_s(cpu, decoder, tokens),
    gather_s=0.0,
    selection_s=0.0,
    overhead_s=operations * cpu.operation_s,
  )


def _chosen_past(
  cpu: params.CpuParameters,
  decoder: config_lib.DecoderConfig,
  cached: int,
  tokens: int,
  share: float,
) -> StepTime:
  heads, rows = decoder.num_kv_heads, tokens * decoder.group_size
  score_bytes = _VALUE_BYTES * rows * ITEM_SLOTS
  group = max(1, min(MOST_ITEMS, int(SCORE_BYTES / score_bytes)))
  items = heads * math.ceil(share * cached / ITEM_SLOTS)
  groups = math.ceil(items / group)
  gathered = float(groups * group * ITEM_SLOTS)  # Slots, of all heads.
  macs = 2.0 * decoder.head_dim * rows * gathered
  kv_bytes = 2.0 * decoder.head_dim * _VALUE_BYTES * gathered
  clusters = cached / retrieval.TOKENS_PER_CLUSTER
  table_blocks = math.ceil(clusters / CLUSTER_BLOCK)
  operations = (
    _LAYER_OPERATIONS
    + _CHOICE_OPERATIONS
    + heads * (_HEAD_OPERATIONS + _BLOCK_OPERATIONS * table_blocks)
    + _GROUP_OPERATIONS * groups
  )
  return StepTime(
    dense_s=_dense_s(cpu, decoder, tokens),
    attention_s=kv_bytes / cpu.held_bytes_per_s
    + 2.0 * macs / cpu.held_flops_per_s
    + rows * gathered * cpu.score_s
    + groups * group * rows * decoder.head_dim * cpu.merge_s
    + _own_chunk_s(cpu, decoder, tokens),
    gather_s=kv_bytes / cpu.gather_bytes_per_s + gathered * cpu.slot_s,
    selection_s=heads
    * _head_choice_s(cpu, decoder, rows, CLUSTER_BLOCK * table_blocks)
    + heads * cached * cpu.lookup_s
    + tokens * heads * clusters * cpu.compare_s,
    overhead_s=operations * cpu.operation_s,
  )


def _kv_bytes(decoder: config_lib.DecoderConfig, tokens: float) -> float:
  width = decoder.num_kv_heads * decoder.head_dim
  return 2.0 * width * _VALUE_BYTES * tokens


def _own_chunk_s(
  cpu: params.CpuParameters, decoder: config_lib.DecoderConfig, tokens: int
) -> Float | float:
  scores = float(decoder.num_heads * tokens**2)
  operations = 4.0 * decoder.head_dim * scores
  return operations / cpu.held_flops_per_s + scores * cpu.score_s


def _dense_s(
  cpu: params.CpuParameters, decoder: config_lib.DecoderConfig, tokens: int
) -> Float | float:
  hidden, heads = decoder.hidden_size, decoder.num_heads
  weights = hidden * (heads + 2 * decoder.num_kv_heads) * decoder.head_dim
  weights += heads * decoder.head_dim * hidden
  weights += 3 * hidden * decoder.intermediate_size
  bytes_rate, rate = cpu.plain_bytes_per_s, cpu.plain_flops_per_s
  if tokens <= MOST_PANEL_ROWS:
    bytes_rate, rate = cpu.panel_bytes_per_s, cpu.panel_flops_per_s
  product_s = (
    _VALUE_BYTES * weights / bytes_rate + 2.0 * tokens * weights / rate
  )
  # Norms, rotation and gates are passes over activations, as cheap as scores.
  passes = tokens * (8.0 * hidden + 2.0 * decoder.intermediate_size)
  return product_s + passes * cpu.weigh_s


def _head_choice_s(
  cpu: params.CpuParameters,
  decoder: config_lib.DecoderConfig,
  rows: int,
  clusters: int,
) -> Float | float:
  """Scores of one head's rows for clusters, and the rows' thresholds."""
  width, scores = decoder.head_dim, float(rows * clusters)
  search_s = cpu.search_score_s
  if _VALUE_BYTES * scores > _FAR_BYTES:
    search_s = cpu.search_far_score_s
  return (
    _VALUE_BYTES * clusters * width / cpu.attend_bytes_per_s
    + 2.0 * scores * width / cpu.held_flops_per_s
    + _SCORE_PASSES * scores * cpu.weigh_s
    + rows * cpu.search_row_s
    + scores * search_s
  )
