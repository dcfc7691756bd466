"""Every need of the contract works: toy policies against numpy, float64.

One stream; the decoder's output of each chunk is compared with the reference
attending to exactly the tokens that a few lines of numpy choose. A wrong set, a
wrong position or a wrong merge moves an output by far more than the tolerance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference as reference_lib
from tests import stepping
from tests.baselines import toys
from vrex_jax import observing
from vrex_jax import stream_state
from vrex_jax import testing

LENGTH, GROUP, HEADS, KV_HEADS, WIDTH = 5, 2, 4, 2, 8
Part = reference_lib.Part


class Bench:
  """A stream under a toy policy and the reference, chunk by chunk."""

  def __init__(self, policy, *, capacity=200, sample=None, lookahead=0):
    self.config = stepping.config_of(
      LENGTH,
      decoder=testing.decoder_config(group_size=GROUP),
      capacity=capacity,
      lookahead=lookahead,
      lookahead_query="next" if lookahead else "own",
      observe=observing.record_chunk,
    )
    self.policy = policy
    self.params = testing.decoder_parameters(self.config.decoder)
    self.state = stream_state.init(
      self.config, policy, self.params, sample=sample, recent_tokens=0
    )
    self.step = jax.jit(
      stepping.chunk_step(self.config, policy, self.params),
      static_argnames="stage",
      donate_argnums=0,
    )
    self.compact = jax.jit(lambda state: stream_state.compact(policy, state))
    self.stream = reference_lib.Reference(self.config.decoder, self.params)
    self.random = np.random.default_rng(3)
    self.compactions = 0

  def chunk(self, stage, choose=None, *, length=LENGTH, first=False):
    """Feeds random tokens to both; returns the event and the record."""
    if int(self.state.cache.cursor) + LENGTH > self.config.capacity:
      self.state = self.compact(self.state)
      self.compactions += 1
    hidden = self.random.standard_normal((LENGTH, 32)).astype(np.float32)
    valid = np.arange(LENGTH)[None] < length
    self.state, out, event, record = self.step(
      self.state, hidden[None], valid, stage=stage, first=first
    )
    expected = self.stream.extend(hidden[:length], choose)
    np.testing.assert_allclose(out[0, :length], expected, atol=5e-5)
    assert not np.any(event.overflow)
    return event, record

  def rotated(self, layer):
    """Rotated keys of the reference's past: [K, tokens, H]."""
    return np.stack(
      [
        reference_lib.rotate(
          head, self.stream.position, self.stream.frequencies
        )
        for head in self.stream.key[layer]
      ]
    )

  def turned(self, query):
    """A chunk's queries [N, T, H] at their own positions."""
    own = len(self.stream) + np.arange(query.shape[1])
    return np.stack(
      [
        reference_lib.rotate(head, own, self.stream.frequencies)
        for head in query
      ]
    )


def by_kv(choose_kv):
  """A choice of parts per KV head, as one per query head."""
  return lambda layer, query: [
    parts for parts in choose_kv(layer, query) for _ in range(GROUP)
  ]


def top(score, size):
  """Indices of the `size` highest scores, in order of index."""
  return np.sort(np.argsort(-score, kind="stable")[:size])


def test_pages_per_query_head():
  """Quest: bounds hold every member's score; rows differ inside a group."""
  pages = 2
  bench = Bench(toys.quest(pages=pages))

  def choose(layer, query):
    past = len(bench.stream)
    key, query = bench.rotated(layer), bench.turned(query)
    chosen = []
    for head in range(HEADS):
      bounds, truth = [], []
      for start in range(0, past, toys.PAGE):
        page = key[head // GROUP, start : start + toys.PAGE]
        product = query[head][:, None] * np.stack([page.min(0), page.max(0)])
        bounds.append(product.max(axis=1).sum(axis=-1).max())
        truth.append((query[head] @ page.T).max())
      assert np.all(np.array(bounds) >= np.array(truth) - 1e-9)
      slots = np.arange(past)
      if past:
        slots = slots[np.isin(slots // toys.PAGE, top(np.array(bounds), pages))]
      chosen.append([Part(slots)])
    sizes[layer] = [len(parts[0].slots) for parts in chosen]
    distinct.add(len({tuple(parts[0].slots) for parts in chosen}))
    return chosen

  sizes, distinct = {}, set()
  for _ in range(12):
    event, _ = bench.chunk("frame", choose)
    expected = [
      np.reshape(sizes[layer], (-1, GROUP)).sum(1) for layer in (0, 1)
    ]
    np.testing.assert_array_equal(event.counts.past_attended[:, 0], expected)
  assert max(distinct) > 1
  # A stage it does not retrieve in attends to everything.
  event, _ = bench.chunk("question")
  np.testing.assert_array_equal(event.counts.past_attended, 60 * GROUP)


@pytest.mark.parametrize("by_query", [False, True])
def test_eviction_by_accumulated_mass(by_query):
  """H2O over compactions: the state follows its tokens to other slots."""
  heavy, recent = 6, 8
  policy = toys.h2o(heavy=heavy, recent=recent, by_query=by_query)
  bench = Bench(policy, capacity=60)
  rows = HEADS if by_query else KV_HEADS
  kept = [[[] for _ in range(rows)] for _ in range(2)]
  mass = np.zeros((2, rows, 500))

  def choose(layer, query):
    del query
    per_row = [[Part(np.array(one, int))] for one in kept[layer]]
    return [per_row[head * rows // HEADS] for head in range(HEADS)]

  for index in range(30):
    length = LENGTH - index % 3
    bench.chunk("frame", choose, length=length)
    end = len(bench.stream)
    for layer in range(2):
      spent = bench.stream.weights[layer].sum(axis=1)
      spent = spent.reshape(rows, -1, end).sum(axis=1)
      mass[layer, :, :end] += spent
      for row in range(rows):
        mine = np.array([*kept[layer][row], *range(end - length, end)], int)
        old = mine[mine < end - recent]
        old = old[top(mass[layer, row, old], heavy)]
        kept[layer][row] = [*old, *mine[mine >= end - recent]]
        dropped = np.setdiff1d(np.arange(end), kept[layer][row])
        mass[layer, row, dropped] = 0.0
  assert bench.compactions > 1
  assert len({str(row) for layer in kept for row in layer}) == 2 * rows
  # What the state holds now, slot by slot, is what numpy holds by token.
  live = np.asarray(bench.state.cache.slots.valid[:, 0])
  position = np.asarray(bench.state.cache.slots.position[:, 0])
  state = jax.tree.map(lambda leaf: np.asarray(leaf[0]), bench.state.policy)
  for layer in range(2):
    union = [set() for _ in range(KV_HEADS)]
    for row in range(rows):
      head = row * KV_HEADS // rows
      mine = np.nonzero(state["mine"][layer, row] & live[layer, head])[0]
      tokens = position[layer, head, mine]
      union[head] |= set(tokens)
      np.testing.assert_array_equal(tokens, kept[layer][row])
      np.testing.assert_allclose(
        state["mass"][layer, row, mine], mass[layer, row, tokens], rtol=1e-4
      )
    for head in range(KV_HEADS):
      held = position[layer, head, np.nonzero(live[layer, head])[0]]
      assert set(held) == union[head]
      assert len(held) <= (heavy + recent) * rows // KV_HEADS


def test_frames_for_a_question_at_new_positions():
  """ReKV: two parts while encoding; then a mean over chunks picks frames."""
  frames, window = 2, 10
  bench = Bench(toys.rekv(frames=frames, window=window))
  prompt, count = np.arange(LENGTH - 1), 7

  def encode(layer, query):
    del layer
    past, length = len(bench.stream), query.shape[1]
    near = np.arange(max(LENGTH - 1, past - window), past)
    far = Part(
      prompt,
      np.zeros(len(prompt)),
      np.full(length, window - 1),
    )
    return [[Part(near), far]] * HEADS

  bench.chunk("prompt", lambda *_: [[Part(np.arange(0))]] * HEADS, length=4)
  for _ in range(count):
    bench.chunk("frame", encode)
  start = len(bench.stream)
  asked, chosen = {0: [], 1: []}, {}

  def place(layer, length):
    slots = np.concatenate(
      [
        prompt,
        *[4 + LENGTH * frame + np.arange(LENGTH) for frame in chosen[layer]],
        np.arange(start, len(bench.stream)),
      ]
    ).astype(int)
    rank = np.arange(len(slots))
    return [[Part(slots, rank, len(slots) + np.arange(length))]] * HEADS

  def ask(layer, query):
    asked[layer].append(query)
    mean = np.concatenate(asked[layer], axis=1).mean(axis=1)
    key = bench.stream.key[layer][:, 4:start].reshape(
      KV_HEADS, count, -1, WIDTH
    )
    key = np.repeat(key.mean(axis=2), GROUP, axis=0)
    chosen[layer] = top(np.einsum("nh,nfh->f", mean, key), frames)
    return place(layer, query.shape[1])

  bench.chunk("question", ask, first=True)
  after_one = dict(chosen)
  bench.chunk("question", ask)
  bench.chunk("question", ask, length=3)
  assert any(set(chosen[layer]) != set(after_one[layer]) for layer in (0, 1))
  for _ in range(2):
    bench.chunk("answer", lambda layer, query: place(layer, 1), length=1)
  # Another question starts its own mean.
  start, asked = len(bench.stream), {0: [], 1: []}
  key_end = 4 + LENGTH * count

  def ask_again(layer, query):
    asked[layer].append(query)
    mean = np.concatenate(asked[layer], axis=1).mean(axis=1)
    key = bench.stream.key[layer][:, 4:key_end]
    key = key.reshape(KV_HEADS, count, -1, WIDTH).mean(axis=2)
    score = np.einsum("nh,nfh->f", mean, np.repeat(key, GROUP, axis=0))
    chosen[layer] = top(score, frames)
    return place(layer, query.shape[1])

  bench.chunk("question", ask_again, first=True)


def recorded_sample(seed=9):
  """Rotated queries and keys of another stream, as a record holds them."""
  bench = Bench(toys.nothing())
  bench.random = np.random.default_rng(seed)
  empty = lambda layer, query: [[Part(np.arange(0))]] * HEADS
  records = [bench.chunk("frame", empty)[1] for _ in range(6)]
  return {
    "query": jnp.concatenate([r.query[:, 0] for r in records], axis=2),
    "key": jnp.concatenate([r.key[:, 0] for r in records], axis=2),
  }


@pytest.mark.parametrize("lookahead", [0, 1])
def test_offline_preparation_and_speculation_a_layer_ahead(lookahead):
  """InfiniGen: sample and weights at init; partial scores pick tokens."""
  sample, alpha, columns = recorded_sample(), 1.5, 3
  policy = toys.infinigen(alpha=alpha, columns=columns)
  bench = Bench(policy, sample=sample, lookahead=lookahead)
  weight = bench.stream.params

  def basis(layer, head):
    query = np.asarray(sample["query"][layer], np.float64)
    query = query.reshape(KV_HEADS, -1, WIDTH)[head]
    turn = np.linalg.svd(query, full_matrices=False)[2].T
    key = np.asarray(sample["key"][layer][head])
    projection = weight[f"layers_{layer}"]["q_proj"]["kernel"]
    projection = projection.reshape(-1, KV_HEADS, WIDTH)[:, head]
    size = sum(np.abs(rows @ turn).sum(0) for rows in (query, key, projection))
    return turn[:, np.argsort(-size)[:columns]]

  def choose(layer, query):
    past = len(bench.stream)
    if (lookahead and layer == 0) or past == 0:
      return [[Part(np.arange(past))]] * HEADS
    if lookahead:
      query = bench.stream.project(layer, current["hidden"], "q_proj", HEADS)
    query, key = bench.turned(query), bench.rotated(layer)
    parts = []
    for head in range(KV_HEADS):
      fold = basis(layer, head)
      asked = query.reshape(KV_HEADS, -1, WIDTH)[head] @ fold
      score = (asked @ (key[head] @ fold).T / WIDTH**0.5).max(axis=0)
      parts += [[Part(np.nonzero(score > score.max() - alpha)[0])]] * GROUP
    attended.append(len(parts[0][0].slots) / past)
    return parts

  attended, current = [], {}
  for _ in range(8):
    # The hidden state layer 0 receives: what "next" projects.
    peek = np.random.default_rng()
    peek.bit_generator.state = bench.random.bit_generator.state
    current["hidden"] = peek.standard_normal((LENGTH, 32)).astype(np.float32)
    bench.chunk("frame", choose)
  assert 0.05 < np.mean(attended) < 0.95


def test_rows_that_stand_for_many_tokens():
  """RetroInfer's estimate: a mean row counts as often as it has members."""
  bench = Bench(toys.retro())
  sizes = []

  def choose(layer, query):
    del query
    past = len(bench.stream)
    if not sizes:
      return [[Part(np.arange(0))]] * HEADS
    exact = np.arange(past - sizes[-1], past)
    key, value = bench.rotated(layer), bench.stream.value[layer]
    cuts = np.cumsum(sizes)[:-1]
    older = lambda rows: np.split(rows, cuts, axis=1)[:-1]
    mean = lambda rows: np.stack(
      [rows[:, 0] * 0, *(piece.mean(axis=1) for piece in older(rows))], axis=1
    )[:, 1:]
    weight = np.log(np.array(sizes[:-1], float))
    return [
      [
        Part(
          exact,
          extra=(mean(key)[head // GROUP], mean(value)[head // GROUP], weight),
        )
      ]
      for head in range(HEADS)
    ]

  for length in (5, 3, 5, 1, 4, 5):
    bench.chunk("frame", choose, length=length)
    sizes.append(length)


def test_prefetch_of_what_the_next_step_attends():
  """FreeKV: what was asked for in time is fetched but not exposed."""
  budget = 6
  bench = Bench(toys.freekv(budget=budget))
  last = {0: [np.arange(0)] * KV_HEADS, 1: [np.arange(0)] * KV_HEADS}

  def choose(layer, query):
    query, key = bench.turned(query), bench.rotated(layer)
    query = query.reshape(KV_HEADS, -1, WIDTH)
    chosen = [
      top((query[head] @ key[head].T).sum(axis=0), budget)
      for head in range(KV_HEADS)
    ]
    attended = last[layer] if speculative else chosen
    expected[layer] = [
      (len(now), len(np.setdiff1d(now, asked)))
      for now, asked in zip(attended, last[layer], strict=True)
    ]
    last[layer] = chosen
    return [[Part(attended[head // GROUP])] for head in range(HEADS)]

  expected, exposures = {}, {True: 0, False: 0}
  for speculative in (True, False):
    policy_state = bench.state.policy
    flag = np.full_like(policy_state["speculative"], speculative)
    bench.state = bench.state.replace(
      policy={**policy_state, "speculative": jnp.asarray(flag)}
    )
    for _ in range(6):
      event, _ = bench.chunk("frame", choose)
      for layer in (0, 1):
        fetched, exposed = np.transpose(expected[layer])
        counts = event.counts
        np.testing.assert_array_equal(counts.past_fetched[layer, 0], fetched)
        np.testing.assert_array_equal(counts.past_exposed[layer, 0], exposed)
        exposures[speculative] += exposed.sum()
  assert exposures[True] == 0
  assert exposures[False] > 0


def test_pages_of_what_is_left_after_eviction():
  """LiveVLM: keys and queries at write; unrotated page means at a question."""
  memory, observe, pages = 8, 3, 2
  policy = toys.livevlm(memory=memory, observe=observe, pages=pages)
  bench = Bench(policy, capacity=40)
  kept = [[np.arange(0)] * KV_HEADS for _ in range(2)]
  frame_of, asked_with = [], {}

  def encode(layer, query):
    asked_with[layer] = bench.turned(query)
    return [[Part(kept[layer][head // GROUP])] for head in range(HEADS)]

  for index in range(14):
    past = len(bench.stream)
    bench.chunk("frame", encode)
    frame_of += [index] * LENGTH
    for layer in range(2):
      key = bench.rotated(layer)
      for head in range(KV_HEADS):
        mine = np.append(kept[layer][head], past + np.arange(LENGTH)).astype(
          int
        )
        query = asked_with[layer][:, -observe:].reshape(KV_HEADS, -1, WIDTH)[
          head
        ]
        score = reference_lib.softmax_rows(
          query @ key[head][mine].T / WIDTH**0.5
        ).mean(axis=0)
        old = mine[:-LENGTH]
        old = old[top(score[:-LENGTH], memory)]
        kept[layer][head] = np.append(old, mine[-LENGTH:])
  assert bench.compactions > 1

  def ask(layer, query):
    parts = []
    for head in range(KV_HEADS):
      mine = kept[layer][head]
      frames = np.asarray(frame_of)[mine]
      asked = query.reshape(KV_HEADS, -1, WIDTH)[head].sum(axis=0)
      names = np.unique(frames)
      score = [
        bench.stream.key[layer][head][mine[frames == name]].mean(axis=0) @ asked
        for name in names
      ]
      chosen = names[top(np.array(score), pages)]
      parts += [[Part(mine[np.isin(frames, chosen)])]] * GROUP
    return parts

  event, _ = bench.chunk("question", ask, first=True, length=4)
  assert np.all(event.counts.past_attended < event.counts.past_held)
