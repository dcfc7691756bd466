"""What a stream is: its static shapes, its state, and how a state starts.

A state is one pytree, passed in and returned; callers donate it, so that the
cache is updated in place.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import dense
from vrex_jax.typing import Bitmap, Int, Parameters

__all__ = [
  "UNLIMITED",
  "Snapshot",
  "StreamConfig",
  "StreamState",
  "check_fits",
  "compact",
  "init",
  "restore",
  "retrieving_layers",
  "slots_held",
  "snapshot",
  "spec_of",
]

UNLIMITED = 2**30
"""A window of tokens that covers every stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
  """Static. Shapes and rules of one stream.

  Attributes:
    decoder: language model.
    batch: B, streams side by side.
    capacity: cache slots per stream.
    frame_tokens: T of a frame, separator included.
    question_chunk: T of a prompt or question chunk.
    dtype: dtype of activations (float32 on CPU, where bfloat16 is slower).
    cache_dtype: storage dtype of keys and values.
    lookahead: 0, or 1 to select for layer l + 1 while layer l runs; layer 0
      then attends to everything.
    lookahead_query: "own" (layer l's query) or "next" (layer l + 1's query
      projection on layer l's input).
    disturb: a `disturbing.Disturbance` of queries, keys and values.
    observe: an `observing.Observer`, called for every chunk; what it returns
      comes out beside the events.
    grid: token grid (height, width) of a frame, for policies that use it.
  """

  decoder: config_lib.DecoderConfig
  batch: int = 1
  capacity: int = 4096
  frame_tokens: int = 16
  question_chunk: int = 64
  dtype: Any = jnp.float32
  cache_dtype: Any = jnp.float32
  lookahead: int = 0
  lookahead_query: str = "own"
  disturb: Callable[..., Any] | None = None
  observe: Callable[..., Any] | None = None
  grid: tuple[int, int] | None = None

  def __post_init__(self):
    if self.lookahead not in (0, 1):
      raise ValueError(
        f"lookahead is {self.lookahead}; it must be 0 or 1, since a selection"
        " is made at most one layer ahead: try lookahead=1"
      )
    if self.lookahead_query not in ("own", "next"):
      raise ValueError(
        f"lookahead_query is {self.lookahead_query!r}; it must be own (this"
        " layer's query) or next (the next layer's): try lookahead_query=own"
      )

  @property
  def largest_chunk(self) -> int:
    """Tokens of the longest chunk."""
    return max(self.frame_tokens, self.question_chunk)

  @property
  def num_slots(self) -> int:
    """S."""
    return cache_lib.num_slots(self.capacity, self.largest_chunk)


class StreamState(flax.struct.PyTreeNode):
  """Dynamic. Everything a stream carries from chunk to chunk.

  Attributes:
    cache: keys, values, slot metadata.
    policy: the policy's state, leading axis B on every leaf.
    next_position: position of the next token.
    seen: tokens so far, evicted ones included.
    frame: index of the next frame.
    prefetched: slots the last step asked for; None unless the policy does.
    recent_tokens: window that is always attended.
    resident_tokens: window on the device.
  """

  cache: cache_lib.KVCache
  policy: Any
  next_position: Int  # [B]
  seen: Int  # [B]
  frame: Int  # [B]
  prefetched: Bitmap | None  # u32 [L, B, A, S / 32]
  recent_tokens: Int  # []
  resident_tokens: Int  # []


class Snapshot(NamedTuple):
  """Dynamic. What a question changes, apart from K/V beyond the cursor."""

  slots: cache_lib.SlotTable
  cursor: Int
  policy: Any
  next_position: Int
  seen: Int
  frame: Int
  prefetched: Bitmap | None


def spec_of(config: StreamConfig) -> policy_lib.Spec:
  """The shapes a policy allocates for."""
  return policy_lib.Spec(
    decoder=config.decoder,
    num_slots=config.num_slots,
    capacity=config.capacity,
    chunk_tokens=(
      ("prompt", config.question_chunk),
      ("frame", config.frame_tokens),
      ("question", config.question_chunk),
      ("answer", 1),
    ),
    grid=config.grid,
  )


def retrieving_layers(
  config: StreamConfig, policy: policy_lib.KVPolicy
) -> list[list[bool]]:
  """b[STAGES, L]: the layer takes part in retrieval at that stage."""
  return [
    [
      policy_lib.retrieves(policy.needs, stage, layer, config.lookahead)
      for layer in range(config.decoder.num_layers)
    ]
    for stage in policy_lib.STAGES
  ]


def check_fits(
  config: StreamConfig, policy: policy_lib.KVPolicy, params: Parameters
) -> None:
  """Refuses, before any work, a policy that cannot begin with these shapes.

  Nothing is allocated: `init` is traced, up to the first thing it does that
  cannot be. Sizes that are read after that (the second of two policies joined
  by `per_layer` where the first prepares from numbers of the weights), and
  those of policies that cannot do without a sample, are refused by `init`.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters; only their shapes are seen.

  Raises:
    InputError: an argument does not fit, such as a budget above the capacity.
  """
  if policy.needs.sample:
    return
  begin = lambda weights: policy.init(
    spec_of(config), weights, policy.knobs, None
  )
  with contextlib.suppress(jax.errors.JAXTypeError):
    if policy.needs.weights:
      jax.eval_shape(lambda stored: begin(dense.to_plain(stored)), params)
    else:
      jax.eval_shape(lambda: begin({}))


def init(
  config: StreamConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  *,
  knobs: Any = None,
  sample: Any = None,
  recent_tokens: int | None = None,
  resident_tokens: int | None = None,
) -> StreamState:
  """An empty stream.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters (policies that fold weights read them).
    knobs: swept values; the policy's defaults when None.
    sample: recorded queries and keys for policies that prepare offline.
    recent_tokens: window that is always attended; one frame when None.
    resident_tokens: window on the device; everything when None.

  Returns:
    StreamState with nothing in it. Allocates the cache; call outside jit.

  Raises:
    ValueError: the policy lacks a function that its needs call for.
  """
  policy_lib.check_hooks(policy)
  decoder = config.decoder
  knobs = policy.knobs if knobs is None else knobs
  if policy.needs.weights:
    params = dense.to_plain(params)
  one = policy.init(spec_of(config), params, knobs, sample)
  batched = jax.tree.map(
    lambda leaf: jnp.array(
      jnp.broadcast_to(leaf[None], (config.batch, *jnp.shape(leaf)))
    ),
    jax.tree.map(jnp.asarray, one),
  )
  if recent_tokens is None:
    recent_tokens = config.frame_tokens
  if policy.needs.resident is not None:
    resident_tokens = policy.needs.resident
  if resident_tokens is None:
    resident_tokens = UNLIMITED
  prefetched = None
  if policy.needs.prefetches:
    rows = policy_lib.rows_of(policy.needs, decoder)
    shape = (decoder.num_layers, config.batch, rows, config.num_slots // 32)
    prefetched = jnp.zeros(shape, jnp.uint32)
  zeros = lambda: jnp.zeros((config.batch,), jnp.int32)
  return StreamState(
    cache=cache_lib.create(
      num_layers=decoder.num_layers,
      batch=config.batch,
      num_kv_heads=decoder.num_kv_heads,
      capacity=config.capacity,
      largest_chunk=config.largest_chunk,
      head_dim=decoder.head_dim,
      dtype=config.cache_dtype,
      per_head=policy.needs.evicts,
    ),
    policy=batched,
    next_position=zeros(),
    seen=zeros(),
    frame=zeros(),
    prefetched=prefetched,
    recent_tokens=jnp.int32(recent_tokens),
    resident_tokens=jnp.int32(resident_tokens),
  )


def snapshot(state: StreamState) -> Snapshot:
  """Copies what a question changes; K/V below the cursor stay as they are.

  Between `snapshot` and `restore` nothing may be compacted. Jit it without
  donation, so that the copies outlive the donated state.
  """
  return jax.tree.map(
    jnp.copy,
    Snapshot(
      slots=state.cache.slots,
      cursor=state.cache.cursor,
      policy=state.policy,
      next_position=state.next_position,
      seen=state.seen,
      frame=state.frame,
      prefetched=state.prefetched,
    ),
  )


def restore(state: StreamState, saved: Snapshot) -> StreamState:
  """The stream as it was at `snapshot`; later K/V stay beyond the cursor."""
  cache = state.cache.replace(slots=saved.slots, cursor=saved.cursor)
  return state.replace(
    cache=cache,
    policy=saved.policy,
    next_position=saved.next_position,
    seen=saved.seen,
    frame=saved.frame,
    prefetched=saved.prefetched,
  )


def compact(policy: policy_lib.KVPolicy, state: StreamState) -> StreamState:
  """Reuses the slots of evicted tokens; evicting policies only.

  Args:
    policy: the policy; its `move` is told where every slot went.
    state: the stream between chunks; donate it.

  Returns:
    The same stream with kept tokens at the front of the cache.
  """
  cache, source = cache_lib.compact(state.cache)
  policy_state = state.policy
  if policy.move is not None:
    policy_state = jax.vmap(policy.move, in_axes=(0, 1))(policy_state, source)
  prefetched = state.prefetched
  if prefetched is not None:
    rows = jnp.repeat(source, prefetched.shape[2] // source.shape[2], axis=2)
    wanted = jnp.take_along_axis(bitmap.unpack(prefetched), rows, axis=-1)
    prefetched = bitmap.pack(wanted)
  return state.replace(cache=cache, policy=policy_state, prefetched=prefetched)


def slots_held(state: StreamState) -> Int:
  """Slots that would be in use after a compaction: i32[].

  The largest number of live slots of any layer, stream and head.
  """
  slots = state.cache.slots.valid
  below = jnp.arange(slots.shape[-1]) < state.cache.cursor
  live = slots & below.reshape((1,) * (slots.ndim - 1) + (-1,))
  return jnp.max(jnp.sum(live, axis=-1, dtype=jnp.int32))
