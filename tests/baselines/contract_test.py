"""Laws of every policy, with easy and with hard arguments.

One line in METHODS adds a method: (easy, hard). The easy one has a budget that
covers the stream, so that it must equal `full`; the hard one is as tight as the
method allows. None leaves one out. METHODS run with one and with four query
heads for each KV head, GROUPED_ONLY with four.
"""

import functools
import types

import chex
import jax
import numpy as np
import pytest

from tests import stepping
from tests.baselines import toys
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing

METHODS = [
  ("full", None),
  ("sliding_window(frames=99)", "sliding_window(frames=1, keep_prompt=False)"),
  ("streaming_llm", "streaming_llm(sink_tokens=0, window_tokens=1)"),
]
GROUPED_ONLY = [
  (
    "resv(wicsum_ratio=1.0, table_capacity=256)",
    "resv(wicsum_ratio=0.0, sink_tokens=0, table_capacity=256)",
  ),
  ("streaming_llm + keep_sink(4)", "sliding_window(frames=2) + keep_recent(3)"),
  (
    "resv(wicsum_ratio=1.0, table=layer, code=following, table_capacity=256)",
    "resv(scores=exp, rows=pooled, key_centering=mean, hash_keys=raw,"
    " hash_bits=40, form=buckets, min_join_cosine=0.5, table_capacity=256)",
  ),
]
TOYS = [
  toys.quest(),
  toys.h2o(heavy=0, recent=1),
  toys.h2o(heavy=2, by_query=True),
  toys.rekv(window=0),
  toys.infinigen(alpha=0.1, columns=1),
  toys.freekv(budget=1),
  toys.livevlm(memory=1),
  toys.retro(),
]
BATCH, LENGTH, FRAMES = 2, 4, 50


def cases():
  """(policy, whether it must equal full, G)."""
  for pairs, group_sizes in ((METHODS, (1, 4)), (GROUPED_ONLY, (4,))):
    for pair in pairs:
      for text, easy in zip(pair, (True, False), strict=True):
        for group_size in group_sizes if text else ():
          yield policy_syntax.make_policy(text), easy, group_size
  for policy in TOYS:
    yield policy, False, 4


CASES = list(cases())
NAMES = [f"{policy.name}-G{group}" for policy, _, group in CASES]


MADE = {}


def make(policy, group_size):
  """`_make`, once for each policy and group size."""
  key = policy.name, group_size
  if key not in MADE:
    MADE[key] = _make(policy, group_size)
  return MADE[key]


def _make(policy, group_size):
  """Shapes, the step of one frame with and without jit, and its frames."""
  config = stepping.config_of(
    LENGTH,
    decoder=testing.decoder_config(group_size=group_size),
    batch=BATCH,
    capacity=256,
  )
  params = testing.decoder_parameters(config.decoder)
  step = stepping.chunk_step(config, policy, params)
  random = np.random.default_rng(0)
  decoder = config.decoder
  draw = lambda heads: random.standard_normal(
    (decoder.num_layers, heads, 24, decoder.head_dim)
  ).astype(np.float32)
  sample = {"query": draw(decoder.num_heads), "key": draw(decoder.num_kv_heads)}
  return types.SimpleNamespace(
    policy=policy,
    config=config,
    step=step,
    jitted=jax.jit(step),
    frames=testing.hidden_frames(config, FRAMES),
    start=lambda: stream_state.init(config, policy, params, sample=sample),
  )


def run(made, frames, state=None, step=None):
  """Outputs [F, B, T, D], counts [F, L, B, K] and the last state."""
  outputs, events, state = stepping.run_frames(
    step or made.jitted, made.start() if state is None else state, frames
  )
  assert not np.any(events.overflow)
  assert not np.any(events.counts.overflow)
  return outputs, events.counts, state


@functools.cache
def full_outputs(group_size):
  made = make(policy_syntax.make_policy("full"), group_size)
  return run(made, made.frames)[0]


@pytest.fixture(scope="module", params=CASES, ids=NAMES)
def trial(request):
  """One policy, run for 50 frames by one compiled program."""
  policy, easy, group_size = request.param
  made = make(policy, group_size)
  outputs, counts, state = run(made, made.frames)
  return types.SimpleNamespace(
    **vars(made),
    easy=easy,
    group_size=group_size,
    outputs=outputs,
    counts=counts,
    state=state,
    compilations=made.jitted._cache_size(),
  )


def test_fifty_frames_are_compiled_once(trial):
  assert trial.compilations == 1


def test_a_covering_budget_is_full(trial):
  full = full_outputs(trial.group_size)
  if trial.easy:
    np.testing.assert_allclose(trial.outputs, full, atol=2e-5)
  else:
    assert np.any(np.abs(trial.outputs - full) > 1e-3)


def test_counts_add_up(trial):
  """Nothing is negative; attended ⊆ held ⊆ seen; what is held is stored."""
  counts, needs = trial.counts, trial.policy.needs
  for name, values in counts._asdict().items():
    assert np.all(values >= 0), name
  seen = (np.arange(FRAMES) * LENGTH).reshape(-1, 1, 1, 1)
  np.testing.assert_array_equal(
    counts.past_seen, np.broadcast_to(seen, counts.past_seen.shape)
  )
  rows = policy_lib.rows_of(needs, trial.config.decoder)
  per_head = rows // trial.config.decoder.num_kv_heads
  assert np.all(counts.past_loaded <= counts.past_held)
  assert np.all(counts.past_attended <= per_head * counts.past_loaded)
  assert np.all(counts.past_attended >= counts.past_loaded)
  assert np.all(counts.past_exposed <= counts.past_fetched)
  assert np.all(counts.fetch_runs <= counts.past_fetched)
  assert np.all((counts.fetch_runs > 0) == (counts.past_fetched > 0))
  assert np.all(counts.chunk_tokens == LENGTH)
  if needs.evicts:
    assert np.all(counts.past_held <= counts.past_seen)
    assert np.all(np.diff(counts.past_held, axis=0) <= LENGTH)
  else:
    np.testing.assert_array_equal(counts.past_held, counts.past_seen)


def test_stored_and_evicted_are_what_was_seen(trial):
  """The cache holds every token that was not evicted, once, and no other."""
  slots = jax.tree.map(np.asarray, trial.state.cache.slots)
  if not trial.policy.needs.evicts:
    assert np.all(slots.valid.sum(axis=-1) == FRAMES * LENGTH)
    return
  for index in np.ndindex(slots.valid.shape[:-1]):
    live = slots.valid[index]
    position, frame = slots.position[index][live], slots.frame[index][live]
    assert np.all(np.diff(position) > 0)
    assert np.all((position >= 0) & (position < FRAMES * LENGTH))
    np.testing.assert_array_equal(frame, position // LENGTH)


def test_recent_tokens_are_always_attended(trial):
  """One frame by default, unless it was evicted."""
  if trial.policy.needs.evicts:
    return
  assert np.all(trial.counts.past_loaded[1:] >= LENGTH)


def test_streams_of_a_batch_do_not_meet(trial):
  swapped, counts, _ = run(trial, trial.frames[:8, ::-1])
  np.testing.assert_allclose(swapped, trial.outputs[:8, ::-1], atol=1e-5)
  for name, values in counts._asdict().items():
    expected = getattr(trial.counts, name)[:8, :, ::-1]
    np.testing.assert_array_equal(values, expected, err_msg=name)


def test_the_same_stream_twice_is_the_same_to_the_bit(trial):
  again, counts, _ = run(trial, trial.frames[:8])
  np.testing.assert_array_equal(again, trial.outputs[:8])
  chex.assert_trees_all_equal(
    counts, jax.tree.map(lambda leaf: leaf[:8], trial.counts)
  )


def test_compaction_changes_nothing(trial):
  if not trial.policy.needs.evicts:
    return
  _, _, state = run(trial, trial.frames[:9])
  before = int(state.cache.cursor)
  held = int(stream_state.slots_held(state))
  state = jax.jit(functools.partial(stream_state.compact, trial.policy))(state)
  assert int(state.cache.cursor) == held
  assert held < before or trial.easy
  outputs, counts, _ = run(trial, trial.frames[9:14], state)
  np.testing.assert_allclose(outputs, trial.outputs[9:14], atol=2e-5)
  for name in ("past_held", "past_attended", "past_loaded"):
    expected = getattr(trial.counts, name)[9:14]
    np.testing.assert_array_equal(getattr(counts, name), expected)


@pytest.mark.parametrize(("easy", "hard"), METHODS)
def test_without_jit_the_same_comes_out(easy, hard):
  """The same functions run by Python: nothing hangs on tracing."""
  made = make(policy_syntax.make_policy(hard or easy), 4)
  _, _, state = run(made, made.frames[:3])
  jitted, expected, _ = run(made, made.frames[3:4], state)
  outputs, counts, _ = run(made, made.frames[3:4], state, made.step)
  np.testing.assert_allclose(outputs, jitted, atol=2e-5)
  chex.assert_trees_all_equal(counts, expected)


def test_every_registered_policy_has_a_line():
  lines = [text for pair in [*METHODS, *GROUPED_ONLY] for text in pair if text]
  for name in (*policy_lib.POLICIES, *policy_lib.COMBINATORS):
    assert any(name in line for line in lines), name
