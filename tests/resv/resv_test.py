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

from tests import stepping
from tests.resv import oracle
from vrex_jax import bitmap
from vrex_jax import driver as driver_lib
from vrex_jax import observing
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
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


def begin(group, layers, stages):
  """Programs of some stages, recorded and spied upon, and an empty stream."""
  decoder = testing.decoder_config(group_size=group, num_layers=layers)
  config = stepping.config_of(
    LENGTH,
    question_chunk=CHUNK,
    decoder=decoder,
    batch=BATCH,
    capacity=120,
    observe=observing.record_chunk,
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
    records=run.observations,
    policy=jax.tree.map(np.array, run.state.policy),
    trace=driver_lib.finish_trace(driver, run),
  )


@pytest.fixture(scope="module")
def plain():
  """Two layers of four KV heads; frames, a question, frames."""
  driver, run = begin(1, 2, ("frame", "question"))
  frames = stepping.scene_frames(driver.config, 11)
  run = driver_lib.feed_frames(driver, run, frames[:7], np.arange(7))
  run = driver_lib.feed_text(driver, run, QUESTIONS, stage="question")
  run = driver_lib.feed_frames(driver, run, frames[7:], np.arange(7, 11))
  return outcome(driver, run)


@pytest.fixture(scope="module")
def grouped():
  """One layer of one KV head; every stage, then two undone questions."""
  driver, run = begin(4, 1, policy_lib.STAGES)
  frames = stepping.scene_frames(driver.config, 11)
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
