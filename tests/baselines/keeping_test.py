"""Choosing only when needed, and without sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.baselines import keeping
from vrex_jax.baselines import livevlm
from vrex_jax.baselines import snapkv


@pytest.mark.parametrize("needed", [[False, False], [True, False]])
def test_streams_side_by_side_make_nothing_that_none_needs(needed):
  made = []

  def make():
    jax.debug.callback(lambda: made.append(True))
    return jnp.zeros(3, bool)

  found = jax.jit(
    jax.vmap(lambda one, live: keeping.if_needed(one, make, live))
  )(jnp.array(needed), jnp.ones((2, 3), bool))
  jax.effects_barrier()
  assert bool(made) == any(needed)
  np.testing.assert_array_equal(found[:, 0], ~np.array(needed))


def test_nothing_is_sorted():
  """XLA's sort on a CPU costs more than all else of a frame."""
  score, position = jnp.zeros(32), jnp.arange(32)
  rules = (
    lambda: livevlm.bucketed(score, position, jnp.int32(4), 2, 0.1),
    lambda: snapkv.pooled(score, position < 4, 3, "mean"),
  )
  for rule in rules:
    assert "stablehlo.sort" not in jax.jit(rule).lower().as_text()
  assert (
    "stablehlo.sort" in jax.jit(lambda: jnp.argsort(score)).lower().as_text()
  )
