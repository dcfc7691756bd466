"""Text around the frames, the questions and the answers of a stream.

What the decoder reads, in order (question and answer repeat):

  prompt_tokens   │ frames … │ question_tokens │ answer │ resume_tokens │ frames
  begin, system,  │          │ the question,   │        │ end of the    │
  open user turn  │          │ open assistant  │        │ answer's turn,│
                  │          │ turn            │        │ open user turn│

An answer's stop token ends decoding and is not in the cache, so `resume`
begins with it. A question that is undone needs no resume: the stream goes on
as if it had not been asked.
"""

import dataclasses
import pathlib
import re
import tomllib
from collections.abc import Iterable

from vrex_jax.errors import InputError
from vrex_jax.models import tokenizer as tokenizer_lib

__all__ = [
  "TEMPLATES",
  "PromptTemplate",
  "load_template",
  "prompt_tokens",
  "question_before_tokens",
  "question_tokens",
  "resume_tokens",
  "stop_ids",
]

_SPECIAL = re.compile(r"<\|[^|<>]+\|>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTemplate:
  """Static. The chat format of a model family, cut where frames come in.

  Attributes:
    name: shown in records.
    begin: text before everything (the beginning-of-text token, if any).
    system_turn: holds "{system}"; left out when the system text is empty.
    stream_open: between the system turn and the first frame.
    question: holds "{question}"; closes the stream's turn and opens the
      answer's.
    resume: between an answer that stays in the cache and the next frame (or
      the next question).
    stop_tokens: tokens that end an answer.
    system: system text where the user gives none.
    question_before: holds "{question}"; in place of `stream_open` where the
      question comes before the frames.
    answer_open: closes the stream's turn and opens the answer's where the
      question came before. By default what follows "{question}" in `question`.
  """

  name: str
  begin: str = ""
  system_turn: str = "{system}"
  stream_open: str = ""
  question: str = "{question}"
  resume: str = ""
  stop_tokens: tuple[str, ...] = ()
  system: str = ""
  question_before: str = "{stream_open}{question}\n"
  answer_open: str | None = None

  def __post_init__(self):
    for field, part in (
      ("system_turn", "system"),
      ("question", "question"),
      ("question_before", "question"),
    ):
      text = getattr(self, field)
      if text.count(f"{{{part}}}") != 1:
        raise InputError(
          f"{field} of the prompt template {self.name!r} is {text!r}; it must"
          f" hold {{{part}}} once: correct the template"
        )


TEMPLATES: dict[str, PromptTemplate] = {
  template.name: template
  for template in (
    # The prompt ReKV streams LLaVA-OneVision with, spaces included.
    PromptTemplate(
      name="qwen2",
      system_turn="<|im_start|>system \n{system}<|im_end|>",
      stream_open="<|im_start|>user ",
      question="\n{question}<|im_end|><|im_start|>assistant\n",
      resume="<|im_end|><|im_start|>user ",
      stop_tokens=("<|im_end|>", "<|endoftext|>"),
      system="You are a helpful assistant.",
    ),
    PromptTemplate(
      name="llama3",
      begin="<|begin_of_text|>",
      system_turn=(
        "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>"
      ),
      stream_open="<|start_header_id|>user<|end_header_id|>\n\n",
      question=(
        "\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
      ),
      resume="<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
      stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
      system="You are a helpful assistant.",
    ),
    # VideoLLM-Online brackets the frames and writes roles as plain text.
    PromptTemplate(
      name="videollm_online",
      begin="<|begin_of_text|>",
      system_turn="{system}\n",
      stream_open="\n[",
      question="]\nUser: {question}\nAssistant:",
      resume="<|eot_id|>\n[",
      question_before="\nUser: {question}\n[",
      answer_open="]\nAssistant:",
      stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
      system=(
        "A multimodal AI assistant is helping users with some activities."
        " Below is their conversation, interleaved with the list of video"
        " frames received by the assistant."
      ),
    ),
    PromptTemplate(
      name="plain",
      system_turn="{system}\n",
      question="\nQuestion: {question}\nAnswer:",
      resume="\n",
    ),
  )
}
"""Templates by name, as `--template` takes them."""


def load_template(name: str) -> PromptTemplate:
  """A template by name, or from a TOML file with the fields of the class.

  Args:
    name: a key of `TEMPLATES`, or a path that ends in .toml.

  Returns:
    The template; a field the file leaves out has the class's default.

  Raises:
    InputError: neither a name nor a file, broken TOML, or an unknown or
      mistyped field.

  Example:
    >>> load_template("llama3").stop_tokens
    ('<|eot_id|>', '<|end_of_text|>')
  """
  if name in TEMPLATES:
    return TEMPLATES[name]
  path = pathlib.Path(name)
  if path.suffix != ".toml" or not path.is_file():
    raise InputError(
      f"--template is {name!r}; it must be {', '.join(sorted(TEMPLATES))} or"
      " the path of a TOML file: choose one of these"
    )
  try:
    fields = tomllib.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(
      f"{path} is not valid TOML ({error}): correct the file"
    ) from None
  known = {field.name for field in dataclasses.fields(PromptTemplate)}
  unknown = sorted(set(fields) - known)
  if unknown:
    raise InputError(
      f"{path} sets {', '.join(unknown)}; the fields of a template are"
      f" {', '.join(sorted(known))}: remove or rename"
    )
  stops = fields.pop("stop_tokens", [])
  if not isinstance(stops, list) or not all(
    isinstance(text, str) for text in (*stops, *fields.values())
  ):
    raise InputError(
      f"{path} has a field that is not text; every field is text, and"
      " stop_tokens a list of texts: correct the file"
    )
  return PromptTemplate(
    **{"name": path.stem, **fields}, stop_tokens=tuple(stops)
  )


def prompt_tokens(
  template: PromptTemplate,
  tokenizer: tokenizer_lib.Tokenizer,
  system: str | None = None,
) -> list[int]:
  """Token ids before the first frame.

  Args:
    template: the model family's.
    tokenizer: the checkpoint's.
    system: system text; the template's own when None, none at all when empty.

  Returns:
    Ids; may be empty.

  Raises:
    InputError: the tokenizer lacks a special token the template writes.

  Example:
    >>> from vrex_jax.models import tokenizer as tokenizer_lib
    >>> prompt_tokens(TEMPLATES["qwen2"], tokenizer_lib.ByteTokenizer(), "")
    [256, 117, 115, 101, 114, 32]
  """
  _check_special_tokens(template, tokenizer)
  system = template.system if system is None else system
  turn = template.system_turn.replace("{system}", system) if system else ""
  return tokenizer.encode(template.begin + turn + template.stream_open)


def question_tokens(
  template: PromptTemplate,
  tokenizer: tokenizer_lib.Tokenizer,
  question: str,
) -> list[int]:
  """Token ids from the last frame to the first token of the answer.

  Args:
    template: the model family's.
    tokenizer: the checkpoint's.
    question: the user's text.

  Returns:
    Ids, at least one.

  Raises:
    InputError: the question is empty, or the tokenizer lacks a special token
      the template writes.
  """
  if not question.strip():
    raise InputError(
      "a question is empty; it must hold text: write out what to ask, such as"
      " 'what is happening?'"
    )
  _check_special_tokens(template, tokenizer)
  return tokenizer.encode(template.question.replace("{question}", question))


def question_before_tokens(
  template: PromptTemplate,
  tokenizer: tokenizer_lib.Tokenizer,
  question: str,
  system: str | None = None,
) -> tuple[list[int], list[int]]:
  r"""Token ids around the frames where the question comes before them.

  Args:
    template: the model family's.
    tokenizer: the checkpoint's.
    question: the user's text.
    system: system text; the template's own when None, none at all when empty.

  Returns:
    Ids before the first frame, and from the last frame to the first token of
    the answer.

  Raises:
    InputError: the template has nothing between the question and the answer, or
      the tokenizer lacks a special token the template writes.

  Example:
    >>> template, bytes_ = TEMPLATES["plain"], tokenizer_lib.ByteTokenizer()
    >>> before, after = question_before_tokens(template, bytes_, "why?")
    >>> bytes_.decode(before), bytes_.decode(after)
    ('why?\n', '\nAnswer:')
  """
  _check_special_tokens(template, tokenizer)
  closing = template.answer_open
  if closing is None:
    closing = template.question.partition("{question}")[2]
  if not closing:
    raise InputError(
      f"the prompt template {template.name!r} has no text between a question"
      " and its answer, and one that comes before the frames needs it: set"
      " answer_open, or choose another --template"
    )
  asked = template.question_before.replace(
    "{stream_open}", template.stream_open
  ).replace("{question}", question)
  system = template.system if system is None else system
  turn = template.system_turn.replace("{system}", system) if system else ""
  opening = tokenizer.encode(template.begin + turn + asked)
  return opening, tokenizer.encode(closing)


def resume_tokens(
  template: PromptTemplate, tokenizer: tokenizer_lib.Tokenizer
) -> list[int]:
  """Token ids between an answer that stays and what follows it.

  Args:
    template: the model family's.
    tokenizer: the checkpoint's.

  Returns:
    Ids; they start with the stop token, which decoding leaves out.

  Raises:
    InputError: the tokenizer lacks a special token the template writes.
  """
  _check_special_tokens(template, tokenizer)
  return tokenizer.encode(template.resume)


def stop_ids(
  template: PromptTemplate,
  tokenizer: tokenizer_lib.Tokenizer,
  end_ids: Iterable[int] = (),
) -> tuple[int, ...]:
  """Every token id that ends an answer.

  Args:
    template: the model family's; a stop token the tokenizer does not know
      cannot be generated and is left out.
    tokenizer: the checkpoint's.
    end_ids: those the checkpoint's files name (`hf_config.end_ids`).

  Returns:
    Sorted, without repeats.
  """
  known = (tokenizer.token_id(token) for token in template.stop_tokens)
  return tuple(sorted({one for one in known if one is not None} | {*end_ids}))


def _check_special_tokens(
  template: PromptTemplate, tokenizer: tokenizer_lib.Tokenizer
) -> None:
  """<|…|> the tokenizer does not know would silently become plain text."""
  text = " ".join(
    (
      template.begin,
      template.system_turn,
      template.stream_open,
      template.question,
      template.resume,
      template.question_before,
      template.answer_open or "",
    )
  )
  unknown = sorted(
    {
      token
      for token in _SPECIAL.findall(text)
      if tokenizer.token_id(token) is None
    }
  )
  if unknown:
    raise InputError(
      f"the prompt template {template.name!r} writes {', '.join(unknown)},"
      " which the tokenizer does not know: choose the --template of the model's"
      " family"
    )
