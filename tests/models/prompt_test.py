import pytest

from tests.parity import references
from vrex_jax.errors import InputError
from vrex_jax.models import prompt
from vrex_jax.models import tokenizer as tokenizer_lib

# Two questions, the first answered "A car." and kept; [F] stands for frames.
CONVERSATIONS = {
  "qwen2": (
    "<|im_start|>system \nBe brief.<|im_end|><|im_start|>user [F]"
    "\nWhat?<|im_end|><|im_start|>assistant\nA car."
    "<|im_end|><|im_start|>user [F]"
    "\nAnd now?<|im_end|><|im_start|>assistant\n"
  ),
  "llama3": (
    "<|begin_of_text|>"
    "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n[F]"
    "\nWhat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA car."
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n[F]"
    "\nAnd now?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
  ),
  "videollm_online": (
    "<|begin_of_text|>Be brief.\n\n[[F]]\nUser: What?\nAssistant:A car."
    "<|eot_id|>\n[[F]]\nUser: And now?\nAssistant:"
  ),
  "plain": (
    "Be brief.\n[F]\nQuestion: What?\nAnswer:A car."
    "\n[F]\nQuestion: And now?\nAnswer:"
  ),
}


@pytest.fixture(params=["bytes", "file"])
def tokenizer(request):
  if request.param == "bytes":
    return tokenizer_lib.ByteTokenizer()
  return tokenizer_lib.load_tokenizer(references.DATA)


@pytest.mark.parametrize("name", sorted(prompt.TEMPLATES))
def test_a_conversation_reads_as_the_family_writes_it(name, tokenizer):
  template = prompt.TEMPLATES[name]
  frames = tokenizer.encode("[F]")
  ids = [
    *prompt.prompt_tokens(template, tokenizer, "Be brief."),
    *frames,
    *prompt.question_tokens(template, tokenizer, "What?"),
    *tokenizer.encode("A car."),
    *prompt.resume_tokens(template, tokenizer),
    *frames,
    *prompt.question_tokens(template, tokenizer, "And now?"),
  ]
  assert ids == tokenizer.encode(CONVERSATIONS[name])


ASKED_FIRST = {
  "qwen2": (
    "<|im_start|>system \nBe brief.<|im_end|><|im_start|>user What {a}?\n[F]"
    "<|im_end|><|im_start|>assistant\n"
  ),
  "videollm_online": (
    "<|begin_of_text|>Be brief.\n\nUser: What {a}?\n[[F]]\nAssistant:"
  ),
  "plain": "Be brief.\nWhat {a}?\n[F]\nAnswer:",
}


@pytest.mark.parametrize("name", ASKED_FIRST)
def test_a_question_may_come_before_the_frames(name, tokenizer):
  before, after = ASKED_FIRST[name].split("[F]")
  found = prompt.question_before_tokens(
    prompt.TEMPLATES[name], tokenizer, "What {a}?", "Be brief."
  )
  assert found == (tokenizer.encode(before), tokenizer.encode(after))


def test_without_words_before_the_answer_no_question_comes_first(tokenizer):
  bare = prompt.PromptTemplate(name="bare")
  with pytest.raises(InputError, match="'bare' has no text between"):
    prompt.question_before_tokens(bare, tokenizer, "What?")
  opened = prompt.PromptTemplate(name="bare", answer_open=">")
  _, after = prompt.question_before_tokens(opened, tokenizer, "What?")
  assert after == tokenizer.encode(">")


@pytest.mark.parametrize("name", sorted(prompt.TEMPLATES))
def test_resuming_writes_the_stop_token_first(name, tokenizer):
  """Decoding leaves it out; the next turn must see it once."""
  template = prompt.TEMPLATES[name]
  first = prompt.resume_tokens(template, tokenizer)[0]
  stops = prompt.stop_ids(template, tokenizer)
  assert (first in stops) == bool(template.stop_tokens)


def test_the_default_system_text_and_none_at_all(tokenizer):
  template = prompt.TEMPLATES["qwen2"]
  default = prompt.prompt_tokens(template, tokenizer)
  named = prompt.prompt_tokens(
    template, tokenizer, "You are a helpful assistant."
  )
  assert default == named
  bare = prompt.prompt_tokens(template, tokenizer, "")
  assert bare == tokenizer.encode("<|im_start|>user ")


def test_braces_in_a_question_are_text(tokenizer):
  template = prompt.TEMPLATES["plain"]
  ids = prompt.question_tokens(template, tokenizer, "{question} {x} {{}}?")
  assert "{question} {x} {{}}?" in tokenizer.decode(ids)


def test_an_empty_question_is_refused(tokenizer):
  with pytest.raises(InputError, match=r"a question is empty; [^-]*$"):
    prompt.question_tokens(prompt.TEMPLATES["qwen2"], tokenizer, " \n")


def test_all_stop_ids_are_kept_once(tokenizer):
  template = prompt.TEMPLATES["qwen2"]
  own = {
    tokenizer.token_id("<|im_end|>"),
    tokenizer.token_id("<|endoftext|>"),
  }
  end = tokenizer.token_id("<|im_end|>")
  found = prompt.stop_ids(template, tokenizer, (7, end, 3))
  assert found == tuple(sorted(own | {3, 7}))
  assert prompt.stop_ids(prompt.TEMPLATES["plain"], tokenizer) == ()


def test_a_template_of_another_family_is_refused():
  class Plain(tokenizer_lib.ByteTokenizer):
    def token_id(self, token):
      return None if token == "<|eot_id|>" else super().token_id(token)

  for write in (
    lambda: prompt.prompt_tokens(prompt.TEMPLATES["llama3"], Plain()),
    lambda: prompt.question_tokens(prompt.TEMPLATES["llama3"], Plain(), "a"),
    lambda: prompt.resume_tokens(prompt.TEMPLATES["llama3"], Plain()),
  ):
    with pytest.raises(InputError, match=r"<\|eot_id\|>, which the tokenizer"):
      write()
  # A stop token that cannot be generated does no harm.
  assert len(prompt.stop_ids(prompt.TEMPLATES["llama3"], Plain())) == 1


def test_a_template_from_a_file(tmp_path, tokenizer):
  path = tmp_path / "mine.toml"
  path.write_text(
    'question = "Q {question} A"\nstop_tokens = ["<|eot_id|>"]\n'
    'system_turn = "S {system} "\nstream_open = "V"\nresume = "R"\n'
  )
  template = prompt.load_template(str(path))
  assert template.name == "mine"
  ids = prompt.prompt_tokens(template, tokenizer, "x")
  assert tokenizer.decode(ids) == "S x V"
  ids = prompt.question_tokens(template, tokenizer, "why?")
  assert tokenizer.decode(ids) == "Q why? A"
  assert prompt.stop_ids(template, tokenizer) == (
    tokenizer.token_id("<|eot_id|>"),
  )


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ('question = "no place"', "hold {question} once"),
    ('system_turn = "{system}{system}"', "hold {system} once"),
    ('answer = "x"', "sets answer; the fields of a template are"),
    ("resume = 3", "not text"),
    ("stop_tokens = [1]", "not text"),
    ('stop_tokens = "<|eot_id|>"', "not text"),
    ("question = ", "not valid TOML"),
  ],
)
def test_broken_template_files(text, said, tmp_path):
  path = tmp_path / "mine.toml"
  path.write_text(text)
  with pytest.raises(InputError) as caught:
    prompt.load_template(str(path))
  assert said in str(caught.value)


def test_an_unknown_template_lists_the_known_ones(tmp_path):
  for name in ("qwen3", str(tmp_path / "absent.toml")):
    with pytest.raises(
      InputError, match="llama3, plain, qwen2, videollm_online"
    ):
      prompt.load_template(name)
