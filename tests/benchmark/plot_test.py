"""The picture of a benchmark has room for what it names."""

import pytest

from vrex_jax.benchmark import plot


@pytest.mark.parametrize("ratios", [(None,), (0.05, 0.21, 0.327)])
def test_long_names_have_room(tmp_path, ratios):
  """matplotlib warns, which is an error here, when a panel has no width."""
  pytest.importorskip("matplotlib")
  rows = [
    {
      "side": "ours",
      "policy": "resv(wicsum_ratio=0.3, hamming_threshold=7)",
      "forced_ratio": ratio,
      "frame_tokens": 10,
      "cache_tokens": 40960,
      "cpu_ms": 100.0 + index,
      "shape": "wide",
      "batch": 1,
      "dtype": "float32",
      "threads": 1,
    }
    for index, ratio in enumerate(ratios)
  ]
  plot.save_plot(rows, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").stat().st_size > 1000
