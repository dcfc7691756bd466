"""Figures, and what is said without matplotlib."""

import sys

import pytest

from vrex_jax import errors
from vrex_jax import plotting


def test_a_figure_is_made_without_a_window(tmp_path):
  pytest.importorskip("matplotlib")
  plotting.check_installed()
  figure = plotting.figure(figsize=(2, 1))
  figure.subplots().plot([0, 1])
  figure.savefig(tmp_path / "plot.png")
  assert "matplotlib.pyplot" not in type(figure.canvas).__module__
  assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(errors.InputError, match=r"pip install -e '.\[plot\]"):
    plotting.check_installed()
