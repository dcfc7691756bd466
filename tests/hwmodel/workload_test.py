"""Counts against arithmetic on the model's shapes."""

import jax
import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import workload
from vrex_jax.models import presets


def test_the_paper_s_model_has_the_known_sizes():
  """Llama-3-8B: 6.98 G weights in layers; 139.6 GF a frame of 10 tokens."""
  work = points.work("flexgen", 40000)
  layers = work.layers
  dense = layers.qkv_macs + layers.feed_macs
  assert 2e-9 * float(dense.sum()) == pytest.approx(139.6, abs=0.1)
  weights = layers.qkv_weight_bytes + layers.feed_weight_bytes
  assert 1e-9 * float(weights.sum()) == pytest.approx(13.96, abs=0.01)
  kv = layers.kv_read_bytes.sum()
  assert float(kv) == pytest.approx(40000 * 131072, rel=1e-6)
  # 209.7 GF over the past, and the chunk's own triangle beside it.
  own = 4 * 128 * 32 * 32 * 55
  attention = 2 * float(layers.attention_macs.sum()) - own
  assert 1e-9 * attention == pytest.approx(209.7, abs=0.1)


def test_vision_is_the_tower_s():
  """SigLIP-L: 381 GF and 303 M parameters, pooling head and connector apart."""
  macs, parameters = workload.vision_counts(points.MODEL)
  assert 2e-9 * macs == pytest.approx(381, rel=0.01)
  tower = parameters - (1024 * 4096 + 4096**2) - (4 * 1024**2 + 8 * 1024**2)
  assert 1e-6 * tower == pytest.approx(303, rel=0.01)


def test_a_text_token_has_a_head_and_no_vision():
  work = points.work("flexgen", 1024, stage="answer")
  assert float(work.vision_macs) == 0
  assert 2e-9 * float(work.macs) == pytest.approx(15.5, rel=0.02)
  assert 1e-9 * float(work.dram_bytes) == pytest.approx(15.1, rel=0.02)


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_any_decoder_is_priced(name):
  """Dense MACs of a token are its weights, embeddings apart."""
  model = presets.preset(name)
  decoder = model.decoder
  zero = np.zeros(decoder.num_layers, np.float32)
  layers = workload.dense_layers(decoder, 1.0, zero)
  hidden, width = decoder.hidden_size, decoder.head_dim
  square = hidden * width * (2 * decoder.num_heads + 2 * decoder.num_kv_heads)
  each = square + 3 * hidden * decoder.intermediate_size
  np.testing.assert_allclose(layers.qkv_macs + layers.feed_macs, each)


def test_precision_scales_what_is_stored():
  wide, narrow = points.work().layers, points.work(value_bytes=1.0).layers
  assert workload.KV_VALUE_BYTES == {"bf16": 2.0, "int8": 1.0, "int4": 0.5}
  for name in ("fetch_bytes", "kv_read_bytes", "kv_write_bytes"):
    np.testing.assert_allclose(
      getattr(narrow, name), 0.5 * getattr(wide, name), rtol=1e-6
    )
  np.testing.assert_array_equal(narrow.table_bytes, wide.table_bytes)


def test_the_first_layer_attends_to_all_and_fetches_nothing():
  layers = points.work().layers
  assert layers.fetch_bytes[0] == 0
  assert layers.scores[0] == 0
  assert layers.kv_read_bytes[0] > layers.kv_read_bytes[1]


def test_what_does_not_fit_is_told_by_how_much():
  work = points.work(batch=16.0)
  with pytest.raises(InputError, match=r"needs 4\d\.\d GB .* 1\d\.\d GB less"):
    workload.check_fits(work, 32e9, "vrex8")
  workload.check_fits(work, 80e9, "vrex48")


def test_the_law_never_fetches_more_than_there_is():
  cached = np.geomspace(1, 1e6, 50).astype(np.float32)
  tokens = jax.jit(residency.LAW)(cached)
  assert np.all(np.diff(tokens) >= 0)
  assert np.all(tokens <= cached)
  window = residency.ResidentWindow(ratio=0.3, window_tokens=1000.0)
  np.testing.assert_allclose(
    window(cached), 0.3 * np.maximum(cached - 1000, 0), rtol=1e-5
  )
