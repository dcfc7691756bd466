"""Disturbances: what leaves the full cache as it is, and what repairs ReSV."""

import types

import numpy as np
import pytest

from vrex_jax import policy_syntax
from vrex_jax import replay
from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary
from vrex_jax.study import disturb

LAYERS, HEADS, KV_HEADS, WIDTH, LENGTH, FRAMES = 2, 4, 2, 16, 8, 24


@pytest.fixture(scope="module")
def recording():
  """Frames of tokens that come back: eight contents, noise, rotated keys."""
  random = np.random.default_rng(0)
  tokens = LENGTH * FRAMES
  rope = config_lib.RopeConfig()
  frequencies = np.asarray(rotary.inverse_frequencies(rope, WIDTH))
  contents = random.standard_normal((LAYERS, KV_HEADS, LENGTH, WIDTH))
  base = np.tile(contents, (1, 1, FRAMES, 1))
  key = base + 0.2 * random.standard_normal(base.shape)
  wide = np.repeat(base, HEADS // KV_HEADS, axis=1)
  query = wide + 0.5 * random.standard_normal(wide.shape)
  single = lambda array: array.astype(np.float32)
  return replay.Recording(
    query=single(query),
    key=single(key),
    value=single(random.standard_normal(key.shape)),
    position=np.arange(tokens, dtype=np.int32),
    frame=np.repeat(np.arange(FRAMES, dtype=np.int32), LENGTH),
    kind=np.ones(tokens, np.int8),
    valid=np.ones(tokens, bool),
    event=np.repeat(np.arange(FRAMES, dtype=np.int32), LENGTH),
    frequencies=frequencies,
  )


def in_float64(recording):
  return recording._replace(
    query=recording.query.astype(np.float64),
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
def chosen(recording, quick_compilation):
  """Slots that each policy attends on the recording and on a shifted one."""
  del quick_compilation

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
  assert np.all(clusters(plain.before) >= LENGTH - 1)
  assert np.all(clusters(plain.after) <= 3)


def test_centering_and_shifted_scores_repair_it(chosen):
  repaired = chosen["repaired"]
  np.testing.assert_array_equal(
    clusters(repaired.before), clusters(repaired.after)
  )
  same = repaired.before.slots == repaired.after.slots
  assert np.mean(same) > 0.99
