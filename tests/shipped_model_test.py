"""The model that ships is small, loads by default, and knows its task."""

import pytest

from vrex_jax import model_source
from vrex_jax.models import prompt
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_questions
from vrex_jax.training import evaluation


@pytest.fixture(scope="module")
def shipped():
  lines = []
  model = model_source.load_model(
    None, None, dtype="float32", seed=0, report=lines.append
  )
  return model, lines


def test_it_is_small_and_says_what_it_is(shipped):
  model, (line,) = shipped
  count = video_llm.num_parameters(model.params)
  assert count <= 5e6
  assert f"{count / 1e6:.4g} M parameters" in line
  assert "rendered rooms" in line
  files = list(model_source.SHIPPED.iterdir())
  assert sum(path.stat().st_size for path in files) <= 10e6
  assert model_source.SHIPPED / "README.md" in files


def test_words_are_tokens(shipped):
  model, _ = shipped
  for word in rooms_questions.WORDS:
    assert len(model.tokenizer.encode(word)) == 1, word
  text = prompt.question_tokens(
    model.template, model.tokenizer, "exists disc - ?"
  )
  assert len(text) == 4
  assert prompt.prompt_tokens(model.template, model.tokenizer) == [1]


def test_it_answers_questions_about_the_past(shipped):
  """Held-out streams; chance is 8 to 50 %."""
  model, _ = shipped
  counts = evaluation.evaluate(
    model.config, model.params, frames=96, streams=2, questions=40
  )
  shares = evaluation.summary(
    {kind: pair for kind, pair in counts.items() if kind != "before"}
  )
  assert shares["qa-old"] > 0.9
  assert counts["narration-old"][0] > 0.8 * counts["narration-old"][1]
