"""Starting, undoing and compacting the state of a stream."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing

BATCH = 2
FREEKV = policy_syntax.make_policy("freekv")
H2O = policy_syntax.make_policy("h2o(heavy=6, recent=8)")


def config_of(**changes):
  return stream_state.StreamConfig(
    decoder=testing.decoder_config(),
    batch=BATCH,
    capacity=100,
    frame_tokens=5,
    question_chunk=8,
    **changes,
  )


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"lookahead": 2}, "lookahead is 2; it must be 0 or 1.*: try lookahead=1"),
    ({"lookahead": -1}, "lookahead is -1; "),
    ({"lookahead_query": "last"}, "is 'last'; .*: try lookahead_query=own"),
  ],
)
def test_a_selection_is_made_at_most_one_layer_ahead(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    config_of(**changes)


def state_of(policy, **kwargs):
  config = config_of()
  params = testing.decoder_parameters(config.decoder)
  return stream_state.init(config, policy, params, **kwargs)


def evicting(policy):
  """The same policy, said to evict and to prefetch."""
  needs = policy_lib.Needs(
    granularity=policy.needs.granularity, evicts=True, prefetches=True
  )
  return policy._replace(needs=needs)


def filled(policy, seed=0, cursor=90):
  """A state with random tokens, validity, prefetched sets and policy state."""
  random = np.random.default_rng(seed)
  state = state_of(policy)

  def fill(leaf):
    if leaf.dtype == bool:
      return jnp.asarray(random.random(leaf.shape) < 0.4)
    if leaf.dtype == jnp.uint32:
      return jnp.asarray(random.integers(0, 2**32, leaf.shape, np.uint32))
    drawn = random.integers(0, 100, leaf.shape)
    return jnp.asarray(drawn.astype(leaf.dtype))

  state = jax.tree.map(fill, state)
  return state.replace(
    cache=state.cache.replace(cursor=jnp.int32(cursor)),
    recent_tokens=jnp.int32(5),
    resident_tokens=jnp.int32(0),
  )


def test_a_new_stream_holds_nothing():
  state = state_of(policy_syntax.make_policy("full"))
  assert not np.any(state.cache.slots.valid)
  for name in ("next_position", "seen", "frame"):
    np.testing.assert_array_equal(getattr(state, name), np.zeros(BATCH))
  assert int(state.cache.cursor) == 0
  assert int(state.recent_tokens) == 5
  assert int(state.resident_tokens) == stream_state.UNLIMITED
  assert state.prefetched is None


def test_windows_and_knobs_are_data():
  policy = policy_syntax.make_policy("sliding_window(frames=3)")
  state = state_of(
    policy, knobs={"frames": 7}, recent_tokens=0, resident_tokens=64
  )
  assert int(state.recent_tokens) == 0
  assert int(state.resident_tokens) == 64
  np.testing.assert_array_equal(state.policy["frames"], [7, 7])
  chex.assert_trees_all_equal_shapes_and_dtypes(state, state_of(policy))


def test_a_policy_may_fix_what_is_resident():
  policy = policy_syntax.make_policy("flexgen")
  assert int(state_of(policy, resident_tokens=64).resident_tokens) == 0


def test_a_set_is_kept_for_a_policy_that_asks_for_the_next_step():
  assert state_of(FREEKV).prefetched.shape == (2, BATCH, 2, 16)


def test_no_two_leaves_of_a_new_state_share_a_buffer():
  """Donating one must not take another with it."""
  state = state_of(H2O)
  pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
  assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("policy", [FREEKV, H2O])
def test_restoring_a_snapshot_undoes_everything_but_keys_and_values(policy):
  state = filled(policy)
  saved = stream_state.snapshot(state)
  changed = filled(policy, seed=1, cursor=40)
  restored = stream_state.restore(changed, saved)
  cache = changed.cache.replace(
    slots=state.cache.slots, cursor=state.cache.cursor
  )
  chex.assert_trees_all_equal(restored, state.replace(cache=cache))
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(saved))
  assert held < state.cache.key.nbytes


@pytest.mark.parametrize("heads", ["kv", "query"])
def test_compaction_tells_the_policy_and_moves_what_was_prefetched(heads):
  policy = evicting(policy_syntax.make_policy(f"h2o(heads={heads})"))
  state = filled(policy)
  after = jax.jit(lambda state_: stream_state.compact(policy, state_))(state)
  held = int(stream_state.slots_held(state))
  assert int(after.cache.cursor) == held < int(state.cache.cursor)
  valid = np.asarray(state.cache.slots.valid)
  layers, _, kv_heads, _ = valid.shape
  rows = state.prefetched.shape[2]
  for layer, stream, row in np.ndindex(layers, BATCH, rows):
    head = row * kv_heads // rows
    kept = np.nonzero(valid[layer, stream, head, :90])[0]
    old = np.asarray(bitmap.unpack(state.prefetched[layer, stream, row]))
    new = np.asarray(bitmap.unpack(after.prefetched[layer, stream, row]))
    np.testing.assert_array_equal(new[: len(kept)], old[kept])
    for name in ("mass", "mine"):
      np.testing.assert_array_equal(
        getattr(after.policy, name)[stream, layer, row, : len(kept)],
        np.asarray(getattr(state.policy, name))[stream, layer, row, kept],
      )


def test_slots_held_ignores_what_lies_beyond_the_cursor():
  state = state_of(H2O)
  valid = np.zeros(state.cache.slots.valid.shape, bool)
  valid[0, 0, 0, [3, 4, 50]] = True
  valid[1, 1, 1, [0, 60, 61, 62]] = True
  cache = state.cache.replace(
    slots=state.cache.slots.replace(valid=jnp.asarray(valid)),
    cursor=jnp.int32(55),
  )
  assert int(stream_state.slots_held(state.replace(cache=cache))) == 3


def test_layers_retrieve_from_the_lookahead_on_in_the_stages_asked_for():
  policy = policy_syntax.make_policy("quest(dense_layers=0, stages=frame)")
  for lookahead in (0, 1):
    config = config_of(lookahead=lookahead)
    layers = stream_state.retrieving_layers(config, policy)
    expected = np.zeros((4, 2), bool)
    expected[policy_lib.STAGES.index("frame"), lookahead:] = True
    np.testing.assert_array_equal(layers, expected)


def test_the_spec_names_every_chunk():
  spec = stream_state.spec_of(config_of(grid=(1, 5)))
  assert dict(spec.chunk_tokens) == {
    "prompt": 8,
    "frame": 5,
    "question": 8,
    "answer": 1,
  }
  assert spec.num_slots == 512
  assert spec.capacity == 100
  assert spec.grid == (1, 5)


@pytest.mark.parametrize(
  ("hook", "said"),
  [("move", "needs evicts and has no move"), ("feedback", "has no feedback")],
)
def test_a_policy_without_a_function_it_needs_is_refused(hook, said):
  with pytest.raises(ValueError, match=said):
    state_of(H2O._replace(**{hook: None}))


def test_an_unknown_granularity_is_refused():
  needs = policy_lib.Needs(granularity="head")
  with pytest.raises(ValueError, match="granularity is 'head'"):
    policy_lib.rows_of(needs, testing.decoder_config())
