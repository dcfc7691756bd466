import json
import math

import jax
import numpy as np
import pytest
from absl import logging
from safetensors import numpy as safetensors_numpy

from tests.parity import references
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint
from vrex_jax.models import lora

PREFIX = "base_model.model."
QUERY = f"{PREFIX}model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(parts):
  return parts.parent / "adapter"


def _tensors(adapter):
  return {
    name: np.asarray(value, np.float32)
    for name, value in safetensors_numpy.load_file(
      adapter / "adapter_model.safetensors"
    ).items()
  }


def _connector(parts):
  return safetensors_numpy.load_file(parts.parent / "connector.safetensors")


def _rewrite(adapter, change):
  references.rewrite_tensors(adapter / "adapter_model.safetensors", change)


def _without(parts):
  parts.write_text(parts.read_text().split("[adapter]")[0])
  return checkpoint.load(parts)


@pytest.mark.parametrize("rslora", [False, True])
def test_merging_adds_the_scaled_product(rslora, parts, adapter):
  """W' = W + alpha / r B A, or alpha / √r, and nothing else changes."""
  references.edit_json(adapter / "adapter_config.json", use_rslora=rslora)
  found = checkpoint.load(parts).params
  base = _without(parts).params
  tensors = _tensors(adapter)
  scale = 6 / (math.sqrt(3) if rslora else 3)

  def product(module):
    name = f"{PREFIX}{module}"
    a, b = (tensors[f"{name}.lora_{side}.weight"] for side in "AB")
    return scale * (b @ a).T

  updates = {
    ("decoder", "layers_0", "q_proj", "kernel"): product(
      "model.layers.0.self_attn.q_proj"
    ),
    ("decoder", "layers_1", "o_proj", "kernel"): product(
      "model.layers.1.self_attn.o_proj"
    ),
    ("decoder", "layers_1", "down_proj", "kernel"): product(
      "model.layers.1.mlp.down_proj"
    ),
    ("decoder", "lm_head", "kernel"): product("lm_head"),
  }

  def check(path, merged, plain):
    update = updates.pop(tuple(key.key for key in path), 0)
    np.testing.assert_allclose(merged, plain + update, rtol=1e-6, atol=1e-6)

  jax.tree_util.tree_map_with_path(check, found, base)
  assert not updates


def test_the_result_is_rounded_once_in_bfloat16(parts):
  """The sum is float32 whatever dtype the weights are stored in."""
  wide = checkpoint.load(parts).params["decoder"]["lm_head"]["kernel"]
  narrow = checkpoint.load(parts, dtype="bfloat16")
  narrow = narrow.params["decoder"]["lm_head"]["kernel"]
  np.testing.assert_array_equal(narrow, wide.astype("bfloat16"))


@pytest.mark.parametrize("name", [".default", ""])
def test_named_adapters_are_read(name, parts, adapter):
  wanted = checkpoint.load(parts).params
  _rewrite(
    adapter,
    lambda tensors: {
      key.replace(".weight", f"{name}.weight"): value
      for key, value in tensors.items()
    },
  )
  found = checkpoint.load(parts).params
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_the_head_saved_beside_its_factors_is_the_base(parts, adapter):
  """PEFT stores lm_head.base_layer when lm_head is a target."""
  wanted = checkpoint.load(parts).params["decoder"]["lm_head"]["kernel"]
  base = _without(parts).params["decoder"]["lm_head"]["kernel"]
  parts.write_text(parts.read_text() + '[adapter]\ndirectory = "adapter"\n')
  saved = f"{PREFIX}lm_head.base_layer.weight"
  for factor in (1, 2):
    _rewrite(
      adapter, lambda old, f=factor: {**old, saved: f * np.asarray(base.T)}
    )
    found = checkpoint.load(parts).params["decoder"]["lm_head"]["kernel"]
    np.testing.assert_allclose(
      found, wanted + (factor - 1) * base, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("wrapper", ["", "modules_to_save.default."])
def test_the_adapter_may_hold_the_connector(wrapper, parts, adapter):
  wanted = checkpoint.load(parts).params["connector"]
  connector = _connector(parts)
  _rewrite(
    adapter,
    lambda old: {
      **old,
      **{
        PREFIX + name.replace("connector.", f"connector.{wrapper}"): value
        for name, value in connector.items()
      },
    },
  )
  text = parts.read_text().replace(
    '[connector]\nfile = "connector.safetensors"\n', ""
  )
  parts.write_text(text)
  found = checkpoint.load(parts).params["connector"]
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_connector_file_wins_over_the_adapters(parts, adapter):
  wanted = checkpoint.load(parts).params["connector"]
  connector = _connector(parts)
  _rewrite(
    adapter,
    lambda old: {
      **old,
      **{PREFIX + name: 0 * value for name, value in connector.items()},
    },
  )
  found = checkpoint.load(parts).params["connector"]
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"use_dora": True}, "use_dora True"),
    ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    ({"bias": "all"}, "bias 'all'"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
    ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"corda_config": {"x": 1}}, "corda_config"),
    ({"new_variant_config": {"x": 1}}, "new_variant_config"),
    ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    ({"r": 0}, "says r 0"),
    ({"r": None}, "says r None"),
    ({"lora_alpha": "6"}, "lora_alpha '6'"),
  ],
)
def test_other_adapters_are_refused_by_name(fields, said, adapter):
  path = adapter / "adapter_config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
  with pytest.raises(InputError) as caught:
    lora.read_adapter(adapter)
  assert said in str(caught.value)
  assert str(path) in str(caught.value)


def test_fan_in_fan_out_is_ignored_as_for_linear_layers(
  parts, adapter, monkeypatch
):
  warned = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: warned.append(text % values)
  )
  wanted = checkpoint.load(parts).params
  references.edit_json(adapter / "adapter_config.json", fan_in_fan_out=True)
  found = checkpoint.load(parts).params
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert any("fan_in_fan_out" in text for text in warned)


@pytest.mark.parametrize(
  ("stored", "said"),
  [
    (f"{QUERY}.lora_magnitude_vector", "lora_magnitude_vector"),
    (
      f"{PREFIX}model.embed_tokens.lora_embedding_A",
      "embed_tokens.lora_embedding_A",
    ),
    (f"{PREFIX}model.layers.1.mlp.up_proj.lora_A.weight", "up_proj.lora_A"),
    ("lm_head.weight", "lm_head.weight"),
  ],
)
def test_tensors_that_cannot_be_merged_are_named(stored, said, adapter):
  _rewrite(adapter, lambda old: {**old, stored: np.ones((3, 2), np.float32)})
  with pytest.raises(InputError, match="neither a pair") as caught:
    lora.read_adapter(adapter)
  assert said in str(caught.value)


def test_updates_the_model_has_no_place_for_are_named(parts, adapter):
  def move(tensors):
    moved = {
      name.replace("layers.0.self_attn.q_proj", "layers.7.self_attn.q_proj"): (
        value
      )
      for name, value in tensors.items()
    }
    key = f"{PREFIX}model.layers.1.mlp.down_proj.lora_B.weight"
    moved[key] = moved[key][:-1].copy()
    norm = f"{PREFIX}model.norm.lora_"
    for side in "AB":
      moved[f"{norm}{side}.weight"] = np.ones((3, 3), np.float32)
    moved[f"{PREFIX}score.weight"] = np.ones(2, np.float32)
    return moved

  _rewrite(adapter, move)
  with pytest.raises(InputError) as caught:
    checkpoint.load(parts)
  message = str(caught.value)
  assert "3 misfits of the adapter" in message
  assert "layers.7.self_attn.q_proj.lora_B.weight changes" in message
  assert "layers.1.mlp.down_proj.lora_A.weight is [3, 32]" in message
  assert "norm.lora_B.weight changes" in message
  assert "1 left over: base_model.model.score.weight" in message


def test_an_adapter_of_a_tied_head_is_refused(parts, adapter):
  config = parts.parent.parent / "llama_group4" / "config.json"
  references.edit_json(config, tie_word_embeddings=True)
  with pytest.raises(InputError, match=r"changes lm_head\.weight, which"):
    checkpoint.load(parts)


def test_a_pickled_adapter_is_refused(adapter):
  (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
  with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle file"):
    lora.read_adapter(adapter)


def test_an_adapter_without_settings_is_refused(adapter):
  (adapter / "adapter_config.json").unlink()
  with pytest.raises(InputError, match=r"adapter_config\.json does not exist"):
    lora.read_adapter(adapter)
