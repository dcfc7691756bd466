"""Live comparisons run when asked for: `make parity`, or `pytest -m parity`."""

import pathlib

import pytest


def pytest_collection_modifyitems(config, items):
  if "parity" in config.getoption("markexpr", ""):
    return
  here = pathlib.Path(__file__).parent
  live = [
    item
    for item in items
    if here in item.path.parents and item.get_closest_marker("parity")
  ]
  items[:] = [item for item in items if item not in live]
  config.hook.pytest_deselected(items=live)


@pytest.fixture(scope="session")
def torch_and_transformers():
  """Skips where the extra `parity` is not installed."""
  pytest.importorskip("torch")
  return pytest.importorskip("transformers")
