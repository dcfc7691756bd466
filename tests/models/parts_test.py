import pytest

from vrex_jax.errors import InputError
from vrex_jax.models import parts as parts_lib

MINIMAL = """
[vision]
directory = "siglip"
[decoder]
directory = "/models/llama"
[connector]
file = "c.safetensors"
"""


def _read(tmp_path, text):
  path = tmp_path / "model.toml"
  path.write_text(text)
  return parts_lib.read_parts(path)


def test_paths_are_relative_to_the_file(tmp_path):
  parts = _read(tmp_path, MINIMAL)
  assert parts.vision == tmp_path / "siglip"
  assert str(parts.decoder) == "/models/llama"
  assert parts.connector == tmp_path / "c.safetensors"
  assert parts.adapter is None


def test_defaults_are_the_papers_shape(tmp_path):
  parts = _read(tmp_path, MINIMAL)
  assert (parts.pooled_grid, parts.use_pooled_head) == (3, True)
  assert parts.separator == ","
  assert (parts.template, parts.system) == (None, None)


def test_everything_can_be_said(tmp_path):
  parts = _read(
    tmp_path,
    MINIMAL
    + 'pooled_grid = 2\nuse_pooled_head = false\nseparator = ""\n'
    + '[adapter]\ndirectory = "lora"\n'
    + '[prompt]\ntemplate = "mine.toml"\nsystem = "Be brief."\n',
  )
  assert (parts.pooled_grid, parts.use_pooled_head) == (2, False)
  assert parts.separator == ""
  assert parts.adapter == tmp_path / "lora"
  assert parts.template == str(tmp_path / "mine.toml")
  assert parts.system == "Be brief."


def test_a_template_name_stays_a_name(tmp_path):
  parts = _read(tmp_path, MINIMAL + '[prompt]\ntemplate = "llama3"\n')
  assert parts.template == "llama3"


@pytest.mark.parametrize(
  ("text", "said"),
  [
    (MINIMAL.replace("[vision]", "[tower]"), "has 'tower'; known are [vision]"),
    (MINIMAL.replace("[vision]", "[[vision]]"), "has 'vision'"),
    ("name = 3\n" + MINIMAL, "has 'name'"),
    (MINIMAL + 'scale = "x"\n', "has [connector] scale"),
    (MINIMAL + 'pooled_grid = "3"\n', "must be of type int"),
    (MINIMAL + "pooled_grid = true\n", "must be of type int"),
    (MINIMAL + "pooled_grid = 0\n", "pooled_grid 0"),
    (MINIMAL.replace('directory = "siglip"', ""), "names no vision"),
    ('[vision]\ndirectory = "siglip"\n', "names no decoder"),
    (MINIMAL.split("[connector]")[0], "names no connector"),
    ("[vision", "not valid TOML"),
  ],
)
def test_broken_files_say_what_is_wrong(text, said, tmp_path):
  with pytest.raises(InputError) as caught:
    _read(tmp_path, text)
  assert said in str(caught.value)
  assert "model.toml" in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(InputError, match=r"a\.toml does not exist"):
    parts_lib.read_parts(tmp_path / "a.toml")


def test_all_parts_that_do_not_exist_are_named_at_once(tmp_path):
  parts = _read(tmp_path, MINIMAL.replace("/models/llama", "llama"))
  (tmp_path / "siglip").mkdir()
  with pytest.raises(InputError) as caught:
    parts_lib.check_paths(parts)
  message = str(caught.value)
  assert "llama" in message
  assert "c.safetensors" in message
  assert "siglip" not in message
  (tmp_path / "llama").mkdir()
  (tmp_path / "c.safetensors").touch()
  parts_lib.check_paths(parts)
