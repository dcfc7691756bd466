"""Laws of every policy, with easy and with hard arguments.

One line in METHODS adds a method: its text with hard arguments, as tight as
the method allows; the knobs that make it easy, so that it covers the stream and
must equal `full`; and the most past tokens that a row attends to under the hard
ones, without the driver's recent tokens (None where a method has no limit).

Four query heads for each KV head run in the decoder: one compiled step serves
two streams under the hard and one under the easy knobs. The functions alone run
with one and with four, compiled, and with four also as plain Python.
"""

import functools
import re
import types

import chex
import jax
import numpy as np
import pytest

from tests import stepping
from tests.baselines import bare
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing

BUDGET = {"budget_tokens": 2**30}
METHODS = [
  ("full", {}, None),
  ("flexgen", {}, None),
  ("sliding_window(frames=1, keep_prompt=False)", {"frames": 99}, 4),
  ("streaming_llm(sink_tokens=0, window_tokens=1)", {"window_tokens": 999}, 0),
  ("resv(wicsum_ratio=0.0, table_capacity=256)", {"wicsum_ratio": 1.0}, None),
  (
    "resv(wicsum_ratio=0.0, scores=exp, rows=pooled, key_centering=mean,"
    " hash_keys=raw, hash_bits=40, form=buckets, min_join_cosine=0.5,"
    " table_capacity=256)",
    {"wicsum_ratio": 1.0},
    None,
  ),
  (
    "resv(table=layer, code=following, table_capacity=256)",
    {"wicsum_ratio": 1.0},
    None,
  ),
  ("streaming_llm(window_tokens=5) + keep_sink(4)", {"window_tokens": 999}, 8),
  ("sliding_window(frames=2) + keep_recent(3)", {"frames": 99}, 8),
  (
    'random(budget=1) + per_layer(0, "oracle_topk(budget=2)")',
    {**BUDGET, "per_layer": {"budget_tokens": 2**30, "budget_share": 1.0}},
    2,
  ),
  ("random(budget=1)", BUDGET, 1),
  ("random(budget=0.05, redrawn=True, heads=query)", {"budget_share": 1.0}, 10),
  ("hash_topk(budget=1)", BUDGET, 1),
  ("oracle_topk(budget=1)", BUDGET, 1),
  ("quest(budget=8, page=4, dense_layers=0, stages=all)", BUDGET, 8),
  ("rekv(window_tokens=1)", {"window_tokens": 999}, 1),
  (
    "infinigen(budget=2, alpha=0.1, dense_layers=0, stages=all)",
    {**BUDGET, "alpha": 1e9},
    2,
  ),
  (
    "infinigenp(budget=2, dense_layers=0, heads=kv)",
    {**BUDGET, "alpha": 1e9},
    8,
  ),
  (
    "freekv(budget=12, sink_tokens=0, recent_tokens=4, page=4, dense_layers=0,"
    " stages=all)",
    BUDGET,
    12,
  ),
  (
    "clusterkv(budget=4, block=8, cluster_tokens=4, sink_tokens=1,"
    " dense_layers=0, stages=all)",
    BUDGET,
    11,
  ),
  (
    "retroinfer(exact_share=0.01, estimated_share=0.5, block=8,"
    " cluster_tokens=4, recent_tokens=4, stages=all)",
    {"exact_share": 1.0},
    16,  # sinks, a block that is not full or recent tokens, one cluster
  ),
  ("h2o(heavy=1, recent=1)", {"recent_tokens": 2**30}, 2),
  ("h2o(heavy=0.05, recent=2, heads=kv)", {"recent_tokens": 2**30}, 12),
  (
    "snapkv(budget=4, window_tokens=3, kernel=3, stages=all)",
    {"budget_tokens": 2**30},
    4,
  ),
  (
    "inf_mllm(relevant_tokens=2, window_tokens=3)",
    {"relevant_tokens": 2**30},
    5,
  ),
  (
    "infinipot_v(memory=9, target=6, kernels=(3, 1))",
    {"memory": 2**30, "target": 2**30},
    9,
  ),
  (
    "livevlm(memory=4, short_frames=1, page=2, ratio=0.0, stages=all)",
    {"memory": 2**30, "ratio": 1.0},
    4,
  ),
]
LENGTH, FRAMES = 4, 50
HARD, EASY = (0, 1), 2
BATCH = 3
IDS = [text for text, _, _ in METHODS]


def join(hard, easy):
  """Policy state of a batch: two hard streams and an easy one."""
  return jax.tree.map(lambda a, b: a.at[EASY].set(b[EASY]), hard, easy)


@functools.cache
def shapes(group_size):
  config = stepping.config_of(
    LENGTH,
    decoder=testing.decoder_config(group_size=group_size),
    batch=BATCH,
    capacity=256,
  )
  params = testing.decoder_parameters(config.decoder)
  frames = testing.hidden_frames(config, FRAMES)
  frames[:, EASY] = frames[:, 0]
  return config, params, frames


def made(text, easy_knobs):
  """The step of one frame, compiled, and the state it starts from."""
  config, params, frames = shapes(4)
  policy = policy_syntax.make_policy(text)
  start = lambda knobs: stream_state.init(
    config, policy, params, knobs={**policy.knobs, **knobs}
  )

  def starting():
    state = start({})
    return state.replace(policy=join(state.policy, start(easy_knobs).policy))

  step = jax.jit(stepping.chunk_step(config, policy, params))
  return types.SimpleNamespace(
    policy=policy, config=config, step=step, frames=frames, start=starting
  )


def run(trial, frames, state=None):
  """Outputs [F, B, T, D], counts [F, L, B, K] and the last state."""
  outputs, events, state = stepping.run_frames(
    trial.step, trial.start() if state is None else state, frames
  )
  assert not np.any(events.overflow)
  assert not np.any(events.counts.overflow)
  return outputs, events.counts, state


@functools.cache
def full_outputs():
  full = made("full", {})
  return run(full, full.frames)[0]


@pytest.fixture(scope="module", params=METHODS, ids=IDS)
def trial(request):
  """One policy, run for 50 frames by one compiled program."""
  text, easy_knobs, most = request.param
  one = made(text, easy_knobs)
  outputs, counts, state = run(one, one.frames)
  return types.SimpleNamespace(
    **vars(one),
    most=most,
    outputs=outputs,
    counts=counts,
    state=state,
    compilations=one.step._cache_size(),
  )


def test_fifty_frames_are_compiled_once(trial):
  assert trial.compilations == 1


def test_a_covering_budget_is_full_and_a_tight_one_is_not(trial):
  full = full_outputs()
  np.testing.assert_allclose(
    trial.outputs[:, EASY], full[:, EASY], atol=2e-5, rtol=1e-5
  )
  if trial.policy.name not in ("full", "flexgen"):
    for stream in HARD:
      assert np.any(np.abs(trial.outputs[:, stream] - full[:, stream]) > 1e-3)


def test_no_row_attends_to_more_than_its_budget(trial):
  """Beside the driver's recent tokens, one frame of them."""
  if trial.most is None:
    return
  rows = policy_lib.rows_of(trial.policy.needs, trial.config.decoder)
  per_head = rows // trial.config.decoder.num_kv_heads
  attended = trial.counts.past_attended[:, :, list(HARD)]
  assert np.all(attended <= per_head * (trial.most + LENGTH))


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
  """Both hard streams change places; the easy one stays."""
  order = [1, 0, 2]
  swapped, counts, _ = run(trial, trial.frames[:8, order])
  np.testing.assert_allclose(swapped, trial.outputs[:8, order], atol=1e-5)
  for name, values in counts._asdict().items():
    expected = getattr(trial.counts, name)[:8, :, order]
    np.testing.assert_array_equal(values, expected, err_msg=name)


def test_the_same_stream_twice_is_the_same_to_the_bit(trial):
  again, counts, _ = run(trial, trial.frames[:8])
  np.testing.assert_array_equal(again, trial.outputs[:8])
  chex.assert_trees_all_equal(
    counts, jax.tree.map(lambda leaf: leaf[:8], trial.counts)
  )


def test_compaction_changes_nothing(trial):
  """Only the hard streams: the easy one holds everything."""
  if not trial.policy.needs.evicts:
    return
  _, _, state = run(trial, trial.frames[:9])
  hard = lambda held: np.asarray(held)[:, list(HARD)]
  state = jax.jit(functools.partial(stream_state.compact, trial.policy))(state)
  assert int(state.cache.cursor) == int(stream_state.slots_held(state))
  live = hard(state.cache.slots.valid)
  size = live.sum(axis=-1)
  assert np.all(size < 9 * LENGTH)
  np.testing.assert_array_equal(
    live, np.arange(live.shape[-1]) < size[..., None]
  )
  outputs, counts, _ = run(trial, trial.frames[9:14], state)
  np.testing.assert_allclose(outputs, trial.outputs[9:14], atol=2e-5)
  for name in ("past_held", "past_attended", "past_loaded"):
    expected = getattr(trial.counts, name)[9:14]
    np.testing.assert_array_equal(getattr(counts, name), expected)


def alone(bench, knobs, jit):
  """The functions of a policy on a few chunks: what they select and keep."""
  bench = bench.again(knobs, jit=jit)
  found = []
  for valid in (4, 4, 3, 4):
    found.append((bench.frame_sets(valid=valid), bench.valid.copy()))
  return found


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(("text", "easy_knobs", "most"), METHODS, ids=IDS)
def test_functions_alone(text, easy_knobs, most, group):
  """Jit changes nothing; a covering budget takes every live slot."""
  policy = policy_syntax.make_policy(text)
  bench = bare.Bare(policy, group=group, kv_heads=4 // group, layers=1)
  jitted = alone(bench, {}, True)
  # Without jit for one group size: what costs is the first call of each shape.
  plain = alone(bench, {}, False) if group > 1 else jitted
  for (sets, valid), (same, kept) in zip(jitted, plain, strict=True):
    np.testing.assert_array_equal(sets, same)
    np.testing.assert_array_equal(valid, kept)
    if most is not None:
      assert np.max(np.sum(sets, axis=-1)) <= most
  seen = 0
  for sets, valid in alone(bench, easy_knobs, True):
    rows = policy_lib.rows_of(policy.needs, bench.spec.decoder)
    assert np.shape(sets) == (1, rows, bare.SLOTS)
    assert np.all(np.sum(sets, axis=-1) == seen)
    seen = np.sum(valid[0, 0])
    assert np.all(np.sum(valid, axis=-1) == seen)


def test_every_registered_policy_has_a_line():
  for name in (*policy_lib.POLICIES, *policy_lib.COMBINATORS):
    word = re.compile(rf"\b{name}\b")  # infinigenp is not infinigen
    assert any(word.search(text) for text in IDS), name
