"""What a combinator adds to a selection: slots, once, and nothing else."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import stepping
from vrex_jax import errors
from vrex_jax import policy as policy_lib
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax.baselines import combinators
from vrex_jax.baselines import full as full_lib
from vrex_jax.baselines import h2o
from vrex_jax.baselines import random_tokens

LENGTH, FRAMES = 5, 6
EMPTY = {"budget_tokens": 0, "budget_share": 1.0}
NOTHING = random_tokens.random()._replace(knobs=EMPTY)
"""Selects no slot: what is attended is the driver's doing."""


def run(policy, recent_tokens=0):
  """Attended past tokens [F, L, K] and the last frame's output."""
  config = stepping.config_of(
    LENGTH, decoder=testing.decoder_config(num_layers=1), capacity=100
  )
  params = testing.decoder_parameters(config.decoder)
  outputs, events, state = stepping.run_frames(
    jax.jit(stepping.chunk_step(config, policy, params)),
    stream_state.init(config, policy, params, recent_tokens=recent_tokens),
    testing.hidden_frames(config, FRAMES),
  )
  attended = events.counts.past_attended[:, :, 0]
  return types.SimpleNamespace(attended=attended, out=outputs[-1], state=state)


SEEN = (LENGTH * np.arange(FRAMES)).reshape(-1, 1, 1)


def test_sinks_are_the_first_tokens_of_the_stream():
  found = run(combinators.keep_sink(NOTHING, 7))
  expected = np.broadcast_to(np.minimum(SEEN, 7), (FRAMES, 1, 2))
  np.testing.assert_array_equal(found.attended, expected)


def test_kept_recent_tokens_are_the_driver_s_recent_tokens():
  mine = run(combinators.keep_recent(NOTHING, 7))
  drivers = run(NOTHING, recent_tokens=7)
  np.testing.assert_array_equal(mine.attended, drivers.attended)
  np.testing.assert_array_equal(mine.out, drivers.out)


def test_slots_of_another_part_are_not_attended_twice():
  """Sinks that the second part holds stay there."""

  def select(state, view, layer, queries, stage):
    del stage
    nothing = NOTHING.select(state, view, layer, queries, "frame")
    empty = nothing[0].parts[0]
    some = policy_lib.Part(slots=empty.slots.at[:, 0].set(0b10110))
    return policy_lib.Selection((empty, some)), state, nothing[2]

  policy = NOTHING._replace(select=select)
  found = run(combinators.keep_sink(policy, 4))
  # Sinks 0 … 3 and slots 1, 2, 4: five slots.
  expected = np.broadcast_to(np.minimum(SEEN, 5), (FRAMES, 1, 2))
  np.testing.assert_array_equal(found.attended, expected)


def test_what_is_always_read_is_asked_for_in_time():
  """A policy that prefetches: the set for the next step has the sinks, too."""
  rows = jnp.array([[0b10000], [0b1000000]], jnp.uint32)
  selection = policy_lib.Selection((policy_lib.Part(rows),), prefetch=rows)
  inner = NOTHING._replace(select=lambda state, *rest: (selection, state, None))
  found, _, _ = combinators.keep_sink(inner, 2).select(
    {"inner": {}, "keep_sink": jnp.int32(2)},
    types.SimpleNamespace(slots=types.SimpleNamespace(position=jnp.arange(32))),
    0,
    None,
    "frame",
  )
  expected = np.array([[0b10011], [0b1000011]])
  np.testing.assert_array_equal(found.parts[0].slots, expected)
  np.testing.assert_array_equal(found.prefetch, expected)


def test_an_evictor_by_query_head_takes_sinks():
  """The sinks of every row, as long as its KV head still holds them."""
  inner = h2o.h2o(heavy=3, recent=6)
  plain, with_sinks = run(inner), run(combinators.keep_sink(inner, 4))
  assert np.all(with_sinks.attended >= plain.attended)
  assert np.any(with_sinks.attended > plain.attended)
  assert set(with_sinks.state.policy) == {"inner", "keep_sink"}


def test_a_combinator_hands_every_hook_on():
  inner = h2o.h2o()._replace(groups=lambda state, layer: state["mass"][layer])
  outer = combinators.keep_sink(inner, 2)
  state = {"inner": {"mass": np.arange(4)}, "keep_sink": np.int32(2)}
  assert outer.groups(state, 3) == 3
  moved = outer._replace(move=None)
  assert moved.move is None
  assert outer.move is not None
  assert outer.feedback is not None
  assert combinators.keep_sink(full_lib.full(), 2).feedback is None
  assert outer.needs == inner.needs


def test_a_knob_is_swept_without_another_program():
  policy = combinators.keep_sink(NOTHING, 7)
  assert policy.knobs == {**EMPTY, "keep_sink": 7}
  config = stream_state.StreamConfig(decoder=testing.decoder_config())
  params = testing.decoder_parameters(config.decoder)
  state = stream_state.init(
    config, policy, params, knobs={**EMPTY, "keep_sink": 3}
  )
  assert state.policy["keep_sink"].tolist() == [3]


def test_the_same_combinator_twice_is_refused():
  once = combinators.keep_sink(full_lib.full(), 4)
  both = combinators.keep_recent(once, 4)
  assert both.name == "full + keep_sink(4) + keep_recent(4)"
  with pytest.raises(errors.InputError, match="already has keep_sink"):
    combinators.keep_sink(both, 8)
