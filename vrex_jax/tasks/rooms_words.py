"""Words of the rooms task as token ids, and the tokenizer that knows them."""

import json

from vrex_jax.tasks import rooms_questions as questions_lib

__all__ = ["IDS", "START", "STOP", "VOCABULARY", "encode", "tokenizer_json"]

VOCABULARY = 64
"""Rows of the embedding; those behind the words stand for nothing."""
IDS = {word: index for index, word in enumerate(questions_lib.WORDS)}
START = IDS["<start>"]
STOP = IDS["<stop>"]
_SPECIAL = ("<pad>", "<start>", "<stop>")


def encode(text: str) -> list[int]:
  """Token ids of words parted by spaces.

  Example:
    >>> encode("<start> -")
    [1, 3]
  """
  return [IDS[word] for word in text.split()]


def tokenizer_json() -> str:
  """A tokenizer.json that gives the ids of `encode`.

  Words are parted at spaces and looked up; a word that is not known becomes
  `<pad>`.
  """
  special = [
    {
      "id": IDS[word],
      "content": word,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": True,
    }
    for word in _SPECIAL
  ]
  return json.dumps(
    {
      "version": "1.0",
      "truncation": None,
      "padding": None,
      "added_tokens": special,
      "normalizer": None,
      "pre_tokenizer": {"type": "WhitespaceSplit"},
      "post_processor": None,
      "decoder": None,
      "model": {"type": "WordLevel", "vocab": IDS, "unk_token": "<pad>"},
    },
    indent=2,
  )
