"""Fronts as a picture: ticks that can be read, panels that say something."""

import pytest

from vrex_jax import plotting
from vrex_jax.codesign import plots


@pytest.mark.parametrize(
  ("low", "high"),
  [(7.3, 46.0), (6.2, 11.8), (1206.0, 1227.0), (0.11, 6.4), (0.999, 1.001)],
)
def test_every_range_has_ticks_to_read_values_by(low, high):
  ticks = plots._ticks(low, high)
  assert 3 <= len(ticks) <= 12
  assert low <= ticks[0]
  assert ticks[-1] <= high
  assert ticks == sorted(set(ticks))


@pytest.fixture
def drawn(monkeypatch):
  """Figures in the order they were made."""
  made = []
  figure = plotting.figure

  def kept(**options):
    made.append(figure(**options))
    return made[-1]

  monkeypatch.setattr(plotting, "figure", kept)
  return made


def _said(figure):
  return "\n".join(text.get_text() for text in figure.texts)


def _save(fronts, path, drop):
  figures = {"area_m2": 9e-6, "accuracy_drop": drop}
  plots.save_fronts(
    fronts,
    [plots.Point("sizing of mine", figures, 4.0)],
    "latency, s",
    path,
    asked={"area": 1e-5, "accuracy": 0.01},
    title="mine, llama3-8b",
  )
  assert path.stat().st_size > 0


def test_limits_are_marked_and_an_area_that_moves_nothing_is_not_drawn(
  drawn, tmp_path
):
  line = [{"limit": 0.01 * at, "objective": 9.0 / at} for at in (1, 2, 3)]
  flat = [
    {"limit": 1e-5 * at, "objective": None if at == 1 else 3.0}
    for at in (1, 2, 3)
  ]
  _save({"area": flat, "accuracy": line}, tmp_path / "one.png", 0.0)
  _save({"area": line, "accuracy": line}, tmp_path / "two.png", 0.02)
  one, two = drawn
  assert [axis.get_xlabel() for axis in one.axes] == ["accuracy drop, %"]
  assert "from 20 to 30 mm2" in _said(one)
  assert "no accuracy drop" in _said(one)
  assert "below the curve" in _said(two)
  assert "No panel" not in _said(two)
  assert [axis.texts[0].get_text() for axis in two.axes] == [
    "limit asked for: 10 mm2",
    "limit asked for: 1 %",
  ]
