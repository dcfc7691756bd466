"""What is exported is what the loader of real checkpoints reads back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import checkpoint
from vrex_jax.models import config as config_lib
from vrex_jax.models import prompt
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_batches
from vrex_jax.tasks import rooms_words
from vrex_jax.training import export
from vrex_jax.training import objective
from vrex_jax.training import small_model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  directory = tmp_path_factory.mktemp("export") / "model"
  config = small_model.shape()
  params = video_llm.random_parameters(config, jax.random.key(3))
  paths = export.export(config, params, small_model.TEMPLATE, directory)
  return config, params, directory, paths


def test_it_is_small_and_holds_the_files_it_names(written):
  *_, directory, paths = written
  assert sorted(path.name for path in directory.iterdir()) == sorted(
    export.FILES
  )
  assert [path.name for path in paths] == list(export.FILES)
  assert sum(path.stat().st_size for path in paths) < 10e6


def test_shape_and_weights_come_back(written):
  config, params, directory, _ = written
  loaded = checkpoint.load(directory)
  own = dataclasses.replace(config, name="model", template="qwen2")
  assert loaded.config == own
  assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
  for one, other in zip(
    jax.tree.leaves(params), jax.tree.leaves(loaded.params), strict=True
  ):
    np.testing.assert_array_equal(one, other)
  assert rooms_words.STOP in loaded.stop_ids


def test_logits_are_equal(written):
  config, params, directory, _ = written
  loaded = checkpoint.load(directory)
  data = rooms_batches.BatchConfig(
    streams=1, frames=6, span=40, questions=3, segments=3, least_segments=2
  )
  batch = rooms_batches.draw_batch(data, np.random.default_rng(0))
  np.testing.assert_array_equal(
    objective.logits(config, params, batch),
    objective.logits(loaded.config, loaded.params, batch),
  )


def test_prompt_and_questions_are_the_rows_trained_on(written):
  *_, directory, _ = written
  tokenizer = checkpoint.load(directory).tokenizer
  template = prompt.load_template(str(directory / "prompt_template.toml"))
  assert template == small_model.TEMPLATE
  assert prompt.prompt_tokens(template, tokenizer) == [rooms_words.START]
  text = "colour-of disc - ?"
  assert prompt.question_tokens(
    template, tokenizer, text
  ) == rooms_words.encode(text)
  assert prompt.stop_ids(template, tokenizer) == (rooms_words.STOP,)
  assert prompt.resume_tokens(template, tokenizer) == [rooms_words.STOP]


def test_half_width_halves_the_file(written, tmp_path):
  config, params, directory, _ = written
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  export.export(config, half, small_model.TEMPLATE, tmp_path)
  size = lambda folder: (folder / "model.safetensors").stat().st_size
  assert size(tmp_path) < 0.52 * size(directory)
  loaded = checkpoint.load(tmp_path, dtype="bfloat16")
  for one, other in zip(
    jax.tree.leaves(half), jax.tree.leaves(loaded.params), strict=True
  ):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  "change",
  [
    {"connector": config_lib.ConnectorConfig(kind="onevision", pooled_grid=1)},
    {
      "connector": config_lib.ConnectorConfig(
        kind="onevision", pooled_grid=2, separator=3
      )
    },
  ],
)
def test_a_shape_without_a_place_in_the_layout_is_refused(change):
  config = dataclasses.replace(small_model.shape(), **change)
  with pytest.raises(ValueError, match="not LLaVA-OneVision's"):
    export.config_json(config)
