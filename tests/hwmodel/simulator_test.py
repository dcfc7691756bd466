"""The event engine by hand, and laws that hold for every schedule."""

import itertools

import hypothesis
import hypothesis.strategies as st
import pytest

from vrex_jax.hwmodel import simulator

Task = simulator.Task


def test_first_come_first_served():
  """The task that became ready earlier goes first, whatever its place."""
  line = simulator.run(
    [
      Task("cores", 4),
      Task(None, 3),
      Task("link", 9, (0,)),  # ready at 4
      Task("link", 2, (1,)),  # ready at 3
      Task("link", 1, (1,)),  # ready at 3, listed later
    ]
  )
  assert line.start_ps == [0, 0, 6, 3, 5]
  assert line.busy_ps == {"cores": 4, "link": 12}
  assert line.finish_ps == 15


def test_time_that_passes_is_nobody_s():
  line = simulator.run([Task(None, 7), Task(None, 5), Task("cores", 1, (1,))])
  assert (line.finish_ps, line.busy_ps) == (7, {"cores": 1})


def test_a_closed_queue_has_its_closed_form():
  """n requests, Q under way, latency before transfer: max of both limits."""
  for depth, transfer, latency in ((1, 5, 20), (4, 5, 20), (8, 5, 20)):
    tasks = []
    for index in range(16):
      place = ((2 * (index - depth) + 1),) if index >= depth else ()
      tasks.append(Task(None, latency, place))
      tasks.append(Task("link", transfer, (2 * index,)))
    rounds = 16 // depth
    waits = rounds * (latency + transfer) + (depth - 1) * transfer
    assert simulator.run(tasks).finish_ps == max(latency + 16 * transfer, waits)


def test_a_circle_is_refused():
  with pytest.raises(ValueError, match="waits for itself"):
    simulator.run([Task("cores", 1, (1,)), Task("cores", 1, (0,))])


@st.composite
def graphs(draw):
  tasks = []
  for index in range(draw(st.integers(1, 12))):
    before = st.lists(st.integers(0, max(index - 1, 0)), max_size=3)
    after = tuple(sorted(set(draw(before)))) if index else ()
    resource = draw(st.sampled_from(["cores", "link", None]))
    tasks.append(Task(resource, draw(st.integers(0, 9)), after))
  return tasks


@hypothesis.given(graphs())
@hypothesis.settings(max_examples=25)
def test_every_schedule_is_legal_and_between_its_bounds(tasks):
  line = simulator.run(tasks)
  spans = list(zip(line.start_ps, line.end_ps, strict=True))
  for task, (start, _) in zip(tasks, spans, strict=True):
    assert all(line.end_ps[earlier] <= start for earlier in task.after)
  for resource in ("cores", "link"):
    own = sorted(
      span
      for task, span in zip(tasks, spans, strict=True)
      if task.resource == resource
    )
    for (_, end), (start, _) in itertools.pairwise(own):
      assert end <= start
  total = sum(task.duration_ps for task in tasks)
  assert max(line.busy_ps.values(), default=0) <= line.finish_ps <= total
