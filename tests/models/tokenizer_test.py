import hypothesis
import pytest
from hypothesis import strategies

from tests.parity import references
from vrex_jax.errors import InputError
from vrex_jax.models import tokenizer as tokenizer_lib


@pytest.fixture(params=["bytes", "file"])
def tokenizer(request):
  if request.param == "bytes":
    return tokenizer_lib.ByteTokenizer()
  return tokenizer_lib.load_tokenizer(references.DATA)


@pytest.mark.parametrize(
  "text", ["", "a b", " naïve \n\t", "日本語 🚗", "<|im", "|>"]
)
def test_decode_inverts_encode(text, tokenizer):
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_one_id_and_not_decoded(tokenizer):
  end = tokenizer.token_id("<|im_end|>")
  ids = tokenizer.encode("<|im_end|>a<|im_end|><|im_end|>b")
  assert ids.count(end) == 3
  assert len(ids) == 5
  assert tokenizer.decode(ids) == "ab"


def test_nothing_is_added(tokenizer):
  assert tokenizer.encode("") == []
  assert len(tokenizer.encode("ab")) == 2


def test_ids_are_below_the_vocabulary_size(tokenizer):
  assert tokenizer.token_id("<|eot_id|>") < tokenizer.vocab_size
  assert max(tokenizer.encode("é<|eot_id|>")) < tokenizer.vocab_size


def test_unknown_tokens_have_no_id(tokenizer):
  assert tokenizer.token_id("<|unknown|>") is None
  assert tokenizer.token_id("ab") is None


def test_cut_characters_decode_to_the_replacement(tokenizer):
  ids = tokenizer.encode("é!")
  assert tokenizer.decode(ids[:1]) == "\ufffd"
  assert tokenizer.decode(ids[1:]) == "\ufffd!"


@hypothesis.given(text=strategies.text())
def test_bytes_round_trip_any_text(text):
  tokenizer = tokenizer_lib.ByteTokenizer()
  hypothesis.assume(not any(mark in text for mark in ("<|", "<image", "<vid")))
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_without_meaning_decode_to_the_replacement():
  tokenizer = tokenizer_lib.ByteTokenizer(vocab_size=152000)
  assert tokenizer.vocab_size == 152000
  assert tokenizer.decode([104, 151999, 300, -1, 105]) == "h\ufffd\ufffd\ufffdi"


def test_a_vocabulary_too_small_is_refused():
  with pytest.raises(InputError, match="at least 266"):
    tokenizer_lib.ByteTokenizer(vocab_size=256)


def test_a_missing_or_broken_file_is_named(tmp_path):
  with pytest.raises(InputError, match=r"tokenizer\.json does not exist"):
    tokenizer_lib.load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
  with pytest.raises(InputError, match="not a readable tokenizer"):
    tokenizer_lib.load_tokenizer(tmp_path)


def test_truncation_and_padding_of_the_file_are_off(tmp_path):
  import tokenizers

  raw = tokenizers.Tokenizer.from_file(str(references.DATA / "tokenizer.json"))
  raw.enable_truncation(2)
  raw.enable_padding(length=8)
  raw.save(str(tmp_path / "tokenizer.json"))
  assert len(tokenizer_lib.load_tokenizer(tmp_path).encode("abcd")) == 4
