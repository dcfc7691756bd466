import json

import pytest
from absl import logging

from tests.parity import references
from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import hf_config
from vrex_jax.models import hf_processor

LLAMA = {
  "model_type": "llama",
  "hidden_size": 64,
  "intermediate_size": 96,
  "num_hidden_layers": 2,
  "num_attention_heads": 8,
  "vocab_size": 32,
}
LLAMA3 = {
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
}


def _decoder(**changes):
  return hf_config.decoder_config({**LLAMA, **changes}, source="config.json")


def test_left_out_fields_have_the_reference_class_defaults():
  """What a published SigLIP-L and Qwen2 leave out of their files."""
  large = hf_config.vision_config(
    {
      "model_type": "siglip_vision_model",
      "hidden_size": 1024,
      "image_size": 384,
      "intermediate_size": 4096,
      "num_attention_heads": 16,
      "num_hidden_layers": 24,
    },
    source="config.json",
    feature="post_norm",
  )
  assert (large.patch_size, large.grid) == (16, 24)
  assert large.use_head
  assert large.layer_norm_eps == 1e-6
  qwen2 = hf_config.decoder_config(
    {"model_type": "qwen2", "num_key_value_heads": None, "head_dim": None},
    source="config.json",
  )
  assert (qwen2.num_kv_heads, qwen2.head_dim) == (32, 128)
  assert qwen2.qkv_bias
  assert not _decoder().qkv_bias
  assert qwen2.rope.theta == 10000.0
  assert _decoder().max_position_embeddings == 2048


def test_head_dim_is_given_or_derived():
  assert _decoder().head_dim == 8
  assert _decoder(head_dim=10).head_dim == 10
  assert _decoder(head_dim=10, num_attention_heads=7).head_dim == 10
  assert _decoder(num_key_value_heads=2).group_size == 4
  assert _decoder().group_size == 1


@pytest.mark.parametrize(
  ("new", "old", "wanted"),
  [
    (
      {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
      {"rope_theta": 5e5},
      config_lib.RopeConfig(theta=5e5),
    ),
    (
      {
        "rope_parameters": {
          "rope_type": "linear",
          "factor": 4.0,
          "rope_theta": 1e4,
        }
      },
      {"rope_scaling": {"type": "linear", "factor": 4.0}},
      config_lib.RopeConfig(theta=1e4, scaling="linear", factor=4.0),
    ),
    (
      {
        "rope_parameters": {
          "rope_type": "llama3",
          "rope_theta": 5e5,
          "original_max_position_embeddings": 512,
          **LLAMA3,
        }
      },
      {
        "rope_theta": 5e5,
        "rope_scaling": {
          "rope_type": "llama3",
          "original_max_position_embeddings": 512,
          **LLAMA3,
        },
      },
      config_lib.RopeConfig(
        theta=5e5,
        scaling="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=512,
      ),
    ),
  ],
)
def test_both_rope_spellings_mean_the_same(new, old, wanted):
  assert _decoder(**new).rope == wanted
  assert _decoder(**old).rope == wanted


def test_llama3_without_original_length_takes_the_models():
  rope = _decoder(rope_scaling={"rope_type": "llama3", **LLAMA3}).rope
  assert rope.original_max_position_embeddings == 2048


@pytest.mark.parametrize("name", references.TEXT)
def test_old_spelling_of_a_whole_file(name, tmp_path):
  path = references.copy(name, tmp_path)
  read = lambda: hf_config.decoder_config(
    json.loads((path / "config.json").read_text()), source="config.json"
  )
  wanted = read()
  references.use_old_spelling(path)
  assert "rope_parameters" not in (path / "config.json").read_text()
  assert read() == wanted


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"model_type": "mistral"}, "decoders can be llama, qwen2"),
    ({"hidden_act": "gelu"}, "only 'silu' is implemented"),
    ({"attention_bias": True}, "attention_bias True"),
    ({"mlp_bias": True}, "mlp_bias True"),
    ({"use_sliding_window": True}, "use_sliding_window True"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ({"quantization_config": {"bits": 4}}, "unquantised"),
    ({"num_attention_heads": 7}, "hidden_size 64 and num_attention_heads 7"),
    ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
    ({"head_dim": 7}, "head_dim of 7"),
    ({"hidden_size": "64"}, "hidden_size '64'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps 'small'"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings 'yes'"),
    ({"rope_theta": "big"}, "rope_theta 'big'"),
    (
      {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
      "rope type 'yarn'; supported are default, linear and llama3",
    ),
    ({"rope_scaling": {"type": "linear"}}, "factor None"),
    ({"rope_parameters": {"full_attention": {}}}, "one flat object"),
  ],
)
def test_what_is_not_implemented_is_refused_by_name(changes, said):
  with pytest.raises(InputError) as caught:
    _decoder(**changes)
  assert "config.json" in str(caught.value)
  assert said in str(caught.value)


@pytest.mark.parametrize(
  ("section", "changes", "said"),
  [
    (None, {"model_type": "llava_next_video"}, "supported are llava_onevision"),
    (None, {"vision_feature_layer": -2}, "vision_feature_layer -2"),
    (None, {"vision_feature_layer": [-1, -2]}, "vision_feature_layer [-1, -2]"),
    (
      None,
      {"vision_feature_select_strategy": "default"},
      "vision_feature_select_strategy 'default'",
    ),
    (None, {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
    (None, {"vision_config": None}, "no vision_config object"),
    (None, {"text_config": None}, "no text_config object"),
    ("vision_config", {"model_type": "clip_vision_model"}, "SigLIP"),
    ("vision_config", {"hidden_act": "gelu"}, "gelu_pytorch_tanh"),
    ("vision_config", {"num_attention_heads": 5}, "num_attention_heads 5"),
    ("text_config", {"use_sliding_window": True}, "use_sliding_window True"),
  ],
)
def test_onevision_variants_not_implemented(section, changes, said, tmp_path):
  path = references.copy("onevision_odd", tmp_path)
  if section is not None:
    raw = json.loads((path / "config.json").read_text())
    changes = {section: {**raw[section], **changes}}
  references.edit_json(path / "config.json", **changes)
  with pytest.raises(InputError) as caught:
    hf_config.model_config(path)
  assert said in str(caught.value)
  assert str(path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
  ("name", "grid", "pooled", "tied"),
  [("onevision_even", 4, 2, True), ("onevision_odd", 5, 3, False)],
)
def test_onevision_shapes(name, grid, pooled, tied, tmp_path):
  config = hf_config.model_config(references.copy(name, tmp_path))
  assert config.name == name
  assert config.vision.grid == grid
  assert config.vision.feature == "last_hidden"
  assert config.tokens_per_frame == pooled**2
  assert config.decoder.tie_embeddings == tied
  assert config.image.mean == (0.5, 0.4, 0.3)
  assert config.image.std == (0.5, 0.25, 0.2)


def test_either_level_may_tie_the_embeddings(tmp_path):
  """Published OneVision files say it in text_config only."""
  path = references.copy("onevision_odd", tmp_path)
  raw = json.loads((path / "config.json").read_text())
  text = {**raw["text_config"], "tie_word_embeddings": True}
  references.edit_json(path / "config.json", text_config=text)
  assert hf_config.model_config(path).decoder.tie_embeddings
  text["tie_word_embeddings"] = False
  references.edit_json(
    path / "config.json", text_config=text, tie_word_embeddings=True
  )
  assert hf_config.model_config(path).decoder.tie_embeddings


def test_a_whole_siglip_model_gives_its_vision_half():
  raw = {
    "model_type": "siglip",
    "vision_config": {"image_size": 64, "vision_use_head": False},
    "text_config": {"hidden_act": "anything"},
  }
  vision = hf_config.vision_config(raw, source="x", feature="post_norm")
  assert (vision.image_size, vision.use_head) == (64, False)


def test_broken_json_names_the_file(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(InputError, match="does not exist"):
    hf_config.model_config(tmp_path)
  path.write_text('{"model_type": ')
  with pytest.raises(InputError, match=r"config\.json is not readable JSON"):
    hf_config.model_config(tmp_path)
  path.write_text("[1]")
  with pytest.raises(InputError, match="holds a list"):
    hf_config.model_config(tmp_path)
  path.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(InputError, match="not readable JSON"):
    hf_config.model_config(tmp_path)


def test_all_files_are_asked_for_end_ids(tmp_path):
  assert hf_config.end_ids(tmp_path) == ()
  _write(tmp_path / "generation_config.json", eos_token_id=[5, 3])
  _write(
    tmp_path / "config.json", eos_token_id=9, text_config={"eos_token_id": 3}
  )
  assert hf_config.end_ids(tmp_path) == (3, 5, 9)
  _write(tmp_path / "config.json", eos_token_id="</s>")
  with pytest.raises(InputError, match="eos_token_id '</s>'"):
    hf_config.end_ids(tmp_path)


def _image(folder, **options):
  return hf_processor.image_config(
    folder, **{"size": 16, "resize": "stretch", **options}
  )


def test_processor_files_are_looked_up_in_the_reference_order(tmp_path):
  _write(
    tmp_path / "processor_config.json",
    image_processor={"image_mean": [0.1] * 3},
  )
  assert _image(tmp_path).mean == (0.1, 0.1, 0.1)
  _write(tmp_path / "preprocessor_config.json", image_mean=[0.2] * 3)
  assert _image(tmp_path).mean == (0.2, 0.2, 0.2)
  _write(tmp_path / "video_preprocessor_config.json", image_mean=[0.3] * 3)
  assert _image(tmp_path).mean == (0.3, 0.3, 0.3)
  _write(
    tmp_path / "processor_config.json",
    video_processor={"image_mean": [0.4] * 3},
  )
  assert _image(tmp_path).mean == (0.4, 0.4, 0.4)


def test_without_a_processor_file_siglip_values_and_a_warning(
  tmp_path, monkeypatch
):
  warned = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: warned.append(text % values)
  )
  config = _image(tmp_path)
  assert config.mean == config.std == (0.5, 0.5, 0.5)
  assert len(warned) == 1
  assert "no preprocessor file" in warned[0]


def test_no_normalisation_is_zero_mean_and_unit_deviation(tmp_path):
  _write(
    tmp_path / "preprocessor_config.json",
    do_normalize=False,
    image_mean=[0.2] * 3,
  )
  config = _image(tmp_path, resize="pad")
  assert (config.mean, config.std) == ((0.0,) * 3, (1.0,) * 3)
  assert config.resize == "pad"


@pytest.mark.parametrize("size", [16, {"height": 16, "width": 16}, None])
def test_the_towers_size_is_accepted(size, tmp_path):
  _write(tmp_path / "preprocessor_config.json", size=size)
  assert _image(tmp_path).size == 16


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"size": {"height": 16, "width": 24}}, "height 16 and width 16"),
    ({"size": {"shortest_edge": 16}}, "shortest_edge"),
    ({"size": 8}, "resizes to 8"),
    ({"do_center_crop": True}, "do_center_crop True"),
    ({"rescale_factor": 1.0}, "1/255"),
    ({"do_rescale": False}, "1/255"),
    ({"image_mean": 0.5}, "image_mean 0.5"),
    ({"image_std": [1, 2]}, "image_std [1, 2]"),
  ],
)
def test_other_preprocessing_is_refused(fields, said, tmp_path):
  _write(tmp_path / "preprocessor_config.json", **fields)
  with pytest.raises(InputError) as caught:
    _image(tmp_path)
  assert said in str(caught.value)
  assert "preprocessor_config.json" in str(caught.value)


def _write(path, **fields):
  path.write_text(json.dumps(fields))
