"""The quick look counts every answer of streams nobody trained on."""

import jax
import numpy as np
import pytest

from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_batches
from vrex_jax.training import evaluation
from vrex_jax.training import small_model


@pytest.fixture(scope="module")
def looked():
  config = small_model.shape()
  params = video_llm.random_parameters(config, jax.random.key(0))
  told = []

  def look(seed=0, streams=2):
    return evaluation.evaluate(
      config, params, frames=40, streams=streams, questions=8, seed=seed,
      told=told.append,
    )  # fmt: skip

  return look, told


def test_every_question_of_every_stream_is_counted(looked):
  look, told = looked
  told.clear()
  counts = look()
  assert list(counts) == list(rooms_batches.TARGET_KINDS)
  asked = {kind: number for kind, (_, number) in counts.items()}
  questions = [n for kind, n in asked.items() if "narration" not in kind]
  assert sum(questions) == 2 * 8
  assert all(0 <= right <= number for right, number in counts.values())
  assert told == [1, 2]


def test_streams_are_a_function_of_the_seed(looked):
  look, _ = looked
  assert look(seed=1) == look(seed=1)
  one, both = look(streams=1), look(streams=2)
  assert all(one[kind][1] <= both[kind][1] for kind in one)


def test_groups_of_kinds_add_up():
  counts = {
    "colour-of": (3, 4),
    "before": (1, 4),
    "room-now": (2, 2),
    "exists": (0, 0),
    "narration-old": (1, 5),
  }
  shares = evaluation.summary(counts)
  assert shares == pytest.approx(
    {
      "colour-of": 0.75,
      "before": 0.25,
      "room-now": 1.0,
      "narration-old": 0.2,
      "qa": 0.6,
      "qa-old": 0.5,
      "qa-present": 1.0,
    }
  )


def test_held_out_streams_are_not_those_of_a_training():
  """Seeds of a training are [seed, stage, step] with a smaller seed."""
  held = np.random.default_rng([evaluation.HELD_OUT, 0, 0]).integers(2**60)
  trained = np.random.default_rng([0, 0, 0]).integers(2**60)
  assert held != trained
