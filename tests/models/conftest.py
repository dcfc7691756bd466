"""Private copies of stored checkpoints, for tests that edit them."""

import pytest

from tests.parity import references


@pytest.fixture
def onevision(tmp_path):
  """A directory: odd grid, untied head."""
  return references.copy("onevision_odd", tmp_path)


@pytest.fixture
def parts(tmp_path):
  """A model of parts: adapter of rank 3, alpha 6, rslora."""
  return references.copy("parts", tmp_path)
