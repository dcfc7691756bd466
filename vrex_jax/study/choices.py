"""What a choice of ReSV costs and keeps, on one recording.

kept share    past tokens attended / seen, by stage
mass          share of the past's attention on what is kept
error         of the attention output without the rest
false joins   share of joins whose key is unlike its cluster's mean key
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import placement
from vrex_jax import policy as policy_lib
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax.resv import wicsum

__all__ = [
  "FALSE_BELOW",
  "choice_row",
  "join_cosines",
  "kept_by_rows",
  "run_tokens",
]

_LAYOUTS = ("time_order", "by_block", "by_cluster")
FALSE_BELOW = 0.5
"""A join is false when key and mean key have a cosine below this."""


def choice_row(
  policy: policy_lib.KVPolicy,
  recording: recording_lib.Recording,
  *,
  recent_tokens: int | None = None,
  lookahead: int = 0,
  lookahead_query: str = "own",
  quarters: int = 4,
  true_keys: recording_lib.Recording | None = None,
) -> dict[str, Any]:
  """One row of the comparison.

  Args:
    policy: a ReSV policy.
    recording: the stream.
    recent_tokens: see `replay.replay`.
    lookahead: see there.
    lookahead_query: see there.
    quarters: parts of the stream in which false joins are counted.
    true_keys: the recording before it was disturbed, whose keys tell which
      joins are false; `recording` when None.

  Returns:
    {policy, recent_tokens, lookahead, lookahead_query, kept, mass, error (each
    by stage), clusters, tokens_per_cluster, false_joins (one a part),
    table_full, run_tokens, ms_per_frame}: see `run_tokens`; the last is the CPU
    time of choosing alone, at the end of the stream, the best of five.
  """
  played = replay.replay(
    policy,
    recording,
    recent_tokens=recent_tokens,
    lookahead=lookahead,
    lookahead_query=lookahead_query,
    timed=True,
  )
  stages = np.array([chunk.stage for chunk in played.chunks])
  past = played.counts.past_seen[:, 0, 0] > 0
  by_stage = lambda pick: {
    stage: pick((stages == stage) & past)
    for stage in policy_lib.STAGES[1:]
    if np.any((stages == stage) & past)
  }
  counts = played.counts
  share = lambda at: float(
    counts.past_attended[at].sum() / counts.past_seen[at].sum()
  )
  table = played.state.policy.table
  num = np.asarray(table.num, np.float64)
  tokens = float(np.asarray(table.count).sum() / num.size)
  cosines, index = join_cosines(true_keys or recording, played)
  part = index * quarters // max(1, int(played.state.cache.cursor))
  full = int(policy_lib.Overflow.TABLE_FULL)
  return {
    "policy": policy.name,
    "recent_tokens": recent_tokens,
    "lookahead": lookahead,
    "lookahead_query": lookahead_query,
    "kept": by_stage(share),
    "mass": by_stage(lambda at: float(np.nanmean(played.mass[at]))),
    "error": by_stage(lambda at: float(played.error[at].mean())),
    "clusters": float(num.mean()),
    "tokens_per_cluster": tokens / max(1.0, float(num.mean())),
    "false_joins": [
      float(np.mean(cosines[part == number] < FALSE_BELOW))
      if np.any(part == number)
      else None
      for number in range(quarters)
    ],
    "table_full": bool(np.any(counts.overflow & full)),
    "run_tokens": run_tokens(policy, played),
    "ms_per_frame": played.choosing_ms,
  }


def join_cosines(
  recording: recording_lib.Recording, played: replay.Replayed
) -> tuple[np.ndarray, np.ndarray]:
  """Cosine of every joining key and the mean key of its cluster at the time.

  Args:
    recording: whose keys are compared: of the stream, or of the same one
      before it was disturbed.
    played: a replay of the stream under ReSV with a table for each head.

  Returns:
    Cosines of all joins of all layers and heads, and the slot of each. Tokens
    that opened their cluster are left out; members of undone questions too. A
    table of all heads gives none.
  """
  state = played.state
  used = int(state.cache.cursor)
  member = np.asarray(state.policy.table.member)[0][..., :used]
  keys = recording.key[:, :, _tokens(recording, played)].astype(np.float64)
  if member.shape[1] != keys.shape[1]:
    return np.zeros(0), np.zeros(0, np.int64)
  cosines, slots = [], []
  for layer, head in np.ndindex(member.shape[:2]):
    clusters, key = member[layer, head], keys[layer, head]
    order = np.argsort(clusters, kind="stable")
    order = order[clusters[order] >= 0]
    total = np.cumsum(key[order], axis=0)
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    sizes = np.diff([*starts, len(order)])
    before = np.vstack([np.zeros(key.shape[1]), total])[starts]
    base = np.repeat(before, sizes, axis=0)
    earlier = total - key[order] - base  # members before this one
    joins = np.ones(len(order), bool)
    joins[starts] = False
    dot = np.sum(earlier * key[order], axis=1)
    norm = np.linalg.norm(earlier, axis=1) * np.linalg.norm(key[order], axis=1)
    cosines.append((dot / np.maximum(norm, 1e-30))[joins])
    slots.append(order[joins])
  return np.concatenate(cosines), np.concatenate(slots)


def run_tokens(
  policy: policy_lib.KVPolicy, played: replay.Replayed
) -> dict[str, float]:
  """Mean length of the runs that the last frame fetched, in three layouts.

  Everything but one frame before it lies outside the device.

  Args:
    policy: one selection a KV head.
    played: a replay of it.

  Returns:
    {"time_order", "by_block", "by_cluster"}: tokens a run, of all layers and
    heads (see `placement`); nan where nothing is fetched.
  """
  frames = [i for i, c in enumerate(played.chunks) if c.stage == "frame"]
  if policy.groups is None or not frames:
    return dict.fromkeys(_LAYOUTS, float("nan"))
  last = played.chunks[frames[-1]]
  own = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
  state, slots = own(played.state.policy), own(played.state.cache.slots)
  seen = int(played.counts.past_seen[frames[-1], 0, 0])
  live = bitmap.pack(slots.valid & (slots.position < seen))[None]
  total = np.zeros(1 + len(_LAYOUTS))
  for layer, selected in enumerate(played.slots[frames[-1]]):
    runs = placement.fetch_runs(
      jnp.asarray(selected),
      live,
      policy.groups(state, layer),
      slots,
      next_position=seen,
      resident_tokens=last.last - last.first,
    )
    total += [float(np.sum(number)) for number in runs]
  with np.errstate(invalid="ignore", divide="ignore"):
    return dict(zip(_LAYOUTS, (total[0] / total[1:]).tolist(), strict=True))


def _tokens(
  recording: recording_lib.Recording, played: replay.Replayed
) -> np.ndarray:
  """Index in the recording of the token in every slot in use; 0 for padding."""
  slots = played.state.cache.slots
  used = int(played.state.cache.cursor)
  by_position = np.zeros(int(recording.position.max()) + 1, np.int64)
  for chunk in played.chunks:
    if not chunk.undone:
      index = np.arange(chunk.first, chunk.last)
      index = index[recording.valid[index]]
      by_position[recording.position[index]] = index
  position = np.asarray(slots.position)[0, :used]
  valid = np.asarray(slots.valid)[0, :used]
  return np.where(valid, by_position[np.where(valid, position, 0)], 0)


def kept_by_rows(
  played: replay.Replayed,
  recording: recording_lib.Recording,
  *,
  ratio: float,
  row_counts: list[int],
  votes: int = 4,
) -> dict[str, list[float]]:
  """Kept share of tokens against the number of rows that ask.

  Rows are the last queries of the recording's frames, of all query heads of a
  KV head: the more rows, the more clusters at least one of them wants. Scores
  are clamped and the exact form chooses, whatever the replay did.

  Args:
    played: a replay under ReSV.
    recording: the same stream.
    ratio: WiCSum ratio.
    row_counts: numbers of rows.
    votes: of the row reduction "vote".

  Returns:
    {"union", "vote", "pooled"}: mean kept share over layers and heads, one for
    each number of rows; nan where the recording has fewer.
  """
  table = played.state.policy.table
  layers, heads, _, width = recording.key.shape
  shared = table.num.shape[-1] < heads
  group = recording.query.shape[1] // heads
  frames = (recording.kind == 1) & recording.valid
  choose = jax.jit(
    lambda scores, counts: wicsum.wicsum(scores, counts, ratio)[0]
  )
  found: dict[str, list[list[float]]] = {
    name: [[] for _ in row_counts] for name in ("union", "vote", "pooled")
  }
  for layer, head in np.ndindex(layers, heads):
    own, column = (0, head * width) if shared else (head, 0)
    counts = np.asarray(table.count)[0, layer, own]
    total = np.asarray(table.key_sum)[0, layer, own, :, column : column + width]
    mean = total / np.maximum(counts, 1)[:, None]
    queries = recording.query[layer, head * group : (head + 1) * group]
    rows = queries[:, frames].swapaxes(0, 1).reshape(-1, width)[::-1]
    for place, number in enumerate(row_counts):
      if number > len(rows):
        continue
      some = rows[:number]
      keep = np.asarray(choose(jnp.asarray(some @ mean.T), jnp.asarray(counts)))
      found["union"][place].append(_weigh(counts, np.asarray(keep.any(axis=0))))
      found["vote"][place].append(
        _weigh(counts, keep.sum(axis=0) >= min(votes, number))
      )
      pooled = some.mean(axis=0, keepdims=True)
      one = np.asarray(
        choose(jnp.asarray(pooled @ mean.T), jnp.asarray(counts))
      )
      found["pooled"][place].append(_weigh(counts, one[0]))
  return {
    name: [float(np.mean(v)) if v else float("nan") for v in values]
    for name, values in found.items()
  }


def _weigh(counts: np.ndarray, kept: np.ndarray) -> float:
  """Share of tokens in the kept clusters."""
  return float(counts[kept].sum() / counts.sum())
