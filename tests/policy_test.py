"""Which layers select: the one rule that stream, replay and trace ask."""

import jax
import pytest

from tests import stepping
from vrex_jax import policy as policy_lib
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax.baselines import oracle_topk


@pytest.mark.parametrize(
  ("dense", "lookahead", "asked"),
  [(0, 0, [0, 1, 2]), (2, 0, [2]), (0, 1, [1, 2]), (2, 1, [2]), (3, 0, [])],
)
def test_the_driver_asks_the_layers_that_retrieve(dense, lookahead, asked):
  """Seen while the step is traced; nothing is compiled."""
  plain = oracle_topk.oracle_topk(budget=1)
  found = []

  def select(state, view, layer, queries, stage):
    found.append(layer)
    return plain.select(state, view, layer, queries, stage)

  policy = plain._replace(
    select=select, needs=policy_lib.Needs(dense_layers=dense)
  )
  config = stepping.config_of(
    4,
    decoder=testing.decoder_config(num_layers=3),
    capacity=64,
    lookahead=lookahead,
  )
  params = testing.decoder_parameters(config.decoder)
  state = stream_state.init(config, policy, params)
  frame = testing.hidden_frames(config, 1)[0]
  jax.eval_shape(stepping.chunk_step(config, policy, params), state, frame)
  assert found == asked
  layers = stream_state.retrieving_layers(config, policy)
  frame_stage = policy_lib.STAGES.index("frame")
  assert [layer for layer in range(3) if layers[frame_stage][layer]] == asked
