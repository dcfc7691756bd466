"""The contract between the stream and a KV-cache policy.

A policy is a `KVPolicy`: a tuple of pure functions written for *one* stream;
the driver batches them. For every chunk (a frame, a piece of a question, one
answer token) the driver does, in this order:

  for each layer l:
    project, rotate, append K/V                          (driver)
    select(state, view, l, queries, stage)               which past slots
    attend to: selected slots, recent slots, the chunk   (driver)
    feedback(state, l, mass, stage)                      only if needs.mass
  write(state, view, chunk, stage)                       once, all layers

so the current chunk is always attended, but is not yet part of any table when
it is scored. The driver intersects every selection with the valid slots below
the cursor: a policy cannot attend to what is not there.

Everything static (capacities, hash bits) lives in the factory's closure;
everything that is swept (thresholds, budgets) is a leaf of `knobs`, traced, so
that a sweep does not recompile. `init` puts the knobs into the state.

`select` reads its own state, slot metadata and resident keys only; a policy
that reads every key says so (`needs.all_keys`). That is what lets it run
unchanged when old keys are off the device.

Evicting: `write` returns `keep`; slots not kept are cleared in `valid` and
their room is reused. The driver compacts between blocks of frames and then
calls `move`, so slot numbers stored in a state stay true. Policies that can
recall (needs.evicts False) return None and are never compacted.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp

from vrex_jax import trace
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Bitmap, Bool, Float, Int, Parameters, PyTree

__all__ = [
  "COMBINATORS",
  "POLICIES",
  "STAGES",
  "Chunk",
  "Counts",
  "KVPolicy",
  "Needs",
  "Overflow",
  "Part",
  "Queries",
  "Selection",
  "Spec",
  "View",
  "attend_all",
  "check_hooks",
  "retrieves",
  "rows_of",
  "zero_counts",
]

STAGES = trace.STAGES
Counts = trace.Counts
Overflow = trace.Overflow
zero_counts = trace.zero_counts

POLICIES: dict[str, str] = {
  "clusterkv": "vrex_jax.baselines.clusterkv:clusterkv",
  "flexgen": "vrex_jax.baselines.flexgen:flexgen",
  "freekv": "vrex_jax.baselines.freekv:freekv",
  "full": "vrex_jax.baselines.full:full",
  "h2o": "vrex_jax.baselines.h2o:h2o",
  "hash_topk": "vrex_jax.baselines.hash_topk:hash_topk",
  "inf_mllm": "vrex_jax.baselines.inf_mllm:inf_mllm",
  "infinigen": "vrex_jax.baselines.infinigen:infinigen",
  "infinigenp": "vrex_jax.baselines.infinigen:infinigenp",
  "infinipot_v": "vrex_jax.baselines.infinipot_v:infinipot_v",
  "livevlm": "vrex_jax.baselines.livevlm:livevlm",
  "oracle_topk": "vrex_jax.baselines.oracle_topk:oracle_topk",
  "quest": "vrex_jax.baselines.quest:quest",
  "random": "vrex_jax.baselines.random_tokens:random",
  "rekv": "vrex_jax.baselines.rekv:rekv",
  "resv": "vrex_jax.resv.resv:resv",
  "retroinfer": "vrex_jax.baselines.retroinfer:retroinfer",
  "sliding_window": "vrex_jax.baselines.sliding_window:sliding_window",
  "snapkv": "vrex_jax.baselines.snapkv:snapkv",
  "streaming_llm": "vrex_jax.baselines.streaming_llm:streaming_llm",
}
"""Policy name -> "module:factory", imported on first use."""

COMBINATORS: dict[str, str] = {
  "keep_recent": "vrex_jax.baselines.combinators:keep_recent",
  "keep_sink": "vrex_jax.baselines.combinators:keep_sink",
  "per_layer": "vrex_jax.baselines.per_layer:per_layer",
}
"""Combinator name -> "module:factory"; called as factory(policy, ...)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
  """Static. What a policy asks of the driver.

  Attributes:
    stages: stages it retrieves in; the driver attends to everything in the
      others and does not call `select`.
    dense_layers: the first layers that never retrieve: the driver attends to
      everything there and does not call `select`.
    granularity: "kv" (one selection per KV head, A = K) or "query" (one per
      query head, A = N).
    evicts: drops tokens for good; slot metadata is then per layer and head.
    mass: wants attention mass through `feedback`.
    all_keys: `select` reads every key. A statement for out-of-core use; the
      driver here holds all keys and does not look at it.
    weights: `init` reads model parameters and gets them with plain kernels.
    sample: `init` reads recorded queries and keys, and has to be given them:
      `stream_state.init` takes them, the experiments do not yet.
    prefetches: selections carry `prefetch`, the slots wanted next step.
    reindexes: scores with positions inside the kept set, so that the stream
      may outgrow the model's position range.
    resident: the driver's `resident_tokens`, when the method fixes it
      (FlexGen: 0); None leaves it to the user.
  """

  stages: tuple[str, ...] = STAGES
  dense_layers: int = 0
  granularity: str = "kv"
  evicts: bool = False
  mass: bool = False
  all_keys: bool = False
  weights: bool = False
  sample: bool = False
  prefetches: bool = False
  reindexes: bool = False
  resident: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """Static. Shapes a policy allocates its state for.

  Attributes:
    decoder: L, N, K, H, D and rotary settings.
    num_slots: S.
    capacity: slots tokens may occupy, at most S.
    chunk_tokens: (stage, T) of every stage's chunk.
    grid: token grid (height, width) of a frame; None when it has none.
  """

  decoder: config_lib.DecoderConfig
  num_slots: int
  capacity: int
  chunk_tokens: tuple[tuple[str, int], ...]
  grid: tuple[int, int] | None = None


class View(flax.struct.PyTreeNode):
  """Dynamic. What a policy may see of one stream's cache.

  Attributes:
    slots: metadata, axes [S], or [L, K, S] for evictors.
    live: valid slots below the cursor, as sets.
    cursor: slots in use.
    seen: tokens of the stream so far, evicted ones included; at `write` the
      chunk is included.
    key: rotated keys; read through `gather`.
    value: values; read through `gather`.
  """

  slots: cache_lib.SlotTable  # [S] or [L, K, S]
  live: Bitmap  # u32 [S / 32] or [L, K, S / 32]
  cursor: Int  # []
  seen: Int  # []
  key: Float  # [L, K, S, H]
  value: Float  # [L, K, S, H]

  @property
  def num_kv_heads(self) -> int:
    """K."""
    return self.key.shape[-3]

  def live_in(self, layer: int) -> Bitmap:
    """Valid slots of one layer: u32[K, S / 32], or u32[1, S / 32]."""
    return self.live[layer] if self.live.ndim == 3 else self.live[None]

  def gather(self, layer: int, slots: Int) -> tuple[Float, Float]:
    """Resident keys and values: i32[K, M] -> f[K, M, H] twice."""
    head = jnp.arange(slots.shape[0])[:, None]
    return self.key[layer, head, slots], self.value[layer, head, slots]


class Queries(NamedTuple):
  """Dynamic. One chunk's queries at one layer.

  Attributes:
    rotated: at their own positions.
    unrotated: before rotation.
    position: position of each token.
    kind: stage each token came in.
    valid: False for padding.
    first: first chunk of its stage (the stream's first frame, a question's
      first chunk, an answer's first token).
    last: last chunk of its stage (a question's last); False where unknown.
  """

  rotated: Float  # [N, T, H]
  unrotated: Float  # [N, T, H]
  position: Int  # [T]
  kind: Int  # i8 [T]
  valid: Bool  # [T]
  first: Bool  # []
  last: Bool  # []


class Chunk(NamedTuple):
  """Dynamic. One chunk of all layers, as `write` sees it.

  Its tokens are in slots start … start + T - 1.
  """

  k_rotated: Float  # [L, K, T, H]
  k_raw: Float  # [L, K, T, H]
  v: Float  # [L, K, T, H]
  queries: Float  # [L, N, T, H], unrotated
  position: Int  # [T]
  frame: Int  # [T]
  kind: Int  # i8 [T]
  valid: Bool  # [T]
  start: Int  # []
  first: Bool  # []
  last: Bool  # []


class Part(flax.struct.PyTreeNode):
  """Dynamic. One set of slots per row, and the positions it is scored with.

  Rules: "original" (as stored), "rank" (keys at their rank in the row's set,
  the chunk's queries right after it), "fixed" (all at one given position).

  Attributes:
    slots: one set per row; None means every valid slot.
    key_position: position all keys take under the "fixed" key rule.
    query_position: position all queries take under the "fixed" query rule.
    extra: rows added to the part: key, value f[A, E, H], log_weight f[A, E].
    key_rule: static.
    query_rule: static.
  """

  slots: Bitmap | None  # u32 [A, S / 32]
  key_position: Int | None = None  # []
  query_position: Int | None = None  # []
  extra: tuple[Float, Float, Float] | None = None
  key_rule: str = flax.struct.field(pytree_node=False, default="original")
  query_rule: str = flax.struct.field(pytree_node=False, default="original")


class Selection(NamedTuple):
  """Dynamic. What one layer attends to.

  Attributes:
    parts: disjoint; merged by log-sum-exp.
    prefetch: slots wanted at the next step, u32[A, S / 32]; None unless
      `needs.prefetches`.
  """

  parts: tuple[Part, ...]
  prefetch: Bitmap | None = None


class KVPolicy(NamedTuple):
  """Static. A policy: names, needs and pure functions.

  Attributes:
    name: canonical text, as given to --policy.
    needs: what it asks of the driver.
    knobs: default values of everything that may be swept.
    init: (spec, model_params, knobs, sample | None) -> state; outside jit.
    select: (state, view, layer, queries, stage) -> selection, state, Counts[K].
    write: (state, view, chunk, stage) -> state, keep b[L, K, S] | None,
      Counts[L, K].
    feedback: (state, layer, mass f32[A, S], stage) -> state.
    groups: (state, layer) -> i32[K, S], placement unit of every slot; for the
      analysis of runs, not called by the driver.
    move: (state, source i32[L, K, S]) -> state, after compaction: slot s now
      holds what slot source[..., s] held.
  """

  name: str
  needs: Needs
  knobs: PyTree
  init: Callable[[Spec, Parameters, PyTree, PyTree | None], PyTree]
  select: Callable[
    [PyTree, View, int, Queries, str], tuple[Selection, PyTree, Counts]
  ]
  write: Callable[
    [PyTree, View, Chunk, str], tuple[PyTree, Bool | None, Counts]
  ]
  feedback: Callable[[PyTree, int, Float, str], PyTree] | None = None
  groups: Callable[[PyTree, int], Int] | None = None
  move: Callable[[PyTree, Int], PyTree] | None = None


def rows_of(needs: Needs, decoder: config_lib.DecoderConfig) -> int:
  """A: selection rows of a policy.

  Raises:
    ValueError: `granularity` is neither "kv" nor "query".
  """
  if needs.granularity == "kv":
    return decoder.num_kv_heads
  if needs.granularity == "query":
    return decoder.num_heads
  raise ValueError(
    f"granularity is {needs.granularity!r}; it must be kv or query: fix the"
    " policy's needs"
  )


def retrieves(needs: Needs, stage: str, layer: int, lookahead: int) -> bool:
  """Whether a layer selects at a stage; the others attend to everything.

  Args:
    needs: of the policy.
    stage: of the chunk.
    layer: l.
    lookahead: 0, or 1: nothing was selected for layer 0.

  Example:
    >>> retrieves(Needs(dense_layers=2), "frame", 1, 0)
    False
  """
  return stage in needs.stages and layer >= max(needs.dense_layers, lookahead)


def check_hooks(policy: KVPolicy) -> None:
  """Refuses a policy without a function that its needs call for.

  Raises:
    ValueError: it evicts without `move`, or wants mass without `feedback`.
  """
  for need, hook in (("evicts", "move"), ("mass", "feedback")):
    if getattr(policy.needs, need) and getattr(policy, hook) is None:
      raise ValueError(
        f"policy {policy.name} needs {need} and has no {hook}; the driver calls"
        f" it: write {hook}, if only to return the state"
      )


def attend_all() -> Selection:
  """Every valid slot, at original positions."""
  return Selection(parts=(Part(slots=None),))
