"""Steps are done once, also by the next run of the same study."""

import pytest

from vrex_jax.codesign import ledger as ledger_lib
from vrex_jax.errors import InputError

CONFIG = {"area_mm2": 15.0, "free": ["all"]}


def test_a_step_is_taken_over(tmp_path):
  path = tmp_path / "out" / "steps.json"
  first = ledger_lib.Ledger(path, CONFIG, resume=True)
  assert first.step("a", lambda: {"x": [1.5]}) == {"x": [1.5]}
  again = ledger_lib.Ledger(path, CONFIG, resume=True)
  assert again.step("a", lambda: pytest.fail("done twice")) == {"x": [1.5]}
  assert [one.name for one in path.parent.iterdir()] == ["steps.json"]


def test_without_resume_nothing_is_taken_over(tmp_path):
  path = tmp_path / "steps.json"
  ledger_lib.Ledger(path, CONFIG, resume=False).step("a", lambda: 1)
  assert ledger_lib.Ledger(path, CONFIG, resume=False).step("a", lambda: 2) == 2


def test_another_study_is_refused_by_the_flag_that_differs(tmp_path):
  path = tmp_path / "steps.json"
  ledger_lib.Ledger(path, CONFIG, resume=False).step("a", lambda: 1)
  with pytest.raises(InputError, match=r"had --area_mm2 15\.0, this one 16"):
    ledger_lib.Ledger(path, {**CONFIG, "area_mm2": 16}, resume=True)
  path.write_text("{")
  with pytest.raises(InputError, match="cannot be read"):
    ledger_lib.Ledger(path, CONFIG, resume=True)
