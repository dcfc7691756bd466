"""A stream whose past is random, made without running the decoder.

Every frame of the past goes through the policy's `write`, so that tables hold
what they would after a stream of that length.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import layer_step as layer_lib
from vrex_jax import policy as policy_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax.benchmark import forced_ratio
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Array, Float, Int

__all__ = ["fill"]

_SPREAD = 0.1
"""Distance of a key from its cluster's centre, in units of the centre's."""


def fill(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  state: stream_state.StreamState,
  tokens: int,
  *,
  seed: int,
) -> stream_state.StreamState:
  """Random keys and values in the first `tokens` slots.

    rotated key   centre of the token's cluster, layer and head, + 0.1 noise
    value         noise

  with centres and noise standard normal. Clusters have 32 tokens on average
  (`forced_ratio.cluster_ids`), scattered over the stream.

  Args:
    config: shapes.
    policy: the policy.
    state: an empty stream; donated.
    tokens: past tokens of every stream, at most the capacity.
    seed: of the draw.

  Returns:
    The stream after them; compacted, where the policy evicts.
  """
  ids = forced_ratio.cluster_ids(tokens, seed)
  padded = jnp.asarray(np.pad(ids, (0, config.frame_tokens)))
  decoder = config.decoder
  shape = (decoder.num_layers, config.batch, decoder.num_kv_heads)

  def run(state_, ids_, key):
    centre_key, noise_key = jax.random.split(key)
    count = ids.max(initial=0) + 1
    centres = jax.random.normal(centre_key, (*shape, count, decoder.head_dim))

    def body(index, carry):
      return _store_frame(
        config, policy, carry, index, tokens, ids_, centres,
        jax.random.fold_in(noise_key, index),
      )  # fmt: skip

    frames = -(-tokens // config.frame_tokens)
    return jax.lax.fori_loop(0, frames, body, state_)

  state = jax.jit(run, donate_argnums=0)(state, padded, jax.random.key(seed))
  if policy.needs.evicts:
    compact = lambda state_: stream_state.compact(policy, state_)
    state = jax.jit(compact, donate_argnums=0)(state)
  return state


def _store_frame(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  state: stream_state.StreamState,
  index: Int,
  tokens: int,
  ids: Int,
  centres: Float,
  random: Array,
) -> stream_state.StreamState:
  """One frame of random keys and values; the last one may be shorter."""
  size = config.frame_tokens
  start = index * size
  live = start + jnp.arange(size) < tokens
  valid = jnp.broadcast_to(live[None], (config.batch, size))
  context, used, _ = layer_lib.chunk_context(
    config, state, valid, index == 0, jnp.asarray(False)
  )
  outputs = _random_outputs(
    config, context, centres, jax.lax.dynamic_slice(ids, (start,), (size,)),
    random,
  )  # fmt: skip
  cache = state.cache
  for layer, output in enumerate(outputs):
    cache = cache_lib.append(
      cache, layer, output.key, output.value, context.start
    )
  frame = jnp.broadcast_to(state.frame[:, None], valid.shape)
  kind = jnp.full(valid.shape, policy_lib.STAGES.index("frame"), jnp.int8)
  cache = cache_lib.commit(
    cache,
    start=context.start,
    advance=used,
    valid=valid,
    position=context.position,
    frame=frame,
    kind=kind,
  )
  new_tokens = jnp.sum(valid, axis=-1, dtype=jnp.int32)
  state = state.replace(
    cache=cache,
    next_position=state.next_position + new_tokens,
    seen=state.seen + new_tokens,
    frame=state.frame + 1,
  )
  state, _ = stream.write_chunk(
    policy, state, outputs, context, frame, kind, valid, "frame"
  )
  return state


def _random_outputs(
  config: stream_state.StreamConfig,
  context: layer_lib.ChunkContext,
  centres: Float,
  ids: Int,
  random: Array,
) -> list[layer_lib.LayerOutput]:
  """What the layers would leave of a frame; centres f[L, B, K, C, H]."""
  decoder = config.decoder
  layers, batch, kv_heads = centres.shape[:3]
  heads, width, size = decoder.num_heads, decoder.head_dim, config.frame_tokens
  noise = jax.random.normal(
    random, (layers, batch, 2 * kv_heads + heads, size, width)
  ).astype(config.dtype)
  key, value, query = jnp.split(noise, [kv_heads, 2 * kv_heads], axis=2)
  key = jnp.take(centres, ids, axis=3).astype(config.dtype) + _SPREAD * key
  back = rotary.Turn(context.turn.cosine, -context.turn.sine)
  return [
    layer_lib.LayerOutput(
      query=rotary.rotate_by(query[layer], context.turn),
      query_raw=query[layer],
      key=key[layer],
      key_raw=rotary.rotate_by(key[layer], back),
      value=value[layer],
      counts=policy_lib.zero_counts((batch, kv_heads)),
      finite=jnp.ones((batch,), bool),
    )
    for layer in range(layers)
  ]
