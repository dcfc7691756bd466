"""Exact simulation of tasks on resources, event by event, in whole numbers.

A task takes a whole number of picoseconds on one resource and begins when all
tasks it comes after have ended and the resource is free. A resource does one
task at a time, in the order in which they became ready (first come, first
served; at one instant in the order in which they are listed). A task without a
resource is time that passes, such as a latency, and any number may pass at
once.

  heap of ends ──► earliest instant ──► frees resources, makes tasks ready
       ▲                                            │
       └──────────── begins what can begin ◄────────┘

Nothing is rounded after the durations, so equal inputs give equal ends on every
machine. Small and slow: a microsecond or so a task. It knows nothing of the
closed forms it checks (`pipeline`, `latency`).
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Task", "Timeline", "run", "whole_ps"]

_PS = 10**12


class Task(NamedTuple):
  """Static. One piece of work.

  Attributes:
    resource: that does it; None for time that passes.
    duration_ps: picoseconds, 0 or more.
    after: indices of the tasks that must have ended.
  """

  resource: str | None
  duration_ps: int
  after: tuple[int, ...] = ()


class Timeline(NamedTuple):
  """Static. When each task ran, in the order of the tasks.

  Attributes:
    start_ps: begun.
    end_ps: ended.
    busy_ps: by resource, summed durations.
  """

  start_ps: list[int]
  end_ps: list[int]
  busy_ps: dict[str, int]

  @property
  def finish_ps(self) -> int:
    """End of the last task; 0 without any."""
    return max(self.end_ps, default=0)


def whole_ps(seconds: float) -> int:
  """Seconds as whole picoseconds, rounded.

  Example:
    >>> whole_ps(1.25e-9)
    1250
  """
  return round(_PS * float(seconds))


def run(tasks: Sequence[Task]) -> Timeline:
  """Runs all tasks.

  Args:
    tasks: in any order.

  Raises:
    ValueError: tasks wait for each other in a circle.

  Example:
    >>> line = run([
    ...   Task("link", 5), Task("cores", 2), Task("cores", 3, (0,)),
    ... ])
    >>> line.start_ps, line.finish_ps, line.busy_ps["cores"]
    ([0, 0, 5], 8, 5)
  """
  waiting_for = [len(task.after) for task in tasks]
  followers: list[list[int]] = [[] for _ in tasks]
  for index, task in enumerate(tasks):
    for earlier in task.after:
      followers[earlier].append(index)
  queues: dict[str, list[tuple[int, int]]] = {
    task.resource: [] for task in tasks if task.resource is not None
  }
  free = set(queues)
  start, end = [-1] * len(tasks), [-1] * len(tasks)
  ends: list[tuple[int, int]] = []

  def begin(index: int, now: int) -> None:
    start[index], end[index] = now, now + tasks[index].duration_ps
    heapq.heappush(ends, (end[index], index))

  def ready(index: int, now: int) -> None:
    resource = tasks[index].resource
    if resource is None:
      begin(index, now)
    else:
      heapq.heappush(queues[resource], (now, index))

  def start_what_can(now: int) -> None:
    for resource in sorted(free):
      if queues[resource]:
        free.discard(resource)
        begin(heapq.heappop(queues[resource])[1], now)

  for index, number in enumerate(waiting_for):
    if number == 0:
      ready(index, 0)
  start_what_can(0)
  while ends:
    now = ends[0][0]
    while ends and ends[0][0] == now:
      _, index = heapq.heappop(ends)
      resource = tasks[index].resource
      if resource is not None:
        free.add(resource)
      for later in followers[index]:
        waiting_for[later] -= 1
        if waiting_for[later] == 0:
          ready(later, now)
    start_what_can(now)
  if -1 in start:
    raise ValueError(
      f"task {start.index(-1)} never begins; it waits for itself, directly or"
      " through others: list what comes after what without a circle"
    )
  busy = dict.fromkeys(queues, 0)
  for task in tasks:
    if task.resource is not None:
      busy[task.resource] += task.duration_ps
  return Timeline(start, end, busy)
