"""Forced sets have exactly the asked size; the policy's own work stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmark import streams
from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import full
from vrex_jax.baselines import sliding_window
from vrex_jax.benchmark import forced_ratio
from vrex_jax.benchmark import step
from vrex_jax.errors import InputError

WINDOW = {"past_tokens": 300, "recent_tokens": 5, "seed": 3}


def forced_mask(ratio, rows=2):
  config = streams.config(300)
  spec = streams.spec(config)
  words = forced_ratio.forced_slots(spec, rows, ratio, **WINDOW)
  assert words.shape == (config.decoder.num_layers, rows, spec.num_slots // 32)
  return np.asarray(bitmap.unpack(jnp.asarray(words)))


@pytest.mark.parametrize(
  ("ratio", "size"), [(0.0, 5), (0.01, 5), (0.05, 15), (0.5, 150), (1.0, 300)]
)
def test_every_head_gets_exactly_the_share_and_the_recent_tokens(ratio, size):
  mask = forced_mask(ratio)
  assert (mask.sum(axis=-1) == size).all()
  assert mask[..., 295:300].all()
  assert not mask[..., 300:].any()


def test_clusters_are_whole_but_for_one():
  mask = forced_mask(0.5)[..., :295]
  ids = forced_ratio.cluster_ids(300, WINDOW["seed"])[:295]
  for line in mask.reshape(-1, 295):
    shares = np.bincount(ids, line) / np.bincount(ids)
    assert ((shares > 0) & (shares < 1)).sum() <= 1


def test_heads_and_layers_get_different_clusters():
  lines = forced_mask(0.3).reshape(4, -1)
  assert len(np.unique(lines, axis=0)) == 4


def sorting_policy():
  """Selects the slots of even rank in a sorted copy of the positions."""

  def select(state, view, layer, queries, stage):
    order = jnp.sort(-view.slots.position)
    slots = bitmap.pack(jnp.broadcast_to(order[None] % 2 == 0, (2, len(order))))
    part = policy_lib.Part(slots=slots)
    counts = policy_lib.zero_counts((2,))._replace(
      keys_scored=jnp.full((2,), 7, jnp.int32),
      groups_live=jnp.array([6, 0], jnp.int32),
    )
    return policy_lib.Selection(parts=(part,)), state, counts

  return full.full()._replace(name="sorting", select=select)


def compiled_step(policy):
  config, params, frame = streams.everything(300)
  state = streams.filled(config, policy, params, 300)
  program = step.compile_step(
    config, streams.model(), policy, params, state, frame
  )
  return config, program, step.FilledStep(program, params, state, frame)


def test_a_forced_step_attends_to_the_share_and_still_chooses():
  policy = forced_ratio.force_ratio(sorting_policy(), 0.2, **WINDOW)
  config, program, filled = compiled_step(policy)
  runner = filled.runner("forced", filled.snapshot())
  runner.reset()
  runner.run()
  found = step.attended(config, policy, filled.event)
  assert found.retrieval_ratio["frame"] == pytest.approx(0.2)
  assert found.share == pytest.approx(0.2)
  assert found.groups == 6
  assert (np.asarray(filled.event.counts.keys_scored) == 7).all()
  assert " sort(" in program.call.as_text()


def test_forced_to_everything_is_the_full_cache():
  results = []
  for policy in (
    full.full(),
    forced_ratio.force_ratio(sorting_policy(), 1.0, **WINDOW),
  ):
    _, _, filled = compiled_step(policy)
    filled.runner("once", filled.snapshot()).run()
    results.append(np.asarray(filled.hidden))
  np.testing.assert_allclose(results[0], results[1], atol=2e-5)


def test_the_ratio_is_a_leaf_of_the_state():
  spec = streams.spec(streams.config(300))
  some, more = (
    forced_ratio.force_ratio(sorting_policy(), ratio, **WINDOW).init(
      spec, None, {}, None
    )
    for ratio in (0.1, 0.9)
  )
  assert jax.tree.map(jnp.shape, some) == jax.tree.map(jnp.shape, more)
  assert bitmap.count(some["slots"]).max() == 30
  assert bitmap.count(more["slots"]).min() == 270


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_a_ratio_that_is_no_share_is_refused(ratio):
  with pytest.raises(InputError, match="between 0 and 1"):
    forced_ratio.check(full.full(), ratio)


def test_policies_that_evict_are_refused():
  with pytest.raises(InputError, match=r"sliding_window.*evicts"):
    forced_ratio.force_ratio(sliding_window.sliding_window(), 0.5, **WINDOW)
