"""What a run says of itself: its settings' hash, its command, its memory."""

import tomllib

import numpy as np

from tests import run_folders
from vrex_jax import record


def test_the_hash_is_of_settings_not_of_places_or_order():
  config = {"fps": 2.0, "question": ["1: a"], "planned": [{"capacity": 3}]}
  mine = record.config_hash(config)
  assert len(mine) == 16
  assert set(mine) <= set("0123456789abcdef")
  assert record.config_hash(dict(reversed(config.items()))) == mine
  places = {"out": "runs/a", "profile": "p", "compilation_cache": None}
  assert record.config_hash({**config, **places, "resume": True}) == mine
  for changed in (
    {"fps": 3.0},
    {"question": ["1: b"]},
    {"question": []},
    {"planned": [{"capacity": 4}]},
    {"more": False},
  ):
    assert record.config_hash({**config, **changed}) != mine


def test_the_hash_is_that_of_the_file_that_was_kept(tmp_path):
  config = {"fps": 1e-3, "size": (3, 4), "video": None, "text": "é", "on": True}
  run_folders.write(tmp_path, config=config)
  kept = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))
  assert record.config_hash(kept) == record.config_hash(config)


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
