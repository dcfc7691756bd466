"""A task's words must be tokens of the model."""

from types import SimpleNamespace

import pytest

from vrex_jax import errors
from vrex_jax.evaluation import words


def model(vocabulary):
  encode = lambda text: vocabulary.get(text, [7, 8])
  return SimpleNamespace(tokenizer=SimpleNamespace(encode=encode))


def test_words_with_tokens_of_their_own_are_found():
  found = words.word_ids(model({"red": [3], "no": [4]}), ["red", "no"], "dir")
  assert found == {"red": 3, "no": 4}


@pytest.mark.parametrize("vocabulary", [{"red": [3]}, {"red": [3], "no": [3]}])
def test_a_vocabulary_that_does_not_fit_is_refused(vocabulary):
  with pytest.raises(errors.InputError, match=r"--checkpoint dir .* 'no'"):
    words.word_ids(model(vocabulary), ["red", "no"], "dir")
