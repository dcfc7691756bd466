"""The same comparison with torch and transformers at hand (`make parity`)."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import torch_reference
from tests.parity import references
from vrex_jax import parity
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import video_llm

pytestmark = [
  pytest.mark.parity,
  pytest.mark.usefixtures("torch_and_transformers"),
  # What transformers and torch warn about on import is theirs.
  pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module", autouse=True)
def as_users_run_it() -> Iterator[None]:
  """Compared with machine code that is optimised, unlike elsewhere."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


def _assert_agreement(name, path, stream=True):
  inputs, _ = references.stored(name)
  loaded = references.load(name, path)
  ours = parity.our_values(loaded, inputs, question_chunk=4, stream=stream)
  config = None if name in references.TEXT else loaded.config
  live = torch_reference.reference_values(path, inputs, config=config)
  wanted = {stage: live[stage] for stage in (live if stream else ours)}
  for difference in parity.compare(
    ours, wanted, tolerance=references.TOLERANCE
  ):
    print(f"{name:16} {difference.stage:8} {difference.largest:.1e}")
    assert difference.agrees, difference


@pytest.mark.parametrize("name", references.ALL)
def test_every_stage_equals_transformers(name, tmp_path):
  _assert_agreement(name, references.copy(name, tmp_path))


@pytest.mark.parametrize("layout", ["published", "memory"])
def test_other_key_layouts_equal_transformers(layout, tmp_path):
  path = references.copy("onevision_odd", tmp_path)
  references.use_layout(path, layout)
  _assert_agreement("onevision_odd", path, stream=False)


@pytest.mark.parametrize("name", ["llama_group4", "qwen2_group7"])
def test_old_config_spelling_equals_transformers(name, tmp_path):
  path = references.copy(name, tmp_path)
  references.use_old_spelling(path)
  _assert_agreement(name, path, stream=False)


@pytest.mark.parametrize("name", references.ALL)
def test_stored_references_are_what_transformers_computes(name, tmp_path):
  path = references.copy(name, tmp_path)
  inputs, stored = references.stored(name)
  config = None
  if name not in references.TEXT:
    config = references.load(name, path).config
  live = torch_reference.reference_values(path, inputs, config=config)
  assert set(live) == set(stored)
  for difference in parity.compare(live, stored, tolerance=2e-5):
    assert difference.agrees, difference


def test_a_whole_video_with_its_newline_equals_transformers(tmp_path):
  """Embedded at once, a video ends in one newline token, which is ours too."""
  path = references.copy("onevision_odd", tmp_path)
  inputs, _ = references.stored("onevision_odd")
  loaded = references.load("onevision_odd", path)
  config, params = loaded.config, loaded.params
  decoder = decoder_lib.Decoder(config.decoder)
  variables = {"params": params["decoder"]}
  text = lambda ids: decoder.apply(variables, jnp.array(ids), method="embed")
  frames = video_llm.embed_frames(config, params, jnp.asarray(inputs.frames))
  width = config.decoder.hidden_size
  chunks = [
    text(inputs.prompt),
    frames.reshape(-1, width),
    video_llm.newline_embedding(params)[None],
    text(inputs.question),
  ]
  ours = decoder.apply(variables, jnp.concatenate(chunks)[None])
  live = torch_reference.whole_video_logits(path, inputs, config=config)
  np.testing.assert_allclose(ours[0], live, atol=references.TOLERANCE, rtol=0)
