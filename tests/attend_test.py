"""What a selection makes of attention and counts, for arbitrary selections.

`given` selects the sets it finds in its state, so a test chooses them: other
sets for every stream, row and chunk. Chunks have invalid tokens at the front,
in the middle and at the end. Results are compared with `tests/reference.py`,
counts with numpy.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference as reference_lib
from tests import stepping
from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax.baselines import full as full_lib

BATCH, LENGTH, SLOTS, CHUNKS = 2, 5, 512, 7
KEY_AT, QUERY_AT = 3, 40
VALID = np.array(
  [
    [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]],
    [[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]],
    [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
    [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
  ],
  bool,
)


def given(granularity, rules):
  """Two parts of slots set from outside; `rules` for each (key, query)."""
  rows = {"kv": 2, "query": 4}[granularity]

  def init(spec, params, knobs, sample):
    del params, knobs, sample
    words = jnp.zeros((2, rows, spec.num_slots // 32), jnp.uint32)
    return {"sets": words}

  def part(words, rule):
    moved = "fixed" in rule
    return policy_lib.Part(
      slots=words,
      key_rule=rule[0],
      query_rule=rule[1],
      key_position=jnp.int32(KEY_AT) if moved else None,
      query_position=jnp.int32(QUERY_AT) if moved else None,
    )

  def select(state, view, layer, queries, stage):
    del layer, queries, stage
    parts = tuple(
      part(state["sets"][index], rule) for index, rule in enumerate(rules)
    )
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    return policy_lib.Selection(parts=parts), state, counts

  return full_lib.full()._replace(
    name="given",
    needs=policy_lib.Needs(granularity=granularity),
    init=init,
    select=select,
  )


ORIGINAL = ("original", "original")
CASES = {
  "kv": given("kv", (ORIGINAL, ORIGINAL)),
  "query": given("query", (ORIGINAL, ORIGINAL)),
  "moved": given("kv", (("rank", "rank"), ("fixed", "fixed"))),
}


@pytest.fixture(scope="module", params=CASES)
def bench(request):
  """The compiled chunk step of one kind of selection."""
  config = stepping.config_of(LENGTH, batch=BATCH, capacity=100)
  policy = CASES[request.param]
  params = testing.decoder_parameters(config.decoder)
  return types.SimpleNamespace(
    name=request.param,
    config=config,
    policy=policy,
    params=params,
    step=jax.jit(stepping.chunk_step(config, policy, params)),
    rows=4 if request.param == "query" else 2,
  )


class Expected:
  """Numpy's account of one stream: tokens by slot, sets, counts."""

  def __init__(self, bench, row):
    self.bench = bench
    self.stream = reference_lib.Reference(bench.config.decoder, bench.params)
    self.token_at = np.full(SLOTS, -1)
    self.row, self.cursor = row, 0

  def sets(self, chosen, recent_tokens):
    """What each row attends to: chosen ∩ live, recent joined to part 0."""
    live = self.token_at >= 0
    recent = live & (self.token_at >= len(self.stream) - recent_tokens)
    first, second = chosen & live
    return np.stack([first | (recent & ~second), second])

  def run(self, hidden, valid, sets):
    """The stream's own output for the chunk's valid tokens."""
    heads = self.bench.config.decoder.num_heads
    length = int(valid.sum())

    def part(slots, moved):
      tokens = self.token_at[np.nonzero(slots)[0]]
      if not moved:
        return reference_lib.Part(tokens)
      if moved == "rank":
        rank = np.arange(len(tokens))
        after = len(tokens) + np.arange(length)
        return reference_lib.Part(tokens, rank, after)
      return reference_lib.Part(
        tokens, np.full(len(tokens), KEY_AT), np.full(length, QUERY_AT)
      )

    rules = ("rank", "fixed") if self.bench.name == "moved" else (None, None)
    per_head = [
      [
        part(sets[index, head * self.bench.rows // heads], rules[index])
        for index in range(2)
      ]
      for head in range(heads)
    ]
    out = self.stream.extend(hidden[valid], lambda layer, query: per_head)
    start = len(self.stream) - length
    slots = self.cursor + np.nonzero(valid)[0]
    self.token_at[slots] = start + np.arange(length)
    return out

  def counts(self, sets, seen, resident_tokens):
    """Driver's counts of one stream, [K] each."""
    live = self.token_at >= 0
    resident = live & (self.token_at >= seen - resident_tokens)
    grouped = sets.any(axis=0).reshape(2, -1, SLOTS)
    loaded = grouped.any(axis=1)
    fetched = loaded & ~resident
    starts = fetched & ~np.pad(fetched, ((0, 0), (1, 0)))[:, :-1]
    per_part = sets.sum(axis=(0, 2)).reshape(2, -1)
    return {
      "past_seen": np.full(2, seen),
      "past_held": np.full(2, live.sum()),
      "past_attended": per_part.sum(axis=1),
      "past_loaded": loaded.sum(axis=1),
      "past_fetched": fetched.sum(axis=1),
      "past_exposed": fetched.sum(axis=1),
      "fetch_runs": starts.sum(axis=1),
    }


@pytest.mark.parametrize(
  ("recent_tokens", "resident_tokens", "density"),
  [(0, 0, 0.4), (LENGTH, 11, 0.4), (7, 3, 0.0), (2**30, 2**30, 0.2)],
)
def test_attention_and_counts_of_any_selection(
  bench, recent_tokens, resident_tokens, density
):
  random = np.random.default_rng(0)
  state = stream_state.init(
    bench.config,
    bench.policy,
    bench.params,
    recent_tokens=recent_tokens,
    resident_tokens=resident_tokens,
  )
  streams = [Expected(bench, row) for row in range(BATCH)]
  for index in range(CHUNKS):
    hidden = random.standard_normal((BATCH, LENGTH, 32)).astype(np.float32)
    # Disjoint parts; slots that hold nothing are chosen as well.
    draw = random.random((BATCH, bench.rows, SLOTS))
    chosen = np.stack([draw < density, draw > 1 - density / 2], axis=1)
    state = state.replace(policy={"sets": bitmap.pack(jnp.asarray(chosen))})
    state, out, event, _ = bench.step(state, hidden, VALID[index])
    used = np.nonzero(VALID[index].any(axis=0))[0].max() + 1
    for row, one in enumerate(streams):
      valid, seen = VALID[index][row], len(one.stream)
      sets = one.sets(chosen[row], recent_tokens)
      counts = one.counts(sets, seen, resident_tokens)
      if valid.any():
        expected = one.run(hidden[row], valid, sets)
        np.testing.assert_allclose(out[row][valid], expected, atol=2e-5)
      one.cursor += used
      for name, value in counts.items():
        found = getattr(event.counts, name)[:, row]
        np.testing.assert_array_equal(found, [value, value], err_msg=name)
      np.testing.assert_array_equal(
        event.counts.chunk_tokens[:, row], valid.sum()
      )
    assert not np.any(event.overflow)
  assert int(state.cache.cursor) == streams[0].cursor
  np.testing.assert_array_equal(
    state.seen, [len(one.stream) for one in streams]
  )


def test_selecting_all_by_query_head_is_full():
  """Part(None) needs no set, whatever the granularity."""
  config = stepping.config_of(
    LENGTH, decoder=testing.decoder_config(group_size=4), capacity=600
  )
  params = testing.decoder_parameters(config.decoder)
  frames = testing.hidden_frames(config, 3)
  results = []
  for granularity, stages in (
    ("kv", policy_lib.STAGES),
    ("query", policy_lib.STAGES),
    ("query", ("answer",)),
  ):
    policy = full_lib.full()._replace(
      needs=policy_lib.Needs(granularity=granularity, stages=stages)
    )
    step = jax.jit(
      lambda state, frame, policy=policy: stream.prefill_frame(
        config, policy, testing.embed_hidden, params, state, frame
      )
    )
    state = stream_state.init(config, policy, params)
    for frame in frames:
      state, event, _ = step(state, frame)
    results.append((state.cache.key, event.counts.past_attended))
  (one, attended), *others = results
  np.testing.assert_array_equal(attended, 2 * LENGTH)
  for key, by_head in others:
    np.testing.assert_allclose(key, one, atol=1e-6)
    np.testing.assert_array_equal(by_head, 4 * attended)


def step_of(policy):
  """One frame under a policy, traced and not run."""
  config = stream_state.StreamConfig(
    decoder=testing.decoder_config(), frame_tokens=LENGTH
  )
  params = testing.decoder_parameters(config.decoder)
  state = stream_state.init(config, policy, params)
  frame = testing.hidden_frames(config, 1)[0]
  return jax.eval_shape(
    lambda state_, frame_: stream.prefill_frame(
      config, policy, testing.embed_hidden, params, state_, frame_
    ),
    state,
    frame,
  )


def selecting(part):
  """`full` with another selection."""
  counts = policy_lib.zero_counts((2,))
  return full_lib.full()._replace(
    select=lambda state, view, layer, queries, stage: (
      policy_lib.Selection(parts=(part,)),
      state,
      counts,
    )
  )


@pytest.mark.parametrize(
  ("part", "word"),
  [
    (policy_lib.Part(slots=None, key_rule="fixed"), "key_position"),
    (policy_lib.Part(slots=None, query_rule="fixed"), "query_position"),
    (policy_lib.Part(slots=None, key_rule="ranked"), "'ranked'"),
    (policy_lib.Part(slots=None, query_rule="last"), "'last'"),
  ],
)
def test_a_rule_that_says_nothing_is_refused(part, word):
  with pytest.raises(ValueError, match=word):
    step_of(selecting(part))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_set_for_other_rows_is_refused(rows):
  """Two KV heads: one set for all, or one a query head, must be said."""
  words = jnp.zeros((rows, 4608 // 32), jnp.uint32)
  with pytest.raises(AssertionError, match="shape"):
    step_of(selecting(policy_lib.Part(slots=words)))


def test_dropping_tokens_without_saying_so_is_refused():
  def write(state, view, chunk, stage):
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    return state, jnp.ones((2, 2, len(view.slots.valid)), bool), counts

  with pytest.raises(ValueError, match=r"needs\.evicts is False"):
    step_of(full_lib.full()._replace(write=write))
