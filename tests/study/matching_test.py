"""A share of the past becomes arguments of a method; searches find doses."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax import errors
from vrex_jax import policy as policy_lib
from vrex_jax.study import matched
from vrex_jax.study import matching

PAST = matching.Past(8192, 16)
POINTS = [
  (name, variant)
  for name, method in matching.METHODS.items()
  for variant in method.variants
]


def test_methods_are_policies():
  """Not the reverse: a new policy runs before it can be matched."""
  assert set(matching.METHODS) <= set(policy_lib.POLICIES)


@pytest.mark.parametrize(("name", "variant"), POINTS)
def test_doses_are_knobs_and_nothing_else(name, variant):
  """One compiled stream serves a search: only leaves of knobs differ."""
  low = matching.make(
    name, variant, 0.1, PAST, {"frame": 0.02, "question": 0.02}
  )
  high = matching.make(
    name, variant, 0.1, PAST, {"frame": 0.9, "question": 0.9}
  )
  assert low.needs == high.needs
  assert set(low.knobs) == set(high.knobs)
  searched = matching.searched(name, variant)
  assert low.knobs != high.knobs or not searched
  assert set(searched) <= {"frame", "question"}


@pytest.mark.parametrize(("name", "variant"), POINTS)
def test_the_matched_stage_is_the_first_that_retrieves(name, variant):
  needs = matching.make(name, variant, 0.1, PAST).needs
  stage = matching.matched_stage(name, variant)
  if not needs.evicts:
    assert stage == next(
      one for one in policy_lib.STAGES if one in needs.stages
    )
  assert needs.dense_layers == 0


@pytest.mark.parametrize("name", ["clusterkv", "retroinfer"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_tokens_in_no_cluster_yet_are_at_most_half_of_the_share(name, share):
  for tokens in (2048, 40960):
    past = matching.Past(tokens, 4)
    arguments = matching.METHODS[name].arguments(
      share, matching.first_doses(share), past
    )
    assert arguments["block"] <= share * tokens / 2 + 4
  published = {"clusterkv": 320, "retroinfer": 1024}
  assert share < 0.3 or arguments["block"] == published[name]


def test_a_share_that_is_an_argument_needs_no_stream():
  def never(policy):
    raise AssertionError(policy)

  case = matched.Case("quest", "all", 0.1)
  assert matched.find_doses(case, PAST, never).runs == 0


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
  power=strategies.floats(0.3, 3.0), wanted=strategies.floats(0.05, 0.9)
)
def test_a_search_reaches_what_grows_with_the_dose(power, wanted):
  found = matching.search(
    lambda doses: {stage: dose**power for stage, dose in doses.items()},
    wanted,
    {"frame": "frame", "question": "question"},
    rounds=30,
  )
  for stage in ("frame", "question"):
    assert found.reached[stage] == pytest.approx(wanted, rel=0.05)
    assert found.doses[stage] ** power == pytest.approx(found.reached[stage])


def test_what_cannot_be_reached_is_told_not_hidden():
  found = matching.search(
    lambda doses: {"frame": max(0.4, doses["frame"])},
    0.1,
    {"frame": "frame"},
    rounds=5,
  )
  assert found.runs == 5
  assert found.reached == {"frame": 0.4}


def test_a_dose_is_measured_where_its_stage_says():
  seen = []

  def reached(doses):
    seen.append(dict(doses))
    return {"answer": doses["frame"] / 2, "frame": np.nan}

  found = matching.search(reached, 0.2, {"frame": "answer"})
  assert found.reached["answer"] == pytest.approx(0.2, rel=0.05)
  assert all(doses["question"] == 0.2 for doses in seen)


@pytest.mark.parametrize("names", [[], ["qest"], ["quest", "full"]])
def test_unknown_methods_are_refused(names):
  with pytest.raises(errors.InputError, match=r"--policies is .* must name"):
    matching.check_methods(names)


def test_cases_are_those_that_differ():
  made = matched.cases(
    ["infinigen", "infinigenp"], ["asked", "all"], [0.1, 0.2]
  )
  assert [case[:2] for case in made] == 2 * [
    ("infinigen", "asked"),
    ("infinigenp", "all"),
  ]
  assert [case.share for case in made] == [0.1, 0.1, 0.2, 0.2]
