"""InfiniPot-V and LiveVLM against their formulas, frame by frame."""

import hypothesis
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies

from tests import reference
from tests.baselines import bare
from vrex_jax import policy_syntax
from vrex_jax.baselines import livevlm as livevlm_lib

every_slot = np.arange(bare.SLOTS)
LENGTH = 4


def make(text):
  return bare.Bare(policy_syntax.make_policy(text), chunk_tokens=LENGTH)


def unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_infinipot_v_compresses_when_the_memory_is_full():
  memory, target, changed, kernels = 17, 13, 0.5, (3, 1)
  bench = make(
    f"infinipot_v(memory={memory}, target={target}, changed_share={changed},"
    f" recent_share=0.25, kernels={kernels})"
  )
  bench.chunk("prompt", valid=3)
  kept = np.ones((bare.LAYERS, bench.kv_heads, bare.SLOTS), bool)
  compressions = 0
  for _ in range(9):
    start = bench.cursor
    bench.chunk("frame")
    frame = (every_slot - 3) // LENGTH
    patch = (every_slot - 3) % LENGTH
    used = (every_slot >= 3) & (every_slot < start + LENGTH)
    recent = frame > frame[start] - memory // 4 // LENGTH
    for layer in range(bare.LAYERS):
      half = kernels[layer] // 2
      for head in range(bench.kv_heads):
        member = kept[layer, head] & used
        if member.sum() <= memory:
          continue
        compressions += 1
        key = bench.key[layer, head].astype("f8")
        forced, found = recent & member, np.full(bare.SLOTS, -np.inf)
        for slot in np.nonzero(member & ~recent)[0]:
          same = np.nonzero(forced & (patch == patch[slot]))[0]
          found[slot] = -np.mean(unit(key[same]) @ unit(key[slot]))
        forced = forced | bare.highest(found, int(changed * target))
        norm = np.linalg.norm(bench.value[layer, head].astype("f8"), axis=-1)
        score = np.full(bare.SLOTS, -np.inf)
        for slot in np.nonzero(member)[0]:
          begin = slot - patch[slot]
          first = max(begin, slot - half)
          score[slot] = norm[
            first : min(begin + LENGTH, slot + half + 1)
          ].mean()
        score[forced] = np.inf
        kept[layer, head] &= bare.highest(score, target) | ~used
    live = kept & (every_slot < bench.cursor)
    np.testing.assert_array_equal(bench.valid, live)
  assert compressions >= 4


def greedy(score, position, memory, room, share):
  """VSB as the paper tells it, one token at a time."""
  candidates = np.nonzero(score > -np.inf)[0]
  order = candidates[np.argsort(-score[candidates], kind="stable")]
  length = 1 + position[candidates].max(initial=0)
  bucket = np.floor(
    position
    / np.float32(np.float32(length) / np.float32(max(memory // room, 1)))
  )
  first = min(int(np.ceil(np.float32(share) * len(candidates))), memory)
  kept = list(order[:first])
  count = {}
  for slot in kept:
    count[bucket[slot]] = count.get(bucket[slot], 0) + 1
  for slot in order[first:]:
    if len(kept) == memory:
      break
    if count.get(bucket[slot], 0) < room:
      count[bucket[slot]] = count.get(bucket[slot], 0) + 1
      kept.append(slot)
  return np.isin(np.arange(len(score)), kept)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
  seed=strategies.integers(0, 99),
  memory=strategies.integers(1, 16),
  member=strategies.lists(strategies.booleans(), min_size=16, max_size=16),
)
def test_buckets_are_filled_as_one_by_one(seed, memory, member):
  random = np.random.default_rng(seed)
  score = np.where(member, random.random(16), -np.inf).astype("f4")
  position = np.sort(random.choice(64, 16, replace=False)).astype("i4")
  found = livevlm_lib.bucketed(
    jnp.asarray(score), jnp.asarray(position), jnp.int32(memory), 2, 0.1
  )
  np.testing.assert_array_equal(found, greedy(score, position, memory, 2, 0.1))


def test_livevlm_keeps_a_stretch_each_and_reads_pages():
  memory, page, short, ratio = 9, 2, 2, 0.4
  bench = make(
    f"livevlm(memory={memory}, page={page}, short_frames={short},"
    f" ratio={ratio})"
  )
  bench.chunk("prompt", valid=3)
  frame = (every_slot - 3) // LENGTH
  kept = np.ones((bare.LAYERS, bench.kv_heads, bare.SLOTS), bool)
  for _ in range(8):
    start = bench.cursor
    bench.chunk("frame")
    old = (every_slot >= 3) & (frame <= frame[start] - short)
    for layer in range(bare.LAYERS):
      for head in range(bench.kv_heads):
        live = kept[layer, head] & (every_slot < bench.cursor)
        if np.sum(live & old) <= memory:
          continue
        weight = np.zeros(bare.SLOTS)
        for query in bench.query[layer, 2 * head : 2 * head + 2]:
          for token in range(LENGTH):
            seen = live & (every_slot <= start + token) & (every_slot >= 3)
            score = bench.key[layer, head, seen] @ query[token]
            score = score[None] / bare.WIDTH**0.5
            weight[seen] += reference.softmax_rows(score)[0]
        score = np.where(live & old, weight, -np.inf)
        mine = greedy(score, every_slot, memory, 1, 0.1)
        kept[layer, head] &= mine | ~old
    np.testing.assert_array_equal(
      bench.valid, kept & (every_slot < bench.cursor)
    )

  asked = []
  for index in range(2):
    draw = lambda heads: bench.random.standard_normal(
      (bare.LAYERS, heads, LENGTH, bare.WIDTH)
    ).astype("f4")
    inputs = draw(bench.heads), draw(bench.kv_heads), draw(bench.kv_heads)
    asked.append(inputs[0][:, :, :3])
    sets = bench.frame_sets(
      "question", valid=3, first=index == 0, inputs=inputs
    )
    mean = np.concatenate(asked, axis=2).mean(axis=2)
    for layer in range(bare.LAYERS):
      for head in range(bench.kv_heads):
        live = bench.before[layer, head]
        old = np.nonzero(live & (frame <= 7 - short) & (every_slot >= 3))[0]
        pages = [old[at : at + page] for at in range(0, len(old), page)]
        query = mean[layer, 2 * head : 2 * head + 2].mean(axis=0)
        score = np.array(
          [query @ bench.raw[layer, head, one].mean(axis=0) for one in pages]
        )
        wanted = int(np.ceil(np.float32(ratio) * len(pages)))
        chosen = [
          pages[at] for at in np.nonzero(bare.highest(score, wanted))[0]
        ]
        rest = live & ~np.isin(every_slot, old)
        expected = rest | np.isin(every_slot, np.concatenate(chosen))
        np.testing.assert_array_equal(sets[layer][head], expected)

  # A compaction takes the choice along.
  source = np.argsort(~bench.valid, axis=-1, kind="stable")
  assert np.any(source != every_slot)
  moved = bench.policy.move(bench.state, jnp.asarray(source))
  np.testing.assert_array_equal(
    bare.unpack(moved.chosen),
    np.take_along_axis(bare.unpack(bench.state.chosen), source, axis=-1),
  )
