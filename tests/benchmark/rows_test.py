"""Rows, the ceiling's limits, and what the table says of known times."""

import pytest

from vrex_jax.benchmark import plans
from vrex_jax.benchmark import plot
from vrex_jax.benchmark import rows
from vrex_jax.benchmark import timing

PLAN = plans.Plan(shape="wide", cache_tokens=2048, frame_tokens=10, batch=2)


def row(
  side="ours", policy="full", cpu_ms=10.0, forced=None, limit=None, groups=0.0
):
  return rows.row(
    PLAN,
    policy=policy,
    side=side,
    ceiling=limit,
    forced_ratio=forced,
    retrieval_ratio={"frame": 1.0 if forced is None else forced},
    groups=groups,
    times=timing.Times(cpu_ms, cpu_ms + 1),
    threads=1,
  )


def test_a_row_has_the_fields_of_the_vocabulary_in_their_order():
  assert tuple(row()) == rows.FIELDS
  assert row()["batch"] == 2
  assert row()["wall_ms"] == 11.0


@pytest.mark.parametrize(
  ("share", "expected"), [(1.0, 1.0), (0.0, 10.0), (0.1, 100 / 19)]
)
def test_the_ceiling_is_the_dense_part_alone_when_nothing_is_attended(
  share, expected
):
  assert rows.ceiling(100.0, 10.0, share) == pytest.approx(expected)


def test_the_table_puts_the_other_sides_beside_full_and_full_beside_the_rest():
  text = rows.table(
    [
      row(),
      row(policy="resv", cpu_ms=4.0, forced=0.05, limit=3.125, groups=63.6),
      row(side="hf", cpu_ms=25.0),
    ]
  )
  header, full, resv = (line.split() for line in text.splitlines())
  assert header[-5:] == ["hf", "ms", "hf/ours", "full/ours", "ceiling"]
  assert full[-3:] == ["25.0", "2.50", "1.00"]
  assert resv[-2:] == ["2.50", "3.12"]
  assert resv[3:7] == ["5.0", "%", "64", "4.0"]


def test_the_table_of_full_alone_compares_nothing():
  text = rows.table([row()])
  assert "full/ours" not in text
  assert "groups" not in text


def test_the_plot_is_a_picture(tmp_path):
  path = tmp_path / "plot.png"
  plot.save_plot([row(), row(side="hf", cpu_ms=25.0)], path)
  assert path.read_bytes().startswith(b"\x89PNG")
