"""Gradients of past attention against a mask and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tests.models import attention_oracle as oracle
from vrex_jax import bitmap
from vrex_jax.models import partial as partial_lib
from vrex_jax.models import past_attention
from vrex_jax.models import rotary
from vrex_jax.models import work_list


def dense_partial(query, keys, values, mask, rotation, layer):
  """`work_list_attention` by a mask, differentiable by jax itself."""
  rows = query.shape[1]
  widen = lambda array: jnp.repeat(array[layer], rows // 2, axis=1)
  key, value = widen(keys), widen(values)
  if rotation is not None:
    target = jnp.cumsum(mask, axis=-1) - 1
    if rotation.target is not None:
      target = jnp.full(mask.shape, rotation.target[0])
    shift = target - rotation.stored[:, None]
    key = rotary.rotate(key, rotary.angles(shift, rotation.frequencies))
  scores = jnp.einsum("bamh,bash->bams", query, key) / oracle.WIDTH**0.5
  there = jnp.any(mask, axis=-1)[:, :, None]
  scores = jnp.where(mask[:, :, None], scores, -1e9)
  lse = jax.nn.logsumexp(scores, axis=-1)
  out = jnp.einsum("bams,bash->bamh", jnp.exp(scores - lse[..., None]), value)
  return partial_lib.Partial(
    jnp.where(there[..., None], out, 0.0), jnp.where(there, lse, -jnp.inf)
  )


def loss_of(attend, *, through_lse):
  """A smooth scalar of out (and lse) with a different weight per entry."""

  def loss(query, keys, values):
    partial = attend(query, keys, values)
    weights = jnp.asarray(oracle.normal(20, *partial.out.shape))
    loss = jnp.sum(weights * partial.out)
    if through_lse:
      lse = jnp.where(jnp.isfinite(partial.lse), partial.lse, 0.0)
      loss += jnp.sum(jnp.sin(weights[..., 0] * lse))
    return loss

  return loss


@pytest.mark.parametrize(
  ("rows", "kind", "through_lse"),
  [(4, None, False), (2, None, True), (4, "rank", True), (2, "fixed", True)],
)
def test_gradients_of_work_list_attention(rows, kind, through_lse):
  query, keys, values, mask = oracle.small_problem(rows)
  stored = jnp.asarray(np.arange(512)[None] * 3, jnp.int32)
  rotation = None
  if kind is not None:
    target = jnp.asarray([11]) if kind == "fixed" else None
    rotation = work_list.KeyRotation(
      stored, jnp.asarray(oracle.FREQUENCIES), target
    )
  words = bitmap.pack(jnp.asarray(mask))
  ours = loss_of(
    lambda *x: past_attention.work_list_attention(*x, words, rotation, 1),
    through_lse=through_lse,
  )
  theirs = loss_of(
    lambda *x: dense_partial(*x, jnp.asarray(mask), rotation, 1),
    through_lse=through_lse,
  )
  found = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(query, keys, values)
  expected = jax.jit(jax.grad(theirs, argnums=(0, 1, 2)))(query, keys, values)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  assert all(np.any(gradient) for gradient in found)


def test_gradients_of_prefix_attention():
  query, keys, values, _ = oracle.small_problem(2)
  valid = np.random.default_rng(21).random((1, 512)) < 0.5
  cursor = 400
  mask = jnp.asarray(valid & (np.arange(512) < cursor))[:, None].repeat(2, 1)
  ours = loss_of(
    lambda *x: past_attention.prefix_attention(*x, valid, jnp.int32(cursor), 1),
    through_lse=True,
  )
  theirs = loss_of(
    lambda *x: dense_partial(*x, mask, None, 1), through_lse=True
  )
  found = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(query, keys, values)
  expected = jax.jit(jax.grad(theirs, argnums=(0, 1, 2)))(query, keys, values)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_finite_differences():
  query, keys, values, mask = oracle.small_problem(2)
  words = bitmap.pack(jnp.asarray(mask))
  stored = jnp.asarray(np.arange(512)[None], jnp.int32)
  rotation = work_list.KeyRotation(
    stored, jnp.asarray(oracle.FREQUENCIES), None
  )
  loss = loss_of(
    lambda *x: past_attention.work_list_attention(*x, words, rotation, 1),
    through_lse=True,
  )
  check_grads(
    jax.jit(loss),
    (query, keys, values),
    order=1,
    modes=["rev"],
    eps=1e-2,
    atol=2e-2,
    rtol=2e-2,
  )
