"""A DRAM channel burst by burst: slow, exact in clocks, a check of `dram.py`.

One command a clock. The scheduler takes the oldest request whose next command
(read, activate, precharge) may be issued; a request whose row is being opened
leaves the window and is served before the others, and no row is closed while
such a request waits for it. At each refresh interval all rows are closed. One
rank, reads only, open rows: the controller of Ramulator 2.1, written anew from
the timing rules, in plain Python.
"""

import collections
import random
from collections.abc import Iterator
from typing import NamedTuple

from vrex_jax.errors import InputError
from vrex_jax.hwmodel.dram import AddressMap
from vrex_jax.hwmodel.dram import DramTiming

__all__ = ["simulate"]

_LONG_AGO = -(10**9)
_ROUNDS = 4


class _Request(NamedTuple):
  bank: int
  group: int
  row: int


class _Clocks(NamedTuple):
  """Timing in whole clocks, sizes in bursts."""

  burst: int
  same_group: int
  activate: int
  precharge: int
  row_cycle: int
  read_to_precharge: int
  activate_to_activate: int
  four_activate: int
  refresh: int
  refresh_interval: int


def simulate(
  params: DramTiming,
  *,
  clock_s: float,
  chunk_bytes: int,
  queue_depth: int,
  address_map: AddressMap = AddressMap.COLUMN_LOW,
  footprint_bytes: int | None = None,
  bursts: int = 4000,
  seed: int = 0,
) -> float:
  """Share of the peak that a channel delivers; see `dram.dram_efficiency`.

  Args:
    params: a channel of one rank with `early_release` 1 and no queues of banks.
    clock_s: of the memory; times are rounded to it.
    chunk_bytes: a multiple of a burst; a sequential stream if it is the range.
    queue_depth: requests the controller chooses from.
    address_map: see `dram.AddressMap`.
    footprint_bytes: range of addresses; None for the whole channel.
    bursts: to read.
    seed: of the addresses.

  Raises:
    InputError: the controller is not one of this kind.

  Example:
    >>> from vrex_jax.hwmodel import memory_devices
    >>> device = memory_devices.dram("DDR4_3200AA_x8")
    >>> share = simulate(
    ...   device, clock_s=0.625e-9, chunk_bytes=64, queue_depth=32, bursts=500
    ... )
    >>> 0.40 < share < 0.48  # tFAW allows 4 bursts in 34 clocks
    True
  """
  if params.ranks != 1 or params.early_release != 1 or params.bank_queue_depth:
    raise InputError(
      "the scheduler knows one rank, early release and no queues of banks;"
      f" ranks is {params.ranks:g}: take a device of Ramulator 2.1"
    )
  clocks = _Clocks(
    *(
      round(float(getattr(params, f"{n}_s")) / clock_s) for n in _Clocks._fields
    )
  )
  source = _requests(
    params, int(chunk_bytes), address_map, footprint_bytes, seed
  )
  channel = _Channel(clocks, int(params.banks), int(params.bank_groups))
  window: list[_Request] = []
  opening: list[_Request] = []
  now, done, refresh_at = 0, 0, clocks.refresh_interval
  while done < bursts:
    if now >= refresh_at:
      now = channel.refresh(now)
      refresh_at += clocks.refresh_interval
      continue
    if len(window) < queue_depth:
      window.append(next(source))
    chosen, earliest = channel.choose(opening, window, now)
    if chosen is None:
      filling = len(window) < queue_depth
      now = now + 1 if filling else max(now + 1, min(earliest, refresh_at))
      continue
    requests, index, command = chosen
    request = requests[index]
    channel.issue(command, request, now)
    if command == "read":
      del requests[index]
      done += 1
    elif command == "activate" and requests is window:
      opening.append(window.pop(index))
    now += 1
  return bursts * clocks.burst / now


class _Channel:
  """Open rows, and from when on each command may be issued."""

  def __init__(self, clocks: _Clocks, banks: int, groups: int):
    self.clocks = clocks
    self.row = [-1] * banks
    self.read_at = [0] * banks
    self.activate_at = [0] * banks
    self.precharge_at = [0] * banks
    self.group_at = [0] * groups
    self.bus_at = 0
    self.any_activate_at = 0
    self.lately = collections.deque([_LONG_AGO] * 4, maxlen=4)

  def next_command(self, request: _Request) -> tuple[str, int]:
    bank = request.bank
    if self.row[bank] == request.row:
      free = max(self.group_at[request.group], self.bus_at)
      return "read", max(self.read_at[bank], free)
    if self.row[bank] == -1:
      window = self.lately[0] + self.clocks.four_activate
      free = max(self.any_activate_at, window)
      return "activate", max(self.activate_at[bank], free)
    return "precharge", self.precharge_at[bank]

  def choose(
    self, opening: list[_Request], window: list[_Request], now: int
  ) -> tuple[tuple[list[_Request], int, str] | None, int]:
    """The first request that is ready, or when the first one will be."""
    awaited = {r.bank for r in opening if self.row[r.bank] == r.row}
    earliest = 10**12
    for requests in (opening, window):
      for index, request in enumerate(requests):
        command, at = self.next_command(request)
        if command == "precharge" and request.bank in awaited:
          continue
        if at <= now:
          return (requests, index, command), at
        earliest = min(earliest, at)
    return None, earliest

  def issue(self, command: str, request: _Request, now: int) -> None:
    clocks, bank = self.clocks, request.bank
    if command == "read":
      self.group_at[request.group] = now + clocks.same_group
      self.bus_at = now + clocks.burst
      closes = now + clocks.read_to_precharge
      self.precharge_at[bank] = max(self.precharge_at[bank], closes)
    elif command == "activate":
      self.row[bank] = request.row
      self.read_at[bank] = now + clocks.activate
      self.precharge_at[bank] = now + clocks.row_cycle - clocks.precharge
      self.activate_at[bank] = now + clocks.row_cycle
      self.any_activate_at = now + clocks.activate_to_activate
      self.lately.append(now)
    else:
      self.row[bank] = -1
      opens = now + clocks.precharge
      self.activate_at[bank] = max(self.activate_at[bank], opens)

  def refresh(self, now: int) -> int:
    """Closes all rows and refreshes; the clock when that has ended."""
    open_banks = [bank for bank, row in enumerate(self.row) if row >= 0]
    if open_banks:
      now = max(now, *(self.precharge_at[bank] for bank in open_banks))
      now += self.clocks.precharge
    ends = now + self.clocks.refresh
    self.row = [-1] * len(self.row)
    self.activate_at = [max(at, ends) for at in self.activate_at]
    return ends


def _requests(
  params: DramTiming,
  chunk_bytes: int,
  address_map: AddressMap,
  footprint_bytes: int | None,
  seed: int,
) -> Iterator[_Request]:
  """Bursts of chunks at random aligned addresses, without end."""
  burst = int(params.burst_bytes)
  groups, banks = int(params.bank_groups), int(params.banks)
  columns = int(params.row_bytes) // burst
  rows = int(params.capacity_bytes) // (banks * int(params.row_bytes))
  extent = footprint_bytes or int(params.capacity_bytes)
  generator = random.Random(seed)
  # Sizes of address fields from the lowest bits up.
  group, bank = ("group", groups), ("bank", banks // groups)
  fields = {
    AddressMap.COLUMN_LOW: (("column", columns), group, bank, ("row", rows)),
    AddressMap.GROUP_LOW: (
      group,
      ("column", _ROUNDS),
      bank,
      ("upper_column", columns // _ROUNDS),
      ("row", rows),
    ),
    AddressMap.BANK_HIGH: (("column", columns), ("row", rows), bank, group),
  }[address_map]
  while True:
    start = generator.randrange(max(extent // chunk_bytes, 1)) * chunk_bytes
    for number in range(start // burst, (start + chunk_bytes) // burst):
      address = number
      place = {}
      for name, size in fields:
        address, place[name] = divmod(address, size)
      own = place["group"] * (banks // groups) + place["bank"]
      yield _Request(own, place["group"], place["row"])
