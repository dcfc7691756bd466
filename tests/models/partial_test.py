"""Partials of disjoint keys merge to attention over their union."""

import jax.numpy as jnp
import numpy as np

from tests.models import attention_oracle as oracle
from vrex_jax import bitmap
from vrex_jax.models import partial as partial_lib


def test_partials_of_disjoint_sets_merge_to_their_union():
  mask, query = (
    oracle.sets_of(oracle.HEADS, oracle.SIZES),
    oracle.query_of(oracle.HEADS),
  )
  thirds = np.random.default_rng(11).integers(0, 3, mask.shape)
  partials = [
    oracle.WORK_LIST(
      query,
      oracle.KEYS,
      oracle.VALUES,
      bitmap.pack(jnp.asarray(mask & (thirds == third))),
      None,
      oracle.LAYER,
    )
    for third in range(3)
  ]
  # merge asks for a key in every row; row 0 has an empty set.
  one = (
    oracle.query_of(oracle.HEADS, 12),
    np.zeros((oracle.BATCH, oracle.HEADS, oracle.LENGTH), np.float32),
  )
  merged = partial_lib.merge(
    (*partials, partial_lib.Partial(*map(jnp.asarray, one)))
  )
  out, lse = oracle.dense(
    query,
    oracle.per_row(oracle.KEYS[oracle.LAYER], oracle.HEADS),
    oracle.per_row(oracle.VALUES[oracle.LAYER], oracle.HEADS),
    mask,
  )
  total = np.logaddexp(lse, one[1])
  expected = (
    np.exp(lse - total)[..., None] * out
    + np.exp(one[1] - total)[..., None] * one[0]
  )
  oracle.close(merged, (expected, total))
  oracle.close(
    partial_lib.merge(
      (partial_lib.Partial(*map(jnp.asarray, one)), *partials[::-1])
    ),
    merged,
    1e-6,
  )
