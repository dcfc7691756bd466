"""What is loaded from a directory: the tree, its values, its stop ids."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from safetensors import numpy as safetensors_numpy

from tests.parity import references
from vrex_jax.models import checkpoint
from vrex_jax.models import video_llm


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*references.ONEVISION, "parts"])
def test_the_tree_is_the_one_the_model_is_built_from(name, dtype, tmp_path):
  loaded = checkpoint.load(references.copy(name, tmp_path), dtype=dtype)
  wanted = video_llm.parameter_shapes(loaded.config, jnp.dtype(dtype))
  found = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), loaded.params
  )
  assert found == wanted
  assert all(
    isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded.params)
  )


def test_bfloat16_is_float32_rounded(onevision):
  references.rewrite_tensors(
    references.weights(onevision),
    lambda old: {
      name: np.asarray(value, np.float32) * np.float32(1.001)
      for name, value in old.items()
    },
  )
  wide = checkpoint.load(onevision).params
  narrow = checkpoint.load(onevision, dtype="bfloat16").params
  rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide)
  chex.assert_trees_all_equal(narrow, rounded, strict=True)


def test_stop_ids_come_from_all_files_and_the_template(onevision):
  references.edit_json(
    onevision / "generation_config.json", eos_token_id=[3, 258]
  )
  loaded = checkpoint.load(onevision)
  by_name = [
    loaded.tokenizer.token_id(token)
    for token in ("<|im_end|>", "<|endoftext|>")
  ]
  assert loaded.template.name == "qwen2"
  # 7 is what config.json says.
  assert set(loaded.stop_ids) == {3, 7, 258, *by_name}


def test_shards_equal_one_file(onevision):
  wanted = checkpoint.load(onevision).params
  tensors = safetensors_numpy.load_file(references.weights(onevision))
  shards = {}
  for index, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
    file = f"model-{index}-of-2.safetensors"
    safetensors_numpy.save_file(
      {name: tensors[name] for name in names}, onevision / file
    )
    shards.update(dict.fromkeys(names, file))
  references.weights(onevision).unlink()
  (onevision / "model.safetensors.index.json").write_text(
    json.dumps({"weight_map": shards})
  )
  found = checkpoint.load(onevision).params
  chex.assert_trees_all_equal(found, wanted, strict=True)


def test_a_tied_head_that_is_on_disk_too_is_the_embedding(tmp_path):
  path = references.copy("qwen2_group2", tmp_path)
  wanted = checkpoint.load_decoder(path)

  def add_head(tensors):
    head = tensors["model.embed_tokens.weight"].copy()
    return {**tensors, "lm_head.weight": head}

  references.rewrite_tensors(references.weights(path), add_head)
  found = checkpoint.load_decoder(path)
  assert found.config == wanted.config
  assert found.config.tie_embeddings
  chex.assert_trees_all_equal(found.params, wanted.params, strict=True)


def test_a_head_that_differs_is_used_though_the_file_says_tied(
  tmp_path, monkeypatch
):
  """As transformers 5 does; it also warns."""
  warned = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: warned.append(text % values)
  )
  path = references.copy("qwen2_group7", tmp_path)
  wanted = checkpoint.load_decoder(path)
  assert not warned
  references.edit_json(path / "config.json", tie_word_embeddings=True)
  found = checkpoint.load_decoder(path)
  assert not found.config.tie_embeddings
  chex.assert_trees_all_equal(found.params, wanted.params, strict=True)
  assert len(warned) == 1


def test_buffers_of_old_versions_are_left_out(tmp_path):
  path = references.copy("llama_group1", tmp_path)
  wanted = checkpoint.load_decoder(path).params
  buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
  references.rewrite_tensors(
    references.weights(path),
    lambda old: {**old, buffer: np.ones(3, np.float32)},
  )
  found = checkpoint.load_decoder(path).params
  chex.assert_trees_all_equal(found, wanted, strict=True)
