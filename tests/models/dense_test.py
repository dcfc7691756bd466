"""Dense layers: the same function however the kernel is stored."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax import testing
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import dense

INPUTS, OUTPUTS = 24, 192


def layer(dtype=jnp.float32):
  """A layer with a bias, and its parameters."""
  module = dense.Dense(OUTPUTS, use_bias=True, param_dtype=dtype)
  params = module.init(jax.random.key(0), jnp.ones((1, INPUTS)))["params"]
  bias = jax.random.normal(jax.random.key(1), (OUTPUTS,), dtype)
  return module, {**params, "bias": bias}


def in_panels(kernel):
  """f[in, out] -> f[out / 64, in, 64], by hand."""
  return jnp.stack(jnp.split(kernel, kernel.shape[1] // dense.PANEL, axis=1))


def normal(*shape):
  return jax.random.normal(jax.random.key(2), shape)


@pytest.mark.parametrize("shape", [(INPUTS,), (1, INPUTS), (2, 5, INPUTS)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_storages_are_the_layer_of_flax(shape, dtype):
  module, params = layer(dtype)
  x = normal(*shape)
  expected = nn.Dense(OUTPUTS, dtype=jnp.float32).apply({"params": params}, x)
  panels = {**params, "kernel": in_panels(params["kernel"])}
  for stored in (params, panels):
    found = module.apply({"params": stored}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_plain_kernel():
  module, params = layer()
  x = normal(3, INPUTS)
  loss = lambda tree, x: jnp.sum(jnp.sin(module.apply({"params": tree}, x)))
  plain = jax.grad(loss, argnums=(0, 1))(params, x)
  panels = {**params, "kernel": in_panels(params["kernel"])}
  found = jax.grad(loss, argnums=(0, 1))(panels, x)
  expected = {**plain[0], "kernel": in_panels(plain[0]["kernel"])}, plain[1]
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
    found,
    expected,
  )


@pytest.mark.parametrize("shape", [(INPUTS, 64), (3, INPUTS, 128), (1, 192)])
def test_a_kernel_of_another_size_is_refused(shape):
  module, params = layer()
  wrong = {**params, "kernel": jnp.ones(shape)}
  with pytest.raises(AssertionError):
    module.apply({"params": wrong}, normal(1, INPUTS))


def test_a_decoder_in_panels_is_the_same_decoder():
  """Kernels of 64 and 128 outputs move, those of 96 stay, and all come back."""
  config = testing.decoder_config(
    num_heads=4, head_dim=32, hidden_size=64, intermediate_size=96
  )
  params = testing.decoder_parameters(config)
  expected = jax.tree.map(np.array, params)
  hidden = normal(1, 7, 64)
  module = decoder_lib.Decoder(config)
  logits = module.apply({"params": params["decoder"]}, hidden)

  panels = dense.to_panels(params)
  kernel = lambda name: panels["decoder"]["layers_0"][name]["kernel"].shape
  assert kernel("q_proj") == (2, 64, 64)
  assert kernel("down_proj") == (1, 96, 64)
  assert kernel("gate_proj") == (64, 96)
  np.testing.assert_allclose(
    module.apply({"params": panels["decoder"]}, hidden), logits, atol=1e-4
  )
  jax.tree.map(np.testing.assert_array_equal, dense.to_plain(panels), expected)


def test_old_kernels_are_given_up_one_by_one():
  params = testing.decoder_parameters(testing.decoder_config(hidden_size=64))
  old = params["decoder"]["layers_0"]["o_proj"]["kernel"]
  dense.to_panels(params)
  assert old.is_deleted()


@pytest.mark.usefixtures("fused_as_for_users")
def test_no_kernel_is_copied_in_the_compiled_product():
  kernel = jnp.ones((8, 512, dense.PANEL))
  step = jax.jit(dense.product).lower(jnp.ones((4, 512)), kernel).compile()
  assert step.memory_analysis().temp_size_in_bytes < 0.2 * kernel.nbytes


@pytest.mark.parametrize(
  ("rows", "threads", "expected"),
  [(10, 1, True), (32, 1, True), (33, 1, False), (10, 2, False)],
)
def test_panels_are_for_few_rows_on_one_core(rows, threads, expected):
  assert dense.panels_pay(rows, threads) is expected
  params = testing.decoder_parameters(testing.decoder_config(hidden_size=64))
  stored = dense.store_for(params, rows, threads)
  kernel = stored["decoder"]["layers_0"]["o_proj"]["kernel"]
  assert (kernel.ndim == 3) is expected
