"""Text to token ids and back.

Two tokenizers with one interface: the one of a checkpoint (tokenizer.json,
read by the tokenizers package) and a byte-level one that needs nothing, for
models with random weights.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from vrex_jax.errors import InputError

__all__ = [
  "ByteTokenizer",
  "FileTokenizer",
  "Tokenizer",
  "load_tokenizer",
]

_NUM_BYTES = 256
_SPECIAL = (
  "<|im_start|>",
  "<|im_end|>",
  "<|endoftext|>",
  "<image>",
  "<video>",
  "<|begin_of_text|>",
  "<|end_of_text|>",
  "<|start_header_id|>",
  "<|end_header_id|>",
  "<|eot_id|>",
)


class Tokenizer(Protocol):
  """What prompts and answers need of a tokenizer."""

  @property
  def vocab_size(self) -> int:
    """Ids are below this number."""

  def encode(self, text: str) -> list[int]:
    """Token ids of a text; special tokens written in it become their id."""

  def decode(self, ids: Iterable[int]) -> str:
    """Text of token ids, without special tokens."""

  def token_id(self, token: str) -> int | None:
    """Id of one token as the vocabulary spells it; None when unknown."""


class ByteTokenizer:
  """Every byte of UTF-8 is a token; special tokens follow from id 256 on.

  The vocabularies of models with random weights are larger: ids that name
  nothing decode to U+FFFD, as do bytes that are no whole character.

  Example:
    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("hé<|im_end|>")
    [104, 195, 169, 257]
    >>> tokenizer.decode([104, 195, 169, 257]), tokenizer.decode([104, 195])
    ('hé', 'h�')
  """

  def __init__(self, vocab_size: int = 512):
    if vocab_size < _NUM_BYTES + len(_SPECIAL):
      raise InputError(
        f"vocab_size is {vocab_size}; the byte tokenizer needs at least"
        f" {_NUM_BYTES + len(_SPECIAL)}: use a larger vocabulary"
      )
    self._vocab_size = vocab_size
    self._ids = {
      token: _NUM_BYTES + index for index, token in enumerate(_SPECIAL)
    }

  @property
  def vocab_size(self) -> int:
    """Ids are below this number."""
    return self._vocab_size

  def encode(self, text: str) -> list[int]:
    """Token ids of a text; special tokens written in it become their id."""
    ids: list[int] = []
    while text:
      special, start = self._first_special(text)
      ids.extend(text[:start].encode())
      if special is not None:
        ids.append(self._ids[special])
      text = text[start + len(special or "") :]
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of token ids, without special tokens."""
    unknown = "\ufffd".encode()
    parts = []
    for one in ids:
      if 0 <= one < _NUM_BYTES:
        parts.append(bytes([one]))
      elif not _NUM_BYTES <= one < _NUM_BYTES + len(_SPECIAL):
        parts.append(unknown)
    return b"".join(parts).decode(errors="replace")

  def token_id(self, token: str) -> int | None:
    """Id of a special token or of a one-byte text; None when unknown."""
    if token in self._ids:
      return self._ids[token]
    encoded = token.encode()
    return encoded[0] if len(encoded) == 1 else None

  def _first_special(self, text: str) -> tuple[str | None, int]:
    """The special token that starts first, and where; (None, length)."""
    starts = [(text.find(token), token) for token in _SPECIAL if token in text]
    if not starts:
      return None, len(text)
    start, token = min(starts)
    return token, start


class FileTokenizer:
  """The tokenizer of a checkpoint, as tokenizer.json describes it.

  No beginning-of-text token is added: prompt templates spell theirs out.
  """

  def __init__(self, tokenizer: Any):
    self._tokenizer = tokenizer

  @property
  def vocab_size(self) -> int:
    """Ids are below this number, unless the file leaves gaps."""
    return self._tokenizer.get_vocab_size(with_added_tokens=True)

  def encode(self, text: str) -> list[int]:
    """Token ids of a text; special tokens written in it become their id."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Iterable[int]) -> str:
    """Text of token ids, without special tokens."""
    whole: Sequence[int] = [int(one) for one in ids]
    return self._tokenizer.decode(whole, skip_special_tokens=True)

  def token_id(self, token: str) -> int | None:
    """Id of one token as the vocabulary spells it; None when unknown."""
    return self._tokenizer.token_to_id(token)


def load_tokenizer(directory: pathlib.Path) -> FileTokenizer:
  """The tokenizer of a Hugging Face directory.

  Args:
    directory: holds tokenizer.json.

  Returns:
    The tokenizer, with the file's truncation and padding switched off.

  Raises:
    InputError: no tokenizer.json, a broken one, or the tokenizers package is
      not installed.
  """
  path = pathlib.Path(directory) / "tokenizer.json"
  if not path.is_file():
    raise InputError(
      f"{path} does not exist; text is tokenized with it: save the checkpoint's"
      " tokenizer there with AutoTokenizer.from_pretrained(…)"
      ".save_pretrained(…)"
    )
  try:
    import tokenizers
  except ImportError:
    raise InputError(
      f"{path} needs the package tokenizers, which is not installed: pip"
      " install -e '.[hf]'"
    ) from None
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the package raises bare Exception
    raise InputError(
      f"{path} is not a readable tokenizer ({error}): copy it again"
    ) from None
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return FileTokenizer(tokenizer)
