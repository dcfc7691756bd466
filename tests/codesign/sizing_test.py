"""A design as a platform: the paper's own is the paper's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.codesign import problems
from vrex_jax.codesign import interfaces
from vrex_jax.codesign import sizing
from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import params
from vrex_jax.models import presets

MODEL = presets.preset("llama3-8b")


def sized(**changes):
  design = problems.paper().replace(**changes)
  design = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), design)
  return sizing.apply(problems.BASE, design, MODEL)


def test_the_papers_sizing_is_the_papers_platform():
  found = sized()
  names = params.leaf_names(problems.BASE)
  pairs = zip(
    names,
    jax.tree.leaves(found.platform),
    jax.tree.leaves(problems.BASE),
    strict=True,
  )
  for name, one, other in pairs:
    np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
  own = area.blocks_area_m2(problems.BASE).total
  np.testing.assert_allclose(found.area_m2, own, rtol=1e-5)


def test_the_papers_memories_hold_what_they_must():
  held = problems.BASE.compute.cores * problems.BASE.compute.memory_bytes
  assert 0.5 * held < sized().core_needs_bytes < held


def test_a_faster_clock_costs_energy_and_power_by_its_voltage():
  slow, fast = (sized(clock_hz=clock).platform.units for clock in (8e8, 1.2e9))
  np.testing.assert_allclose(
    fast.dot_j_per_mac / slow.dot_j_per_mac, 1.25**2, rtol=1e-5
  )
  np.testing.assert_allclose(
    fast.wtu_w_per_lane / slow.wtu_w_per_lane, 1.5 * 1.25**2, rtol=1e-5
  )
  assert fast.kvmu_m2 == slow.kvmu_m2


def test_trees_wider_than_a_vision_head_are_partly_empty():
  usual, wide = (
    sized(dot_inputs=inputs).platform.compute.vision_utilisation
    for inputs in (64.0, 128.0)
  )
  assert 0.9 * usual < wide < usual


def test_engine_memories_beyond_the_papers_take_area():
  more = sized(score_bytes=2.0**15).area_m2 - sized().area_m2
  unit = problems.BASE.units.memory_m2_per_byte
  np.testing.assert_allclose(more, 8 * (2**15 - 2**13) * unit, rtol=1e-3)


@pytest.mark.parametrize("kind", ["dram", "link"])
def test_a_class_has_its_own_figures(kind):
  known = interfaces.classes(kind)
  for index, rate in enumerate(known.bandwidth_bytes_per_s):
    found = interfaces.at(kind, jnp.float32(rate))
    for name, value in found.items():
      np.testing.assert_allclose(
        value, known.figures[name][index], rtol=1e-4, atol=1e-12
      )


def test_between_two_classes_figures_lie_between():
  known = interfaces.classes("link")
  rate = np.sqrt(np.prod(known.bandwidth_bytes_per_s[1:3]))
  found = interfaces.at("link", jnp.float32(rate))
  middle = known.figures["storage_w"][1:3].mean()
  np.testing.assert_allclose(found["storage_w"], middle, rtol=1e-5)


def test_a_smaller_interface_gives_no_area_back():
  for kind in ("dram", "link"):
    assert min(interfaces.classes(kind).figures["extra_m2"]) == 0.0
  assert sized(link_bytes_per_s=2e9).area_m2 == sized().area_m2
