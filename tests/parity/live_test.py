"""The same comparison with torch and transformers at hand (`make parity`)."""

import pytest

from tests.parity import references
from vrex_jax import parity
from vrex_jax.models import torch_reference

pytestmark = [
  pytest.mark.parity,
  pytest.mark.usefixtures("torch_and_transformers"),
  # What transformers and torch warn about on import is theirs.
  pytest.mark.filterwarnings("default"),
]


def _differences(name, path):
  inputs, _ = references.stored(name)
  loaded = references.load(name, path)
  ours = parity.our_values(loaded, inputs, question_chunk=4)
  config = None if name in references.TEXT else loaded.config
  live = torch_reference.reference_values(path, inputs, config=config)
  return parity.compare(ours, live, tolerance=references.TOLERANCE)


def _assert_agreement(name, path):
  for difference in _differences(name, path):
    print(f"{name:16} {difference.stage:8} {difference.largest:.1e}")
    assert difference.agrees, difference


@pytest.mark.parametrize("name", references.ALL)
def test_every_stage_equals_transformers(name, tmp_path):
  _assert_agreement(name, references.copy(name, tmp_path))


@pytest.mark.parametrize("layout", ["published", "memory"])
def test_other_key_layouts_equal_transformers(layout, tmp_path):
  path = references.copy("onevision_odd", tmp_path)
  references.use_layout(path, layout)
  _assert_agreement("onevision_odd", path)


@pytest.mark.parametrize("name", ["llama_group4", "qwen2_group7"])
def test_old_config_spelling_equals_transformers(name, tmp_path):
  path = references.copy(name, tmp_path)
  references.use_old_spelling(path)
  _assert_agreement(name, path)


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
