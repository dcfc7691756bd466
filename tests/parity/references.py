"""The stored tiny checkpoints, and what other writers would have made of them.

`experiments/make_parity_references.py` wrote the files.
"""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from vrex_jax import parity
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint

DATA = pathlib.Path(__file__).parent / "data"
TEXT = ("llama_group1", "llama_group4", "qwen2_group2", "qwen2_group7")
ONEVISION = ("onevision_even", "onevision_odd")
PARTS = "parts"
ALL = (*TEXT, *ONEVISION, PARTS)
LAYOUTS = ("published", "saved", "memory")
TOLERANCE = 1e-4

# Stored is what transformers 5 saves; the rules make the other two layouts.
_FROM_SAVED = {
  "published": ((r"^vision_tower\.", "vision_tower.vision_model."),),
  "saved": (),
  "memory": (
    (r"^(vision_tower|multi_modal_projector|image_newline)", r"model.\1"),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head", "lm_head"),
  ),
}


def copy(name: str, folder: pathlib.Path) -> pathlib.Path:
  """A private copy that may be edited; the path to load it from."""
  for source in DATA.iterdir():
    if source.is_dir():
      shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
  for owner in (*ONEVISION, "llama_group4"):
    shutil.copy(DATA / "tokenizer.json", folder / owner)
  return folder / name / "parts.toml" if name == PARTS else folder / name


def stored(name: str) -> tuple[parity.Inputs, parity.Values]:
  """The inputs and the values transformers computed on them."""
  with np.load(DATA / name / "reference.npz", allow_pickle=False) as file:
    given = {k.removeprefix("given_"): file[k] for k in file if "given_" in k}
    values = {k.removeprefix("value_"): file[k] for k in file if "value_" in k}
  inputs = parity.Inputs(
    frames=given.get("frames"),
    prompt=given["prompt"].tolist(),
    question=given["question"].tolist(),
    new_tokens=len(values["answer"]),
  )
  return inputs, values


def load(
  name: str, path: pathlib.Path, dtype: str = "float32"
) -> checkpoint.Checkpoint | checkpoint.DecoderCheckpoint:
  """Whatever kind of checkpoint `name` is."""
  if name in TEXT:
    return checkpoint.load_decoder(path, dtype=dtype)
  return checkpoint.load(path, dtype=dtype)


def weights(directory: pathlib.Path) -> pathlib.Path:
  """The file of an unsharded checkpoint's tensors."""
  return directory / "model.safetensors"


def refusal(path: pathlib.Path, load=checkpoint.load) -> str:
  """Message of a checkpoint that is refused."""
  with pytest.raises(InputError) as caught:
    load(path)
  return str(caught.value)


def rewrite_tensors(path: pathlib.Path, change) -> None:
  """Replaces a safetensors file's tensors by change(tensors)."""
  tensors = change(safetensors_numpy.load_file(path))
  safetensors_numpy.save_file(tensors, path, metadata={"format": "pt"})


def use_layout(directory: pathlib.Path, layout: str) -> None:
  """Renames a OneVision checkpoint's tensors to another key layout."""

  def rename(tensors):
    renamed = {}
    for name, value in tensors.items():
      for pattern, replacement in _FROM_SAVED[layout]:
        name = re.sub(pattern, replacement, name)  # noqa: PLW2901
      renamed[name] = value
    return renamed

  rewrite_tensors(weights(directory), rename)


def edit_json(path: pathlib.Path, **changes) -> None:
  """Sets fields of a JSON file; None removes one."""
  content = json.loads(path.read_text())
  content.update(changes)
  kept = {name: value for name, value in content.items() if value is not None}
  path.write_text(json.dumps(kept))


def use_old_spelling(directory: pathlib.Path) -> None:
  """rope_parameters and dtype as transformers 4 wrote them."""
  path = directory / "config.json"
  raw = json.loads(path.read_text())
  rope = raw.pop("rope_parameters")
  raw["rope_theta"] = rope.pop("rope_theta")
  if rope["rope_type"] != "default":
    raw["rope_scaling"] = rope
  raw["torch_dtype"] = raw.pop("dtype")
  path.write_text(json.dumps(raw))
