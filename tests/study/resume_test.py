"""Rows are taken over from the same run, and from no other."""

import json
import pathlib

import pytest

from vrex_jax import errors
from vrex_jax import record
from vrex_jax.study import resume

CONFIG = {"fps": 2.0, "vary": ["form"], "video": None, "resume": False}
ROWS = [{"choice": "base", "kept": 0.5}, {"choice": "form", "kept": None}]


def keep(folder, rows=ROWS, **changes):
  """Keeps a run: its settings, its rows, and these as a table."""
  config = {**CONFIG, "out": str(folder), **changes}
  metrics = record.metrics(
    rows, config=config, dtype="float32", seed=0, started=0.0, interrupted=True
  )
  tables = {"a.csv": rows, "z.csv": rows}
  record.write_folder(
    folder, config=config, metrics_object=metrics, tables=tables
  )


@pytest.fixture
def folder(tmp_path):
  """A run that was kept."""
  keep(tmp_path)
  return tmp_path


def test_the_same_run_gives_its_rows(folder):
  config = {**CONFIG, "resume": True, "out": "elsewhere"}
  assert resume.rows_left(folder, config) == ROWS


def test_where_nothing_lies_there_are_none(tmp_path):
  assert resume.rows_left(tmp_path, CONFIG) == []
  assert resume.rows_left(tmp_path / "absent", CONFIG) == []


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"fps": 3.0}, "had --fps 2.0, this one 3.0"),
    ({"vary": []}, "had --vary ['form'], this one []"),
    ({"video": "a.mp4"}, "had --video None, this one a.mp4"),
  ],
)
def test_other_settings_are_refused(folder, change, said):
  with pytest.raises(errors.InputError, match="leave out --resume") as told:
    resume.rows_left(folder, {**CONFIG, **change})
  assert said in str(told.value)


@pytest.mark.parametrize("name", ["revision", "versions", "device"])
def test_another_program_or_machine_is_refused(folder, name):
  path = folder / "metrics.json"
  metrics = json.loads(path.read_text())
  metrics["run"][name] = "another"
  path.write_text(json.dumps(metrics))
  with pytest.raises(errors.InputError, match=f"had {name} another"):
    resume.rows_left(folder, CONFIG)


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("metrics.json", ""),
    ("metrics.json", "[]"),
    ("metrics.json", "{}"),
    ("metrics.json", '{"rows": 3, "run": {}}'),
    ("config.toml", "a = "),
    ("config.toml", None),
  ],
)
def test_a_damaged_run_is_refused(folder, name, content):
  (folder / name).unlink()
  if content is not None:
    (folder / name).write_text(content)
  with pytest.raises(errors.InputError, match="cannot be read"):
    resume.rows_left(folder, CONFIG)


class KilledError(BaseException):
  """Nothing catches it, as nothing catches a kill."""


def keep_until_killed(monkeypatch, moves, folder, **changes):
  """`keep`, ended after some of its files were moved in."""
  done, replace = [], pathlib.Path.replace

  def move(path, target):
    if len(done) == moves:
      raise KilledError
    done.append(target)
    return replace(path, target)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "replace", move)
    with pytest.raises(KilledError):
      keep(folder, **changes)


MORE = [*ROWS, {"choice": "rows", "kept": 0.25}]


@pytest.mark.parametrize("moves", range(4))
def test_a_kill_between_files_of_the_same_run_loses_no_row(
  folder, monkeypatch, moves
):
  keep_until_killed(monkeypatch, moves, folder, rows=MORE, resume=True)
  assert resume.rows_left(folder, CONFIG) == ROWS
  keep(folder, rows=MORE, resume=True)
  assert resume.rows_left(folder, CONFIG) == MORE


@pytest.mark.parametrize("moves", range(4))
def test_a_kill_between_files_of_two_runs_mixes_them_for_nobody(
  folder, monkeypatch, moves
):
  """Nothing moved: the first run. Else each is refused, tables and all."""
  keep_until_killed(monkeypatch, moves, folder, rows=MORE, fps=3.0)
  if moves == 0:
    assert resume.rows_left(folder, CONFIG) == ROWS
    return
  with pytest.raises(errors.InputError, match=r"had --fps 3.0, this one 2.0"):
    resume.rows_left(folder, CONFIG)
  with pytest.raises(errors.InputError, match="is of other settings than"):
    resume.rows_left(folder, {**CONFIG, "fps": 3.0})
