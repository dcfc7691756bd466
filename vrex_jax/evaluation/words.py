"""Words of a task as single tokens of a model."""

from collections.abc import Iterable

from vrex_jax import model_source
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import rooms_questions

__all__ = ["load_rooms_model", "word_ids"]


def word_ids(
  model: checkpoint_lib.Checkpoint, words: Iterable[str], name: str
) -> dict[str, int]:
  """The token of every word.

  Args:
    model: whose tokenizer is asked.
    words: each must be one token, and no two the same.
    name: of the model, for the message.

  Returns:
    word -> token id.

  Raises:
    InputError: a word is no single token, or no token of its own.
  """
  words = list(words)
  found: dict[str, int] = {}
  for word in words:
    ids = model.tokenizer.encode(word)
    if len(ids) != 1 or ids[0] in found.values():
      raise InputError(
        f"--checkpoint {name} has no token of its own for {word!r}"
        f" ({len(ids)} tokens); the task needs {len(words)} words as single"
        " tokens: use the model that ships with the package, or one trained by"
        " train_streaming_qa.py"
      )
    found[word] = ids[0]
  return found


def load_rooms_model(
  checkpoint: str | None,
) -> tuple[checkpoint_lib.Checkpoint, dict[str, int]]:
  """A model that knows the words of the rooms task, and their tokens.

  Args:
    checkpoint: value of --checkpoint; None for the model that ships.

  Raises:
    InputError: see `model_source.load_model` and `word_ids`.
  """
  model = model_source.load_model(
    checkpoint,
    None,
    dtype="float32",
    seed=0,
    report=lambda text: print(f"model  {text}"),
  )
  name = checkpoint or "(shipped)"
  return model, word_ids(model, rooms_questions.WORDS, name)
