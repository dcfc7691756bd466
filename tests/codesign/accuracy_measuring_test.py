"""Settings that share a prefill answer what each would answer by itself."""

import dataclasses

import jax
import numpy as np
import pytest

from vrex_jax.codesign import accuracy_measuring as measuring
from vrex_jax.codesign import accuracy_settings
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.models import checkpoint
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_episodes
from vrex_jax.tasks import rooms_questions
from vrex_jax.training import export
from vrex_jax.training import small_model

SHAPE = rooms_episodes.EpisodeConfig(frames=64, questions=8)
OPTIONS = streaming.StreamOptions(batch=2)


@pytest.mark.slow
def test_settings_on_one_prefill_answer_as_each_alone(tmp_path):
  shape = small_model.shape()
  config = dataclasses.replace(
    shape, decoder=dataclasses.replace(shape.decoder, num_layers=2)
  )
  params = video_llm.random_parameters(config, jax.random.key(3))
  export.export(config, params, small_model.TEMPLATE, tmp_path)
  model = checkpoint.load(tmp_path)
  ids = words.word_ids(model, rooms_questions.WORDS, "random")
  batch = [
    measuring.drawn(rooms_episodes.draw(SHAPE, 0, index)) for index in range(2)
  ]
  tunable = measuring.compile_tunable(model, OPTIONS, SHAPE)
  heads = (2, config.decoder.num_kv_heads)
  texts = np.stack([np.zeros(heads), np.ones(heads), np.full(heads, 0.1)])
  prefill = accuracy_settings.Prefill(
    number=0, hamming_threshold=9, frame=np.full(heads, 0.2), text=texts
  )
  told = {"word_ids": ids, "visible": SHAPE.visible}
  together = measuring.evaluate(
    model, tunable, OPTIONS, prefill, [batch], **told
  )
  for index, row in enumerate(together):
    own = dataclasses.replace(prefill, text=texts[index : index + 1])
    (alone,) = measuring.evaluate(model, tunable, OPTIONS, own, [batch], **told)
    assert row["policy"] == alone["policy"]
    assert row["tallies"] == alone["tallies"]
    assert row["retrieval_ratio"] == alone["retrieval_ratio"]
  read = [row["retrieval_ratio"]["question"] for row in together]
  assert read[0] < read[2] < read[1] == 1.0
  assert together[0]["tallies"]["qa"]["asked"] == [8.0, 8.0]
