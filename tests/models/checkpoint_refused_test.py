"""Checkpoints that are refused: every fault is named in one sentence."""

import numpy as np
import pytest

from tests.parity import references
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint


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

  references.rewrite_tensors(references.weights(onevision), spoil)
  message = references.refusal(onevision)
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
    references.weights(onevision),
    lambda old: {"image_newline": old["image_newline"]},
  )
  message = references.refusal(onevision)
  names = message.partition("missing: ")[2].partition(": use")[0].split(", ")
  count = int(message.partition(" missing")[0].split()[-1])
  assert count > 50
  assert len(names) == 21
  assert names[-1] == f"and {count - 20} more"


def test_two_names_of_one_tensor_are_refused(onevision):
  references.rewrite_tensors(
    references.weights(onevision),
    lambda old: {**old, "lm_head.weight": old["language_model.lm_head.weight"]},
  )
  assert "two names of one tensor" in references.refusal(onevision)


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      lambda path: _truncate(references.weights(path)),
      "not a whole safetensors file",
    ),
    (
      lambda path: references.weights(path).unlink(),
      "neither model.safetensors nor",
    ),
    (
      lambda path: references.weights(path).rename(path / "pytorch_model.bin"),
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
  message = references.refusal(onevision)
  assert said in message
  assert str(onevision) in message
  assert "\n" not in message


def test_paths_that_are_no_checkpoint(tmp_path, onevision):
  assert "Hugging Face directory or a .toml" in references.refusal(
    tmp_path / "absent"
  )
  assert "Hugging Face directory or a .toml" in references.refusal(
    references.weights(onevision)
  )
  assert "a.toml does not exist" in references.refusal(tmp_path / "a.toml")
  assert "decoders can be" in references.refusal(
    onevision, checkpoint.load_decoder
  )
  text = references.copy("llama_group1", tmp_path)
  assert "'llama'; supported are llava_onevision" in references.refusal(text)


@pytest.mark.parametrize("dtype", ["float16", "int8", "quad"])
def test_other_dtypes_are_refused(dtype, onevision):
  with pytest.raises(InputError, match=f"dtype is {dtype}"):
    checkpoint.load(onevision, dtype=dtype)
