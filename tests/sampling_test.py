"""Laws of the sampling rule, against an oracle that sees all frames at once."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import pytest

from vrex_jax import sampling


@st.composite
def clocked_frames(draw):
  """Frames at whole 10 ms from 0 on, as `regular_clock` would give them."""
  steps = draw(st.lists(st.integers(0, 80), max_size=25))
  starts = list(itertools.accumulate(steps, initial=0))
  end = starts[-1] + draw(st.integers(1, 50))
  ends = [*starts[1:], end]
  return [
    (start / 100, max(stop, start + 1) / 100, number)
    for number, (start, stop) in enumerate(zip(starts, ends, strict=True))
  ]


def oracle(frames, fps):
  """Sample k is the last frame whose start is not after k / fps."""
  rounding = min(sampling.CLOCK_ROUNDING_S, 0.25 / fps)
  end = frames[-1][1]
  samples = []
  for index in itertools.count():
    if index and index / fps >= end - rounding:
      return samples
    shown = [f[2] for f in frames if f[0] <= index / fps + rounding]
    samples.append((index, shown[-1]))


@hypothesis.given(
  clocked_frames(), st.sampled_from([0.3, 0.5, 1.0, 2.0, 7.0, 24.0, 30.0])
)
def test_equals_the_oracle(frames, fps):
  assert list(sampling.sample(iter(frames), fps=fps)) == oracle(frames, fps)


@hypothesis.given(clocked_frames(), st.sampled_from([0.5, 2.0, 10.0]))
def test_number_of_samples_is_duration_times_fps(frames, fps):
  indices = [index for index, _ in sampling.sample(frames, fps=fps)]
  assert indices == list(range(len(indices)))
  expected = max(1, math.ceil(frames[-1][1] * fps - 1e-9))
  assert len(indices) == expected


@hypothesis.given(clocked_frames(), st.sampled_from([0.5, 3.0, 20.0]))
def test_frames_come_in_order(frames, fps):
  shown = [payload for _, payload in sampling.sample(frames, fps=fps)]
  assert shown == sorted(shown)
  assert shown[0] == max(p for start, _, p in frames if start <= 1e-3)


@pytest.mark.parametrize("rate", [10, 24, 25, 29.97, 30, 60, 120])
@pytest.mark.parametrize("digits", [3, 6, 15])
def test_own_rate_gives_each_frame_once(rate, digits):
  """Although a container rounds its clock, to 1 ms at the coarsest."""
  count = 500
  frames = [
    (round(k / rate, digits), round((k + 1) / rate, digits), k)
    for k in range(count)
  ]
  samples = list(sampling.sample(frames, fps=rate))
  assert samples == [(k, k) for k in range(count)]


def test_slower_video_is_repeated_and_a_faster_one_thinned():
  frames = [(k / 10, (k + 1) / 10, k) for k in range(10)]
  twice = [payload for _, payload in sampling.sample(frames, fps=20)]
  assert twice == [k // 2 for k in range(20)]
  fifth = [payload for _, payload in sampling.sample(frames, fps=2)]
  assert fifth == [0, 5]


def test_short_video_gives_its_first_frame():
  assert list(sampling.sample([(0.0, 0.001, "a")], fps=2)) == [(0, "a")]
  assert list(sampling.sample([], fps=2)) == []


def test_of_frames_at_one_time_the_last_is_shown():
  frames = [(0.0, 1.0, "a"), (0.0, 1.0, "b"), (1.0, 2.0, "c")]
  assert list(sampling.sample(frames, fps=1)) == [(0, "b"), (1, "c")]


def test_endless_video_is_sampled_as_it_comes():
  drawn = []

  def endless():
    for number in itertools.count():
      drawn.append(number)
      yield number / 10, (number + 1) / 10, number

  samples = sampling.sample(endless(), fps=2)
  assert drawn == []
  assert next(samples) == (0, 0)
  assert drawn == [0, 1]
  assert next(samples) == (1, 5)
  assert drawn == list(range(7))


def test_what_goes_wrong_comes_after_the_samples_before_it():
  def broken():
    yield 0.0, 0.5, "a"
    yield 0.5, 1.0, "b"
    yield 1.0, 1.5, "c"
    raise OSError("gone")

  samples = sampling.sample(broken(), fps=2)
  assert [next(samples), next(samples)] == [(0, "a"), (1, "b")]
  with pytest.raises(OSError, match="gone"):
    next(samples)


@hypothesis.given(
  st.lists(
    st.tuples(
      st.none() | st.floats(allow_nan=True, allow_infinity=True),
      st.sampled_from([None, -1.0, 0.0, 0.001, 0.04, 3.0]),
    ),
    max_size=30,
  ),
  st.sampled_from([0.04, 1.0]),
  st.sampled_from([10.0, math.inf]),
)
def test_any_clock_becomes_regular(stamps, interval_s, max_gap_s):
  stamps = [
    (time if time is None or abs(time) < 1e6 else math.nan, duration)
    for time, duration in stamps
  ]
  frames = [(*stamp, number) for number, stamp in enumerate(stamps)]
  out = list(
    sampling.regular_clock(frames, interval_s=interval_s, max_gap_s=max_gap_s)
  )
  assert [payload for _, _, payload in out] == list(range(len(frames)))
  if out:
    assert out[0][0] == 0.0
  for start, end, _ in out:
    assert 0.0 <= start < end
  for (before, before_end, _), (start, _, _) in itertools.pairwise(out):
    assert before <= start <= before_end + max_gap_s


@hypothesis.given(st.lists(st.integers(1, 400), min_size=1), st.floats(-9, 9))
def test_a_good_clock_is_only_shifted(steps, origin):
  times = [0.0, *(t / 100 for t in itertools.accumulate(steps))]
  frames = [(origin + time, 0.01, None) for time in times]
  out = [start for start, *_ in sampling.regular_clock(frames, interval_s=1)]
  assert out == pytest.approx(times, abs=1e-9)


def starts(stamps, **options):
  frames = [(time, 0.1, None) for time in stamps]
  clock = sampling.regular_clock(frames, interval_s=0.1, **options)
  return [round(start, 6) for start, *_ in clock]


def test_frames_without_time_follow_their_predecessor():
  assert starts([None, None, None]) == [0.0, 0.1, 0.2]
  assert starts([5.0, None, 5.3]) == [0.0, 0.1, 0.3]
  assert starts([None, 5.0, 5.1]) == [0.0, 0.1, 0.2]


def test_late_frame_is_shown_at_once_and_the_clock_kept():
  assert starts([0.0, 0.2, 0.1, 0.3]) == [0.0, 0.2, 0.2, 0.3]


def test_clock_set_back_goes_on_where_it_was():
  assert starts([50.0, 50.1, 0.0, 0.1]) == [0.0, 0.1, 0.2, 0.3]


def test_leap_forward_is_believed_unless_told_otherwise():
  assert starts([0.0, 0.1, 99.0, 99.1]) == [0.0, 0.1, 99.0, 99.1]
  assert starts([0.0, 0.1, 99.0, 99.1], max_gap_s=10.0) == [0.0, 0.1, 0.2, 0.3]


def test_duration_that_is_missing_is_the_usual_one():
  frames = [(0.0, None, None), (1.0, 0.0, None), (2.0, 0.5, None)]
  clock = sampling.regular_clock(frames, interval_s=0.25)
  assert [end for _, end, _ in clock] == [0.25, 1.25, 2.5]
