"""Selecting one layer ahead: which query is used, what is attended, counted."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference as reference_lib
from tests import stepping
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.baselines import full as full_lib

LENGTH, FRAMES = 5, 4


def listener():
  """Keeps the queries it was asked with; selects all or nothing, by a knob."""

  def init(spec, params, knobs, sample):
    del params, sample
    decoder = spec.decoder
    shape = (decoder.num_layers, decoder.num_heads, LENGTH, decoder.head_dim)
    return {
      "all": jnp.asarray(knobs["all"]),
      "query": jnp.zeros(shape),
      "raw": jnp.zeros(shape),
      "calls": jnp.zeros(decoder.num_layers, jnp.int32),
    }

  def select(state, view, layer, queries, stage):
    del stage
    live = jnp.broadcast_to(view.live_in(layer), (2, view.live.shape[-1]))
    slots = jnp.where(state["all"], live, jnp.uint32(0))
    state = {
      **state,
      "query": state["query"].at[layer].set(queries.rotated),
      "raw": state["raw"].at[layer].set(queries.unrotated),
      "calls": state["calls"].at[layer].add(1),
    }
    counts = policy_lib.zero_counts((2,))._replace(
      keys_scored=jnp.full((2,), 10 + layer)
    )
    return policy_lib.Selection((policy_lib.Part(slots),)), state, counts

  return full_lib.full()._replace(
    name="listener", init=init, select=select, knobs={"all": False}
  )


@pytest.fixture(scope="module", params=[(0, "own"), (1, "own"), (1, "next")])
def ahead(request):
  lookahead, query = request.param
  config = stepping.config_of(
    LENGTH,
    decoder=testing.decoder_config(num_layers=3),
    capacity=100,
    lookahead=lookahead,
    lookahead_query=query,
    observe=observing.record_chunk,
  )
  params, policy = testing.decoder_parameters(config.decoder), listener()
  step = jax.jit(stepping.chunk_step(config, policy, params))

  def run(everything, recent_tokens=0):
    state = stream_state.init(
      config,
      policy,
      params,
      knobs={"all": everything},
      recent_tokens=recent_tokens,
    )
    for frame in frames:
      state, out, event, record = step(state, frame)
    return types.SimpleNamespace(
      state=state, out=out[0], event=event, record=record
    )

  frames = testing.hidden_frames(config, FRAMES)
  return types.SimpleNamespace(
    config=config, policy=policy, params=params, frames=frames, run=run
  )


def test_selecting_all_is_full_whatever_the_lookahead(ahead):
  stream_ = reference_lib.Reference(ahead.config.decoder, ahead.params)
  for frame in ahead.frames:
    expected = stream_.extend(frame[0])
  np.testing.assert_allclose(ahead.run(True).out, expected, atol=2e-5)


def test_first_layer_attends_to_everything_when_looking_ahead(ahead):
  """The others attend to what the policy chose: here nothing."""
  result = ahead.run(False)
  first = ahead.config.lookahead
  stream_ = reference_lib.Reference(ahead.config.decoder, ahead.params)

  def choose(layer, query):
    del query
    tokens = np.arange(len(stream_) if layer < first else 0)
    return [[reference_lib.Part(tokens)]] * 4

  for frame in ahead.frames:
    expected = stream_.extend(frame[0], choose)
  np.testing.assert_allclose(result.out, expected, atol=2e-5)
  past = (FRAMES - 1) * LENGTH
  attended = result.event.counts.past_attended[:, 0, 0]
  np.testing.assert_array_equal(
    attended, [past if layer < first else 0 for layer in range(3)]
  )


def test_each_layer_is_selected_once_with_the_query_it_is_due(ahead):
  result = ahead.run(False)
  lookahead = ahead.config.lookahead
  asked, record = result.state.policy, result.record
  np.testing.assert_array_equal(
    asked["calls"][0], [FRAMES * (layer >= lookahead) for layer in range(3)]
  )
  if ahead.config.lookahead_query == "own":
    for layer in range(lookahead, 3):
      np.testing.assert_allclose(
        asked["query"][0, layer], record.query[layer - lookahead, 0], atol=1e-6
      )
    return
  # "next": layer 1's own projection on layer 0's input, the frame itself.
  stream_ = reference_lib.Reference(ahead.config.decoder, ahead.params)
  raw = stream_.project(1, ahead.frames[-1][0], "q_proj", 4)
  position = (FRAMES - 1) * LENGTH + np.arange(LENGTH)
  rotated = [
    reference_lib.rotate(head, position, stream_.frequencies) for head in raw
  ]
  np.testing.assert_allclose(asked["raw"][0, 1], raw, atol=1e-5)
  np.testing.assert_allclose(asked["query"][0, 1], rotated, atol=1e-5)


def test_counts_of_a_selection_belong_to_its_layer(ahead):
  counts = ahead.run(False).event.counts
  lookahead = ahead.config.lookahead
  np.testing.assert_array_equal(
    counts.keys_scored[:, 0, 0],
    [10 + layer if layer >= lookahead else 0 for layer in range(3)],
  )


def test_layers_that_never_retrieve_count_for_the_share_only(ahead):
  result = ahead.run(False, recent_tokens=LENGTH)
  layers = stream_state.retrieving_layers(ahead.config, ahead.policy)
  one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], result.event)
  trace = trace_lib.from_events(
    one, time_s=np.zeros(1), retrieves=np.asarray(layers), rows_per_head=1
  )
  ratio = trace_lib.retrieval_ratio(trace)["frame"]
  share = trace_lib.retrieval_ratio(trace, all_layers=True)["frame"]
  recent = 1 / (FRAMES - 1)
  assert ratio == pytest.approx(recent)
  dense = ahead.config.lookahead
  assert share == pytest.approx((dense + (3 - dense) * recent) / 3)


@pytest.mark.parametrize(
  ("field", "value"), [("lookahead", 2), ("lookahead_query", "mine")]
)
def test_an_unknown_lookahead_is_refused(field, value):
  with pytest.raises(ValueError, match=f"{field} is"):
    stream_state.StreamConfig(
      decoder=testing.decoder_config(), **{field: value}
    )
