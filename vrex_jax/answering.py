"""Answers: token after token, until every stream has met a stop id.

  logits ─► sample ─► embed ─► layers ─► write ─► head ─► logits ─► …

A pure function of the stream's state, in one `while_loop`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax import policy as policy_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.typing import Array, Bool, Float, Int, Parameters, PyTree, Tokens

__all__ = ["Answer", "answer"]


class Answer(NamedTuple):
  """Dynamic. A decoded answer of every stream.

  Attributes:
    tokens: generated ids; positions past `length` hold 0.
    length: tokens generated, the stop token not counted.
    steps: decoder steps taken (the longest answer).
    stopped: ended by a stop id, not by the limit.
    events: one event per step, leading axis X = max_tokens; steps are valid.
  """

  tokens: Tokens  # [B, max_tokens]
  length: Int  # [B]
  steps: Int  # []
  stopped: Bool  # [B]
  events: trace_lib.Event


def _sample(logits: Float, key: Array, temperature: Float) -> Tokens:
  """Greedy at temperature 0, else softmax(logits / temperature): i32[B]."""
  greedy = jnp.argmax(logits, axis=-1)
  heat = jnp.where(temperature > 0, temperature, 1.0)
  drawn = jax.random.categorical(key, logits / heat, axis=-1)
  return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)


def answer(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  state: stream_state.StreamState,
  logits: Float,
  *,
  max_tokens: int,
  stop_ids: tuple[int, ...],
  temperature: Float | float = 0.0,
  key: Array | None = None,
) -> tuple[stream_state.StreamState, Answer, PyTree]:
  """Generates until every stream has met a stop id or `max_tokens`.

  Args:
    config: shapes.
    policy: the policy.
    params: model parameters.
    state: the stream after the question; donate it.
    logits: f32[B, vocabulary] after the question.
    max_tokens: static limit of generated tokens.
    stop_ids: static; any of them ends an answer and is not stored.
    temperature: f32[], 0 for greedy decoding; traced.
    key: random key for sampling; may be None at temperature 0.

  Returns:
    The state with the answers in the cache, the answers, and None or the
    observations with leading axis max_tokens.
  """
  key = jax.random.key(0) if key is None else key
  temperature = jnp.asarray(temperature, jnp.float32)
  stops = jnp.asarray(stop_ids, jnp.int32)

  def step(state_, tokens, valid, first):
    return stream.prefill_tokens(
      config,
      policy,
      params,
      state_,
      tokens[:, None],
      valid[:, None],
      stage="answer",
      first=first,
      last=False,
    )

  shapes = jax.eval_shape(
    step,
    state,
    jnp.zeros((config.batch,), jnp.int32),
    jnp.ones((config.batch,), bool),
    jnp.asarray(True),
  )
  buffers = jax.tree.map(
    lambda leaf: jnp.zeros((max_tokens, *leaf.shape), leaf.dtype), shapes[2:]
  )
  put = lambda index: (
    lambda buffer, leaf: jax.lax.dynamic_update_index_in_dim(
      buffer, leaf.astype(buffer.dtype), index, 0
    )
  )

  def propose(index, logits_, done):
    token = _sample(logits_, jax.random.fold_in(key, index), temperature)
    done = done | jnp.any(token[:, None] == stops[None], axis=-1)
    return token, done

  def body(carry):
    index, state_, token, done, tokens, length, buffers_ = carry
    live = ~done
    state_, logits_, event, observation = step(state_, token, live, index == 0)
    tokens = tokens.at[:, index].set(jnp.where(live, token, 0))
    buffers_ = jax.tree.map(put(index), buffers_, (event, observation))
    following, done = propose(index + 1, logits_, done)
    length = length + live.astype(jnp.int32)
    return index + 1, state_, following, done, tokens, length, buffers_

  token, done = propose(0, logits, jnp.zeros((config.batch,), bool))
  start = (
    jnp.int32(0),
    state,
    token,
    done,
    jnp.zeros((config.batch, max_tokens), jnp.int32),
    jnp.zeros((config.batch,), jnp.int32),
    buffers,
  )
  steps, state, _, done, tokens, length, buffers = jax.lax.while_loop(
    lambda carry: (carry[0] < max_tokens) & ~jnp.all(carry[3]),
    body,
    start,
  )
  events, observations = buffers
  return state, Answer(tokens, length, steps, done, events), observations
