"""Models with random weights, and what is refused before they are made."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import references
from vrex_jax import errors
from vrex_jax import model_source
from vrex_jax.models import checkpoint
from vrex_jax.models import presets
from vrex_jax.models import video_llm


def load(**changes):
  given = {"checkpoint": None, "preset": "tiny", "dtype": "float32", "seed": 0}
  return model_source.load_model(**{**given, **changes})


def flat(model):
  leaves = jax.tree.leaves(model.params)
  return np.concatenate([np.ravel(leaf) for leaf in leaves])


@pytest.fixture(scope="module")
def tiny():
  return load()


def test_the_seed_decides_the_weights(tiny):
  chex.assert_trees_all_equal(load().params, tiny.params)
  mine, other = flat(tiny), flat(load(seed=1))
  assert mine.shape == other.shape
  assert np.mean(mine == other) < 0.2  # biases and scales are constants
  assert np.all(np.isfinite(mine))


def test_the_weights_have_the_preset_s_shapes_and_the_dtype(tiny):
  assert tiny.config == presets.preset("tiny")
  for name, model in (("float32", tiny), ("bfloat16", load(dtype="bfloat16"))):
    wanted = video_llm.parameter_shapes(tiny.config, jnp.dtype(name))
    chex.assert_trees_all_equal_shapes_and_dtypes(model.params, wanted)


def test_random_weights_are_said_to_be_random(tiny):
  lines = []
  load(report=lines.append)
  (line,) = lines
  count = video_llm.num_parameters(tiny.params)
  assert f"{count / 1e6:.4g} M RANDOM weights" in line
  assert "preset tiny" in line


def test_a_template_replaces_the_model_s_own(tiny):
  assert tiny.template.name == "plain"
  assert tiny.stop_ids == ()
  changed = load(template="qwen2")
  assert changed.template.name == "qwen2"
  ends = ["<|im_end|>", "<|endoftext|>"]
  assert set(changed.stop_ids) == set(map(changed.tokenizer.token_id, ends))
  chex.assert_trees_all_equal(changed.params, tiny.params)


def test_a_checkpoint_s_stop_ids_stay_beside_the_template_s(tmp_path):
  path = references.copy("onevision_even", tmp_path)
  references.edit_json(path / "generation_config.json", eos_token_id=[3])
  lines = []
  own = checkpoint.load(path)
  model = load(
    checkpoint=str(path), preset="none", template="plain", report=lines.append
  )
  assert model.template.name == "plain"
  assert 3 in model.stop_ids
  assert set(model.stop_ids) == set(own.stop_ids)
  assert lines == [f"checkpoint {path}"]
  chex.assert_trees_all_equal(model.params, own.params)


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"preset": "huge"}, "unknown preset 'huge'; it must be one of tiny"),
    ({"dtype": "float16"}, "--dtype is 'float16'; it must be float32 or"),
    ({"template": "none"}, "--template is 'none'"),
    ({"checkpoint": ""}, "Hugging Face directory"),
    ({"checkpoint": "nowhere"}, "nowhere"),
  ],
)
def test_what_cannot_be_loaded_is_refused(changes, sentence):
  with pytest.raises(errors.InputError) as told:
    load(**changes)
  assert sentence in str(told.value)
  assert "\n" not in str(told.value)


def test_dtypes_by_name():
  assert model_source.storage_dtype("float32") == jnp.float32
  assert model_source.storage_dtype("bfloat16") == jnp.bfloat16
  with pytest.raises(errors.InputError, match="--dtype is 'int8'"):
    model_source.storage_dtype("int8")


def test_activations_are_float32_on_cpu_alone(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  assert model_source.activation_dtype("bfloat16") == jnp.float32
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert model_source.activation_dtype("bfloat16") == jnp.bfloat16
  assert model_source.activation_dtype("float32") == jnp.float32


def test_what_does_not_fit_into_memory_is_refused_in_gibibytes(monkeypatch):
  monkeypatch.setattr(model_source, "_free_bytes", lambda: 3 * 2**30)
  model_source.check_memory(3 * 2**30, "a cache", "make it smaller")
  with pytest.raises(errors.InputError) as told:
    model_source.check_memory(7 * 2**29, "a cache", "make it smaller")
  assert str(told.value) == (
    "a cache needs 3.5 GiB and 3.0 GiB are free: make it smaller"
  )


def test_a_preset_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
  monkeypatch.setattr(model_source, "_free_bytes", lambda: 2**30)
  with pytest.raises(errors.InputError) as told:
    load(preset="llama3-8b", dtype="bfloat16")
  assert "preset llama3-8b with bfloat16 weights" in str(told.value)
  assert "smaller --preset" in str(told.value)


def test_where_free_memory_is_unknown_nothing_is_refused(monkeypatch):
  monkeypatch.setattr(model_source, "_free_bytes", lambda: None)
  model_source.check_memory(2**80, "anything", "nothing")


class Device:
  """An accelerator that tells, or does not tell, its memory."""

  def __init__(self, stats):
    self.memory_stats = lambda: stats


@pytest.mark.parametrize(
  ("stats", "free"),
  [
    (None, None),
    ({"bytes_in_use": 5}, None),
    ({"bytes_limit": 9, "bytes_in_use": 5}, 4),
    ({"bytes_limit": 9}, 9),
  ],
)
def test_an_accelerator_s_free_memory_is_what_it_says(monkeypatch, stats, free):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "devices", lambda: [Device(stats)])
  assert model_source._free_bytes() == free
