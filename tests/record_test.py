"""A run folder: all files or none, one run at a time, nothing left behind."""

import csv
import json
import math
import tomllib

import numpy as np
import pytest

from tests import run_folders
from vrex_jax import errors
from vrex_jax import trace as trace_lib


def a_trace(events=2):
  nothing = trace_lib.empty(
    num_layers=1,
    batch=1,
    num_kv_heads=1,
    retrieves=np.ones((len(trace_lib.STAGES), 1), bool),
    rows_per_head=1,
  )
  shape = (events, 1, 1, 1)
  return nothing.replace(
    stage=np.ones(events, np.int8),
    time_s=np.arange(events) / 2,
    frame=np.arange(events, dtype=np.int32)[:, None],
    counts={name: np.full(shape, 7, np.int32) for name in nothing.counts},
    overflow=np.zeros(shape[:3], np.uint32),
  )


def test_all_files_are_written_and_named(tmp_path):
  out = tmp_path / "deep" / "run"
  written = run_folders.write(
    out,
    traces={"trace.npz": a_trace()},
    arrays={"record.npz": {"key": np.arange(6.0).reshape(2, 3)}},
    others={"plot.txt": lambda path: path.write_text("drawn")},
  )
  names = [
    "config.toml",
    "frames.csv",
    "metrics.json",
    "plot.txt",
    "record.npz",
    "trace.npz",
  ]
  assert [path.name for path in written] == names
  assert sorted(run_folders.tree(out)) == names  # the staging folder is gone
  assert json.loads((out / "metrics.json").read_text())["files"] == names
  assert (out / "plot.txt").read_text() == "drawn"
  with np.load(out / "record.npz", allow_pickle=False) as stored:
    np.testing.assert_array_equal(stored["key"], np.arange(6.0).reshape(2, 3))
  loaded = trace_lib.load(out / "trace.npz")
  np.testing.assert_array_equal(loaded.time_s, [0.0, 0.5])
  np.testing.assert_array_equal(loaded.counts["past_seen"], 7)


def test_numbers_that_are_not_finite_are_empty_or_null(tmp_path):
  run_folders.write(
    tmp_path,
    metrics_object={
      "nan": math.nan,
      "nested": [{"inf": -math.inf}, (np.float32(np.nan), np.int64(3))],
      "finite": np.float64(0.5),
      "text": "nan",
      "none": None,
    },
  )
  text = (tmp_path / "metrics.json").read_text()
  assert "NaN" not in text
  assert "Infinity" not in text
  found = json.loads(text)
  assert found.pop("files") == ["config.toml", "frames.csv", "metrics.json"]
  assert found == {
    "nan": None,
    "nested": [{"inf": None}, [None, 3]],
    "finite": 0.5,
    "text": "nan",
    "none": None,
  }
  with (tmp_path / "frames.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert rows == [
    {"name": "a, b", "value": "1.5", "count": "3"},
    {"name": 'say "x"', "value": "", "count": ""},
    {"name": "", "value": "", "count": ""},
  ]


def test_settings_that_are_none_are_left_out(tmp_path):
  run_folders.write(
    tmp_path,
    config={
      "none": None,
      "list": ("a", "é"),
      "planned": [{"policy": "full", "capacity": 3, "none": None}],
      "flag": False,
    },
  )
  found = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))
  assert found == {
    "list": ["a", "é"],
    "planned": [{"policy": "full", "capacity": 3}],
    "flag": False,
  }


def test_a_table_without_rows_is_written(tmp_path):
  run_folders.write(tmp_path, tables={"frames.csv": []})
  assert (tmp_path / "frames.csv").read_text().strip() == ""


def test_a_second_run_removes_what_only_the_first_wrote(tmp_path, capsys):
  run_folders.write(tmp_path, arrays={"trace_2.npz": {"a": np.zeros(1)}})
  (tmp_path / "notes.txt").write_text("mine")
  (tmp_path / "trace_3.npz").write_bytes(b"mine")
  (tmp_path / "plots").mkdir()
  assert capsys.readouterr().out == ""
  run_folders.write(tmp_path, tables={"frames.csv": run_folders.ROWS[:1]})
  told = capsys.readouterr().out
  assert told.startswith("removed from ")
  assert told.endswith("files of the run before: trace_2.npz\n")
  kept = run_folders.tree(tmp_path)
  assert sorted(kept) == [
    "config.toml",
    "frames.csv",
    "metrics.json",
    "notes.txt",
    "plots",
    "trace_3.npz",
  ]
  assert kept["notes.txt"] == kept["trace_3.npz"] == b"mine"
  assert kept["frames.csv"] == b'name,value,count\n"a, b",1.5,3\n'


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[]",
    "not json",
    '{"rows": []}',
    '{"files": 3}',
    '{"files": null}',
    '{"files": [3, null]}',
    '{"files": ["../outside.txt", "sub/inside.txt", "sub", ".", ".."]}',
  ],
)
def test_a_foreign_metrics_file_removes_nothing(tmp_path, text):
  """Only plain names of files in the folder itself are ever removed."""
  out = tmp_path / "run"
  (out / "sub").mkdir(parents=True)
  (tmp_path / "outside.txt").write_text("mine")
  (out / "sub" / "inside.txt").write_text("mine")
  (out / "metrics.json").write_text(text)
  run_folders.write(out)
  assert sorted(run_folders.tree(tmp_path)) == [
    "outside.txt",
    "run",
    "run/config.toml",
    "run/frames.csv",
    "run/metrics.json",
    "run/sub",
    "run/sub/inside.txt",
  ]


def failing(error):
  def write_half(path):
    path.write_text("half")
    raise error

  return write_half


@pytest.mark.parametrize("error", [RuntimeError("defect"), KeyboardInterrupt()])
def test_a_writer_that_raises_leaves_the_folder_as_it_was(tmp_path, error):
  run_folders.write(tmp_path, arrays={"old.npz": {"a": np.zeros(1)}})
  (tmp_path / "notes.txt").write_text("mine")
  before = run_folders.tree(tmp_path)
  with pytest.raises(type(error)):
    run_folders.write(
      tmp_path, config={"fps": 9.0}, others={"z.png": failing(error)}
    )
  assert run_folders.tree(tmp_path) == before


def test_a_disk_that_fails_is_an_input_error_and_leaves_nothing(tmp_path):
  out = tmp_path / "a" / "b"
  error = OSError(28, "No space left on device")
  with pytest.raises(errors.InputError, match="No space left on device"):
    run_folders.write(out, others={"z.png": failing(error)})
  assert run_folders.tree(tmp_path) == {}


def test_values_json_cannot_hold_leave_nothing(tmp_path):
  with pytest.raises(TypeError):
    run_folders.write(tmp_path / "run", metrics_object={"what": object()})
  assert run_folders.tree(tmp_path) == {}
