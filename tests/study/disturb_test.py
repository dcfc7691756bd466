"""Disturbances: what leaves the full cache as it is, and what repairs ReSV."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from tests.study import recorded
from vrex_jax import policy_syntax
from vrex_jax import replay
from vrex_jax.models import past_attention
from vrex_jax.study import disturb

LAYERS, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 16


@pytest.fixture(scope="module")
def recording():
  return recorded.recording(
    layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, width=WIDTH
  )


def in_float64(recording):
  return recording._replace(
    query=recording.query.astype(np.float64),
    query_next=recording.query_next.astype(np.float64),
    key=recording.key.astype(np.float64),
    value=recording.value.astype(np.float64),
  )


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize(
  "change",
  [
    lambda one: disturb.shift_keys(one, 30.0),
    lambda one: disturb.scale_pairs(one, 1.0),
  ],
  ids=["shift", "scale"],
)
def test_full_attention_does_not_change(recording, change, layer):
  exact = in_float64(recording)
  before = disturb.full_outputs(exact, layer)
  after = disturb.full_outputs(change(exact), layer)
  np.testing.assert_allclose(after, before, atol=1e-5)
  assert np.abs(change(exact).key - exact.key).max() > 1.0


def test_the_query_of_the_next_layer_still_meets_its_keys(recording):
  """Look-ahead scores do not change either: q' · k' = q · k one layer up."""
  changed = disturb.scale_pairs(recording, 1.0)
  scores = lambda one: np.einsum(
    "kgth,ksh->kgts",
    one.query_next[0].reshape(KV_HEADS, -1, *one.query_next.shape[2:]),
    one.key[1],
  )
  np.testing.assert_allclose(scores(changed), scores(recording), atol=1e-3)


def test_full_attention_is_that_of_a_loop(recording, monkeypatch):
  """Also when queries are taken in several pieces."""
  monkeypatch.setattr(disturb, "_QUERY_ROWS", 7)
  exact, layer = in_float64(recording), 1
  found = disturb.full_outputs(exact, layer)
  for head, token in ((0, 0), (1, 6), (2, 7), (HEADS - 1, 100)):
    own = head // (HEADS // KV_HEADS)
    past = slice(token + 1)
    scores = exact.key[layer, own, past] @ exact.query[layer, head, token]
    weights = np.exp(scores / np.sqrt(WIDTH))
    mean = weights @ exact.value[layer, own, past] / weights.sum()
    np.testing.assert_allclose(found[head, token], mean, rtol=1e-10)


def test_a_shift_lies_in_the_slow_pairs(recording):
  moved = disturb.shift_keys(recording, 3.0).key - recording.key
  channels = np.abs(moved).max(axis=(0, 1, 2)) > 1e-3
  pairs = WIDTH // 2
  slow = np.zeros(pairs, bool)
  slow[-pairs // 4 :] = True
  np.testing.assert_array_equal(channels, np.concatenate([slow, slow]))
  np.testing.assert_allclose(
    moved, np.broadcast_to(moved[:, :, :1], moved.shape), atol=1e-4
  )


def test_a_sink_draws_attention(recording):
  changed = disturb.add_sink(recording, 8.0)
  assert np.all(changed.value[:, :, 0] == 0)
  score = np.einsum(
    "nth,nh->nt",
    recording.query[0],
    np.repeat(changed.key[0, :, 0], HEADS // KV_HEADS, axis=0),
  )
  by_head = score.reshape(KV_HEADS, -1).mean(axis=1) / np.sqrt(WIDTH)
  np.testing.assert_allclose(by_head, 8.0, rtol=1e-3)


@pytest.fixture(scope="module")
def chosen(recording):
  """Slots that each policy attends on the recording and on a shifted one."""

  def choose(text, change=None):
    policy = policy_syntax.make_policy(text)
    one = recording if change is None else change(recording)
    return replay.replay(policy, one, measure=False)

  shift = lambda one: disturb.shift_keys(one, 30.0)
  pairs = {}
  for name, text in {
    "plain": "resv(table_capacity=256)",
    "repaired": (
      "resv(key_centering=mean, scores=shift_min, table_capacity=256)"
    ),
  }.items():
    pairs[name] = types.SimpleNamespace(
      before=choose(text), after=choose(text, shift)
    )
  return pairs


def clusters(played):
  return np.asarray(played.state.policy.table.num)


def test_a_shift_makes_all_codes_alike(chosen):
  """One cluster or two where there were as many as contents."""
  plain = chosen["plain"]
  assert np.all(clusters(plain.before) >= recorded.CONTENTS - 1)
  assert np.all(clusters(plain.after) <= 3)


def test_centering_and_shifted_scores_repair_it(chosen):
  repaired = chosen["repaired"]
  np.testing.assert_array_equal(
    clusters(repaired.before), clusters(repaired.after)
  )
  same = repaired.before.slots == repaired.after.slots
  assert np.mean(same) > 0.99


@pytest.mark.parametrize(
  "change",
  [
    lambda one: disturb.shift_keys(one, 30.0),
    lambda one: disturb.scale_pairs(one, 1.0),
  ],
  ids=["shift", "scale"],
)
def test_the_full_policy_does_not_change(recording, change):
  """The package's own attention, over disturbed keys, in float32."""
  tokens = recording.key.shape[2]
  slots = (
    -(-tokens // past_attention.PREFIX_CHUNK) * past_attention.PREFIX_CHUNK
  )
  room = ((0, 0), (0, 0), (0, slots - tokens), (0, 0))

  def attended(one):
    keys, values = (np.pad(x, room)[:, None] for x in (one.key, one.value))
    rows = one.query[1, :, -4:].reshape(KV_HEADS, -1, WIDTH)[None]
    valid = jnp.ones((1, slots), bool)
    return past_attention.prefix_attention(
      jnp.asarray(rows), keys, values, valid, jnp.int32(tokens), 1
    ).out

  before, after = attended(recording), attended(change(recording))
  np.testing.assert_allclose(after, before, atol=1e-4)
