"""What is compared: the base first, one thing changed in every other case."""

import pytest

from vrex_jax import errors
from vrex_jax import policy_syntax
from vrex_jax.study import disturb
from vrex_jax.study import variations

BASE = "resv(votes=2, table_capacity=64)"


def test_the_base_is_first_and_plain():
  for names in ([], ["form"]):
    base = variations.cases(BASE, names)[0]
    assert (base.choice, base.change, base.driver) == ("base", "", {})
    assert base.policy.name == policy_syntax.make_policy(BASE).name


@pytest.mark.parametrize("name", variations.VARIATIONS)
def test_a_case_is_the_base_with_its_change(name):
  base, *cases = variations.cases(BASE, [name])
  changes = variations.VARIATIONS[name]
  assert len(cases) == len(changes) > 0
  for case, change in zip(cases, changes, strict=True):
    assert case.choice == name
    assert name in case.change or "hash_keys" in case.change
    own = {k: v for k, v in change.items() if k not in variations.DRIVER}
    assert {**own, **case.driver} == change
    arguments = {"votes": 2, "table_capacity": 64, **own}
    text = ", ".join(f"{key}={value}" for key, value in arguments.items())
    expected = policy_syntax.make_policy(f"resv({text})").name
    assert case.policy.name == expected
    assert bool(own) == (expected != base.policy.name)


def test_all_choices_are_varied_by_default_and_each_once():
  every = variations.cases(BASE)
  assert list(dict.fromkeys(case.choice for case in every)) == [
    "base",
    *variations.VARIATIONS,
  ]
  assert len({case.change for case in every}) == len(every)
  twice = variations.cases(BASE, ["form", "rows", "form"])
  assert [case.choice for case in twice] == ["base", "form", "rows", "rows"]


def test_disturbances_are_met_with_every_repair():
  cases = variations.repaired(BASE)
  assert len(cases) == len(disturb.DISTURBANCES) * len(variations.REPAIRS)
  plain = cases[0]
  assert (plain.choice, plain.change) == ("none", "")
  assert plain.policy.name == policy_syntax.make_policy(BASE).name
  assert len({(case.choice, case.change) for case in cases}) == len(cases)
  some = variations.repaired(BASE, ["shift 3"])
  assert [(case.choice, case.change) for case in some] == [
    (case.choice, case.change) for case in cases if case.choice == "shift 3"
  ]
  with pytest.raises(errors.InputError, match="must name disturbances of none"):
    variations.repaired(BASE, ["rows"])


MISTAKES = {
  "unknown choice": (BASE, ["rows", "row"], "--vary has 'row'; it must name"),
  "another policy": ("full", [], "--base has full; its clusters"),
  "a combinator": ("resv + keep_sink(4)", [], "without a combinator"),
  "no policy": ("", [], "--base has ''; a policy is written"),
  "unclosed": ("resv(rows=vote", [], "--base has 'resv(rows=vote'"),
  "no name": ("resv(7)", [], "has an argument without a name"),
  "unknown argument": ("resv(row=vote)", [], "(did you mean rows?)"),
  "bad value": ("resv(rows=all)", [], "rows is 'all'; it must be one of"),
  "what does not go together": (
    "resv(code=following)",
    ["hash_keys"],
    "does not go with hash_keys=raw (resv: code is following",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name):
  base, names, said = MISTAKES[name]
  with pytest.raises(errors.InputError) as told:
    variations.cases(base, names)
  assert said in str(told.value)
