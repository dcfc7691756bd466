"""How much of its peak a DRAM channel delivers: timing, chunk, queue, map.

Reads of contiguous chunks at random places, many in flight, served by a
scheduler that takes the first ready request of its window. Four things can be
the limit; each is a share of the peak, and they meet in a smooth minimum:

  bus          one burst after the other
  activation   tRRD and tFAW
  bank         a bank opens a row at most once in tRC
  overlap      rows in flight hide each other's opening and the pause tCCD_L
               between bursts of one bank group

  efficiency = useful · (1 - refresh) · (Σ limitᵢ^-p)^(-1/p)

Words of this file. A *visit* is a run of bursts that stays in one bank, or in
`spread` banks of different groups in turn; a row is opened once for `opened`
bursts. With Q bursts in the window, c = 1 + (Q - 1) / visit visits are in
flight. Visits go to random banks, so that c of them keep B (1 - (1 - 1/B)^c) of
B banks busy.

What overlaps. If visits were served alone, each would take

  t_open · openings + visit · t_next,   t_next = max(t_burst, tCCD_L / spread)
  t_open = tRCD + P(conflict) · tRP

(a bank is found closed, and needs no tRP, if refresh closed it since the last
visit). a = c different ones · visit · t_next / that time is the mean number of
visits that transfer. Below one it is the throughput itself. Above one a visit
overlaps with its neighbours for o = a - 1 of its length on either side; while
o ≤ 1/2 this takes 1 - o of the time, and 4^o goes on smoothly from the point
o = 1/2 where two visits always run. Random visits share a bank group now and
then: of c customers in a closed network of G equal servers, c G / (c + G - 1)
are served.
Limits that vary at random are met more often than limits that do not: inside a
long chunk, where the next visit is no accident, the minimum is sharper.

Source: the timing parameters are JEDEC's; the structure is this project's. What
was chosen by looking at simulator rows is listed in docs/memory_models.md.
"""

import enum
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp

from vrex_jax.typing import Float

__all__ = [
  "LIMIT_SHARPNESS",
  "AddressMap",
  "DramTiming",
  "Footprint",
  "dram_efficiency",
  "footprint",
]

LIMIT_SHARPNESS = 3.8
"""p. Status: fitted, on 133 rows of DRAMsim3 and Ramulator 2.1, by
`python experiments/validate_memory_models.py`; the one fitted number here."""
_INTERLEAVED_BURSTS = 4.0
_CORNER = 0.1
_FAR_BEYOND = 12.0


class AddressMap(enum.Enum):
  """Where neighbouring bursts go, told from the lowest address bits up.

  COLUMN_LOW: a whole row, then the next bank group, bank, rank (RoBaRaCoCh of
    Ramulator, rochrababgco of DRAMsim3).
  GROUP_LOW: one burst to each bank group, four such rounds, then the next
    banks, then the rest of the rows (MOP4CLXOR).
  BANK_HIGH: a whole row, then the next row of the same bank (ChRaBaRoCo).
  """

  COLUMN_LOW = "column_low"
  GROUP_LOW = "group_low"
  BANK_HIGH = "bank_high"


class DramTiming(flax.struct.PyTreeNode):
  """Dynamic. One channel of DRAM and its controller; float leaves.

  Attributes:
    burst_bytes: of one read or write command.
    row_bytes: a row of one bank, all devices of the rank together.
    capacity_bytes: of the channel.
    burst_s: the bus is busy with one burst (also tCCD_S).
    same_group_s: between bursts of one bank group (tCCD_L).
    activate_s: from opening a row to reading it (tRCD).
    precharge_s: closing a row (tRP).
    row_cycle_s: between two openings of one bank (tRC).
    read_to_precharge_s: tRTP.
    activate_to_activate_s: between openings of a rank (tRRD).
    four_activate_s: in which a rank opens at most four rows (tFAW).
    refresh_s: a rank is busy refreshing (tRFC).
    refresh_interval_s: between refreshes of a rank (tREFI).
    turnaround_s: the bus idles when it turns from reads to writes and back.
    banks: of a rank.
    bank_groups: of a rank; as many as banks where tCCD_L is not longer.
    ranks: of the channel.
    bank_queue_depth: bursts a controller holds for each bank beside its common
      window; 0 if it has none.
    early_release: 1 if the request that opens a row leaves the window when the
      row is being opened, 0 if when its data are read.
    limit_sharpness: p of the smooth minimum.
  """

  burst_bytes: Float
  row_bytes: Float
  capacity_bytes: Float
  burst_s: Float
  same_group_s: Float
  activate_s: Float
  precharge_s: Float
  row_cycle_s: Float
  read_to_precharge_s: Float
  activate_to_activate_s: Float
  four_activate_s: Float
  refresh_s: Float
  refresh_interval_s: Float
  turnaround_s: Float
  banks: Float
  bank_groups: Float
  ranks: Float
  bank_queue_depth: Float
  early_release: Float
  limit_sharpness: Float | float = LIMIT_SHARPNESS

  @property
  def peak_bytes_per_s(self) -> Float:
    """Of the bus of the channel."""
    return self.burst_bytes / self.burst_s


class Footprint(NamedTuple):
  """Dynamic. What an address map makes of a chunk.

  Attributes:
    visit: bursts of a run in one bank, or in `spread` banks in turn.
    spread: banks, of different groups, that a visit takes in turn.
    opened: bursts of one bank for which its row is opened once.
    banks: that random chunks reach.
    groups: bank groups that random chunks reach.
    inside: share of steps from visit to visit that stay in a chunk.
    other_group: share of steps that surely lead to another bank group.
    same_bank: share of steps that surely lead to another row of the same bank.
  """

  visit: Float
  spread: Float
  opened: Float
  banks: Float
  groups: Float
  inside: Float
  other_group: Float
  same_bank: Float


def footprint(
  params: DramTiming,
  *,
  chunk_bytes: Float,
  address_map: AddressMap = AddressMap.COLUMN_LOW,
  footprint_bytes: Float | float | None = None,
) -> Footprint:
  """Bursts, banks and groups of chunks at random aligned addresses.

  Args:
    params: the channel.
    chunk_bytes: f[...], contiguous bytes.
    address_map: static.
    footprint_bytes: range the chunks lie in; None for the whole channel. It
      matters under BANK_HIGH only, where few banks hold a small range.

  Returns:
    Its fields; activations a byte are 1 / (opened · burst_bytes).

  Example:
    >>> from vrex_jax.hwmodel import memory_devices
    >>> ddr4 = memory_devices.dram("DDR4_3200AA_x8")
    >>> float(footprint(ddr4, chunk_bytes=4096.0).opened)
    64.0
  """
  bursts = jnp.maximum(chunk_bytes / params.burst_bytes, 1.0)
  row = params.row_bytes / params.burst_bytes
  banks = params.banks * params.ranks
  if address_map is AddressMap.GROUP_LOW:
    spread = jnp.minimum(bursts, params.bank_groups)
    rounds = _INTERLEAVED_BURSTS
    each = jnp.clip(bursts / params.bank_groups, 1.0, rounds)
    sweeps = jnp.clip(bursts / (rounds * banks), 1.0, row / rounds)
    return Footprint(
      visit=each * spread,
      spread=spread,
      opened=each * sweeps,
      banks=banks,
      groups=params.bank_groups,
      inside=1.0 - each * spread / bursts,
      other_group=1.0 - 1.0 / spread,
      same_bank=jnp.zeros_like(bursts),
    )
  visit = jnp.minimum(bursts, row)
  groups = params.bank_groups
  if address_map is AddressMap.BANK_HIGH:
    if footprint_bytes is None:
      footprint_bytes = params.capacity_bytes
    reached = banks * footprint_bytes / params.capacity_bytes
    banks = jnp.clip(reached, 1.0, banks)
    groups = jnp.clip(banks * groups / params.banks, 1.0, groups)
  inside = 1.0 - visit / bursts
  none = jnp.zeros_like(bursts)
  stays = address_map is AddressMap.BANK_HIGH
  return Footprint(
    visit=visit,
    spread=jnp.ones_like(bursts),
    opened=visit,
    banks=banks,
    groups=groups,
    inside=inside,
    other_group=none if stays else inside,
    same_bank=inside if stays else none,
  )


def dram_efficiency(
  params: DramTiming,
  *,
  chunk_bytes: Float,
  queue_depth: Float,
  address_map: AddressMap = AddressMap.COLUMN_LOW,
  footprint_bytes: Float | float | None = None,
  turnarounds_per_burst: Float | float = 0.0,
) -> Float:
  """Share of a channel's peak that reads of random chunks get.

  Args:
    params: the channel.
    chunk_bytes: f[...], contiguous bytes at a random aligned address; below a
      burst, the rest of the burst is lost. A sequential stream is one chunk.
    queue_depth: f[...], bursts the controller chooses from, ≥ 1.
    address_map: static.
    footprint_bytes: see `footprint`.
    turnarounds_per_burst: changes from reads to writes and back, per burst.
      Not validated: the rows are reads only.

  Returns:
    f[...] in (0, 1].

  Example:
    >>> from vrex_jax.hwmodel import memory_devices
    >>> lpddr5 = memory_devices.dram("LPDDR5_6400_x16")
    >>> cluster = dram_efficiency(lpddr5, chunk_bytes=8192.0, queue_depth=32.0)
    >>> token = dram_efficiency(lpddr5, chunk_bytes=32.0, queue_depth=32.0)
    >>> bool(cluster > token)
    True
  """
  chunk_bytes, queue_depth = jnp.broadcast_arrays(
    jnp.asarray(chunk_bytes, float), jnp.asarray(queue_depth, float)
  )
  where = footprint(
    params,
    chunk_bytes=chunk_bytes,
    address_map=address_map,
    footprint_bytes=footprint_bytes,
  )
  window = queue_depth + params.bank_queue_depth * _distinct(
    where.banks, 1.0 + (queue_depth - 1.0) * where.spread / where.visit
  )
  visits = 1.0 + (window - 1.0) / where.visit
  limits = (
    params.burst_s
    / (params.burst_s + params.turnaround_s * turnarounds_per_burst),
    _activation_limit(params, where),
    _bank_limit(params, where, window),
    _overlap_limit(params, where, window, visits),
  )
  steady = where.inside * (1.0 - where.same_bank)
  sharpness = params.limit_sharpness * (1.0 + steady)
  slowness = sum((1.0 / limit) ** sharpness for limit in limits)
  useful = jnp.minimum(chunk_bytes / params.burst_bytes, 1.0)
  awake = 1.0 - _refresh_loss(params, window, visits)
  return useful * awake * slowness ** (-1.0 / sharpness)


def _activation_limit(params: DramTiming, where: Footprint) -> Float:
  between = jnp.maximum(
    params.activate_to_activate_s, params.four_activate_s / 4.0
  )
  return where.opened * params.burst_s * params.ranks / between


def _next_s(params: DramTiming, where: Footprint) -> Float:
  """From burst to burst of a visit."""
  return jnp.maximum(params.burst_s, params.same_group_s / where.spread)


def _open_s(params: DramTiming, where: Footprint) -> Float:
  """Mean time from asking for a closed row to its first burst.

  Of k visits a bank gets between two refreshes, the first finds it closed; with
  Poisson visits that is a share (1 - e^-k) / k of them.
  """
  each_s = where.opened * _next_s(params, where) * where.banks
  visits = params.refresh_interval_s / each_s
  conflict = 1.0 + jnp.expm1(-visits) / visits
  # What stays in the window behind a request that left it early: the rest of
  # the row, in one of `spread` banks.
  behind = (1.0 - 1.0 / where.opened) / where.spread
  held = 1.0 - params.early_release * (1.0 - behind)
  return held * params.activate_s + conflict * params.precharge_s


def _bank_limit(params: DramTiming, where: Footprint, window: Float) -> Float:
  """Random banks, of which those that opened a row lately are not ready.

  Beside the banks in flight, those of the last tRC count as well.
  """
  in_flight = 1.0 + (window - 1.0) * where.spread / where.visit
  alone_s = _open_s(params, where) + where.opened * params.same_group_s
  lately = in_flight * (1.0 + params.row_cycle_s / alone_s)
  ready = _distinct(where.banks, lately)
  return ready * where.opened * params.burst_s / params.row_cycle_s


def _overlap_limit(
  params: DramTiming, where: Footprint, window: Float, visits: Float
) -> Float:
  next_s = _next_s(params, where)
  transfer_s = where.visit * next_s
  open_s = _open_s(params, where)
  # A window of one burst sees the banks of a visit one after the other.
  in_turn = where.spread / jnp.minimum(where.spread, window)
  openings = in_turn * where.visit / (where.spread * where.opened)
  alone_s = transfer_s + open_s * openings
  places = where.banks / where.spread
  active = _distinct(places, visits) * transfer_s / alone_s
  beyond = _positive(active - 1.0, 1.0) - _positive(-1.0, 1.0)
  # Beyond the cap no limit is left, and float32 holds the squares of what is.
  beyond = jnp.minimum(beyond, _FAR_BEYOND)
  # 1 / C of C = active - beyond + 4^beyond - 1, in a form without overflow.
  shrunk = 4.0**-beyond
  below = jnp.minimum(active, 1.0 + _FAR_BEYOND) - beyond - 1.0
  waiting = shrunk / (1.0 + below * shrunk)
  crowded = (1.0 - where.other_group) / where.groups
  # t_next · (1 + crowded · max(C - 1, 0)) / C
  shared = waiting + crowded * _positive(1.0 - waiting, waiting)
  burst_s = next_s * shared
  stuck_s = (
    open_s + params.read_to_precharge_s - params.same_group_s
  ) / where.opened + params.same_group_s
  mean_s = (1.0 - where.same_bank) * burst_s + where.same_bank * stuck_s
  return params.burst_s / mean_s


def _refresh_loss(params: DramTiming, window: Float, visits: Float) -> Float:
  """Share of time lost to refresh, less what other ranks do meanwhile.

  A window of W bursts on R ranks serves about W (R - 1) more before all that is
  left waits for the rank that refreshes.
  """
  elsewhere = (visits - 1.0) / visits
  served_s = window * params.burst_s * (params.ranks - 1.0) * elsewhere
  hidden = 1.0 + served_s / params.refresh_s
  return params.refresh_s / params.refresh_interval_s / hidden


def _distinct(places: Float, draws: Float) -> Float:
  """Expected number of different places in so many random draws."""
  empty = jnp.log1p(-1.0 / jnp.maximum(places, 1.0 + 1e-6))
  return -places * jnp.expm1(draws * empty)


def _positive(value: Float | float, scale: Float | float) -> Float:
  """max(value, 0), its corner rounded over a tenth of the scale."""
  return 0.5 * (value + jnp.sqrt(value**2 + (_CORNER * scale) ** 2))
