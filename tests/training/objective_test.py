"""The branched, crowded row computes what streams one after the other would."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_batches
from vrex_jax.tasks import rooms_words
from vrex_jax.training import objective
from vrex_jax.training import small_model

FRAMES = 12
STREAM = 1 + 4 * FRAMES
WHOLE = rooms_batches.BatchConfig(
  streams=2, frames=FRAMES, span=FRAMES, questions=4, segments=4,
  least_segments=2,
)  # fmt: skip


def shape(layers=2):
  config = small_model.shape()
  decoder = dataclasses.replace(config.decoder, num_layers=layers)
  return dataclasses.replace(config, decoder=decoder)


@pytest.fixture(scope="module")
def model():
  config = shape()
  params = video_llm.random_parameters(config, jax.random.key(0))
  return config, params


@pytest.fixture(scope="module")
def batch():
  return rooms_batches.draw_batch(WHOLE, np.random.default_rng(0))


def embedded(config, params, pictures, words):
  """<start>, frames and words of one stream as the decoder takes them."""
  table = params["decoder"]["embed_tokens"]["embedding"]
  tokens = video_llm.embed_frames(config, params, jnp.asarray(pictures))
  start = table[jnp.array([rooms_words.START])]
  return jnp.concatenate(
    [
      start,
      tokens.reshape(-1, tokens.shape[-1]),
      table[jnp.asarray(words, jnp.int32)],
    ]
  )[None]


def causal(config, params, hidden, position=None):
  return decoder_lib.Decoder(config.decoder).apply(
    {"params": params["decoder"]}, hidden, position
  )[0]


@pytest.mark.slow
def test_stream_and_branches_equal_the_causal_decoder(model, batch):
  config, params = model
  out = objective.logits(config, params, batch)
  for row in range(WHOLE.streams):
    alone = causal(
      config, params, embedded(config, params, batch.pictures[row], [])
    )
    np.testing.assert_allclose(out[row, :STREAM], alone, atol=1e-4)
    for question in range(WHOLE.questions):
      mine = batch.owner[row] == question
      seen = int(batch.frame[row][mine][0]) + 1
      hidden = embedded(
        config, params, batch.pictures[row, :seen], batch.words[row][mine]
      )
      alone = causal(config, params, hidden)[-5:]
      np.testing.assert_allclose(out[row][mine], alone, atol=1e-4)


def test_questions_do_not_see_each_other(model, batch):
  config, params = model
  out = objective.logits(config, params, batch)
  words = np.where(batch.owner == 0, rooms_words.IDS["red"], batch.words)
  other = objective.logits(config, params, batch._replace(words=words))
  same = np.asarray(batch.owner) != 0
  np.testing.assert_array_equal(np.asarray(out)[same], np.asarray(other)[same])
  assert (np.asarray(out)[~same] != np.asarray(other)[~same]).any()


def test_a_frame_that_stands_for_two_is_as_good_as_two(model, batch):
  """Exact for one layer, whose keys depend on nothing before them."""
  _, params = model
  config = shape(layers=1)
  count = np.ones((WHOLE.streams, FRAMES), np.float32)
  count[:, 3] = 2
  out = objective.logits(config, params, batch._replace(stands_for=count))
  hidden = embedded(config, params, batch.pictures[0], [])
  cut = 1 + 4 * 4
  twice = jnp.concatenate(
    [hidden[:, :cut], hidden[:, cut - 4 : cut], hidden[:, cut:]], axis=1
  )
  position = np.arange(STREAM)
  position = np.concatenate(
    [position[:cut], position[cut - 4 : cut], position[cut:]]
  )
  alone = causal(config, params, twice, jnp.asarray(position)[None])
  np.testing.assert_allclose(out[0, cut:STREAM], alone[cut + 4 :], atol=1e-4)
  plain = objective.logits(config, params, batch)
  assert np.abs(out[0, cut:STREAM] - plain[0, cut:STREAM]).max() > 1e-3
  # Its own rows count every key once.
  np.testing.assert_allclose(out[0, :cut], plain[0, :cut], atol=1e-5)


def test_loss_is_the_weighted_mean_of_what_was_missed(model, batch):
  config, params = model
  out = np.asarray(objective.logits(config, params, batch), np.float64)
  total = np.log(np.exp(out).sum(-1))
  missed, right, asked = 0.0, np.zeros(13, int), np.zeros(13, int)
  for row, place in zip(*np.nonzero(batch.target >= 0), strict=True):
    target, kind = batch.target[row, place], batch.kind[row, place]
    missed += batch.weight[row, place] * (
      total[row, place] - out[row, place, target]
    )
    if kind >= 0:
      asked[kind] += 1
      right[kind] += out[row, place].argmax() == target
  mean, outcome = objective.loss(config, params, batch)
  assert float(mean) == pytest.approx(missed / batch.weight.sum(), rel=1e-4)
  assert float(outcome.loss) == float(mean)
  np.testing.assert_array_equal(outcome.asked, asked)
  np.testing.assert_array_equal(outcome.right, right)


def test_label_loss_of_blind_heads_is_that_of_guessing(model):
  config, params = model
  labels = rooms_batches.draw_labels(6, np.random.default_rng(0))
  sizes = {"shape": 12, "colour": 8, "room": 12}
  heads = {name: jnp.zeros((128, size)) for name, size in sizes.items()}
  mean, outcome = objective.label_loss(config, params, heads, labels)
  assert float(mean) == pytest.approx(np.log(12) + np.log(8) + np.log(12))
  np.testing.assert_array_equal(outcome.asked, [24, 24, 24])
  # Ties go to the first answer.
  np.testing.assert_array_equal(outcome.right, 4 * (labels.shown == 0).sum(0))
