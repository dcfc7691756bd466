"""Words and ids agree, in the package and in the tokenizer it writes."""

import pytest

from vrex_jax.models import tokenizer as tokenizer_lib
from vrex_jax.tasks import rooms_questions
from vrex_jax.tasks import rooms_words


@pytest.fixture
def tokenizer(tmp_path):
  (tmp_path / "tokenizer.json").write_text(rooms_words.tokenizer_json())
  return tokenizer_lib.load_tokenizer(tmp_path)


def test_every_word_has_an_id_of_its_own_inside_the_vocabulary():
  ids = list(rooms_words.IDS.values())
  assert len(set(ids)) == len(rooms_questions.WORDS)
  assert min(ids) == 0
  assert max(ids) < rooms_words.VOCABULARY


def test_the_written_tokenizer_gives_the_same_ids(tokenizer):
  text = " ".join(rooms_questions.WORDS)
  assert tokenizer.encode(text) == rooms_words.encode(text)
  assert tokenizer.encode(text) == list(range(len(rooms_questions.WORDS)))
  for word in ("<start>", "colour-of", "maroon-lines"):
    assert tokenizer.token_id(word) == rooms_words.IDS[word]


def test_special_words_are_left_out_of_text(tokenizer):
  ids = [rooms_words.START, rooms_words.IDS["red"], rooms_words.STOP]
  assert tokenizer.decode(ids) == "red"


def test_an_unknown_word_becomes_padding(tokenizer):
  assert tokenizer.encode("red banana") == [rooms_words.IDS["red"], 0]
