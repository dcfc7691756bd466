"""Every stage agrees with what transformers computed, to 1e-4 in float32."""

import dataclasses

import numpy as np
import pytest

from tests.parity import references
from vrex_jax import parity
from vrex_jax.models import config as config_lib


@pytest.mark.parametrize("name", references.ALL)
def test_every_stage_equals_the_stored_reference(name, tmp_path):
  inputs, wanted = references.stored(name)
  loaded = references.load(name, references.copy(name, tmp_path))
  # Prompt and question are longer than a chunk, and do not divide by it.
  ours = parity.our_values(loaded, inputs, question_chunk=4)
  assert {"logits", "stream", "answer"} <= set(wanted)
  if name not in references.TEXT:
    assert {"vision", "tokens"} <= set(wanted)
  for difference in parity.compare(
    ours, wanted, tolerance=references.TOLERANCE
  ):
    assert difference.agrees, difference


def test_references_tell_configurations_apart(tmp_path):
  """A wrong rotary rule is a thousand times further off than the tolerance."""
  inputs, wanted = references.stored("llama_group4")
  loaded = references.load(
    "llama_group4", references.copy("llama_group4", tmp_path)
  )
  rope = config_lib.RopeConfig(theta=loaded.config.rope.theta)
  wrong = loaded._replace(config=dataclasses.replace(loaded.config, rope=rope))
  found = parity.our_values(wrong, inputs, stream=False)["logits"]
  assert np.max(np.abs(found - wanted["logits"])) > 1e3 * references.TOLERANCE


def test_stored_answers_are_not_one_repeated_token():
  for name in references.ALL:
    _, values = references.stored(name)
    assert len(set(values["answer"].tolist())) >= 4


def test_compare_names_the_stage_that_differs():
  wanted = {"logits": np.zeros(3), "answer": np.array([1, 2, 3])}
  ours = {"logits": np.array([0, 0, 2e-4]), "answer": np.array([1, 5, 3])}
  logits, answer = parity.compare(ours, wanted, tolerance=1e-4)
  assert not logits.agrees
  assert logits.largest == pytest.approx(2e-4)
  assert not answer.agrees
  assert answer.largest == 2


def test_relative_tolerance_grows_with_the_reference():
  wanted = {"vision": np.array([200.0])}
  ours = {"vision": np.array([200.01])}
  strict, loose = (
    parity.compare(ours, wanted, tolerance=1e-4, relative=relative)[0]
    for relative in (False, True)
  )
  assert not strict.agrees
  assert loose.agrees
