"""What comes out of a stream beside its events."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import stepping
from vrex_jax import observing
from vrex_jax import policy_syntax
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import testing

FRAMES, LENGTH, BATCH = 7, 4, 2


def readings(text):
  """Counts and readings of a stream of frames behind one chunk of prompt."""
  decoder = testing.decoder_config()
  config = stepping.config_of(
    LENGTH,
    decoder=decoder,
    batch=BATCH,
    capacity=64,
    observe=observing.frames_read(decoder, FRAMES, jnp.float32),
  )
  policy = policy_syntax.make_policy(text)
  params = testing.decoder_parameters(decoder)
  state = stream_state.init(config, policy, params, recent_tokens=0)
  step = jax.jit(
    stepping.chunk_step(config, policy, params),
    static_argnames=("stage", "first"),
  )
  frames = testing.hidden_frames(config, FRAMES + 1, seed=3)
  state, *_ = step(state, frames[0], stage="prompt", first=True)
  counts, seen = [], []
  for frame in frames[1:]:
    state, _, event, reading = step(state, frame)
    counts.append(event.counts)
    seen.append(reading)
  return counts, seen


def test_full_reads_every_token_of_the_frames_before():
  _, seen = readings("full")
  for index, reading in enumerate(seen):
    expected = np.where(np.arange(FRAMES) < index, LENGTH, 0)
    tokens = np.asarray(reading.tokens)
    assert tokens.shape[1] == BATCH
    np.testing.assert_array_equal(
      tokens, np.broadcast_to(expected, tokens.shape)
    )


@pytest.mark.parametrize(
  "text",
  [
    "resv(wicsum_ratio=0.2, sink_tokens=0)",
    "streaming_llm(sink_tokens=2, window_tokens=9)",
  ],
)
def test_frames_add_up_to_what_was_loaded_but_for_the_prompt(text):
  counts, seen = readings(text)
  some_left_out = False
  for index, (count, reading) in enumerate(zip(counts, seen, strict=True)):
    tokens = np.asarray(reading.tokens)
    loaded = np.asarray(count.past_loaded)
    prompt = loaded - tokens.sum(axis=-1)
    assert (tokens <= LENGTH).all()
    assert (tokens[..., index:] == 0).all()
    assert ((prompt >= 0) & (prompt <= LENGTH)).all()
    some_left_out |= bool((tokens[..., :index] == 0).any())
  assert some_left_out


def test_the_model_says_what_its_head_finds_likeliest():
  decoder = testing.decoder_config()
  config = stepping.config_of(
    LENGTH,
    decoder=decoder,
    batch=BATCH,
    observe=observing.frames_read(decoder, 1, jnp.float32),
  )
  policy = policy_syntax.make_policy("full")
  params = testing.decoder_parameters(decoder)
  state = stream_state.init(config, policy, params)
  valid = jnp.array([[True] * 4, [True, True, False, False]])
  _, logits, _, reading = stream.prefill_tokens(
    config,
    policy,
    {"decoder": params["decoder"]},
    state,
    jnp.array([[1, 2, 3, 4], [5, 6, 7, 8]]),
    valid,
    stage="question",
    first=True,
    last=True,
  )
  np.testing.assert_array_equal(reading.said, np.argmax(logits, axis=-1))
