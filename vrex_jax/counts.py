"""What a jitted step says it did: integers and bits of one event.

A policy and the driver fill `Counts`; the bits of `Overflow` say what went
wrong, as data. `trace.py` keeps them on the host.
"""

import enum
from typing import NamedTuple

import jax.numpy as jnp

from vrex_jax.typing import Int

__all__ = ["STAGES", "Counts", "Event", "Overflow", "zero_counts"]

STAGES = ("prompt", "frame", "question", "answer")
"""Stages of a stream; a stage's index is also the kind of its tokens."""


class Overflow(enum.IntFlag):
  """Bits that data-dependent conditions set inside jit.

  Each has one meaning and one remedy (`check`).
  """

  CACHE_FULL = 1
  TABLE_FULL = 2
  POSITION = 4
  NON_FINITE = 8


class Counts(NamedTuple):
  """Dynamic. Integers of one event, layer and stream; i32[K] each.

  A policy fills the first block and leaves zero what it does not have; the
  driver fills the second. Row-dependent counts come as sum and maximum over
  the rows of the KV head.

  Attributes:
    keys_hashed: keys given a hash code.
    code_comparisons: pairs of codes compared.
    keys_scored: single keys scored against the query.
    groups_live: clusters, pages or frames in the table.
    groups_scored: of those, scored against the query, summed over rows.
    buckets_visited: early-exit buckets visited, summed over rows.
    buckets_visited_max: the same, of the row that needed most.
    scores_visited: scores inside the visited buckets, summed over rows.
    scores_visited_max: the same, of the row that needed most.
    corrections: selections made again because the query had turned.
    overflow: `Overflow` bits of the policy; combined by OR, not by +.
    chunk_tokens: valid tokens of the chunk.
    past_seen: tokens of the stream before the chunk, evicted ones included.
    past_held: of those, in the cache for this head.
    past_attended: attended, summed over the selection rows of the head.
    past_loaded: attended by at least one row of the head.
    past_fetched: loaded although not resident.
    past_exposed: fetched although not prefetched.
    fetch_runs: maximal runs of neighbouring slots among the fetched.
  """

  keys_hashed: Int
  code_comparisons: Int
  keys_scored: Int
  groups_live: Int
  groups_scored: Int
  buckets_visited: Int
  buckets_visited_max: Int
  scores_visited: Int
  scores_visited_max: Int
  corrections: Int
  overflow: Int
  chunk_tokens: Int
  past_seen: Int
  past_held: Int
  past_attended: Int
  past_loaded: Int
  past_fetched: Int
  past_exposed: Int
  fetch_runs: Int

  def plus(self, other: "Counts") -> "Counts":
    """Adds counts of the same event; maxima and bits keep their own rule."""
    summed = {
      name: a + b for name, a, b in zip(self._fields, self, other, strict=True)
    }
    for name in ("buckets_visited_max", "scores_visited_max"):
      summed[name] = jnp.maximum(getattr(self, name), getattr(other, name))
    summed["overflow"] = self.overflow | other.overflow
    return Counts(**summed)


def zero_counts(shape: tuple[int, ...]) -> Counts:
  """All counts zero: i32[shape] each.

  Example:
    >>> zero_counts((2,)).past_seen.tolist()
    [0, 0]
  """
  return Counts(*(jnp.zeros(shape, jnp.int32) for _ in Counts._fields))


class Event(NamedTuple):
  """Dynamic. One event as the jitted step returns it.

  Attributes:
    stage: index into `STAGES`.
    frame: frame index of each stream.
    counts: integers per layer, stream and KV head.
    overflow: `Overflow` bits per layer and stream.
  """

  stage: Int  # []
  frame: Int  # [B]
  counts: Counts  # [L, B, K]
  overflow: Int  # u32 [L, B]
