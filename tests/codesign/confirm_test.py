"""What a confirming run is made of; the run itself is slow."""

import functools
import json
import types

import numpy as np
import pytest

from vrex_jax.codesign import confirm

CHOICE = {"hamming_threshold": 5, "hash_bits": 16, "table": "head"}


def measured():
  return confirm.Measured(
    np.full((3, 4, 2), 0.25), 0.01, (-0.01, 0.02), 0.96, {"policy": "found"}
  )


def test_designs_run_as_found_with_room_for_a_cluster_a_token(monkeypatch):
  ratio = np.arange(24.0).reshape(3, 4, 2) / 24
  model = types.SimpleNamespace(
    config=types.SimpleNamespace(tokens_per_frame=4)
  )
  asked, made = {}, []

  def measure(model_, ids, policies, shape, *, questions, full, seed):
    asked.update(policies=policies, frames=shape.frames, questions=questions)
    assert seed not in (0, 1, 2)  # streams of curves and of measured points
    return full or {"qa": 1.0}, [measured() for _ in policies]

  @functools.wraps(confirm.resv_lib.resv)
  def resv(**given):
    made.append(given)
    return resv.__wrapped__(**given)

  monkeypatch.setattr(confirm, "measure", measure)
  monkeypatch.setattr(
    confirm.words, "load_rooms_model", lambda checkpoint: (model, {})
  )
  monkeypatch.setattr(confirm.resv_lib, "resv", resv)
  found = confirm.measure_designs(
    {"found": (ratio, CHOICE)}, frames=64, questions=80
  )
  (policy,) = asked["policies"]
  assert (policy.name, asked["frames"], asked["questions"]) == ("found", 64, 80)
  assert made[0]["table_capacity"] >= 64 * 4
  # Stages are prompt, frame, question, answer; the prompt chooses as a frame.
  knob = np.asarray(policy.knobs["wicsum_ratio"])
  np.testing.assert_array_equal(knob[0], knob[1])
  np.testing.assert_allclose(knob[1:], ratio, rtol=1e-6)
  assert policy.knobs["hamming_threshold"] == 5
  assert found["full"] == {"qa": 1.0}
  assert list(found["designs"]) == ["found"]


def test_what_was_measured_survives_json():
  one = measured()
  stored = json.loads(json.dumps({**one._asdict(), "kept": one.kept.tolist()}))
  again = confirm.from_json(stored)
  np.testing.assert_array_equal(again.kept, one.kept)
  assert again._replace(kept=None) == one._replace(kept=None)


def test_the_drop_is_that_of_the_worse_figure(monkeypatch):
  against = {
    name: {"difference": -0.01 * place, "ci": (-0.01 * place - 0.02, 0.01)}
    for place, name in enumerate(confirm.FIGURES, 1)
  }
  monkeypatch.setattr(confirm.cell, "paired", lambda row, full: against)
  monkeypatch.setattr(confirm.trace_lib, "concatenate", lambda traces: None)
  monkeypatch.setattr(confirm, "_kept", lambda trace: np.ones((3, 1, 1)))
  row = dict.fromkeys(confirm.FIGURES, 0.9)
  found = confirm._measured(row, {}, [])
  worst = 0.01 * len(confirm.FIGURES)
  assert found.drop == pytest.approx(worst)
  assert found.interval == pytest.approx((-0.01, worst + 0.02))
