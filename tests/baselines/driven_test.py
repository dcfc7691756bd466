"""The driver gives every kind of policy what the contract says it gets.

Two drivers run one stream: the package's, and one in numpy and float64, where
`reference.py` is the decoder and `bare.py` calls the policy. Output of every
chunk, slots read and tokens held must agree. A wrong set, position, merge or
input of a policy moves an output by far more than the tolerance.

The policies are real ones, one for each need; their own formulas are tested
where they are defined. `Needs.sample` alone is nobody's: `infinigen` takes a
sample and does without.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference as reference_lib
from tests import stepping
from tests.baselines import bare
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing

LENGTH, GROUP, HEADS, KV_HEADS = 5, 2, 4, 2


class Pair:
  """One stream under a policy, by both drivers."""

  def __init__(self, text, *, capacity=200, sample=None, lookahead=0):
    self.policy = policy_syntax.make_policy(text)
    self.config = stepping.config_of(
      LENGTH,
      decoder=testing.decoder_config(group_size=GROUP),
      capacity=capacity,
      lookahead=lookahead,
      lookahead_query="next" if lookahead else "own",
    )
    params = testing.decoder_parameters(self.config.decoder)
    self.state = stream_state.init(
      self.config, self.policy, params, sample=sample,
      recent_tokens=0, resident_tokens=0,
    )  # fmt: skip
    self.step = jax.jit(
      stepping.chunk_step(self.config, self.policy, params),
      static_argnames="stage",
      donate_argnums=0,
    )
    self.compact = jax.jit(
      lambda state: stream_state.compact(self.policy, state)
    )
    self.compactions = 0
    self.bare = bare.Bare(
      self.policy, group=GROUP, kv_heads=KV_HEADS, chunk_tokens=LENGTH,
      sample=sample, params=params, lookahead=lookahead,
    )  # fmt: skip
    self.stream = reference_lib.Reference(self.config.decoder, params)
    self.random = np.random.default_rng(3)
    words = self.config.decoder.num_layers, KV_HEADS, bare.SLOTS
    self.asked_for = np.zeros(words, bool)
    self.exposed, self.heaviest = [], 0.0

  def chunk(self, stage, *, length=LENGTH, first=False):
    """Feeds random tokens to both; returns the sets read, b[L, A, S]."""
    if int(self.state.cache.cursor) + LENGTH > self.config.capacity:
      self.state = self.compact(self.state)
      self.compactions += 1
    hidden = self.random.standard_normal((LENGTH, 32)).astype(np.float32)
    self.state, out, event, _ = self.step(
      self.state,
      hidden[None],
      np.arange(LENGTH)[None] < length,
      stage=stage,
      first=first,
    )
    assert not np.any(event.overflow)
    self.bare.open(stage, LENGTH, length, first)
    expected, found = self._decode(hidden[:length])
    np.testing.assert_allclose(out[0, :length], expected, atol=5e-5)
    sets = np.stack(
      [self._union(layer, one) for layer, one in enumerate(found)]
    )
    self._check_counts(event.counts, sets)
    for layer, selection in enumerate(found):
      if selection.prefetch is not None:
        self.asked_for[layer] = bare.unpack(selection.prefetch)
    self._check_held()
    return sets

  def _decode(self, hidden):
    """The reference's output [T, D], and what each layer selected."""
    found, queries = [], []
    padded = lambda rows: np.pad(
      rows, ((0, 0), (0, LENGTH - rows.shape[1]), (0, 0))
    )

    def choose(layer, query):
      queries.append(padded(query))
      if self.config.lookahead and layer:  # of two layers
        query = self.stream.project(layer, hidden, "q_proj", HEADS)
      selection, _ = self.bare.ask(layer, padded(query))
      found.append(selection)
      return self._parts(selection, layer, len(hidden))

    past = len(self.stream)
    expected = self.stream.extend(hidden, choose)
    new = lambda table: np.stack([padded(one[:, past:]) for one in table])
    self.bare.append(new(self.stream.key), new(self.stream.value))
    if self.policy.needs.mass:
      for layer, weights in enumerate(self.stream.weights):
        rows = policy_lib.rows_of(self.policy.needs, self.config.decoder)
        mass = np.zeros((rows, bare.SLOTS))
        mass[:, : len(self.stream)] = weights.reshape(
          rows, -1, len(self.stream)
        ).sum(axis=1)
        self.bare.hear(layer, mass)
    self.bare.close(np.stack(queries))
    return expected, found

  def _parts(self, selection, layer, length):
    """A selection as the reference takes it, for every query head."""
    heads = []
    for head in range(HEADS):
      parts = []
      for index, part in enumerate(selection.parts):
        sets = self.bare.sets(selection, layer, index)
        row = head * len(sets) // HEADS
        slots = np.nonzero(sets[row])[0]
        count, extra = len(slots), None
        keys = {
          "original": None,
          "rank": np.arange(count),
          "fixed": np.full(count, part.key_position),
        }
        queries = {
          "original": None,
          "rank": count + np.arange(length),
          "fixed": np.full(length, part.query_position),
        }
        if part.extra is not None:
          extra = [np.asarray(rows[row], np.float64) for rows in part.extra]
          extra = [rows[extra[2] > -np.inf] for rows in extra]
          self.heaviest = max(self.heaviest, extra[2].max(initial=0.0))
        parts.append(
          reference_lib.Part(
            slots, keys[part.key_rule], queries[part.query_rule], extra
          )
        )
      heads.append(parts)
    return heads

  def _union(self, layer, selection):
    """Slots each row reads, all parts together."""
    parts = range(len(selection.parts))
    return np.any([self.bare.sets(selection, layer, at) for at in parts], 0)

  def _check_counts(self, counts, sets):
    by_head = sets.reshape(*sets.shape[:1], KV_HEADS, -1, bare.SLOTS)
    read = by_head.any(axis=2)
    exposed = (read & ~self.asked_for).sum(axis=-1)
    for name, expected in (
      ("past_attended", by_head.sum(axis=(2, 3))),
      ("past_loaded", read.sum(axis=-1)),
      ("past_fetched", read.sum(axis=-1)),
      ("past_exposed", exposed),
    ):
      found = getattr(counts, name)[:, 0]
      np.testing.assert_array_equal(found, expected, err_msg=name)
    self.exposed.append(exposed.sum())

  def _check_held(self):
    """The same tokens are held, wherever they lie."""
    slots = jax.tree.map(np.asarray, self.state.cache.slots)
    for layer, head in np.ndindex(self.bare.valid.shape[:2]):
      at = (layer, 0, head) if self.policy.needs.evicts else (0,)
      tokens = slots.position[at][slots.valid[at]]
      np.testing.assert_array_equal(tokens, self.bare.live(layer, head))


def test_sets_of_each_query_head_and_a_stage_that_reads_everything():
  pair = Pair(
    "quest(budget=16, page=8, dense_layers=0, chunk=max,"
    " stages=('frame', 'answer'))"
  )
  for _ in range(9):
    sets = pair.chunk("frame")
  assert np.any(sets[:, 0] != sets[:, 1])
  assert np.all(pair.chunk("question").sum(axis=-1) == 45)


@pytest.mark.parametrize("heads", ["kv", "query"])
def test_mass_reaches_its_slots_over_compactions(heads):
  pair = Pair(f"h2o(heavy=6, recent=8, heads={heads})", capacity=45)
  for index in range(24):
    sets = pair.chunk("frame", length=LENGTH - index % 3)
  assert pair.compactions > 1
  rows = sets.reshape(-1, bare.SLOTS)
  assert len({row.tobytes() for row in rows}) == len(rows)


def test_parts_at_new_positions_and_questions_of_several_chunks():
  """Prompt at a fixed distance; then frames by rank; `first` starts anew."""
  pair = Pair("rekv(frames=2, window_tokens=10)")
  pair.chunk("prompt", length=4)
  for _ in range(7):
    pair.chunk("frame")
  chosen = []
  for first in (True, False, True):
    chosen.append(pair.chunk("question", first=first)[:, :, :39])
  pair.chunk("question", length=3)
  pair.chunk("answer", length=1)
  assert all(np.all(sets.sum(axis=-1) == 4 + 2 * LENGTH) for sets in chosen)
  assert np.any(chosen[0] != chosen[1])


@pytest.mark.parametrize("lookahead", [0, 1])
def test_offline_preparation_and_speculation_a_layer_ahead(lookahead):
  """A sample and weights at `init`; the query of the layer before."""
  random = np.random.default_rng(9)
  draw = lambda heads: random.standard_normal((2, heads, 30, bare.WIDTH))
  pair = Pair(
    "infinigenp(budget=1.0, alpha=1.0, dense_layers=0)",
    sample={"query": draw(HEADS), "key": draw(KV_HEADS)},
    lookahead=lookahead,
  )
  for _ in range(6):
    sets = pair.chunk("frame")
  assert np.all(sets[0].sum(axis=-1) == 25) == bool(lookahead)
  assert 0 < np.mean(sets[1].sum(axis=-1)) < 20


def test_rows_that_stand_for_many_tokens():
  pair = Pair(
    "retroinfer(exact_share=0.1, estimated_share=0.6, block=10,"
    " cluster_tokens=5, sink_tokens=1, recent_tokens=2, stages=all)"
  )
  for length in (5, 3, 5, 1, 4, 5, 5, 4):
    pair.chunk("frame", length=length)
  assert pair.heaviest > np.log(2.0)


def with_threshold(state, threshold):
  return state.replace(threshold=jnp.full_like(state.threshold, threshold))


def test_what_was_asked_for_in_time_is_not_waited_for():
  """A head that chooses again waits; one that reads what it asked for not."""
  pair = Pair(
    "freekv(budget=8, page=4, sink_tokens=0, recent_tokens=0, dense_layers=0,"
    " stages=all)"
  )
  for threshold in (-1.0, 1.0):
    pair.state = pair.state.replace(
      policy=with_threshold(pair.state.policy, threshold)
    )
    pair.bare.state = with_threshold(pair.bare.state, threshold)
    before, pair.exposed = pair.exposed, []
    for _ in range(6):
      pair.chunk("frame")
  assert sum(before) == 0 < sum(pair.exposed)


def test_keys_and_queries_of_a_chunk_decide_what_stays():
  """LiveVLM: scores at `write`; what is left is read page by page."""
  pair = Pair(
    "livevlm(memory=8, short_frames=1, page=3, ratio=0.4)", capacity=40
  )
  for _ in range(14):
    pair.chunk("frame")
  assert pair.compactions > 1
  held = pair.bare.valid.sum(axis=-1).max()
  assert pair.chunk("question", first=True, length=4).sum(axis=-1).max() < held
