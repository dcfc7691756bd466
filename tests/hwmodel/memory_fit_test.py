"""Cross-validation is honest, and the package holds what it finds."""

import numpy as np
import pytest

from vrex_jax.hwmodel import dram
from vrex_jax.hwmodel import link
from vrex_jax.hwmodel import memory_fit
from vrex_jax.hwmodel import memory_rows


@pytest.fixture(scope="module")
def dram_row():
  case = memory_fit.dram_case(memory_rows.read_dram())
  return memory_fit.validate(case, case.candidates[0])


@pytest.fixture(scope="module")
def link_row():
  case = memory_fit.link_case(memory_rows.read_link())
  return memory_fit.validate(case, case.candidates[0])


def test_constants_of_the_package_are_those_of_the_fit(dram_row, link_row):
  assert dram_row["constants"] == {"limit_sharpness": dram.LIMIT_SHARPNESS}
  assert link_row["constants"] == {
    "queue_sharpness": link.QUEUE_SHARPNESS,
    "imbalance": link.IMBALANCE,
  }


def test_dram_left_out_errors_are_below_six_per_cent(dram_row):
  assert dram_row["in_sample"]["mean"] < 0.04
  for group in ("chunk", "depth", "device", "map"):
    assert dram_row["left_out"][group]["mean"] < 0.06, group
    assert max(dram_row["left_out"][group]["folds"].values()) < 0.08, group


def test_link_left_out_errors_are_below_ten_per_cent(link_row):
  for group in ("request", "depth", "device"):
    assert link_row["left_out"][group]["mean"] < 0.06, group
    assert max(link_row["left_out"][group]["folds"].values()) < 0.10, group


def test_a_row_left_out_has_no_say():
  """A fold's fit sees the others only: its own rows may be anything."""
  seen = []

  def fit(mask):
    seen.append(mask.copy())
    return (), np.full(4, observed[mask].mean())

  observed = np.array([1.0, 1.0, 4.0, 4.0])
  case = memory_fit.Case(
    "toy",
    observed,
    {"half": ["a", "a", "b", "b"]},
    [memory_fit.Candidate("mean", (), 1, fit)],
  )
  row = memory_fit.validate(case, case.candidates[0])
  assert [mask.tolist() for mask in seen] == [
    [True] * 4,
    [False, False, True, True],
    [True, True, False, False],
  ]
  assert row["left_out"]["half"]["folds"] == {"a": 3.0, "b": 0.75}
  assert row["left_out"]["half"]["mean"] == pytest.approx(1.875)
