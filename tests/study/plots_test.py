"""The picture of the ablation, with and without what it shows."""

import pytest

from vrex_jax.study import plots


def row(change, *shares):
  return {"change": change, "false_joins": list(shares)}


def test_a_picture_is_drawn_of_what_there_is(tmp_path):
  pytest.importorskip("matplotlib")
  rows = [
    row("", 0.1, 0.2, None, float("nan")),
    row("key_centering=mean", None, None, None, None),
    row("rows=pooled", 0.9),
  ]
  by_rows = {
    "rows": [1, 4, 1372],
    "union": [0.1, 0.4, float("nan")],
    "vote": [0.1, 0.2, float("nan")],
    "pooled": [0.1, 0.1, float("nan")],
  }
  plots.save_choices(rows, by_rows, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"
