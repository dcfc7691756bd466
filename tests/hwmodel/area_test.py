"""Area and power of V-Rex from its units: Table III and Sec. VI.F."""

import pytest

from tests.hwmodel import points
from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import designs
from vrex_jax.hwmodel import paper

ONE_CORE = {"dpe": 1.37, "vpe": 0.14, "memory": 0.34, "hcu": 0.01,
            "wtu": 0.02, "kvmu": 0.01}  # fmt: skip
POWER_W = {"dpe": 2.31139, "vpe": 0.12206, "memory": 0.11894, "hcu": 0.00299,
           "wtu": 0.03904, "kvmu": 0.01501}  # fmt: skip


def one_core():
  chip = points.platform()
  return chip.replace(compute=chip.compute.replace(cores=1.0))


def test_one_core_is_the_table():
  """Printed mm2 have two digits after the point, milliwatts are exact."""
  size, power = area.blocks_area_m2(one_core()), area.blocks_power_w(one_core())
  for block, printed in ONE_CORE.items():
    assert 1e6 * getattr(size, block) == pytest.approx(printed, abs=0.0052)
  for block, printed in POWER_W.items():
    assert getattr(power, block) == pytest.approx(printed, rel=2e-4)
  assert power.total == pytest.approx(paper.CORE_POWER_W, rel=1e-4)


@pytest.mark.parametrize("cores", [8, 48])
def test_whole_chips(cores):
  chip = points.platform(f"vrex{cores}")
  assert area.blocks_area_m2(chip).total == pytest.approx(
    paper.CORE_AREA_M2[cores], rel=2e-3
  )
  assert area.blocks_power_w(chip).total == pytest.approx(
    cores * paper.CORE_POWER_W, rel=1e-4
  )


def test_shares_of_the_engine():
  """2.04 % of area; 2.18-2.19 % of power, not the printed 2.2 or 2.4."""
  chip = points.platform()
  assert area.blocks_area_m2(chip).engine_share == pytest.approx(
    0.0204, abs=5e-5
  )
  assert area.blocks_power_w(chip).engine_share == pytest.approx(
    0.0219, abs=5e-5
  )


def test_system_power_does_not_close():
  """The printed 35 W lie below what device figures add up to at full load."""
  low, high = area.closure_w(points.platform())
  assert 35.0 < low < high
  low, high = area.closure_w(points.platform("vrex48"))
  assert low < 203.68 < high


def test_a_gpu_has_no_units():
  with pytest.raises(ValueError, match="no figures by unit"):
    area.blocks_area_m2(points.platform("a100"))


@pytest.mark.slow
def test_design_points_are_as_many_as_asked_for():
  """Whole blocks; a rate is positive and finite."""
  rate = designs.points_per_s(
    points.platform(), points.work(), points.schedule(), points=1, rounds=1
  )
  assert 0 < rate < float("inf")
