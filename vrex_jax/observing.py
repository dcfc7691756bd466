"""What a run takes along from every chunk, beside the counts.

An observer is a pure function that `stream.prefill_chunk` calls once the chunk
is in the cache; `StreamConfig.observe` names it, and what it returns (any
pytree) comes out of scans, questions and answers beside the events:

  chunk ─► layers ─► write ─► observe(params, Observed) ─► observation

`record_chunk` takes queries, keys and values along for replays;
`frames_read` which old frames were read, and what the model would say.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import layer_step as layer_lib
from vrex_jax import policy as policy_lib
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.typing import Bitmap, Bool, Float, Int, Parameters, PyTree

__all__ = [
  "Observed",
  "Observer",
  "Reading",
  "Record",
  "frames_read",
  "record_chunk",
]


class Observed(NamedTuple):
  """Dynamic. One chunk, after all layers and the policy's `write`.

  Attributes:
    hidden: output of the last layer.
    layers: what each layer left, L of them.
    position: of the chunk's tokens.
    frame: frame each token belongs to.
    kind: stage of each token, an index of `policy.STAGES`.
    valid: tokens that are in the cache.
    cache: keys, values and slot metadata, the chunk's included.
  """

  hidden: Float  # [B, T, D]
  layers: tuple[layer_lib.LayerOutput, ...]
  position: Int  # [B, T]
  frame: Int  # [B, T]
  kind: Int  # i8 [B, T]
  valid: Bool  # [B, T]
  cache: cache_lib.KVCache

  @property
  def last(self) -> Int:
    """Index of the last valid token of every stream: i32[B]."""
    index = jnp.arange(self.valid.shape[1])[None]
    return jnp.max(jnp.where(self.valid, index, 0), axis=1)


Observer = Callable[[Parameters, Observed], PyTree]
"""(parameters of the decoder, chunk) -> what is taken along."""


class Record(NamedTuple):
  """Dynamic. Queries, keys and values of one chunk, for replays.

  `query_next` of layer l is what layer l + 1's projection makes of layer l's
  input: the query of `--lookahead_query next` (the last layer's is its own).
  """

  query: Float  # [L, B, N, T, H], rotated
  query_next: Float  # [L, B, N, T, H], rotated
  key: Float  # [L, B, K, T, H], rotated
  value: Float  # [L, B, K, T, H]
  position: Int  # [B, T]
  frame: Int  # [B, T]
  kind: Int  # i8 [B, T]
  valid: Bool  # [B, T]


def record_chunk(params: Parameters, seen: Observed) -> Record:
  """The observer of `--record`."""
  del params
  following = [layer.query_next for layer in seen.layers]
  return Record(
    query=jnp.stack([layer.query for layer in seen.layers]),
    query_next=jnp.stack([query for query in following if query is not None]),
    key=jnp.stack([layer.key for layer in seen.layers]),
    value=jnp.stack([layer.value for layer in seen.layers]),
    position=seen.position,
    frame=seen.frame,
    kind=seen.kind,
    valid=seen.valid,
  )


class Reading(NamedTuple):
  """Dynamic. What one chunk read of the past, and what follows it.

  Attributes:
    tokens: past tokens read of every frame, by layer, stream and selection row.
    said: the token that the model finds likeliest after the chunk.
  """

  tokens: Int  # i32 [L, B, A, F]
  said: Int  # i32 [B]


def frames_read(
  config: config_lib.DecoderConfig, num_frames: int, dtype: jnp.dtype
) -> Observer:
  """An observer that counts the tokens read of every frame.

  Args:
    config: of the decoder.
    num_frames: F; later frames are not counted.
    dtype: of activations, for the head.

  Returns:
    The observer; it returns a `Reading`.
  """
  module = decoder_lib.Decoder(config, dtype)

  def observe(params: Parameters, seen: Observed) -> Reading:
    reads = [layer.past for layer in seen.layers]
    past = jnp.stack([slots for slots in reads if slots is not None])
    last = jnp.take_along_axis(seen.hidden, seen.last[:, None, None], axis=1)
    logits = module.apply({"params": params}, last, method="head")[:, 0]
    return Reading(
      tokens=_by_frame(past, seen.cache.slots, num_frames),
      said=jnp.argmax(logits, axis=-1).astype(jnp.int32),
    )

  return observe


def _by_frame(past: Bitmap, slots: cache_lib.SlotTable, frames: int) -> Int:
  """Bits of each frame: i32[L, B, A, F]; past u32[L, B, A, S / 32]."""
  layers, batch, rows, _ = past.shape
  is_frame = slots.kind == policy_lib.STAGES.index("frame")
  # Slots of text count for a frame behind the last, which is cut off.
  owner = jnp.where(is_frame, jnp.minimum(slots.frame, frames), frames)
  if owner.ndim == 2:  # one table for all layers and heads
    owner = jnp.broadcast_to(owner[:, None], (layers, batch, 1, owner.shape[1]))
  owner = jnp.repeat(owner, rows // owner.shape[2], axis=2)
  read = bitmap.unpack(past).astype(jnp.int32)
  flat = lambda array: array.reshape(layers * batch * rows, -1)
  count = jax.vmap(
    lambda read_, owner_: jnp.zeros(frames + 1, jnp.int32).at[owner_].add(read_)
  )(flat(read), flat(owner))
  return count[:, :frames].reshape(layers, batch, rows, frames)
