"""A run folder: all files or none, one run at a time, nothing left behind."""

import csv
import json
import math
import os
import pathlib
import tomllib

import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax import record
from vrex_jax import trace as trace_lib

ROWS = [
  {"name": "a, b", "value": 1.5, "count": np.int32(3)},
  {"name": 'say "x"', "value": math.nan, "count": None},
  {"name": "", "value": math.inf, "count": np.float32(np.nan)},
]


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


def write(out, **changes):
  given = {
    "config": {"fps": 2.0, "preset": "tiny"},
    "metrics_object": {"schema": record.SCHEMA, "rows": []},
    "tables": {"frames.csv": ROWS},
  }
  return record.write_folder(pathlib.Path(out), **{**given, **changes})


def tree(folder):
  """Everything below a folder: relative path -> bytes, None for folders."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in folder.rglob("*")
  }


# What is written.


def test_all_files_are_written_and_named(tmp_path):
  out = tmp_path / "deep" / "run"
  written = write(
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
  assert sorted(tree(out)) == names  # the staging folder is gone
  assert json.loads((out / "metrics.json").read_text())["files"] == names
  assert (out / "plot.txt").read_text() == "drawn"
  with np.load(out / "record.npz", allow_pickle=False) as stored:
    np.testing.assert_array_equal(stored["key"], np.arange(6.0).reshape(2, 3))
  loaded = trace_lib.load(out / "trace.npz")
  np.testing.assert_array_equal(loaded.time_s, [0.0, 0.5])
  np.testing.assert_array_equal(loaded.counts["past_seen"], 7)


def test_numbers_that_are_not_finite_are_empty_or_null(tmp_path):
  write(
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
  write(
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
  write(tmp_path, tables={"frames.csv": []})
  assert (tmp_path / "frames.csv").read_text().strip() == ""


# One run at a time.


def test_a_second_run_removes_what_only_the_first_wrote(tmp_path):
  write(tmp_path, arrays={"trace_2.npz": {"a": np.zeros(1)}})
  (tmp_path / "notes.txt").write_text("mine")
  (tmp_path / "trace_3.npz").write_bytes(b"mine")
  (tmp_path / "plots").mkdir()
  write(tmp_path, tables={"frames.csv": ROWS[:1]})
  kept = tree(tmp_path)
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
  write(out)
  assert sorted(tree(tmp_path)) == [
    "outside.txt",
    "run",
    "run/config.toml",
    "run/frames.csv",
    "run/metrics.json",
    "run/sub",
    "run/sub/inside.txt",
  ]


# All or none.


def failing(error):
  def write_half(path):
    path.write_text("half")
    raise error

  return write_half


@pytest.mark.parametrize("error", [RuntimeError("defect"), KeyboardInterrupt()])
def test_a_writer_that_raises_leaves_the_folder_as_it_was(tmp_path, error):
  write(tmp_path, arrays={"old.npz": {"a": np.zeros(1)}})
  (tmp_path / "notes.txt").write_text("mine")
  before = tree(tmp_path)
  with pytest.raises(type(error)):
    write(tmp_path, config={"fps": 9.0}, others={"z.png": failing(error)})
  assert tree(tmp_path) == before


def test_a_disk_that_fails_is_an_input_error_and_leaves_nothing(tmp_path):
  out = tmp_path / "a" / "b"
  error = OSError(28, "No space left on device")
  with pytest.raises(errors.InputError, match="No space left on device"):
    write(out, others={"z.png": failing(error)})
  assert tree(tmp_path) == {}


def test_values_json_cannot_hold_leave_nothing(tmp_path):
  with pytest.raises(TypeError):
    write(tmp_path / "run", metrics_object={"what": object()})
  assert tree(tmp_path) == {}


# Folders that cannot be written.


def a_file(tmp_path):
  (tmp_path / "file").write_text("mine")
  return tmp_path / "file"


def below_a_file(tmp_path):
  return a_file(tmp_path) / "run"


def a_dangling_link(tmp_path):
  (tmp_path / "link").symlink_to(tmp_path / "nowhere")
  return tmp_path / "link"


def below_a_dangling_link(tmp_path):
  return a_dangling_link(tmp_path) / "run"


def a_folder_that_holds_one(tmp_path):
  (tmp_path / "run" / "metrics.json").mkdir(parents=True)
  return tmp_path / "run"


def a_link_to_itself(tmp_path):
  (tmp_path / "loop").symlink_to(tmp_path / "loop")
  return tmp_path / "loop"


PLACES = {
  "file": (a_file, "which is a file"),
  "below a file": (below_a_file, "cannot be written"),
  "dangling link": (a_dangling_link, "a link that leads nowhere"),
  "below a dangling link": (below_a_dangling_link, "cannot be written"),
  "link to itself": (a_link_to_itself, "--out is"),
  "result is a folder": (
    a_folder_that_holds_one,
    "where metrics.json is a folder",
  ),
  "proc": (lambda tmp_path: pathlib.Path("/proc/vrex"), "cannot be written"),
  "below proc": (
    lambda tmp_path: pathlib.Path("/proc/vrex/run"),
    "cannot be written",
  ),
  "long": (lambda tmp_path: tmp_path / ("x" * 300), "cannot be written"),
  "long parent": (
    lambda tmp_path: tmp_path / "y" / ("x" * 300) / "run",
    "cannot be written",
  ),
  "nul": (lambda tmp_path: tmp_path / "a\0b", "cannot be written"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_written_is_refused_and_left_alone(
  tmp_path, name
):
  if "proc" in name and not os.path.isdir("/proc/self"):
    pytest.skip("no /proc on this system")
  make, sentence = PLACES[name]
  out = make(tmp_path)
  before = tree(tmp_path)
  messages = []
  for refuse in (lambda: record.check_folder(out), lambda: write(out)):
    with pytest.raises(errors.InputError) as told:
      refuse()
    messages.append(str(told.value))
    assert tree(tmp_path) == before
  for message in messages:
    assert message.startswith(f"--out is {str(out)!r}, ")
    assert sentence in message
    assert "\n" not in message


def test_the_flag_at_fault_is_named(tmp_path):
  with pytest.raises(errors.InputError, match=r"^--profile is "):
    record.check_folder(a_file(tmp_path), "--profile")


def test_a_folder_without_permission_is_refused(tmp_path):
  folder = tmp_path / "closed"
  folder.mkdir(mode=0o500)
  if os.access(folder, os.W_OK):
    pytest.skip("this user may write everywhere")
  for out in (folder, folder / "run"):
    with pytest.raises(errors.InputError, match="Permission denied"):
      record.check_folder(out)
    with pytest.raises(errors.InputError, match="Permission denied"):
      write(out)


def test_checking_a_good_folder_leaves_no_trace(tmp_path):
  (tmp_path / "target").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "target")
  before = tree(tmp_path)
  for name in ("", "new", "new/deep/er", "target", "link"):
    record.check_folder(tmp_path / name)
  assert tree(tmp_path) == before
  write(tmp_path / "link")
  assert (tmp_path / "target" / "metrics.json").is_file()


def test_a_result_s_own_name_is_checked_too(tmp_path):
  """Names beyond the usual four are known only when the run is written."""
  (tmp_path / "plot.png").mkdir()
  before = tree(tmp_path)
  with pytest.raises(errors.InputError, match=r"where plot\.png is a folder"):
    write(tmp_path, others={"plot.png": lambda path: path.write_text("x")})
  assert tree(tmp_path) == before


# What a run says of itself.


def test_the_hash_is_of_settings_not_of_places_or_order():
  config = {"fps": 2.0, "question": ["1: a"], "planned": [{"capacity": 3}]}
  mine = record.config_hash(config)
  assert len(mine) == 16
  assert set(mine) <= set("0123456789abcdef")
  assert record.config_hash(dict(reversed(config.items()))) == mine
  places = {"out": "runs/a", "profile": "p", "compilation_cache": None}
  assert record.config_hash({**config, **places}) == mine
  for changed in (
    {"fps": 3.0},
    {"question": ["1: b"]},
    {"question": []},
    {"planned": [{"capacity": 4}]},
    {"more": None},
  ):
    assert record.config_hash({**config, **changed}) != mine


def test_metrics_say_what_ran(monkeypatch):
  monkeypatch.setattr("sys.argv", ["/x/y/script.py", "--question", "1: a b"])
  found = record.metrics(
    [{"policy": "full"}],
    config={"fps": 2.0},
    dtype="float32",
    seed=7,
    started=0.0,
    interrupted=True,
  )
  run = found["run"]
  assert found["schema"] == record.SCHEMA
  assert found["rows"] == [{"policy": "full"}]
  assert found["interrupted"] is True
  assert run["command"] == "python script.py --question '1: a b'"
  assert run["config_hash"] == record.config_hash({"fps": 2.0})
  assert run["started"] == "1970-01-01T00:00:00Z"
  assert run["seconds"] > 1e9
  assert (run["dtype"], run["seed"]) == ("float32", 7)
  assert run["device"].startswith("cpu")
  assert {"python", "jax", "numpy", "vrex_jax"} <= set(run["versions"])


def test_peak_memory_is_in_bytes():
  block = np.ones(2**23)  # 64 MiB
  assert record.peak_rss_bytes() > block.nbytes
  assert record.peak_rss_bytes() < 2**42
