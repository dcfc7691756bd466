"""The decoder: against plain numpy, over GQA groups and tied heads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib


def make_config(group=2, **changes):
  """Two KV heads of 8; D differs from N · H, as head_dim allows."""
  config = config_lib.DecoderConfig(
    vocab_size=23,
    hidden_size=20,
    intermediate_size=36,
    num_layers=2,
    num_heads=2 * group,
    num_kv_heads=2,
    head_dim=8,
  )
  return dataclasses.replace(config, **changes)


@functools.cache
def make_parameters(config, seed=0):
  """Every leaf random, biases and scales too."""
  module = decoder_lib.Decoder(config)
  shapes = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0),
      jnp.zeros((1, 1), jnp.int32),
      method=lambda model, tokens: model(model.embed(tokens)),
    )
  )["params"]
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0.0, 0.4, leaf.shape), jnp.float32),
    shapes,
  )


def make_hidden(config, length=6, batch=2, seed=1):
  shape = (batch, length, config.hidden_size)
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, *args):
  return decoder_lib.Decoder(config).apply({"params": params}, *args)


def oracle_norm(x, scale, epsilon):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def oracle_linear(x, leaf):
  return x @ leaf["kernel"] + leaf.get("bias", 0.0)


def oracle_rotate(x, position, theta):
  """One head vector, pair by pair."""
  half = len(x) // 2
  out = np.empty_like(x)
  for pair in range(half):
    angle = position * theta ** (-pair / half)
    cosine, sine = np.cos(angle), np.sin(angle)
    out[pair] = x[pair] * cosine - x[pair + half] * sine
    out[pair + half] = x[pair + half] * cosine + x[pair] * sine
  return out


def oracle_attention(config, layer, x):
  """Attention of one sequence [T, D], head by head and token by token."""
  width, length = config.head_dim, len(x)
  out = np.zeros((length, config.num_heads * width))
  query, key, value = (
    oracle_linear(x, layer[name]) for name in ("q_proj", "k_proj", "v_proj")
  )
  turn = lambda head, position: oracle_rotate(head, position, config.rope.theta)
  for head in range(config.num_heads):
    mine = slice(head * width, (head + 1) * width)
    shared = head // config.group_size
    theirs = slice(shared * width, (shared + 1) * width)
    for t in range(length):
      scores = np.array(
        [
          turn(query[t, mine], t) @ turn(key[s, theirs], s) / np.sqrt(width)
          for s in range(t + 1)
        ]
      )
      weights = np.exp(scores - scores.max())
      out[t, mine] = weights / weights.sum() @ value[: t + 1, theirs]
  return oracle_linear(out, layer["o_proj"])


def oracle_logits(config, params, hidden):
  """The whole decoder on one sequence, float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x, epsilon = np.asarray(hidden, np.float64), config.rms_norm_eps
  for index in range(config.num_layers):
    layer = params[f"layers_{index}"]
    normal = oracle_norm(x, layer["input_norm"]["scale"], epsilon)
    x = x + oracle_attention(config, layer, normal)
    normal = oracle_norm(x, layer["post_norm"]["scale"], epsilon)
    gate = oracle_linear(normal, layer["gate_proj"])
    gate = gate / (1.0 + np.exp(-gate))
    up = oracle_linear(normal, layer["up_proj"])
    x = x + oracle_linear(gate * up, layer["down_proj"])
  normal = oracle_norm(x, params["norm"]["scale"], epsilon)
  if config.tie_embeddings:
    return normal @ params["embed_tokens"]["embedding"].T
  return oracle_linear(normal, params["lm_head"])


@pytest.mark.parametrize("group", [1, 2, 4, 7])
@pytest.mark.parametrize(("bias", "tied"), [(True, True), (False, False)])
def test_logits_equal_the_numpy_decoder(group, bias, tied):
  config = make_config(group, qkv_bias=bias, tie_embeddings=tied)
  params, hidden = make_parameters(config), make_hidden(config)
  got = run(config, params, hidden)
  for stream in range(2):
    want = oracle_logits(config, params, hidden[stream])
    scale = np.abs(want).max()
    np.testing.assert_allclose(got[stream], want, atol=2e-5 * scale)


def test_biases_and_the_head_are_there_only_when_configured():
  params = make_parameters(make_config())
  assert set(params) == {
    "embed_tokens",
    "layers_0",
    "layers_1",
    "norm",
    "lm_head",
  }
  assert set(params["layers_0"]["q_proj"]) == {"kernel"}
  params = make_parameters(make_config(tie_embeddings=True, qkv_bias=True))
  assert "lm_head" not in params
  for name in ("q_proj", "k_proj", "v_proj"):
    assert set(params["layers_1"][name]) == {"kernel", "bias"}
  assert set(params["layers_1"]["o_proj"]) == {"kernel"}


def test_no_token_depends_on_a_later_one():
  config = make_config()
  params, hidden = make_parameters(config), make_hidden(config)
  changed = hidden.copy()
  changed[:, 4] = hidden[:, 2]
  before, after = (run(config, params, x) for x in (hidden, changed))
  np.testing.assert_array_equal(before[:, :4], after[:, :4])
  assert np.abs(before[:, 4:] - after[:, 4:]).max(axis=(0, 2)).min() > 1e-2


def test_padding_is_not_attended():
  """Logits of valid tokens are those of the sequence without the padding."""
  config = make_config()
  params, hidden = make_parameters(config), make_hidden(config)
  keep = np.array([0, 1, 3, 5])
  valid = np.isin(np.arange(6), keep)
  padded = run(
    config,
    params,
    hidden,
    jnp.broadcast_to(jnp.arange(6), (2, 6)),
    jnp.broadcast_to(jnp.asarray(valid), (2, 6)),
  )
  dense = run(
    config,
    params,
    hidden[:, keep],
    jnp.broadcast_to(jnp.asarray(keep), (2, 4)),
  )
  np.testing.assert_allclose(padded[:, keep], dense, atol=1e-4)
  assert np.isfinite(padded).all()


def test_shifting_every_position_changes_nothing():
  config = make_config()
  params, hidden = make_parameters(config), make_hidden(config)
  shifted = jnp.broadcast_to(jnp.arange(6) + 50, (2, 6))
  np.testing.assert_allclose(
    run(config, params, hidden), run(config, params, hidden, shifted), atol=1e-3
  )


def test_streams_of_a_batch_are_independent():
  config = make_config()
  params, hidden = make_parameters(config), make_hidden(config)
  swapped = run(config, params, hidden[::-1])
  np.testing.assert_allclose(
    run(config, params, hidden), swapped[::-1], atol=1e-4
  )


def test_a_layers_subtree_is_what_the_layer_takes_alone():
  config = make_config(num_layers=1, qkv_bias=True)
  params, hidden = make_parameters(config), make_hidden(config)
  layer = decoder_lib.DecoderLayer(config)
  subtree = {"params": params["layers_0"]}
  query, key, value = layer.apply(subtree, hidden, method="project")
  assert query.shape == (2, 4, 6, 8)
  assert key.shape == value.shape == (2, 2, 6, 8)
  alone = layer.apply(subtree, hidden, method="project_query")
  np.testing.assert_array_equal(query, alone)
  finished = layer.apply(subtree, hidden, query, method="finish")
  called = layer.apply(subtree, hidden, lambda q, k, v: q)
  np.testing.assert_array_equal(finished, called)


def test_embed_looks_up_rows():
  config = make_config()
  params = make_parameters(config)
  tokens = jnp.array([[3, 0, 22], [3, 3, 1]])
  got = decoder_lib.Decoder(config).apply(
    {"params": params}, tokens, method="embed"
  )
  table = np.asarray(params["embed_tokens"]["embedding"])
  np.testing.assert_array_equal(got, table[np.asarray(tokens)])


def test_norm_ignores_the_scale_of_its_input():
  norm = decoder_lib.RMSNorm(epsilon=0.0)
  params = {"params": {"scale": jnp.arange(1.0, 5.0)}}
  x = jnp.array([[1.0, -2.0, 3.0, 0.5]])
  np.testing.assert_allclose(
    norm.apply(params, x), norm.apply(params, 100.0 * x), rtol=1e-6
  )


def test_narrow_weights_give_logits_in_float32():
  config = make_config()
  params, hidden = make_parameters(config), make_hidden(config)
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  got = run(config, narrow, hidden)
  rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, run(config, rounded, hidden), rtol=1e-5)


def test_heads_split_and_merge():
  x = jnp.arange(2 * 3 * 8.0).reshape(2, 3, 8)
  split = decoder_lib.split_heads(x, 4)
  np.testing.assert_array_equal(split[1, 2, 0], x[1, 0, 4:6])
  np.testing.assert_array_equal(decoder_lib.merge_heads(split), x)


def test_impossible_head_counts_are_refused():
  with pytest.raises(ValueError, match="num_heads is 5 and num_kv_heads 2"):
    make_config(num_heads=5)
  with pytest.raises(ValueError, match="head_dim is 7"):
    make_config(head_dim=7)
