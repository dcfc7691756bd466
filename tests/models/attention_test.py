"""Attention inside a chunk, and to rows that stand for many."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.models import attention_oracle as oracle
from vrex_jax.models import attention
from vrex_jax.models import partial as partial_lib


def test_chunk_attention_is_causal_and_ignores_padding():
  query, key, value, valid = oracle.chunk_inputs()
  found = attention.chunk_attention(query, key, value, jnp.asarray(valid))
  mask = oracle.chunk_mask(valid)
  for token in range(5):
    oracle.close(
      partial_lib.Partial(
        found.out[:, :, token : token + 1], found.lse[:, :, token : token + 1]
      ),
      oracle.dense(
        query[:, :, token : token + 1],
        oracle.per_row(key, oracle.HEADS),
        oracle.per_row(value, oracle.HEADS),
        mask[:, :, token],
      ),
    )


def test_an_extra_row_counts_as_its_weight_in_copies():
  query = oracle.query_of(oracle.KV_HEADS)
  key, value = (
    oracle.normal(13, oracle.BATCH, oracle.KV_HEADS, 4, oracle.WIDTH),
    oracle.normal(14, oracle.BATCH, oracle.KV_HEADS, 4, oracle.WIDTH),
  )
  copies = np.array([1, 3, 0, 7])
  with np.errstate(divide="ignore"):
    log_weight = np.log(copies).astype(np.float32)
  found = attention.extra_attention(
    query,
    key,
    value,
    jnp.broadcast_to(log_weight, (oracle.BATCH, oracle.KV_HEADS, 4)),
  )
  repeat = lambda array: np.repeat(array, copies, axis=2)
  expected = oracle.dense(
    query,
    repeat(key),
    repeat(value),
    np.ones((oracle.BATCH, oracle.KV_HEADS, 11), bool),
  )
  oracle.close(found, expected)


def test_extra_rows_that_are_all_off_are_no_rows():
  query = oracle.query_of(oracle.KV_HEADS)
  rows = jnp.ones((oracle.BATCH, oracle.KV_HEADS, 4, oracle.WIDTH))
  off = jnp.full((oracle.BATCH, oracle.KV_HEADS, 4), -jnp.inf)
  own = partial_lib.Partial(
    jnp.asarray(query),
    jnp.zeros((oracle.BATCH, oracle.KV_HEADS, oracle.LENGTH * 2)),
  )

  def merged(query_, rows_):
    extra = attention.extra_attention(query_, rows_, rows_, off)
    return partial_lib.merge((own, extra)).out

  np.testing.assert_array_equal(merged(query, rows), own.out)
  gradients = jax.jit(jax.grad(lambda *x: merged(*x).sum(), argnums=(0, 1)))
  for gradient in gradients(query, rows):
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
