"""Disturbances that softmax does not see, and one that it does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import stepping
from vrex_jax import disturbing
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax.models import rotary

FRAMES, LENGTH = 12, 4
DECODER = testing.decoder_config()
SIZES = disturbing.Statistics(
  key_length=np.ones((2, 2), np.float32),
  mean_query=np.ones((2, 2, 8), np.float32),
)


@functools.cache
def outputs(text, name=None, size=3.0):
  """Hidden states of all frames, and the numbers of slots read by them."""
  disturb = disturbing.make(name, size, SIZES, DECODER) if name else None
  config = stepping.config_of(
    LENGTH, decoder=DECODER, capacity=64, disturb=disturb
  )
  policy = policy_syntax.make_policy(text)
  params = testing.decoder_parameters(DECODER)
  state = stream_state.init(config, policy, params, recent_tokens=0)
  step = jax.jit(stepping.chunk_step(config, policy, params))
  hidden, events, _ = stepping.run_frames(
    step, state, stepping.scene_frames(config, FRAMES)
  )
  return hidden, events.counts.past_attended


@pytest.mark.parametrize("name", ["key_bias", "channel_scale"])
def test_attention_of_the_full_cache_does_not_change(name):
  plain, _ = outputs("full")
  disturbed, _ = outputs("full", name, 1.0)
  np.testing.assert_allclose(disturbed, plain, atol=2e-5)


@pytest.mark.slow
def test_what_resv_reads_changes_with_a_bias_and_centering_repairs_it():
  repaired = "resv(sink_tokens=0, key_centering=mean, scores=shift_min)"
  moved = {}
  for text in ("resv(sink_tokens=0)", repaired):
    _, plain = outputs(text)
    _, disturbed = outputs(text, "key_bias", 30.0)
    moved[text] = np.abs(disturbed - plain).sum() / plain.sum()
  assert moved["resv(sink_tokens=0)"] > 3 * moved[repaired]


def test_a_sink_is_another_attention():
  plain, _ = outputs("full")
  disturbed, _ = outputs("full", "sink", 8.0)
  assert np.abs(disturbed - plain).max() > 1e-2


def test_what_was_not_rotated_follows_what_was():
  random = np.random.default_rng(0)
  draw = lambda heads: jnp.asarray(
    random.standard_normal((1, heads, LENGTH, 8)), jnp.float32
  )
  angle = jnp.asarray(random.uniform(0, 6, (1, 1, LENGTH, 4)), jnp.float32)
  turn = rotary.turn_once(angle)
  heads = disturbing.Heads(draw(4), draw(2), draw(2))
  moved, query_raw, key_raw = disturbing.apply(
    disturbing.key_bias(2.0, SIZES, DECODER),
    1,
    heads,
    jnp.zeros((1, LENGTH), jnp.int32),
    turn,
  )
  again = rotary.rotate_by
  np.testing.assert_allclose(again(query_raw, turn), moved.query, atol=1e-5)
  np.testing.assert_allclose(again(key_raw, turn), moved.key, atol=1e-5)
  length = np.linalg.norm(moved.key - heads.key, axis=-1)
  np.testing.assert_allclose(length, 2.0, rtol=1e-5)


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match="key_bias, channel_scale, sink"):
    disturbing.make("wobble", 1.0, SIZES, DECODER)
