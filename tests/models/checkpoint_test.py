import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from safetensors import numpy as safetensors_numpy

from tests.parity import references
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint
from vrex_jax.models import video_llm


@pytest.fixture
def onevision(tmp_path):
  """Odd grid, untied head."""
  return references.copy("onevision_odd", tmp_path)


@pytest.fixture
def parts(tmp_path):
  return references.copy("parts", tmp_path)


def _weights(directory):
  return directory / "model.safetensors"


def _equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def _message(path, load=checkpoint.load):
  with pytest.raises(InputError) as caught:
    load(path)
  return str(caught.value)


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
    _weights(onevision),
    lambda old: {
      name: np.asarray(value, np.float32) * np.float32(1.001)
      for name, value in old.items()
    },
  )
  wide = checkpoint.load(onevision).params
  narrow = checkpoint.load(onevision, dtype="bfloat16").params
  _equal(narrow, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide))


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
  tensors = safetensors_numpy.load_file(_weights(onevision))
  shards = {}
  for index, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
    file = f"model-{index}-of-2.safetensors"
    safetensors_numpy.save_file(
      {name: tensors[name] for name in names}, onevision / file
    )
    shards.update(dict.fromkeys(names, file))
  _weights(onevision).unlink()
  (onevision / "model.safetensors.index.json").write_text(
    json.dumps({"weight_map": shards})
  )
  _equal(checkpoint.load(onevision).params, wanted)


def test_a_tied_head_that_is_on_disk_too_is_the_embedding(tmp_path):
  path = references.copy("qwen2_group2", tmp_path)
  wanted = checkpoint.load_decoder(path)

  def add_head(tensors):
    head = tensors["model.embed_tokens.weight"].copy()
    return {**tensors, "lm_head.weight": head}

  references.rewrite_tensors(_weights(path), add_head)
  found = checkpoint.load_decoder(path)
  assert found.config == wanted.config
  assert found.config.tie_embeddings
  _equal(found.params, wanted.params)


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
  _equal(found.params, wanted.params)
  assert len(warned) == 1


def test_every_difference_is_in_one_error(onevision):
  def spoil(tensors):
    del tensors["vision_tower.post_layernorm.bias"]
    del tensors["image_newline"]
    tensors["audio_tower.weight"] = np.ones(3, np.float32)
    name = "multi_modal_projector.linear_1.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    name = "language_model.model.norm.weight"
    tensors[name] = tensors[name].astype(np.int8)
    return tensors

  references.rewrite_tensors(_weights(onevision), spoil)
  message = _message(onevision)
  assert str(onevision) in message
  assert "2 missing: image_newline, vision_tower.post_layernorm.bias" in message
  assert "1 left over: audio_tower.weight" in message
  assert (
    "1 wrongly shaped: multi_modal_projector.linear_1.weight [24, 28] instead"
    " of [28, 24]" in message
  )
  assert (
    "1 not floating point: language_model.model.norm.weight (I8)" in message
  )


def test_a_long_list_is_cut_and_counted(onevision):
  references.rewrite_tensors(
    _weights(onevision), lambda old: {"image_newline": old["image_newline"]}
  )
  message = _message(onevision)
  names = message.partition("missing: ")[2].partition(": use")[0].split(", ")
  count = int(message.partition(" missing")[0].split()[-1])
  assert count > 50
  assert len(names) == 21
  assert names[-1] == f"and {count - 20} more"


def test_two_names_of_one_tensor_are_refused(onevision):
  references.rewrite_tensors(
    _weights(onevision),
    lambda old: {**old, "lm_head.weight": old["language_model.lm_head.weight"]},
  )
  assert "two names of one tensor" in _message(onevision)


def test_buffers_of_old_versions_are_left_out(tmp_path):
  path = references.copy("llama_group1", tmp_path)
  wanted = checkpoint.load_decoder(path).params
  buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
  references.rewrite_tensors(
    _weights(path), lambda old: {**old, buffer: np.ones(3, np.float32)}
  )
  _equal(checkpoint.load_decoder(path).params, wanted)


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda path: _truncate(_weights(path)), "not a whole safetensors file"),
    (lambda path: _weights(path).unlink(), "neither model.safetensors nor"),
    (
      lambda path: _weights(path).rename(path / "pytorch_model.bin"),
      "pytorch_model.bin is a pickle file",
    ),
    (
      lambda path: (path / "config.json").unlink(),
      "config.json does not exist",
    ),
    (
      lambda path: (path / "tokenizer.json").unlink(),
      "tokenizer.json does not exist",
    ),
    (
      lambda path: (path / "config.json").write_text("{"),
      "config.json is not readable JSON",
    ),
    (
      lambda path: (path / "generation_config.json").write_text("x"),
      "generation_config.json is not readable JSON",
    ),
    (
      lambda path: references.edit_json(
        path / "config.json", model_type="bert"
      ),
      "'bert'; supported are llava_onevision",
    ),
  ],
)
def test_a_damaged_directory_is_named_in_one_sentence(change, said, onevision):
  change(onevision)
  message = _message(onevision)
  assert said in message
  assert str(onevision) in message
  assert "\n" not in message


def test_paths_that_are_no_checkpoint(tmp_path, onevision):
  assert "Hugging Face directory or a .toml" in _message(tmp_path / "absent")
  assert "Hugging Face directory or a .toml" in _message(_weights(onevision))
  assert "a.toml does not exist" in _message(tmp_path / "a.toml")
  assert "decoders can be" in _message(onevision, checkpoint.load_decoder)
  text = references.copy("llama_group1", tmp_path)
  assert "'llama'; supported are llava_onevision" in _message(text)


@pytest.mark.parametrize("dtype", ["float16", "int8", "quad"])
def test_other_dtypes_are_refused(dtype, onevision):
  with pytest.raises(InputError, match=f"dtype is {dtype}"):
    checkpoint.load(onevision, dtype=dtype)


def test_parts_have_the_papers_shape(parts):
  config = checkpoint.load(parts).config
  assert config.connector.kind == "videollm_online"
  assert config.tokens_per_frame == 11
  assert config.vision.feature == "post_norm"
  assert config.image.resize == "pad"
  assert config.name == "parts"


def test_the_separator_is_the_id_of_its_text(parts):
  loaded = checkpoint.load(parts)
  separator = loaded.config.connector.separator
  assert loaded.tokenizer.decode([separator]) == ","
  _edit(parts, ".safetensors", '.safetensors"\nseparator = "')
  assert checkpoint.load(parts).config.connector.separator is None


def test_the_template_follows_the_family_and_the_file(parts):
  assert checkpoint.load(parts).template.name == "videollm_online"
  text = parts.read_text()
  parts.write_text(text + '[prompt]\ntemplate = "llama3"\nsystem = "Hi."\n')
  template = checkpoint.load(parts).template
  assert (template.name, template.system) == ("llama3", "Hi.")
  parts.write_text(text + '[prompt]\ntemplate = "absent"\n')
  assert "'absent'" in _message(parts)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("whole", [False, True])
def test_a_siglip_directory_may_hold_the_whole_model(prefix, whole, parts):
  wanted = checkpoint.load(parts).params["vision"]
  siglip = parts.parent / "siglip"
  text = {"logit_scale": np.ones(1, np.float32)}
  text["text_model.final_layer_norm.bias"] = np.ones(3, np.float32)
  references.rewrite_tensors(
    _weights(siglip),
    lambda old: {
      **{prefix + name: value for name, value in old.items()},
      **(text if whole else {}),
    },
  )
  if whole:
    raw = json.loads((siglip / "config.json").read_text())
    (siglip / "config.json").write_text(
      json.dumps({"model_type": "siglip", "vision_config": raw})
    )
  _equal(checkpoint.load(parts).params["vision"], wanted)


@pytest.mark.parametrize(
  "names",
  [
    ("0", "2"),
    ("model.connector.0", "model.connector.2"),
    ("linear_1", "linear_2"),
    ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
  ],
)
def test_connector_files_in_all_spellings(names, parts):
  wanted = checkpoint.load(parts).params["connector"]
  new = dict(zip(("connector.0", "connector.2"), names, strict=True))
  references.rewrite_tensors(
    parts.parent / "connector.safetensors",
    lambda old: {
      f"{new[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
      for name, value in old.items()
    },
  )
  _equal(checkpoint.load(parts).params["connector"], wanted)


def test_a_pickled_connector_is_refused(parts):
  (parts.parent / "connector.safetensors").rename(parts.parent / "c.pt")
  _edit(parts, "connector.safetensors", "c.pt")
  assert "c.pt is a pickle file" in _message(parts)


@pytest.mark.parametrize(
  ("setting", "said"),
  [
    ("pooled_grid = 9", "has 6 patches a side"),
    ('separator = "ab"', "makes 2 tokens"),
  ],
)
def test_settings_the_parts_cannot_have(setting, said, parts):
  _edit(parts, '.safetensors"', f'.safetensors"\n{setting}')
  assert said in _message(parts)


def test_the_pooled_token_needs_the_pooling_head(parts):
  siglip = parts.parent / "siglip"
  references.edit_json(siglip / "config.json", vision_use_head=False)
  references.rewrite_tensors(
    _weights(siglip),
    lambda old: {
      name: value for name, value in old.items() if "head." not in name
    },
  )
  assert "use_pooled_head = false" in _message(parts)
  _edit(parts, '.safetensors"', '.safetensors"\nuse_pooled_head = false')
  assert checkpoint.load(parts).config.tokens_per_frame == 10


def test_an_adapter_may_lack_and_the_connector_then_is_missing(parts):
  parts.write_text(
    parts.read_text().replace('[connector]\nfile = "connector.safetensors"', "")
  )
  message = _message(parts)
  assert "4 missing: multi_modal_projector.linear_1.bias" in message


def _edit(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


_MEASURE = """
import sys
import jax
import numpy as np
from vrex_jax.models import checkpoint

def memory(name):
  with open("/proc/self/status") as file:
    return next(int(l.split()[1]) for l in file if l.startswith(name)) * 1024

checkpoint.load_decoder(sys.argv[1])
with open("/proc/self/clear_refs", "w") as file:
  file.write("5")  # the peak starts again from here
before = memory("VmRSS")
loaded = checkpoint.load_decoder(sys.argv[2])
params = loaded.params
print(
  memory("VmHWM") - before,
  sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
  max(leaf.nbytes for leaf in jax.tree.leaves(params)),
)
"""


@pytest.mark.skipif(
  not os.access("/proc/self/clear_refs", os.W_OK),
  reason="the peak of resident memory can be reset on Linux only",
)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_there_is_never_a_second_copy(stored, tmp_path):
  """Peak while loading: the model, the pages of one tensor, and a slab."""
  small = references.copy("llama_group1", tmp_path)
  large = tmp_path / "large"
  large.mkdir()
  _write_large_decoder(large, jnp.dtype(stored))
  done = subprocess.run(
    [sys.executable, "-c", _MEASURE, str(small), str(large)],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    cwd=pathlib.Path(__file__).parents[2],
  )
  assert done.returncode == 0, done.stderr
  peak, model, largest = map(int, done.stdout.split())
  assert model > 90e6
  slack = 30e6
  assert largest + slack < 0.6 * model
  assert peak <= model + largest + slack


def _write_large_decoder(directory, dtype):
  shape = {"hidden_size": 512, "vocab_size": 8192, "intermediate_size": 1536}
  config = {
    "model_type": "llama",
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    **shape,
  }
  (directory / "config.json").write_text(json.dumps(config))
  width, wide = shape["hidden_size"], shape["intermediate_size"]
  shapes = {"model.norm.weight": (width,)}
  for name in ("lm_head", "model.embed_tokens"):
    shapes[f"{name}.weight"] = (shape["vocab_size"], width)
  for layer in range(config["num_hidden_layers"]):
    prefix = f"model.layers.{layer}"
    for name in ("input_layernorm", "post_attention_layernorm"):
      shapes[f"{prefix}.{name}.weight"] = (width,)
    for name in "qkvo":
      shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (width, width)
    for name in ("gate", "up"):
      shapes[f"{prefix}.mlp.{name}_proj.weight"] = (wide, width)
    shapes[f"{prefix}.mlp.down_proj.weight"] = (width, wide)
  draw = np.random.default_rng(0)
  safetensors_numpy.save_file(
    {
      name: draw.standard_normal(one, np.float32).astype(dtype)
      for name, one in shapes.items()
    },
    _weights(directory),
  )
