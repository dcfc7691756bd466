"""Casting weights late: same numbers, and a fraction of the memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import promotion

WIDTH, LAYERS = 256, 8


class Stack(nn.Module):
  """Dense layers in float32 over bfloat16 weights."""

  late: bool

  @nn.compact
  def __call__(self, x):
    options = {"promote_dtype": promotion.promote_late} if self.late else {}
    for _ in range(LAYERS):
      dense = nn.Dense(
        WIDTH, dtype=jnp.float32, param_dtype=jnp.bfloat16, **options
      )
      x = jnp.tanh(dense(x))
    return x


def compiled(late):
  module = Stack(late)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(16, WIDTH)), "float32")
  params = module.init(jax.random.key(0), x)
  return jax.jit(module.apply).lower(params, x).compile(), params, x


def test_results_do_not_change():
  plain, params, x = compiled(late=False)
  late, _, _ = compiled(late=True)
  np.testing.assert_allclose(plain(params, x), late(params, x), atol=1e-6)


@pytest.mark.usefixtures("fused_as_for_users")
def test_one_layer_is_alive_at_a_time():
  """Temporary memory holds less than three of eight cast kernels."""
  step, _, _ = compiled(late=True)
  kernel_bytes = 4 * WIDTH**2
  assert step.memory_analysis().temp_size_in_bytes < 3 * kernel_bytes


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan])
def test_no_input_switches_the_weights_off(value):
  inputs = jnp.full((1, 2), value)
  weight = jnp.arange(6.0, dtype=jnp.bfloat16).reshape(2, 3)
  _, got = jax.jit(
    lambda x, w: promotion.promote_late(x, w, dtype=jnp.float32)
  )(inputs, weight)
  np.testing.assert_array_equal(got, weight.astype(jnp.float32))


def test_weights_in_the_dtype_already_are_passed_on():
  weight = jnp.ones((2, 3))
  inputs, same, none = promotion.promote_late(
    jnp.ones((1, 2), jnp.bfloat16), weight, None, dtype=jnp.float32
  )
  assert inputs.dtype == jnp.float32
  assert same is weight
  assert none is None
