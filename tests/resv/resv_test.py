"""ReSV inside the stream, against a second computation of everything it does.

The second computation takes the recorded queries and keys of every chunk:
hash, cluster, score, sort, unite, add sinks, tokens in no cluster and the
recent ones. Frames are a scene with noise, so that keys come back.
"""

import types
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.resv import oracle
from vrex_jax import bitmap
from vrex_jax import driver as driver_lib
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.resv import hashing

BATCH, LENGTH, CHUNK, MAX_TOKENS = 2, 5, 8, 3
THRESHOLD, RATIO, SINKS = 10, 0.3, 2
PROMPTS = ([1, 2, 3], list(range(11)))
QUESTIONS = ([5, 6, 7, 8, 9, 10, 11, 12, 13], [9] * 4)
SHORT = ([4], [3, 2])
HEAD_DIM = 8
SCORED = (
  "groups_live",
  "groups_scored",
  "buckets_visited",
  "buckets_visited_max",
  "scores_visited",
  "scores_visited_max",
)


class Spied(NamedTuple):
  """A policy's state and what it selected: u32[events, L, K, S / 32]."""

  inner: Any
  log: Any
  event: Any


def spied(policy, events=32):
  """The policy, with its selections kept in its state."""

  def init(spec, params, knobs, sample):
    decoder = spec.decoder
    shape = (decoder.num_layers, decoder.num_kv_heads, spec.num_slots // 32)
    log = jnp.zeros((events, *shape), jnp.uint32)
    inner = policy.init(spec, params, knobs, sample)
    return Spied(inner, log, jnp.int32(0))

  def select(state, view, layer, queries, stage):
    selection, inner, counts = policy.select(
      state.inner, view, layer, queries, stage
    )
    (part,) = selection.parts
    log = state.log.at[state.event, layer].set(part.slots)
    return selection, Spied(inner, log, state.event), counts

  def write(state, view, chunk, stage):
    inner, keep, counts = policy.write(state.inner, view, chunk, stage)
    return Spied(inner, state.log, state.event + 1), keep, counts

  return policy._replace(init=init, select=select, write=write, groups=None)


class Retrieval:
  """One stream by the definitions; slots as the cache lays them out."""

  def __init__(self, layers, heads):
    self.planes = hashing.hyperplanes(0, HEAD_DIM, 32)
    make = lambda: oracle.Clusters(threshold=THRESHOLD, capacity=10**6)
    self.tables = [[make() for _ in range(heads)] for _ in range(layers)]
    self.position = np.zeros(0, int)  # of every slot; -1 for none

  def choose(self, query, valid, layer, head, group):
    """Slots selected by one KV head, and its counts."""
    table = self.tables[layer][head]
    rows = query[layer, head * group : (head + 1) * group][:, valid]
    rows = rows.reshape(-1, HEAD_DIM).astype(np.float64)
    number = len(table.codes)
    kept, visits = np.zeros(number, bool), [(0, 0)]
    for row in rows if number else ():
      scores = table.means @ row
      kept |= oracle.wicsum(scores, table.counts, np.float32(RATIO))
      visits.append(
        oracle.early_exit(scores, table.counts, np.float32(RATIO))[1:]
      )
    member = np.array(table.members, int)
    chosen = (self.position >= 0) & (self.position < SINKS)
    chosen |= (self.position >= 0) & np.append(kept, True)[member]
    visits = np.array(visits)
    values = (number, number * len(rows))
    for column in (0, 1):
      values += (visits[:, column].sum(), visits[:, column].max())
    return chosen, dict(zip(SCORED, values, strict=True))

  def write(self, key, valid, position, used):
    """The chunk's keys [L, K, T, H]; comparisons of every layer and head."""
    many = int(valid.sum())
    compared = np.zeros(key.shape[:2], int)
    for index in np.ndindex(key.shape[:2]):
      table = self.tables[index[0]][index[1]]
      compared[index] = many * len(table.codes) + many * (many - 1) // 2
      own = key[index][:used].astype(np.float64)
      table.extend(oracle.sign_bits(own, self.planes), own, valid[:used])
    self.position = np.append(
      self.position, np.where(valid, position, -1)[:used]
    )
    return compared


def scene_frames(config, count):
  base = testing.hidden_frames(config, 1, seed=5)
  return base + 0.5 * testing.hidden_frames(config, count, seed=6)


def begin(group, layers, stages):
  """Programs of some stages, recorded and spied upon, and an empty stream."""
  decoder = testing.decoder_config(group_size=group, num_layers=layers)
  config = stream_state.StreamConfig(
    decoder=decoder,
    batch=BATCH,
    capacity=120,
    frame_tokens=LENGTH,
    question_chunk=CHUNK,
    record=True,
  )
  text = (
    f"resv(wicsum_ratio={RATIO}, hamming_threshold={THRESHOLD},"
    f" sink_tokens={SINKS}, table_capacity=256)"
  )
  return testing.start(
    config,
    spied(policy_syntax.make_policy(text)),
    testing.decoder_parameters(decoder),
    embed_frame=testing.embed_separated,
    block_frames=4,
    max_tokens=MAX_TOKENS,
    stages=stages,
  )


def outcome(driver, run):
  return types.SimpleNamespace(
    config=driver.config,
    stages=set(driver.programs) & set(policy_lib.STAGES),
    records=run.records,
    policy=jax.tree.map(np.array, run.state.policy),
    trace=driver_lib.finish_trace(driver, run),
  )


@pytest.fixture(scope="module")
def plain(quick_compilation):
  """Two layers of four KV heads; frames, a question, frames."""
  del quick_compilation
  driver, run = begin(1, 2, ("frame", "question"))
  frames = scene_frames(driver.config, 11)
  run = driver_lib.feed_frames(driver, run, frames[:7], np.arange(7))
  run = driver_lib.feed_text(driver, run, QUESTIONS, stage="question")
  run = driver_lib.feed_frames(driver, run, frames[7:], np.arange(7, 11))
  return outcome(driver, run)


@pytest.fixture(scope="module")
def grouped(quick_compilation):
  """One layer of one KV head; every stage, then two undone questions."""
  del quick_compilation
  driver, run = begin(4, 1, policy_lib.STAGES)
  frames = scene_frames(driver.config, 11)
  run = driver_lib.feed_text(driver, run, PROMPTS)
  run = driver_lib.feed_frames(driver, run, frames[:7], np.arange(7))
  run, _ = driver_lib.ask(driver, run, QUESTIONS, keep=True, resume=[7])
  run = driver_lib.feed_frames(driver, run, frames[7:], np.arange(7, 11))
  made = outcome(driver, run)
  run, first = driver_lib.ask(driver, run, SHORT)
  made.after = jax.tree.map(np.array, run.state.policy)
  run, second = driver_lib.ask(driver, run, SHORT)
  made.replies = first, second
  return made


@pytest.fixture(scope="module", params=["plain", "grouped"])
def told(request):
  """A stream's record, trace and selections."""
  return request.getfixturevalue(request.param)


def recompute(told, stream_):
  """Per event, layer and head: (slots, attended, counts), and the tables."""
  decoder = told.config.decoder
  layers, heads = decoder.num_layers, decoder.num_kv_heads
  group = decoder.num_heads // heads
  one = Retrieval(layers, heads)
  for index, record in enumerate(told.records):
    valid = record.valid[stream_]
    seen = int((one.position >= 0).sum())
    recent = (one.position >= 0) & (one.position >= seen - LENGTH)
    rows = {}
    for layer, head in np.ndindex(layers, heads):
      chosen, counts = one.choose(
        record.query[:, stream_], valid, layer, head, group
      )
      counts["past_loaded"] = counts["past_attended"] = int(
        (chosen | recent).sum()
      )
      rows[layer, head] = chosen, counts
    anyone = np.nonzero(record.valid.any(axis=0))[0]
    compared = one.write(
      record.key[:, stream_],
      valid,
      record.position[stream_],
      int(anyone.max()) + 1,
    )
    for (layer, head), (_, counts) in rows.items():
      counts["code_comparisons"] = compared[layer, head]
      counts["keys_hashed"] = int(valid.sum())
      counts["past_seen"] = seen
    yield index, record, rows, one


def test_every_set_and_every_count_is_that_of_the_definitions(told):
  """Frames, question chunks and answer tokens, all layers, all heads."""
  stages, shares, merged = set(), [], 0
  for stream_ in range(BATCH):
    log = bitmap.unpack(jnp.asarray(told.policy.log[stream_]))
    for index, record, rows, one in recompute(told, stream_):
      stage = policy_lib.STAGES[record.kind[0, 0]]
      for (layer, head), (chosen, counts) in rows.items():
        at = (index, layer, stream_, head)
        if stage == "prompt":  # everything is attended, nothing scored
          counts.update(dict.fromkeys(SCORED, 0))
          counts["past_loaded"] = counts["past_attended"] = counts["past_seen"]
        else:
          found = np.asarray(log[index, layer, head])[: len(chosen)]
          live = one.position[: len(chosen)] >= 0
          np.testing.assert_array_equal(found & live, chosen)
          shares.append(chosen.sum() / max(1, live.sum()))
        for name, value in counts.items():
          assert told.trace.counts[name][at] == value, (name, *at)
      stages.add(stage)
      merged = max(merged, max(one.tables[0][0].counts, default=0))
  assert stages == set(told.stages)
  assert merged >= 4  # clusters of several tokens
  assert np.mean(shares) < 0.8
  assert np.std(shares) > 0.05


def test_tables_are_those_of_the_definitions_and_padding_is_in_none(told):
  """As of the last frame: codes, members, counts, mean keys."""
  table = told.policy.inner.table
  for stream_ in range(BATCH):
    *_, (_, _, _, one) = recompute(told, stream_)
    empty = one.position < 0
    assert empty.sum() > 3 * stream_
    for layer, head in np.ndindex(table.num.shape[1:]):
      at = (stream_, layer, head)
      expected = one.tables[layer][head]
      number = len(expected.codes)
      assert table.num[at] == number
      member = table.member[at]
      np.testing.assert_array_equal(member[: len(empty)], expected.members)
      assert np.all(member[: len(empty)][empty] == -1)
      assert np.all(member[len(empty) :] == -1)
      np.testing.assert_array_equal(table.count[at][:number], expected.counts)
      codes = oracle.pack(np.stack(expected.codes))[:, 0]
      np.testing.assert_array_equal(table.code[at][0, :number], codes)
      mean = table.key_sum[at][:number] / table.count[at][:number, None]
      np.testing.assert_allclose(mean, expected.means, atol=1e-5)


def test_an_undone_question_leaves_the_table_as_it_was(grouped):
  chex.assert_trees_all_equal(grouped.after, grouped.policy)
  first, second = grouped.replies
  np.testing.assert_array_equal(first.logits, second.logits)
  assert first.tokens == second.tokens


def test_ratios_are_reported_for_every_stage(grouped):
  ratios = trace_lib.retrieval_ratio(grouped.trace)
  assert set(ratios) == {"frame", "question", "answer"}
  assert all(0.05 < share < 0.95 for share in ratios.values())
  assert trace_lib.check(grouped.trace) == []


# one compiled step, all knobs


CAPACITY, ROOM = 40, 24


def make(text, lookahead=0, capacity=CAPACITY):
  config = stream_state.StreamConfig(
    decoder=testing.decoder_config(),
    batch=BATCH,
    capacity=capacity,
    frame_tokens=LENGTH,
    question_chunk=LENGTH,
    lookahead=lookahead,
  )
  policy = policy_syntax.make_policy(text)
  params = testing.decoder_parameters(config.decoder)

  def step(state, hidden):
    return stream.prefill_chunk(
      config,
      policy,
      params["decoder"],
      state,
      hidden,
      jnp.ones(hidden.shape[:2], bool),
      stage="frame",
      first=False,
      last=False,
    )[:3]

  return types.SimpleNamespace(
    config=config,
    policy=policy,
    jitted=jax.jit(step),
    start=lambda **knobs: stream_state.init(
      config, policy, params, knobs={**policy.knobs, **knobs}
    ),
  )


def run(made, frames, **knobs):
  """Outputs [F, B, T, D], events, the last state."""
  state, results = made.start(**knobs), []
  for frame in frames:
    state, *result = made.jitted(state, frame)
    results.append(result)
  outputs, events = jax.tree.map(
    lambda *leaves: np.stack(leaves), *jax.device_get(results)
  )
  return outputs, events, state


@pytest.fixture(scope="module")
def made(quick_compilation):
  """`full` and ReSV, without and with look-ahead; eight frames fill it."""
  del quick_compilation
  scene = types.SimpleNamespace(
    full=make("full"),
    own=make(f"resv(table_capacity={ROOM}, sink_tokens=0)"),
    ahead=make(f"resv(table_capacity={ROOM}, sink_tokens=0)", lookahead=1),
  )
  scene.frames = scene_frames(scene.full.config, 9)
  scene.expected = run(scene.full, scene.frames[:8])[0]
  return scene


@pytest.mark.parametrize("which", ["own", "ahead"])
@pytest.mark.parametrize("threshold", [0, 7, 33])
@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_a_ratio_of_one_is_full(made, which, threshold, ratio):
  knobs = {"wicsum_ratio": ratio, "hamming_threshold": threshold}
  outputs, events, _ = run(getattr(made, which), made.frames[:8], **knobs)
  np.testing.assert_allclose(outputs, made.expected, rtol=0, atol=1e-5)
  counts = events.counts
  np.testing.assert_array_equal(counts.past_loaded, counts.past_seen)
  assert not np.any(events.overflow)
  if threshold in (0, 33):  # 40 clusters in a table of 24, or one
    assert np.any(counts.overflow) == (threshold == 0)


def test_look_ahead_leaves_layer_zero_alone(made):
  """Layer 0 attends to everything; layer 1 is asked with layer 0's query."""
  knobs = {"wicsum_ratio": 0.0, "hamming_threshold": 0}
  _, events, _ = run(made.ahead, made.frames[:8], **knobs)
  loaded, seen = events.counts.past_loaded, events.counts.past_seen
  np.testing.assert_array_equal(loaded[:, 0], seen[:, 0])
  assert np.all(loaded[4:, 1] < seen[4:, 1])
  assert not np.any(events.counts.groups_scored[:, 0])


def test_a_ratio_of_its_own_for_every_stage_layer_and_head(made):
  """Everything in layer 1, head 0; the best cluster elsewhere."""
  layers, heads = 2, 2
  ratio = np.zeros((len(policy_lib.STAGES), layers, heads), np.float32)
  knobs = {"hamming_threshold": 0}
  base, events, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio, **knobs)
  assert np.all(events.counts.past_loaded[4:] < events.counts.past_seen[4:])
  ratio[policy_lib.STAGES.index("frame"), 1, 0] = 1.0
  _, events, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio, **knobs)
  everything = events.counts.past_loaded[4:] == events.counts.past_seen[4:]
  assert everything[:, 1, :, 0].all()
  everything[:, 1, :, 0] = False
  assert not everything.any()
  # What holds for other stages does not reach a frame.
  ratio[:] = 1.0
  ratio[policy_lib.STAGES.index("frame")] = 0.0
  same, _, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio, **knobs)
  np.testing.assert_array_equal(same, base)


def test_a_higher_ratio_loads_no_less(made):
  """In layer 0 of every frame: its queries and keys stay the same."""
  previous = np.zeros(())
  for ratio in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
    _, events, _ = run(made.own, made.frames[:8], wicsum_ratio=ratio)
    loaded = events.counts.past_loaded[:, 0]
    assert np.all(loaded >= previous)
    previous = loaded
  np.testing.assert_array_equal(previous, events.counts.past_seen[:, 0])


def test_knobs_do_not_recompile(made):
  ratios = (0.2, np.float32(0.7), np.full((4, 2, 2), 0.1))
  for ratio, threshold in zip(ratios, (1, 5, 20), strict=True):
    knobs = {"wicsum_ratio": ratio, "hamming_threshold": threshold}
    run(made.own, made.frames[:2], **knobs)
  assert made.own.jitted._cache_size() == 1


def test_streams_of_a_batch_do_not_meet(made):
  outputs, events, state = run(made.own, made.frames[:8], hamming_threshold=9)
  swapped, others, turned = run(
    made.own, made.frames[:8, ::-1], hamming_threshold=9
  )
  np.testing.assert_allclose(swapped[:, ::-1], outputs, rtol=0, atol=1e-5)
  chex.assert_trees_all_equal(
    jax.tree.map(lambda leaf: leaf[:, :, ::-1], others.counts), events.counts
  )
  np.testing.assert_array_equal(
    np.asarray(turned.policy.table.member)[::-1], state.policy.table.member
  )


def test_a_cache_that_is_exactly_full(made):
  """Eight frames of five fill 40 slots; the ninth leaves the table as it is."""
  knobs = {"hamming_threshold": 33, "wicsum_ratio": 0.3}
  _, events, state = run(made.own, made.frames[:8], **knobs)
  assert not np.any(events.overflow)
  assert int(state.cache.cursor) == CAPACITY
  member = np.asarray(state.policy.table.member)
  assert np.all(member[..., :CAPACITY] >= 0)
  before = jax.tree.map(np.array, state.policy)
  state, _, event = made.own.jitted(state, made.frames[8])
  assert np.all(event.overflow & trace_lib.Overflow.CACHE_FULL)
  assert not np.any(event.counts.keys_hashed)
  assert not np.any(event.counts.overflow)
  chex.assert_trees_all_equal(jax.tree.map(np.asarray, state.policy), before)


def test_a_full_table_is_told_and_its_tokens_are_attended(made):
  """24 clusters, every token alone: the fifth frame of five is too many."""
  knobs = {"hamming_threshold": 0, "wicsum_ratio": 0.0}
  _, events, state = run(made.own, made.frames[:8], **knobs)
  assert np.all(state.policy.table.num == ROOM)
  told_ = events.counts.overflow == trace_lib.Overflow.TABLE_FULL
  assert not np.any(told_[:4])
  assert np.all(told_[4:])
  loaded, seen = events.counts.past_loaded[5:], events.counts.past_seen[5:]
  # All but the 24 are attended, and at least the best of the 24.
  assert np.all(loaded >= seen - ROOM + 1)
  assert np.all(loaded < seen)
  trace = trace_lib.from_events(
    events, time_s=np.zeros(8), retrieves=np.ones((4, 2), bool), rows_per_head=1
  )
  (sentence,) = trace_lib.check(trace)
  assert "At frame 4, layer 0, stream 0 (frame stage; 4 events" in sentence
  assert "a table of the policy was full: raise its capacity" in sentence
