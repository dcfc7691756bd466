"""What this package's own decoder step takes on one core of a CPU.

The pipeline of an accelerator does not fit: one core computes, reads and
chooses in turn, nothing overlaps, and what a product costs depends on how the
kernel is stored. So the parts add up, each a count times what one costs in a
micro-benchmark (`experiments/calibrate_platform.py`); no term is fitted to a
decoder step.

  part         counts of a layer                            each costs
  dense_s      weight bytes, operations                     panels or plain
  attention_s  bytes of keys and values, operations;        attend rates
               scores M · n                                 score_s
  gather_s     2 K n rows of H numbers; K n slots found     gather rate, slot_s
  selection_s  M · C · H products; 22 M C weighed scores;   attend rate, weigh_s
               K S slots look their cluster up; T K C codes lookup_s, compare_s
  overhead_s   operations of the program                    operation_s

with n attended tokens, M = T N rows of queries, C = S / 32 clusters. A product
takes bytes / rate + operations / rate: reading the kernel (and packing it) does
not overlap with arithmetic on one core, which is what its times at several row
counts show.
"""

import math
from typing import NamedTuple

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import retrieval
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = ["MOST_PANEL_ROWS", "StepTime", "check", "step_time"]

MOST_PANEL_ROWS = 32
"""Rows up to which kernels lie in panels (`models.dense.MOST_ROWS`)."""
_VALUE_BYTES = 4.0
_CHUNK = 256
"""Slots of an item of the work list: a selection is rounded up to it."""
_WEIGHED = 22.0
"""Readings of a row's scores until its threshold is found: 1 for the sums, 6
for the bucket and 15 of bisection (`resv.wicsum`)."""
_LAYER_OPERATIONS = 60.0
_LOOP_OPERATIONS = 15.0
"""Program operations of a layer and of a step of an attention loop. Assumed."""
_PREFIX_CHUNK = 512
_GROUP = 8


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
  kv_heads, width = decoder.num_kv_heads, decoder.head_dim
  rows = frame_tokens * decoder.group_size  # of one KV head
  attended = float(cached_tokens)
  if share is not None:
    attended = _CHUNK * math.ceil(share * cached_tokens / _CHUNK)
  own_macs = 2.0 * width * decoder.num_heads * frame_tokens**2
  macs = 2.0 * width * rows * kv_heads * attended + own_macs
  scores = float(rows * kv_heads) * (attended + frame_tokens)
  kv_bytes = 2.0 * kv_heads * width * _VALUE_BYTES * attended
  layer = StepTime(
    dense_s=_dense_s(cpu, decoder, frame_tokens),
    attention_s=kv_bytes / cpu.attend_bytes_per_s
    + 2.0 * macs / cpu.attend_flops_per_s
    + scores * cpu.score_s,
    gather_s=0.0,
    selection_s=0.0,
    overhead_s=_overhead_s(cpu, attended, kv_heads, share),
  )
  if share is not None:
    layer = layer._replace(
      gather_s=kv_bytes / cpu.gather_bytes_per_s
      + kv_heads * attended * cpu.slot_s,
      selection_s=_selection_s(cpu, decoder, cached_tokens, frame_tokens),
    )
  return StepTime(*(decoder.num_layers * part for part in layer))


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


def _selection_s(
  cpu: params.CpuParameters,
  decoder: config_lib.DecoderConfig,
  cached: int,
  tokens: int,
) -> Float | float:
  clusters = cached / retrieval.TOKENS_PER_CLUSTER
  kv_heads, width = decoder.num_kv_heads, decoder.head_dim
  scores = tokens * decoder.num_heads * clusters
  table_bytes = kv_heads * clusters * width * _VALUE_BYTES
  return (
    table_bytes / cpu.attend_bytes_per_s
    + 2.0 * scores * width / cpu.attend_flops_per_s
    + _WEIGHED * scores * cpu.weigh_s
    + kv_heads * cached * cpu.lookup_s
    + tokens * kv_heads * clusters * cpu.compare_s
  )


def _overhead_s(
  cpu: params.CpuParameters,
  attended: float,
  kv_heads: int,
  share: float | None,
) -> Float | float:
  steps = attended / _PREFIX_CHUNK
  if share is not None:
    steps = kv_heads * attended / (_CHUNK * _GROUP)
  operations = _LAYER_OPERATIONS + _LOOP_OPERATIONS * math.ceil(steps)
  return operations * cpu.operation_s
