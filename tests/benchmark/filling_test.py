"""A random past is a past: slots, positions and tables as after a stream."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmark import streams
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import full
from vrex_jax.baselines import streaming_llm
from vrex_jax.benchmark import forced_ratio
from vrex_jax.models import rotary

TOKENS = 90  # 22 frames of 4 tokens and half of one


def counting_policy():
  """Keeps what `write` was given: tokens, frames, and a check of the keys."""

  def write(state, view, chunk, stage):
    decoder = streams.model().decoder
    frequencies = rotary.inverse_frequencies(decoder.rope, decoder.head_dim)
    angle = rotary.angles(chunk.position, frequencies)[None, None]
    error = jnp.abs(rotary.rotate(chunk.k_raw, angle) - chunk.k_rotated)
    stored = view.gather(0, jnp.broadcast_to(chunk.start, (2, 1)))[0][:, 0]
    new = {
      "tokens": state["tokens"] + jnp.sum(chunk.valid),
      "frames": jnp.maximum(state["frames"], jnp.max(chunk.frame) + 1),
      "error": jnp.maximum(state["error"], jnp.max(error)),
      "moved": jnp.maximum(
        state["moved"], jnp.max(jnp.abs(stored - chunk.k_rotated[0, :, 0]))
      ),
      "seen": view.seen,
    }
    return new, None, policy_lib.zero_counts(chunk.k_rotated.shape[:2])

  empty = {
    "tokens": 0,
    "frames": 0,
    "error": 0.0,
    "moved": 0.0,
    "seen": 0,
  }
  return full.full()._replace(
    name="counting", init=lambda *arguments: empty, write=write
  )


@pytest.fixture(scope="module")
def state():
  config = streams.config(TOKENS, batch=2)
  return streams.filled(config, counting_policy(), streams.parameters(), TOKENS)


def test_the_slots_are_those_of_a_stream_of_that_length(state):
  slots = state.cache.slots
  assert int(state.cache.cursor) == TOKENS
  assert (np.asarray(state.seen) == TOKENS).all()
  assert (np.asarray(state.next_position) == TOKENS).all()
  assert (np.asarray(state.frame) == 23).all()
  below = np.arange(slots.valid.shape[1]) < TOKENS
  np.testing.assert_array_equal(slots.valid, np.stack([below, below]))
  np.testing.assert_array_equal(slots.position[0, :TOKENS], np.arange(TOKENS))
  np.testing.assert_array_equal(
    slots.frame[1, :TOKENS], np.arange(TOKENS) // streams.FRAME_TOKENS
  )


def test_every_token_went_through_write_once(state):
  for stream in range(2):
    assert int(state.policy["tokens"][stream]) == TOKENS
    assert int(state.policy["frames"][stream]) == 23
    assert int(state.policy["seen"][stream]) == TOKENS
    assert float(state.policy["moved"][stream]) < 1e-5
    assert float(state.policy["error"][stream]) < 1e-4


def test_keys_lie_around_the_centre_of_their_cluster(state):
  keys = np.asarray(state.cache.key)[..., :TOKENS, :]
  ids = forced_ratio.cluster_ids(TOKENS, 0)
  unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
  cosine = np.einsum("lbksh,lbkth->lbkst", unit, unit)
  same = ids[:, None] == ids[None]
  assert cosine[..., same].min() > 0.9
  assert cosine[..., ~same].mean() < 0.2
  first = keys[..., 0, :].reshape(-1, keys.shape[-1])
  assert len(np.unique(first.round(3), axis=0)) == len(first)


def test_values_are_standard_normal(state):
  values = np.asarray(state.cache.value)[..., :TOKENS, :]
  assert abs(values.mean()) < 0.02
  assert abs(values.std() - 1) < 0.02


def test_an_evicting_policy_is_left_with_what_it_keeps():
  policy = streaming_llm.streaming_llm(sink_tokens=4, window_tokens=20)
  config = streams.config(TOKENS)
  state = streams.filled(config, policy, streams.parameters(), TOKENS)
  assert int(state.cache.cursor) == 24
  position = np.asarray(state.cache.slots.position)[0, 0, 0, :24]
  np.testing.assert_array_equal(position, [0, 1, 2, 3, *range(70, 90)])


def test_no_past_is_an_empty_stream():
  config = streams.config(TOKENS)
  state = streams.filled(config, full.full(), streams.parameters(), 0)
  assert int(state.cache.cursor) == 0
  assert not np.asarray(state.cache.slots.valid).any()
