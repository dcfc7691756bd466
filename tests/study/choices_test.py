"""Rows of the ablation: limits of ReSV, and direct loops."""

import numpy as np
import pytest

from tests.resv import oracle
from tests.study import recorded
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import replay
from vrex_jax.study import choices
from vrex_jax.study import disturb
from vrex_jax.study import variations

HEADS, KV_HEADS, WIDTH, FRAMES = 4, 2, 8, 10
TOKENS = FRAMES * recorded.CONTENTS
RATIO = 0.4
BASE = f"resv(wicsum_ratio={RATIO}, table_capacity=128)"
ROW_COUNTS = [1, 8, 64, 10**6]


@pytest.fixture(scope="module")
def recording():
  return recorded.recording(
    layers=1, heads=HEADS, kv_heads=KV_HEADS, width=WIDTH, frames=FRAMES
  )


@pytest.fixture(scope="module")
def played(recording):
  """A replay of a policy, by its text."""

  def play(text):
    policy = policy_syntax.make_policy(text)
    return replay.replay(policy, recording, measure=False)

  return play


@pytest.fixture(scope="module")
def base(played):
  return played(BASE)


@pytest.fixture(scope="module")
def shared(played):
  return played(BASE.replace(")", ", table=layer)"))


@pytest.fixture(scope="module")
def row(recording, base):
  del base  # it compiles quickly
  (case,) = variations.cases(BASE, ["form"])[:1]
  return choices.choice_row(case.policy, recording, **case.driver)


def test_the_base_is_the_plain_policy(row, base):
  """The row of no change at all has the plain replay's counts and clusters."""
  counts = base.counts
  assert row["policy"] == policy_syntax.make_policy(BASE).name
  kept = counts.past_attended.sum() / counts.past_seen.sum()
  assert row["kept"] == {"frame": pytest.approx(kept)}
  assert row["clusters"] == np.mean(base.state.policy.table.num)
  assert row["tokens_per_cluster"] == pytest.approx(TOKENS / row["clusters"])
  assert row["table_full"] is False
  assert row["ms_per_frame"] > 0
  assert 0 < row["kept"]["frame"] < row["mass"]["frame"] < 1
  assert 0 < row["error"]["frame"] < 1


def test_false_joins_are_counted_in_parts_of_the_stream(row, base, recording):
  cosines, slots = choices.join_cosines(recording, base)
  parts = np.array_split(np.arange(TOKENS), 4)
  assert row["false_joins"] == [
    pytest.approx(np.mean(cosines[np.isin(slots, part)] < choices.FALSE_BELOW))
    for part in parts
  ]


def test_everything_by_itself_and_kept_is_full_attention(recording, base):
  """Threshold 0: every key its own cluster; ratio 1: all of them."""
  del base
  policy = policy_syntax.make_policy(
    "resv(wicsum_ratio=1, hamming_threshold=0, table_capacity=128)"
  )
  row = choices.choice_row(policy, recording, recent_tokens=0)
  assert (row["clusters"], row["tokens_per_cluster"]) == (TOKENS, 1.0)
  assert row["false_joins"] == [None] * 4  # nobody joined
  assert row["kept"] == {"frame": 1.0}
  assert row["mass"] == {"frame": pytest.approx(1.0, abs=1e-5)}
  assert row["error"] == {"frame": pytest.approx(0.0, abs=1e-5)}
  assert row["recent_tokens"] == 0


def test_a_full_table_is_told(recording, base, monkeypatch):
  assert int(base.counts.overflow.max()) == 0
  full = base.counts.overflow.copy()
  full[3, 0, 1] = int(policy_lib.Overflow.TABLE_FULL)
  other = base._replace(counts=base.counts._replace(overflow=full))
  monkeypatch.setattr(replay, "replay", lambda *given, **named: other)
  row = choices.choice_row(policy_syntax.make_policy(BASE), recording)
  assert row["table_full"] is True


def test_cosines_of_joins_against_a_loop(recording, base):
  cosines, slots = choices.join_cosines(recording, base)
  member = np.asarray(base.state.policy.table.member)[0, 0]
  expected = []
  for head in range(KV_HEADS):
    key = recording.key[0, head].astype(np.float64)
    for token in range(TOKENS):
      same = member[head, :token] == member[head, token]
      if member[head, token] >= 0 and same.any():
        mean = key[:token][same].mean(axis=0)
        length = np.linalg.norm(mean) * np.linalg.norm(key[token])
        expected.append((token, mean @ key[token] / length))
  found = sorted(zip(slots, cosines, strict=True))
  np.testing.assert_allclose(found, sorted(expected), rtol=1e-5)


def test_runs_of_the_last_frame_against_a_loop(base):
  """In time order and by cluster, over slots of the frames but the last two."""
  found = choices.run_tokens(policy_syntax.make_policy(BASE), base)
  member = np.asarray(base.state.policy.table.member)[0, 0]
  stored = TOKENS - 2 * recorded.CONTENTS
  fetched = in_time = in_clusters = 0
  for head in range(KV_HEADS):
    words = np.asarray(base.slots[-1, 0, head])
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:stored]
    fetched += int(bits.sum())
    for order in (np.arange(stored), np.argsort(member[head, :stored],
                                                kind="stable")):  # fmt: skip
      laid = np.concatenate([[0], bits[order].astype(int)])
      starts = int(np.sum(np.diff(laid) == 1))
      if order[0] == 0 and np.all(np.diff(order) == 1):
        in_time += starts
      else:
        in_clusters += starts
  assert found["time_order"] == pytest.approx(fetched / in_time)
  assert found["by_cluster"] == pytest.approx(fetched / in_clusters)
  assert found["by_cluster"] > found["time_order"]


def test_joins_of_shifted_keys_are_judged_by_the_keys_before(recording):
  """A common constant makes all cosines one, and joins no truer."""
  policy = policy_syntax.make_policy(BASE)
  shifted = disturb.shift_keys(recording, 30.0)
  played = replay.replay(policy, shifted, measure=False)
  fooled, _ = choices.join_cosines(shifted, played)
  honest, _ = choices.join_cosines(recording, played)
  assert np.all(fooled > 0.9)
  assert np.mean(honest < choices.FALSE_BELOW) > 0.5


def test_a_table_of_all_heads_has_no_cosines(recording, shared):
  cosines, slots = choices.join_cosines(recording, shared)
  assert len(cosines) == len(slots) == 0


def by_hand(played, recording, number, *, shared):
  """Kept shares of the last `number` rows, by sorting: union, vote, pooled."""
  table = played.state.policy.table
  group = HEADS // KV_HEADS
  found = []
  for head in range(KV_HEADS):
    own = 0 if shared else head
    count = np.asarray(table.count)[0, 0, own]
    total = np.asarray(table.key_sum)[0, 0, own].astype(np.float64)
    if shared:
      total = np.split(total, KV_HEADS, axis=1)[head]
    mean = total / np.maximum(count, 1)[:, None]
    rows = [
      recording.query[0, head * group + one, token].astype(np.float64)
      for token in range(TOKENS)
      for one in range(group)
    ][::-1][:number]
    asked = np.array([oracle.wicsum(mean @ q, count, RATIO) for q in rows])
    pooled = oracle.wicsum(mean @ np.mean(rows, axis=0), count, RATIO)
    enough = asked.sum(axis=0) >= min(4, number)
    found.append(
      [count[kept].sum() / TOKENS for kept in (asked.any(0), enough, pooled)]
    )
  return np.mean(found, axis=0)


@pytest.mark.parametrize("table", ["base", "shared"])
def test_kept_shares_by_rows(recording, table, request):
  played = request.getfixturevalue(table)
  found = choices.kept_by_rows(
    played, recording, ratio=RATIO, row_counts=ROW_COUNTS
  )
  assert list(found) == ["union", "vote", "pooled"]
  shares = np.array(list(found.values()))
  assert np.isnan(shares[:, -1]).all()  # there are not so many rows
  for place, number in enumerate(ROW_COUNTS[:-1]):
    np.testing.assert_allclose(
      shares[:, place],
      by_hand(played, recording, number, shared=table == "shared"),
      rtol=1e-6,
    )
  assert len(set(shares[:, 0])) == 1  # of one row there is nothing to reduce
  assert np.all(np.diff(found["union"][:-1]) >= 0)
  assert np.all(np.array(found["vote"])[:-1] <= np.array(found["union"])[:-1])
