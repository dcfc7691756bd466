"""Designs and points of the cube: bounds, and there and back."""

import jax
import numpy as np
import pytest

from tests.codesign import problems
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import start
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import platforms


def test_a_design_comes_back_from_its_shares():
  space = space_lib.make(problems.paper())
  shares = np.random.default_rng(0).uniform(0.05, 0.95, space.dimensions)
  there = space_lib.design(space, shares.astype(np.float32))
  np.testing.assert_allclose(space_lib.shares(space, there), shares, atol=1e-5)


def test_ends_of_the_cube_are_the_bounds():
  space = space_lib.make(problems.paper())
  for end, bounds in ((0.0, space.low), (1.0, space.high)):
    found = space_lib.design(space, np.full(space.dimensions, end, np.float32))
    for name, bound in bounds.items():
      np.testing.assert_allclose(getattr(found, name), bound, rtol=1e-5)


def test_the_shipped_models_space_has_fifty_dimensions():
  space = space_lib.make(start.of_platform("vrex8", layers=4, kv_heads=2))
  assert space.dimensions >= 50
  labels = space.labels()
  assert len(set(labels)) == space.dimensions
  assert "ratio[2, 3, 1]" in labels


def test_what_is_frozen_stays_and_is_not_in_the_vector():
  space = space_lib.make(problems.paper(), groups=["engine"])
  own = [f for f in space_lib.FIELDS.values() if f.group == "engine"]
  assert space.dimensions == len(own)
  moved = space_lib.design(space, np.full(len(own), 0.9, np.float32))
  assert float(moved.hcu_width) > 16
  assert float(moved.cores) == 8.0
  np.testing.assert_allclose(moved.ratio, 0.3, rtol=1e-6)


def test_a_start_outside_the_bounds_widens_them():
  space = space_lib.make(problems.paper().replace(hcu_width=128.0))
  assert space.high["hcu_width"] == 128.0


def test_bandwidths_of_no_class_cannot_be_sized():
  server = platforms.named("vrex48").platform
  frozen = start.fixed_fields(server)
  space = space_lib.make(
    start.of_sizes(server, layers=1, kv_heads=1), frozen=frozen
  )
  assert frozen == ("dram_bytes_per_s", "link_bytes_per_s")
  assert not set(frozen) & set(space.free)


@pytest.mark.parametrize(
  ("texts", "said"),
  [
    (["cores=16:4"], "from 16 to 4; the least must be positive and below"),
    (["cores=4:4"], "swap or correct them"),
    (["clock_hz=0:1e9"], "the least must be positive"),
    (["cores=4"], "it must be name=least:most"),
    (["corse=4:8"], "'corse' is none of"),
  ],
)
def test_bounds_that_cannot_be_are_one_sentence(texts, said):
  with pytest.raises(InputError, match=said):
    space_lib.parse_bounds(texts)


def test_an_unknown_group_is_refused():
  with pytest.raises(InputError, match="--free names 'egnine'"):
    space_lib.make(problems.paper(), groups=["egnine"])


def test_a_platform_without_an_engine_is_refused():
  with pytest.raises(InputError, match="no retrieval engine"):
    start.of_platform("agx_orin", layers=1, kv_heads=1)


def test_shares_have_a_slope_everywhere():
  space = space_lib.make(problems.paper())
  total = lambda x: sum(
    leaf.sum()
    for leaf in jax.tree.leaves(space_lib.design(space, jax.nn.sigmoid(x)))
  )
  slope = jax.jit(jax.grad(total))(
    np.linspace(-9, 9, space.dimensions, dtype="f4")
  )
  assert np.all(np.isfinite(slope))
  assert np.all(np.asarray(slope) > 0)
