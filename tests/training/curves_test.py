"""Rows of the curves against a direct count."""

import numpy as np
import pytest

from vrex_jax.training import curriculum
from vrex_jax.training import curves
from vrex_jax.training import state

STAGES = curriculum.curriculum("tiny")[:2]


def log(steps, kinds, seed=0):
  random = np.random.default_rng(seed)
  asked = random.integers(0, 4, (steps, kinds))
  return state.Log(
    random.random(steps).astype(np.float32),
    random.integers(0, asked + 1),
    asked,
  )


def test_rows_count_windows_and_kinds():
  logs = (log(7, 3), log(2, 13))
  rows = curves.rows(STAGES, logs, window=3)
  mine = [row for row in rows if row["stage"] == STAGES[0].name]
  assert [row["step"] for row in mine] == [3] * 3 + [6] * 3 + [7] * 3
  last = mine[-1]
  assert last["kind"] == "room"
  assert last["loss"] == pytest.approx(float(logs[0].loss[6]))
  assert last["answers"] == logs[0].asked[6, 2]
  middle = next(r for r in mine if r["step"] == 6 and r["kind"] == "colour")
  right, asked = logs[0].right[3:6, 1].sum(), logs[0].asked[3:6, 1].sum()
  assert middle["accuracy"] == pytest.approx(right / asked)
  assert sum(row["answers"] for row in rows) == sum(
    one.asked.sum() for one in logs
  )


def test_kinds_nobody_was_asked_have_no_row():
  empty = log(4, 3)
  empty.asked[:, 1] = 0
  kinds = {row["kind"] for row in curves.rows(STAGES, (empty,))}
  assert kinds == {"shape", "room"}


def test_accuracy_is_of_the_last_steps():
  one = log(9, 3)
  shares = curves.accuracy(STAGES[0], one, window=2)
  expected = one.right[-2:, 0].sum() / one.asked[-2:, 0].sum()
  assert shares["shape"] == pytest.approx(expected)


def test_the_plot_is_a_picture(tmp_path):
  path = tmp_path / "curves.png"
  curves.save_plot(STAGES, (log(7, 3), log(60, 13)), path)
  assert path.read_bytes().startswith(b"\x89PNG")
