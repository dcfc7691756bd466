"""Attention mass of past and chunk against a dense softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import attention_oracle as oracle
from vrex_jax import bitmap
from vrex_jax.models import attention
from vrex_jax.models import partial as partial_lib
from vrex_jax.models import past_attention


def dense_mass(query, key, mask, lse, counts):
  """Σ over counted rows of exp(q · k / sqrt(H) - lse): [B, A, S]."""
  scores = np.einsum(
    "bamh,bash->bams", query.astype(np.float64), key.astype(np.float64)
  )
  weights = np.exp(scores / oracle.WIDTH**0.5 - lse[..., None])
  weights = np.where(mask[:, :, None] & counts[..., None], weights, 0.0)
  return weights.sum(axis=2)


@pytest.mark.parametrize("rows", [oracle.KV_HEADS, oracle.HEADS])
def test_slot_mass_is_what_each_slot_received(rows):
  mask, query = oracle.sets_of(rows, oracle.SIZES), oracle.query_of(rows)
  keys = oracle.moved_keys("rank", "per stream", mask)
  _, lse = oracle.dense(query, keys, keys, mask)
  lse = np.where(np.isfinite(lse), lse, 0.0) + 0.5
  counts = np.random.default_rng(15).random(lse.shape) < 0.7
  found = jax.jit(past_attention.slot_mass, static_argnums=4)(
    query,
    oracle.KEYS,
    bitmap.pack(jnp.asarray(mask)),
    oracle.rotation_of("rank", "per stream"),
    oracle.LAYER,
    lse.astype(np.float32),
    counts,
  )
  np.testing.assert_allclose(
    found, dense_mass(query, keys, mask, lse, counts), rtol=1e-3, atol=1e-5
  )


def test_mass_of_past_and_chunk_adds_up_to_the_valid_rows():
  """Every valid query row spends a mass of one, on the past and the chunk."""
  query, key, value, valid = oracle.chunk_inputs()
  words = bitmap.pack(
    jnp.asarray(oracle.sets_of(oracle.KV_HEADS, oracle.SIZES))
  )
  grouped = attention.group_queries(jnp.asarray(query), oracle.KV_HEADS)
  past = oracle.WORK_LIST(
    grouped, oracle.KEYS, oracle.VALUES, words, None, oracle.LAYER
  )
  own = attention.chunk_attention(query, key, value, jnp.asarray(valid))
  own = partial_lib.Partial(
    attention.group_queries(own.out, oracle.KV_HEADS),
    own.lse.reshape(oracle.BATCH, oracle.KV_HEADS, -1),
  )
  lse = partial_lib.merge((own, past)).lse
  counts = (
    valid[:, None]
    .repeat(oracle.HEADS, 1)
    .reshape(oracle.BATCH, oracle.KV_HEADS, -1)
  )
  on_past = past_attention.slot_mass(
    grouped, oracle.KEYS, words, None, oracle.LAYER, lse, jnp.asarray(counts)
  )
  on_chunk = attention.chunk_mass(
    query, key, jnp.asarray(valid), lse.reshape(oracle.BATCH, oracle.HEADS, 5)
  )
  np.testing.assert_array_equal(
    np.asarray(on_chunk).any(axis=1) <= valid, np.ones((oracle.BATCH, 5), bool)
  )
  spent = on_past.sum(-1) + on_chunk.reshape(
    oracle.BATCH, oracle.KV_HEADS, -1
  ).sum(-1)
  np.testing.assert_allclose(spent, counts.sum(-1), rtol=1e-5)
