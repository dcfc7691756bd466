"""From tensors in files to the parameter tree: check all, then read each.

The shapes the model wants and the headers of the files are compared before
anything is read; every difference is in one error. Then each leaf is read into
the array the model will use, so that there is never a second copy of it.
"""

import pathlib
from collections.abc import Iterable

import jax
import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.models import key_layout
from vrex_jax.models import lora
from vrex_jax.models import tensor_files
from vrex_jax.typing import Array, Parameters, PyTree

__all__ = ["Entries", "canonical_entries", "read_tree"]

Entries = dict[str, tensor_files.TensorEntry]
"""Tensors by canonical name (`key_layout`)."""

_MOST_NAMES = 20


def canonical_entries(
  entries: Entries, kind: str, source: pathlib.Path
) -> Entries:
  """Entries by canonical name, without those left out by rule."""
  renamed: Entries = {}
  for stored, entry in entries.items():
    name = key_layout.canonical_name(stored, kind=kind)
    if name in renamed:
      raise InputError(
        f"{source} holds {renamed[name].name} and {stored}, two names of one"
        " tensor: save the checkpoint again"
      )
    if name is not None:
      renamed[name] = entry
  return renamed


def read_tree(
  shapes: PyTree,
  entries: Entries,
  *,
  source: pathlib.Path,
  adapter: lora.Adapter | None = None,
) -> Parameters:
  """Checks every tensor, then reads them leaf by leaf."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
  wanted = [
    (key_layout.tensor_source(tuple(key.key for key in path)), shape)
    for path, shape in leaves
  ]
  _check(wanted, entries, source, adapter)
  return jax.tree.unflatten(
    structure,
    [
      _read_leaf(entries[tensor.name], tensor, shape, adapter)
      for tensor, shape in wanted
    ],
  )


def _check(
  wanted: list[tuple[key_layout.TensorSource, jax.ShapeDtypeStruct]],
  entries: Entries,
  source: pathlib.Path,
  adapter: lora.Adapter | None,
) -> None:
  expected = {
    tensor.name: tensor.file_shape(shape.shape) for tensor, shape in wanted
  }
  lists = {
    "missing": [name for name in expected if name not in entries],
    "left over": [
      entry.name for name, entry in entries.items() if name not in expected
    ],
    "wrongly shaped": [
      f"{entries[name].name} {list(entries[name].shape)} instead of"
      f" {list(shape)}"
      for name, shape in expected.items()
      if name in entries and entries[name].shape != shape
    ],
    "not floating point": tensor_files.unreadable(
      {name: entries[name] for name in expected if name in entries}
    ),
    "misfits of the adapter": (
      [] if adapter is None else adapter.misfits(entries)
    ),
  }
  problems = [
    f"{len(names)} {title}: {_some(names)}"
    for title, names in lists.items()
    if names
  ]
  if problems:
    raise InputError(
      f"the tensors of {source} are not those its configuration describes;"
      f" {'; '.join(problems)}: use the config.json these weights were saved"
      " with"
    )


def _read_leaf(
  entry: tensor_files.TensorEntry,
  tensor: key_layout.TensorSource,
  shape: jax.ShapeDtypeStruct,
  adapter: lora.Adapter | None,
) -> Array:
  """One parameter, in the layout and dtype of the model, on the device."""
  leaf = tensor_files.aligned_empty(shape.shape, np.dtype(shape.dtype))
  view = leaf.transpose(np.argsort(tensor.axes))
  tensor_files.read_into(
    entry,
    view,
    start=view.shape[0] * (tensor.third or 0),
    patch=None if adapter is None else adapter.patch(tensor.name),
  )
  return jax.device_put(leaf)


def _some(names: Iterable[str]) -> str:
  """At most twenty names and how many more there are."""
  names = sorted(names)
  more = len(names) - _MOST_NAMES
  rest = [f"and {more} more"] if more > 0 else []
  return ", ".join(names[:_MOST_NAMES] + rest)
