"""Where selected tokens lie, and in how many runs they are fetched.

Recent tokens stay on the device, older ones lie outside (CPU memory, SSD). What
is selected and not resident is fetched, and a fetch is as good as its runs are
long: a *run* is a maximal stretch of neighbouring addresses that are wanted.
Three layouts of what lies outside are compared, on the same set of slots:

  time order  as the tokens came, slot after slot (trace.fetch_runs counts so)
  by block    the paper's KVMU: tokens written out together (a frame, or
              `block_tokens` tokens) are reordered by cluster in their block
  by cluster  ideal: all tokens of a cluster together, as if everything were
              written anew whenever a cluster grows

  slots       0 1 2 3 | 4 5 6 7     two frames; cluster a is wanted
  cluster     a b a b | b a a b
  time order  A b A b | b A A b     3 runs
  by block    A A b b | A A b b     2
  by cluster  A A A A b b b b       1

In a block, clusters lie in the order of their index and their tokens in time
order; slots of no cluster (-1) are last, each a group of its own. Blocks lie in
the order of their number. Resident and empty slots are not in these layouts and
break no run there. A token never leaves its cluster in ReSV, so the clustering
at hand gives the order that was used when its block was written, but for tokens
that were written before their cluster was known.

Groups that are neighbours in the layout and both wanted are one run
(`merge_neighbours`), as in time order, where this cannot be turned off. Without
it every group is asked for on its own, as by an engine that takes one
descriptor a cluster; more runs than in time order are then possible.

Everything here is for one head, and lifts with `jax.vmap`; `fetch_runs` does it
for the heads of a layer.

Source: V-Rex (arXiv 2512.12284), Sec. V.C, Fig. 12. The order of clusters in a
block and whether neighbours are merged are not stated there.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax.models import cache as cache_lib
from vrex_jax.typing import Bitmap, Float, Int

__all__ = [
  "RunLengths",
  "Runs",
  "fetch_runs",
  "fetched",
  "resident",
  "runs",
  "runs_clustered",
]


class RunLengths(NamedTuple):
  """Dynamic. Mean length of a run, in tokens; 0 where there is none."""

  time_order: Float  # f32 [K]
  by_block: Float  # f32 [K]
  by_cluster: Float  # f32 [K]


class Runs(NamedTuple):
  """Dynamic. Runs of one fetch in every layout.

  Attributes:
    tokens: fetched tokens, the same in all layouts.
    time_order: runs, tokens as they came.
    by_block: runs, reordered by cluster in blocks that are written together.
    by_cluster: runs, every cluster in one piece.
  """

  tokens: Int  # [K]
  time_order: Int  # [K]
  by_block: Int  # [K]
  by_cluster: Int  # [K]

  @property
  def mean_tokens(self) -> RunLengths:
    """Tokens in a run, on average: f32[K] each."""
    tokens = self.tokens.astype(jnp.float32)
    each = (self.time_order, self.by_block, self.by_cluster)
    return RunLengths(*(tokens / jnp.maximum(number, 1) for number in each))


def resident(
  position: Int, next_position: Int | int, resident_tokens: Int | int
) -> Bitmap:
  """Slots of the tokens that are on the device.

  Args:
    position: i32[S].
    next_position: i32[], of the first token of the chunk at hand.
    resident_tokens: i32[], length of the window: the last n positions.

  Returns:
    u32[S / 32]; slots that are not live are in it or not by whatever position
    they hold.

  Example:
    >>> bitmap.unpack(resident(jnp.arange(32), 10, 3))[5:10].tolist()
    [False, False, True, True, True]
  """
  chex.assert_rank(position, 1)
  return bitmap.pack(next_position - position <= resident_tokens)


def fetched(selected: Bitmap, resident: Bitmap) -> Bitmap:
  """Slots that are selected and not on the device: u32[..., S / 32].

  Example:
    >>> fetched(jnp.uint32([0b0111]), jnp.uint32([0b0100])).tolist()
    [3]
  """
  chex.assert_equal_shape([selected, resident])
  return selected & ~resident


def runs(wanted: Bitmap) -> Int:
  """Runs in time order, slot after slot: u32[..., S / 32] -> i32[...].

  Example:
    >>> runs(jnp.uint32([0b1011])).tolist()
    2
  """
  return bitmap.count_runs(wanted)


def runs_clustered(
  wanted: Bitmap,
  stored: Bitmap,
  groups: Int,
  *,
  block: Int | None = None,
  merge_neighbours: bool = True,
) -> Int:
  """Runs when what lies outside is laid out by block, then by cluster.

  Args:
    wanted: u32[S / 32], slots to fetch; those not stored are left out.
    stored: u32[S / 32], slots outside the device.
    groups: i32[S], cluster of every slot; negative for none.
    block: i32[S], number of the block each slot was written out with; None for
      a single one (the ideal layout "by cluster").
    merge_neighbours: wanted neighbours of different groups are one run.

  Returns:
    i32[].

  Example:
    >>> everything, two = jnp.uint32([0xFF]), jnp.arange(32) // 4
    >>> groups = jnp.array([0, 1, 0, 1, 1, 0, 0, 1] + [-1] * 24)
    >>> wanted = jnp.uint32([0b01100101])  # the members of 0
    >>> runs_clustered(wanted, everything, groups).tolist()
    1
    >>> runs_clustered(wanted, everything, groups, block=two).tolist()
    2
  """
  chex.assert_rank([wanted, groups], 1)
  chex.assert_equal_shape([wanted, stored])
  slots = wanted.shape[0] * bitmap.WORD_BITS
  if block is None:
    block = jnp.zeros((slots,), jnp.int32)
  chex.assert_shape([groups, block], (slots,))
  alone = jnp.iinfo(jnp.int32).max
  # A stable sort leaves equal keys in the order of slots, which is time.
  absent, block, group, hit = jax.lax.sort(
    (
      ~bitmap.unpack(stored),
      block.astype(jnp.int32),
      jnp.where(groups < 0, alone, groups.astype(jnp.int32)),
      bitmap.unpack(wanted & stored),
    ),
    num_keys=3,
    is_stable=True,
  )
  del absent
  goes_on = hit[:-1] & hit[1:]
  if not merge_neighbours:
    same = (block[:-1] == block[1:]) & (group[:-1] == group[1:])
    goes_on = goes_on & same & (group[1:] != alone)
  return jnp.sum(hit, dtype=jnp.int32) - jnp.sum(goes_on, dtype=jnp.int32)


def fetch_runs(
  selected: Bitmap,
  live: Bitmap,
  groups: Int,
  slots: cache_lib.SlotTable,
  *,
  next_position: Int | int,
  resident_tokens: Int | int,
  block_tokens: int | None = None,
  merge_neighbours: bool = True,
) -> Runs:
  """Runs of one layer's fetch in all three layouts, head by head.

  Args:
    selected: u32[K, S / 32].
    live: u32[K or 1, S / 32], valid slots below the cursor (`View.live_in`).
    groups: i32[K or 1, S], of `KVPolicy.groups`; -1 for none.
    slots: metadata of one stream, axes [S], or [K, S] for this layer.
    next_position: i32[], of the first token of the chunk at hand.
    resident_tokens: i32[], window on the device.
    block_tokens: positions written out together; None for a frame, to which
      the text after it belongs.
    merge_neighbours: as in `runs_clustered`.

  Returns:
    Runs.

  Example:
    >>> now = jnp.arange(32)
    >>> slots = cache_lib.SlotTable(now < 24, now, now // 8, now * 0)
    >>> odd = jnp.uint32([[0xAAAAAAAA]])  # one of the two clusters
    >>> made = fetch_runs(odd, bitmap.pack(now < 24)[None], now[None] % 2,
    ...                   slots, next_position=24, resident_tokens=8)
    >>> [number.tolist() for number in made]
    [[8], [8], [2], [1]]
  """
  heads, words = selected.shape
  size = words * bitmap.WORD_BITS
  chex.assert_shape(slots.position, (..., size))
  wide = lambda array: jnp.broadcast_to(
    array.reshape(-1, array.shape[-1]), (heads, array.shape[-1])
  )

  def one(selected, live, groups, position, frame):
    here = resident(position, next_position, resident_tokens)
    stored = live & ~here
    wanted = fetched(selected & live, here)
    block = frame if block_tokens is None else position // block_tokens
    lay = lambda block: runs_clustered(
      wanted, stored, groups, block=block, merge_neighbours=merge_neighbours
    )
    return Runs(bitmap.count(wanted), runs(wanted), lay(block), lay(None))

  return jax.vmap(one)(
    selected, *map(wide, (live, groups, slots.position, slots.frame))
  )
