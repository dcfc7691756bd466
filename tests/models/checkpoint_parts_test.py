"""A model of parts: tower, decoder, connector and adapter of their own."""

import json

import chex
import numpy as np
import pytest

from tests.parity import references
from vrex_jax.models import checkpoint


def _edit(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


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
  assert "'absent'" in references.refusal(parts)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("whole", [False, True])
def test_a_siglip_directory_may_hold_the_whole_model(prefix, whole, parts):
  wanted = checkpoint.load(parts).params["vision"]
  siglip = parts.parent / "siglip"
  text = {"logit_scale": np.ones(1, np.float32)}
  text["text_model.final_layer_norm.bias"] = np.ones(3, np.float32)
  references.rewrite_tensors(
    references.weights(siglip),
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
  found = checkpoint.load(parts).params["vision"]
  chex.assert_trees_all_equal(found, wanted, strict=True)


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
  found = checkpoint.load(parts).params["connector"]
  chex.assert_trees_all_equal(found, wanted, strict=True)


def test_a_pickled_connector_is_refused(parts):
  (parts.parent / "connector.safetensors").rename(parts.parent / "c.pt")
  _edit(parts, "connector.safetensors", "c.pt")
  assert "c.pt is a pickle file" in references.refusal(parts)


@pytest.mark.parametrize(
  ("setting", "said"),
  [
    ("pooled_grid = 9", "has 6 patches a side"),
    ('separator = "ab"', "makes 2 tokens"),
  ],
)
def test_settings_the_parts_cannot_have(setting, said, parts):
  _edit(parts, '.safetensors"', f'.safetensors"\n{setting}')
  assert said in references.refusal(parts)


def test_the_pooled_token_needs_the_pooling_head(parts):
  siglip = parts.parent / "siglip"
  references.edit_json(siglip / "config.json", vision_use_head=False)
  references.rewrite_tensors(
    references.weights(siglip),
    lambda old: {
      name: value for name, value in old.items() if "head." not in name
    },
  )
  assert "use_pooled_head = false" in references.refusal(parts)
  _edit(parts, '.safetensors"', '.safetensors"\nuse_pooled_head = false')
  assert checkpoint.load(parts).config.tokens_per_frame == 10


def test_an_adapter_may_lack_and_the_connector_then_is_missing(parts):
  parts.write_text(
    parts.read_text().replace('[connector]\nfile = "connector.safetensors"', "")
  )
  message = references.refusal(parts)
  assert "4 missing: multi_modal_projector.linear_1.bias" in message
