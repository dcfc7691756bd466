"""The stream: pure functions that prefill chunks into the cache.

  frames ──scan──►  embed ─► layer_step 0 … L-1 ─► write ─► state, event
  question ───────►          layer_step 0 … L-1 ─► write ─► head ─► logits

Every function takes a state and returns the next one; nothing is kept
elsewhere. Callers jit them with the state donated (`driver.py` does), so the
cache is updated in place.

Stages ("prompt", "frame", "question", "answer") are static: one compilation
per stage and chunk size. A shorter chunk is padded and masked by `valid`.
Answers are decoded in `answering.py`.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from vrex_jax import attend as attend_lib
from vrex_jax import layer_step as layer_lib
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.typing import Array, Bool, Float, Int, Parameters, PyTree, Tokens

__all__ = [
  "EmbedFrame",
  "prefill_chunk",
  "prefill_frame",
  "prefill_frames",
  "prefill_tokens",
  "write_chunk",
]

EmbedFrame = Callable[[Parameters, Array, Bool], tuple[Float, Bool]]
"""(params, frame [B, ...], first b[B]) -> hidden f[B, T, D], valid b[B, T]."""


def write_chunk(
  policy: policy_lib.KVPolicy,
  state: stream_state.StreamState,
  outputs: list[layer_lib.LayerOutput],
  context: layer_lib.ChunkContext,
  frame: Int,
  kind: Int,
  stored: Bool,
  stage: str,
) -> tuple[stream_state.StreamState, policy_lib.Counts]:
  """`policy.write` of every stream, once a chunk is in the cache.

  Args:
    policy: the policy.
    state: the stream, the chunk committed and counted.
    outputs: what each layer left, L of them.
    context: of the chunk.
    frame: i32[B, T], frame each token belongs to.
    kind: i8[B, T], stage each token came in.
    stored: b[B, T], tokens that are in the cache.
    stage: static.

  Returns:
    The state, and the policy's counts i32[L, B, K].

  Raises:
    ValueError: the policy drops tokens and does not say so in its needs.
  """
  stack = lambda pick: jnp.stack([pick(output) for output in outputs], axis=1)
  chunk = policy_lib.Chunk(
    k_rotated=stack(lambda output: output.key),
    k_raw=stack(lambda output: output.key_raw),
    v=stack(lambda output: output.value),
    queries=stack(lambda output: output.query_raw),
    position=context.position,
    frame=frame,
    kind=kind,
    valid=stored,
    start=context.start,
    first=context.first,
    last=context.last,
  )
  # All but start, first and last have a stream axis.
  axes = policy_lib.Chunk._make((0,) * 8 + (None,) * 3)
  live = attend_lib.slot_sets(
    state.cache,
    next_position=state.next_position,
    recent_tokens=state.recent_tokens,
    resident_tokens=state.resident_tokens,
  ).live
  view, view_axes = layer_lib.batched_view(state.cache, live, state.seen)
  policy_state, keep, counts = jax.vmap(
    lambda state_, view_, chunk_: policy.write(state_, view_, chunk_, stage),
    in_axes=(0, view_axes, axes),
  )(state.policy, view, chunk)
  cache = state.cache
  if keep is not None:
    if not policy.needs.evicts:
      raise ValueError(
        f"policy {policy.name} returned keep but needs.evicts is False; a"
        " policy that drops tokens must say so: set evicts in its needs"
      )
    valid = cache.slots.valid & keep.transpose(1, 0, 2, 3)
    cache = cache.replace(slots=cache.slots.replace(valid=valid))
  counts = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), counts)
  return state.replace(cache=cache, policy=policy_state), counts


def _end_position(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  end: Int,
  new_tokens: Int,
  counts: policy_lib.Counts,
  stage: str,
) -> Int:
  """Positions a layer scores with are below this: i32[L, B]; end i32[B].

  Where a policy re-indexes, the chunk follows the slots it selected.
  """
  layers = counts.past_loaded.shape[0]
  end = jnp.broadcast_to(end[None], (layers, config.batch))
  if not policy.needs.reindexes:
    return end
  index = policy_lib.STAGES.index(stage)
  retrieves = stream_state.retrieving_layers(config, policy)[index]
  selected = jnp.max(counts.past_loaded, axis=-1)
  return jnp.where(
    jnp.asarray(retrieves)[:, None], selected + new_tokens[None], end
  )


def prefill_chunk(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  state: stream_state.StreamState,
  hidden: Float,
  valid: Bool,
  *,
  stage: str,
  first: Bool | bool,
  last: Bool | bool,
) -> tuple[stream_state.StreamState, Float, trace_lib.Event, PyTree]:
  """Prefills one chunk of embedded tokens through all layers.

  Args:
    config: shapes.
    policy: the policy.
    params: the decoder's parameters.
    state: the stream before the chunk.
    hidden: f[B, T, D], embedded tokens.
    valid: b[B, T], False for padding.
    stage: static.
    first: b[], first chunk of its stage.
    last: b[], last chunk of its stage.

  Returns:
    The state after it, the last layer's output f[B, T, D], the event, and the
    observation (None without config.observe). When the chunk does not fit,
    nothing is stored and the event carries `Overflow.CACHE_FULL`.
  """
  decoder = config.decoder
  chex.assert_shape(hidden, (config.batch, None, decoder.hidden_size))
  chex.assert_shape(valid, hidden.shape[:2])
  context, used, fits = layer_lib.chunk_context(
    config, state, valid, jnp.asarray(first), jnp.asarray(last)
  )
  pending = None
  outputs = []
  for layer in range(decoder.num_layers):
    hidden, state, pending, output = layer_lib.layer_step(
      config, policy, layer, params, hidden, state, pending, context, stage
    )
    outputs.append(output)

  is_frame = int(stage == "frame")
  owner = state.frame - 1 + is_frame
  frame = jnp.broadcast_to(owner[:, None], valid.shape)
  kind = jnp.full(valid.shape, policy_lib.STAGES.index(stage), jnp.int8)
  # No count is negative, but the compiler does not know: the policy's state is
  # written after the last layer has read it, or else it is copied as a whole.
  negative = [jnp.any(output.counts.past_loaded < 0) for output in outputs]
  stored = valid & fits & ~jnp.any(jnp.stack(negative))
  new_tokens = jnp.sum(stored, axis=-1, dtype=jnp.int32)
  cache = cache_lib.commit(
    state.cache,
    start=context.start,
    advance=jnp.where(fits, used, 0),
    valid=stored,
    position=context.position,
    frame=frame,
    kind=kind,
  )
  state = state.replace(
    cache=cache,
    next_position=state.next_position + new_tokens,
    seen=state.seen + new_tokens,
    frame=state.frame + is_frame,
  )
  state, written = write_chunk(
    policy, state, outputs, context, frame, kind, stored, stage
  )
  counts = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *[output.counts for output in outputs]
  ).plus(written)
  finite = jnp.stack([output.finite for output in outputs])
  bits = trace_lib.Overflow
  overflow = jnp.where(finite, 0, int(bits.NON_FINITE)).astype(jnp.uint32)
  overflow |= jnp.where(fits, 0, int(bits.CACHE_FULL)).astype(jnp.uint32)
  end = _end_position(
    config, policy, state.next_position, new_tokens, counts, stage
  )
  beyond = end > decoder.max_position_embeddings
  overflow |= jnp.where(beyond, int(bits.POSITION), 0).astype(jnp.uint32)
  event = trace_lib.Event(
    stage=jnp.int32(policy_lib.STAGES.index(stage)),
    frame=owner,
    counts=counts,
    overflow=overflow,
  )
  observation = None
  if config.observe is not None:
    observation = config.observe(
      params,
      observing.Observed(
        hidden=hidden,
        layers=tuple(outputs),
        position=context.position,
        frame=frame,
        kind=kind,
        valid=stored,
        cache=state.cache,
      ),
    )
  return state, hidden, event, observation


def prefill_frame(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  embed_frame: EmbedFrame,
  params: Parameters,
  state: stream_state.StreamState,
  frame: Array,
) -> tuple[stream_state.StreamState, trace_lib.Event, PyTree]:
  """Embeds and prefills one frame of every stream.

  Args:
    config: shapes.
    policy: the policy.
    embed_frame: vision tower and connector.
    params: model parameters, decoder under "decoder".
    state: the stream before the frame.
    frame: [B, ...], whatever `embed_frame` takes.

  Returns:
    The state after it, the event, the observation or None.
  """
  hidden, valid = embed_frame(params, frame, state.frame == 0)
  state, _, event, observation = prefill_chunk(
    config,
    policy,
    params["decoder"],
    state,
    hidden.astype(config.dtype),
    valid,
    stage="frame",
    first=jnp.all(state.frame == 0),
    last=False,
  )
  return state, event, observation


def prefill_frames(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  embed_frame: EmbedFrame,
  params: Parameters,
  state: stream_state.StreamState,
  frames: Array,
  live: Bool,
) -> tuple[stream_state.StreamState, trace_lib.Event, PyTree]:
  """One scan over a block of frames.

  Args:
    config: shapes.
    policy: the policy.
    embed_frame: vision tower and connector.
    params: model parameters.
    state: the stream before the block; donate it.
    frames: [F, B, ...].
    live: b[F]; frames past the end of a short block are skipped, not computed.

  Returns:
    The state after the block; events and observations with leading axis F
    (zeros where not live).
  """
  chex.assert_equal_shape_prefix([frames, live], 1)
  step = lambda state_, frame: prefill_frame(
    config, policy, embed_frame, params, state_, frame
  )
  one = jax.tree.map(
    lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), frames
  )
  blank = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(step, state, one)[1:],
  )

  # A loop of at most one trip instead of `lax.cond`: a conditional makes XLA
  # copy the whole cache four times a frame, the loop updates it in place.
  def body(state_, inputs):
    frame, is_live = inputs

    def run(carry):
      after, event, observation = step(carry[1], frame)
      return jnp.asarray(False), after, (event, observation)

    _, state_, outputs = jax.lax.while_loop(
      lambda carry: carry[0], run, (is_live, state_, blank)
    )
    return state_, outputs

  state, (events, observations) = jax.lax.scan(body, state, (frames, live))
  return state, events, observations


def prefill_tokens(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  state: stream_state.StreamState,
  tokens: Tokens,
  valid: Bool,
  *,
  stage: str,
  first: Bool | bool,
  last: Bool | bool,
) -> tuple[stream_state.StreamState, Float, trace_lib.Event, PyTree]:
  """Prefills one chunk of text; also returns logits after its last token.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters.
    state: the stream before the chunk; donate it.
    tokens: i32[B, T].
    valid: b[B, T], False for padding (at the end).
    stage: "prompt", "question" or "answer"; static.
    first: b[], first chunk of its stage.
    last: b[], last chunk of its stage.

  Returns:
    The state after it, logits f32[B, vocabulary] of the token that follows the
    last valid one, the event, the observation or None.
  """
  module = decoder_lib.Decoder(config.decoder, config.dtype)
  variables = {"params": params["decoder"]}
  hidden = module.apply(variables, tokens, method="embed")
  state, hidden, event, observation = prefill_chunk(
    config,
    policy,
    params["decoder"],
    state,
    hidden,
    valid,
    stage=stage,
    first=first,
    last=last,
  )
  length = valid.shape[1]
  index = jnp.arange(length)[None]
  final = jnp.max(jnp.where(valid, index, 0), axis=1)
  hidden = jnp.take_along_axis(hidden, final[:, None, None], axis=1)
  logits = module.apply(variables, hidden, method="head")[:, 0]
  broken = jnp.any(~jnp.isfinite(logits), axis=-1) & jnp.any(valid, axis=-1)
  bit = jnp.uint32(trace_lib.Overflow.NON_FINITE)
  event = event._replace(
    overflow=event.overflow | jnp.where(broken, bit, jnp.uint32(0))[None]
  )
  return state, logits, event, observation
