"""Lists and reads safetensors files, never two copies of a tensor at once.

  list_tensors(directory) ─► {name: TensorEntry}     headers only
  read_into(entry, view)  ─► fills a numpy view in slabs of rows

A slab is a few megabytes, so what a load needs beyond the result is one slab
plus the pages of one mapped tensor, which the system may drop at any time.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.models import json_fields

__all__ = [
  "PatchRows",
  "TensorEntry",
  "aligned_empty",
  "list_file",
  "list_tensors",
  "read_into",
  "read_tensor",
  "same_values",
  "unreadable",
]

_SLAB_BYTES = 2**24
# XLA takes over a host buffer without a copy only at this alignment.
_ALIGNMENT_BYTES = 64
_READABLE = ("F64", "F32", "F16", "BF16")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

PatchRows = Callable[[np.ndarray, slice], np.ndarray]
"""(rows of a tensor, which rows they are) -> the rows to keep, same shape."""


class TensorEntry(NamedTuple):
  """One tensor in a safetensors file, not read yet.

  Attributes:
    path: the file.
    name: name of the tensor in it.
    shape: shape in the file.
    dtype: "F32", "BF16", …, as the header spells it.
  """

  path: pathlib.Path
  name: str
  shape: tuple[int, ...]
  dtype: str


def list_tensors(
  directory: pathlib.Path, stem: str = "model"
) -> dict[str, TensorEntry]:
  """Tensors of a directory: one file, or the shards an index names.

  Args:
    directory: a Hugging Face directory.
    stem: "model", or "adapter_model" for a PEFT adapter.

  Returns:
    Entries by name.

  Raises:
    InputError: no safetensors file (pickle files are refused by name), a
      broken index, a missing shard, or a corrupt file.
  """
  if not directory.is_dir():
    raise InputError(
      f"{directory} is not a directory; a checkpoint is a Hugging Face"
      " directory: check the path"
    )
  index = directory / f"{stem}.safetensors.index.json"
  single = directory / f"{stem}.safetensors"
  if index.is_file():
    return _list_shards(directory, index)
  if single.is_file():
    return list_file(single)
  pickles = sorted(
    path.name
    for path in directory.iterdir()
    if path.suffix in _PICKLES and path.name.startswith((stem, "pytorch_model"))
  )
  if pickles:
    raise InputError(_pickle_message(directory / pickles[0]))
  raise InputError(
    f"{directory} holds neither {single.name} nor {index.name}; weights are"
    " read from safetensors only: save the model with save_pretrained"
  )


def list_file(path: pathlib.Path) -> dict[str, TensorEntry]:
  """Tensors of one safetensors file.

  Args:
    path: the file.

  Returns:
    Entries by name.

  Raises:
    InputError: absent, a pickle file, a Git LFS pointer, or corrupt.
  """
  if not path.is_file():
    raise InputError(
      f"{path} does not exist; it should hold weights: check the path"
    )
  if path.suffix in _PICKLES:
    raise InputError(_pickle_message(path))
  with _open(path) as file:
    entries = {}
    for name in file.keys():  # noqa: SIM118 (not a mapping)
      tensor = file.get_slice(name)
      entries[name] = TensorEntry(
        path, name, tuple(tensor.get_shape()), tensor.get_dtype()
      )
  return entries


def unreadable(entries: dict[str, TensorEntry]) -> list[str]:
  """Names of tensors whose dtype is none of float64, 32, 16 and bfloat16."""
  return [
    f"{entry.name} ({entry.dtype})"
    for entry in entries.values()
    if entry.dtype not in _READABLE
  ]


def read_into(
  entry: TensorEntry,
  view: np.ndarray,
  *,
  patch: PatchRows | None = None,
  start: int = 0,
) -> None:
  """Copies rows of a tensor into a view, slab by slab, casting as it goes.

  Args:
    entry: the tensor.
    view: destination with the tensor's axes, its first one possibly shorter;
      may be strided, as the transpose of a parameter is.
    patch: applied to every slab, as float32, before the cast.
    start: the tensor's row that goes to the view's row 0.
  """
  if not entry.shape:
    view[...] = read_tensor(entry)
    return
  with _open(entry.path) as file:
    tensor = file.get_slice(entry.name)
    for slab in _slabs(entry, view.shape[0]):
      which = slice(start + slab.start, start + slab.stop)
      rows = tensor[which]
      if patch is not None:
        rows = patch(rows.astype(np.float32), which)
      view[slab] = rows


def read_tensor(entry: TensorEntry) -> np.ndarray:
  """A whole (small) tensor in its own dtype."""
  with _open(entry.path) as file:
    return file.get_tensor(entry.name)


def same_values(one: TensorEntry, other: TensorEntry) -> bool:
  """Are two tensors equal, compared a slab at a time?"""
  if one.shape != other.shape:
    return False
  with _open(one.path) as first, _open(other.path) as second:
    left, right = first.get_slice(one.name), second.get_slice(other.name)
    return all(
      np.array_equal(left[slab], right[slab])
      for slab in _slabs(one, one.shape[0])
    )


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """An uninitialised array that a CPU device can adopt without a copy.

  Example:
    >>> aligned_empty((3, 5), np.dtype(np.float32)).ctypes.data % 64
    0
  """
  size = int(np.prod(shape)) * dtype.itemsize
  block = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
  skip = -block.ctypes.data % _ALIGNMENT_BYTES
  return block[skip : skip + size].view(dtype).reshape(shape)


def _slabs(entry: TensorEntry, rows: int) -> Iterator[slice]:
  """Slices of the first `rows` rows of a tensor, of about _SLAB_BYTES each."""
  row_bytes = 4 * max(1, int(np.prod(entry.shape[1:])))
  step = max(1, _SLAB_BYTES // row_bytes)
  for first in range(0, rows, step):
    yield slice(first, min(first + step, rows))


def _list_shards(
  directory: pathlib.Path, index: pathlib.Path
) -> dict[str, TensorEntry]:
  shard_of = json_fields.read_json(index).get("weight_map")
  if not isinstance(shard_of, dict):
    raise InputError(
      f"{index} has no weight_map; it must name the file of every tensor: copy"
      " it again"
    )
  files = {name: directory / str(name) for name in set(shard_of.values())}
  absent = sorted(
    str(path.name) for path in files.values() if not path.exists()
  )
  if absent:
    raise InputError(
      f"{index} names {', '.join(absent)}, which {directory} does not hold:"
      " copy every shard"
    )
  shards = {name: list_file(path) for name, path in files.items()}
  lost = sorted(
    name for name, shard in shard_of.items() if name not in shards[shard]
  )
  if lost:
    name, shard = lost[0], shard_of[lost[0]]
    holders = [other for other in sorted(shards) if name in shards[other]]
    found = f"{holders[0]} does" if holders else "no file does"
    raise InputError(
      f"{index} promises {name} in {shard}, which does not hold it ({found};"
      f" {len(lost)} misplaced in all); the index and the shards must be of one"
      " checkpoint: copy the directory again"
    )
  return {name: shards[shard][name] for name, shard in shard_of.items()}


def _open(path: pathlib.Path) -> Any:
  try:
    import safetensors
  except ImportError:
    raise InputError(
      f"{path} needs the package safetensors, which is not installed: pip"
      " install -e '.[hf]'"
    ) from None
  try:
    return safetensors.safe_open(path, framework="np")
  except (safetensors.SafetensorError, OSError) as error:
    with open(path, "rb") as file:
      if file.read(64).startswith(b"version https://git-lfs"):
        raise InputError(
          f"{path} is a Git LFS pointer, not the weights: run git lfs pull in"
          " its directory"
        ) from None
    raise InputError(
      f"{path} is not a whole safetensors file ({error}): copy it again"
    ) from None


def _pickle_message(path: pathlib.Path) -> str:
  return (
    f"{path} is a pickle file, which can run code when opened; only safetensors"
    " is read: where you trust it, load it and save it again with"
    " save_pretrained or safetensors.torch.save_file"
  )
