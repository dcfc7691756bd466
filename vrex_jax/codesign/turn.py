"""The priced workload: one turn of a conversation over a long past.

  a turn = 26 frames + one question of 25 tokens + 39 answer tokens

what the average COIN turn has (V-Rex, Sec. III.A). What each event attends to
and fetches comes from shares measured on the model that ran (`Choice`), and is
carried over to the priced model by relative depth (`hwmodel.ratios`).

  attended = kept + (1 - kept) / 2n          of the past; n buckets
  fetched  = kept · φ · (1 - w / S)

The first: the WTU keeps its last bucket whole, half of one more than asked for
in the mean, and scores are nearly flat over their range (`score_law`). The
second: φ(S) is the share of what is chosen that V-Rex8 fetches by the law
fitted to it (`residency`), spread evenly over the past, of which a window of w
tokens takes w / S away. Both are reconstructions.

A row's scores beyond the score memory, and counts beyond theirs, are read again
from DRAM in every pass of the WTU: likewise.
"""

from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax.codesign import constants as constants_lib
from vrex_jax.codesign import space as space_lib
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import ratios
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import smooth
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = ["EVENTS", "STAGES", "Choice", "Shares", "Stream", "works"]

STAGES = ("frame", "question", "answer")
EVENTS = (26.0, 1.0, 39.0)
"""Of a turn, by stage: frames, questions, answer tokens."""
CURVE_BUCKETS = 20.0
"""Buckets of the WTU for which shares are measured (V-Rex, Fig. 11)."""
_SCORE_BYTES = 2.0
_SHARPNESS = 16.0
_NEARLY_NONE = 1e-9
"""Share fetched where nothing is: a run has a length all the same."""


class Shares(Protocol):
  """What a model that ran did at some thresholds (`curves.Point`).

  Attributes:
    kept: share of the past attended, f[3, L, K].
    mass: share of its attention mass on that, f[3, L, K].
    groups: clusters by past token, f[3, L, K]; of a table that all heads share
      at least for the first.
    run_tokens: fetched tokens by contiguous run, f[3, L, K].
    buckets: visited by a row of CURVE_BUCKETS, mean, f[3, L, K].
    worst_buckets: by the slowest row, f[3, L, K].
  """

  kept: Float
  mass: Float
  groups: Float
  run_tokens: Float
  buckets: Float
  worst_buckets: Float


class Choice(NamedTuple):
  """Dynamic. A static choice of the algorithm as numbers; f[] each.

  Attributes:
    hash_bits: P.
    shared_table: 1 where one table serves all KV heads of a layer.
  """

  hash_bits: Any
  shared_table: Any


class Stream(flax.struct.PyTreeNode):
  """Static. What is priced, apart from chip and thresholds.

  Attributes:
    model: video LLM.
    cached_tokens: S.
    batch: streams.
    kv_value_bytes: of a stored number.
  """

  model: config_lib.ModelConfig = flax.struct.field(pytree_node=False)
  cached_tokens: float = flax.struct.field(pytree_node=False, default=40960.0)
  batch: float = flax.struct.field(pytree_node=False, default=1.0)
  kv_value_bytes: float = flax.struct.field(pytree_node=False, default=2.0)

  @property
  def chunk_tokens(self) -> tuple[float, float, float]:
    """T of a frame, a question, an answer."""
    frame = float(self.model.connector.tokens_per_frame)
    return frame, float(paper.QUESTION_TOKENS), 1.0

  @property
  def head_token_bytes(self) -> float:
    """Key and value of one token in one KV head."""
    return 2.0 * self.model.decoder.head_dim * self.kv_value_bytes


def missing_share(
  stream: Stream, known: constants_lib.Constants, window: Float
) -> Float:
  """Share of what is chosen that has to be fetched, f[L, K]."""
  cached = jnp.asarray(stream.cached_tokens, float)
  ratio = retrieval.METHODS["resv"].frame_ratio
  fitted = jnp.minimum(residency.LAW(cached) / (ratio * cached), 1.0)
  share = fitted + (1.0 - fitted) * known.residency
  return share * jnp.maximum(1.0 - window / cached, 0.0)


def works(
  stream: Stream,
  design: space_lib.Design,
  shares: Shares,
  choice: Choice,
  known: constants_lib.Constants = constants_lib.CENTRE,
) -> workload.Work:
  """Counts of one event of every stage; leaves f[3] and f[3, L].

  Args:
    stream: what is priced.
    design: windows, buckets, memories, requests.
    shares: at its thresholds.
    choice: hash bits and table scope.
    known: residency.
  """
  window = design.resident_tokens
  missing = missing_share(stream, known, window)

  def event(part: _Stage, is_frame):
    done = _retrieval(
      stream,
      design,
      part,
      choice,
      missing,
    )
    work = workload.from_retrieval(
      stream.model,
      done,
      stage="frame",
      chunk_tokens=part.chunk_tokens,
      batch=stream.batch,
      kv_value_bytes=stream.kv_value_bytes,
    )
    work = _spilled(design, _own_tables(stream, work, choice))
    work = work.replace(held_bytes=_held(stream, work, window))
    return _ends(stream, work, is_frame)

  parts = _Stage(
    shares.kept,
    shares.groups,
    shares.run_tokens,
    shares.buckets,
    shares.worst_buckets,
    jnp.asarray(stream.chunk_tokens),
  )
  return jax.vmap(event)(parts, jnp.asarray([1.0, 0.0, 0.0]))


class _Stage(NamedTuple):
  """Shares of one stage, f[L, K], and its tokens, f[]."""

  kept: Float
  groups: Float
  run_tokens: Float
  buckets: Float
  worst_buckets: Float
  chunk_tokens: Float


def _ends(
  stream: Stream, work: workload.Work, is_frame: Float
) -> workload.Work:
  """Vision belongs to frames, the head to text: one trace for all stages."""
  text = workload.with_ends(
    stream.model, work.layers, stage="answer", batch=stream.batch
  )
  return work.replace(
    vision_macs=work.vision_macs * is_frame,
    vision_weight_bytes=work.vision_weight_bytes * is_frame,
    head_macs=text.head_macs * (1.0 - is_frame),
    head_weight_bytes=text.head_weight_bytes * (1.0 - is_frame),
  )


def _retrieval(
  stream: Stream,
  design: space_lib.Design,
  stage: _Stage,
  choice: Choice,
  missing: Float,
) -> retrieval.Retrieval:
  """What happens in one event, on the priced model; f[L] each."""
  attended = stage.kept + (1.0 - stage.kept) / (2.0 * design.wtu_buckets)
  fetched = stage.kept * missing
  # A run is asked for in requests of at most so many tokens, each at least one.
  run = jnp.maximum(stage.run_tokens, 1.0)
  most = design.request_bytes / stream.head_token_bytes
  per_token = smooth.smooth_max(
    1.0 / run, jnp.broadcast_to(1.0 / most, run.shape), sharpness=_SHARPNESS
  )
  some = fetched + _NEARLY_NONE
  depth = (design.wtu_buckets - 0.5) / (CURVE_BUCKETS - 0.5)
  at_depth = lambda visited: 0.5 + (jnp.mean(visited, -1) - 0.5) * depth
  bits = choice.hash_bits / workload.HASH_BITS
  quotients = ratios.Ratios(
    attended=jnp.mean(attended, axis=-1),
    fetched=jnp.sum(fetched, axis=-1) / jnp.sum(attended, axis=-1),
    run_tokens=jnp.sum(some, axis=-1) / jnp.sum(some * per_token, axis=-1),
    groups=_in_tables(stage.groups, choice),
    hashes=jnp.broadcast_to(bits, run.shape[:1]),
    buckets=at_depth(stage.buckets),
    worst_buckets=at_depth(stage.worst_buckets),
  )
  return ratios.from_ratios(
    quotients,
    stream.model.decoder,
    stream.cached_tokens,
    chunk_tokens=stage.chunk_tokens,
  )


def _in_tables(groups: Float, choice: Choice) -> Float:
  """Clusters by token of a layer's table: shared, or the mean of its heads'."""
  own, shared = jnp.mean(groups, axis=-1), jnp.max(groups, axis=-1)
  return own + choice.shared_table * (shared - own)


def _own_tables(
  stream: Stream, work: workload.Work, choice: Choice
) -> workload.Work:
  """Tables by their scope; `hashes` counted codes in units of 32 bits.

  A shared table has one code a cluster for all KV heads. Scores and
  representatives are as many as before: each head scores its own part.
  """
  bits = choice.hash_bits / workload.HASH_BITS
  heads = stream.model.decoder.num_kv_heads
  tables = 1.0 + (heads - 1.0) * (1.0 - choice.shared_table)
  layers = work.layers
  return work.replace(
    layers=layers.replace(
      comparisons=layers.comparisons * tables / heads,
      live_codes=layers.live_codes * tables / heads,
      live_tables=layers.live_tables * tables / heads / bits,
    )
  )


def _spilled(design: space_lib.Design, work: workload.Work) -> workload.Work:
  """Scores and counts that do not fit, read from DRAM in every pass."""
  layers = work.layers
  rows = jnp.maximum(layers.score_rows, 1.0)
  row_bytes = _SCORE_BYTES * layers.scores / rows
  beyond = sum(
    smooth.excess(row_bytes, memory)
    for memory in (design.score_bytes, design.count_bytes)
  )
  passes = 1.0 + layers.passes / jnp.maximum(layers.scores, 1.0)
  return work.replace(
    layers=layers.replace(
      table_bytes=layers.table_bytes + layers.score_rows * beyond * passes
    )
  )


def _held(stream: Stream, work: workload.Work, window: Float) -> Float:
  """What must be in DRAM: also the window, which lies there unread."""
  decoder = stream.model.decoder
  weights = ratios.by_depth(decoder.num_layers, window.shape[0])
  tokens = weights @ jnp.mean(window, axis=-1)
  token_bytes = decoder.num_kv_heads * stream.head_token_bytes
  return work.held_bytes + stream.batch * token_bytes * jnp.sum(tokens)
