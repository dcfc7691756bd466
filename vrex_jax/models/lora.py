"""A PEFT LoRA adapter, merged into the decoder's weights as they are read.

  W' = W + scale · B A,   scale = lora_alpha / r   (lora_alpha / √r with
                          use_rslora)

W is [out, in], B [out, r] and A [r, in]. The product is formed for the rows
being read only, so merging needs no second copy of a weight. Modules that were
trained in full (`modules_to_save`) replace the base model's tensors; among
them may be the connector, as in VideoLLM-Online's adapters.

Source: Hu et al., arXiv 2106.09685, Eq. 3; Kalajdzievski, arXiv 2312.03732.
"""

import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from vrex_jax.errors import InputError
from vrex_jax.models import json_fields
from vrex_jax.models import key_layout
from vrex_jax.models import tensor_files

__all__ = ["Adapter", "LowRank", "read_adapter"]

_PREFIX = "base_model.model."
_LOW_RANK = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
_CONNECTOR = re.compile(r"^(?:model\.)?(?:connector|mm_projector)\.")

# Options that change the merge, and the only values implemented.
_ONLY: dict[str, Any] = {
  "peft_type": "LORA",
  "bias": "none",
  "use_dora": False,
  "use_qalora": False,
  "lora_bias": False,
  "rank_pattern": {},
  "alpha_pattern": {},
  "layer_replication": None,
  "trainable_token_indices": None,
  "target_parameters": None,
  "alora_invocation_tokens": None,
  "use_bdlora": None,
}
# Every variant of LoRA keeps its settings in a field of its own, which is empty
# in plain adapters; this one concerns the start of training only.
_HARMLESS_CONFIGS = ("eva_config",)

# Initialisations after which the base is no longer the published one.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


class LowRank(NamedTuple):
  """The two factors of one weight's update.

  Attributes:
    a: A, [r, in].
    b: B, [out, r].
  """

  a: tensor_files.TensorEntry
  b: tensor_files.TensorEntry


class Adapter(NamedTuple):
  """What an adapter directory does to a base model.

  Attributes:
    directory: where it was read from, for messages.
    rank: r.
    scale: factor of every product B A.
    updates: low-rank factors by canonical weight name.
    replacements: whole tensors by canonical name.
  """

  directory: pathlib.Path
  rank: int
  scale: float
  updates: dict[str, LowRank]
  replacements: dict[str, tensor_files.TensorEntry]

  def misfits(self, base: dict[str, tensor_files.TensorEntry]) -> list[str]:
    """Updates the base tensors have no place for, each in words."""
    problems = []
    for name, (a, b) in sorted(self.updates.items()):
      if name not in base or len(base[name].shape) != 2:
        problems.append(f"{b.name} changes {name}, which is no weight here")
        continue
      rows, columns = base[name].shape
      expected = ((self.rank, columns), (rows, self.rank))
      if (a.shape, b.shape) != expected:
        problems.append(
          f"{a.name} is {list(a.shape)} and its partner {list(b.shape)},"
          f" instead of {list(expected[0])} and {list(expected[1])}"
        )
    return problems

  def patch(self, name: str) -> tensor_files.PatchRows | None:
    """The function that adds this adapter's update to rows of a weight.

    Args:
      name: canonical name of the weight.

    Returns:
      A function for `tensor_files.read_into`; None when the adapter leaves
      this weight alone.
    """
    if name not in self.updates:
      return None
    factors = self.updates[name]
    a = tensor_files.read_tensor(factors.a).astype(np.float32)
    b = tensor_files.read_tensor(factors.b).astype(np.float32)

    def add(rows: np.ndarray, which: slice) -> np.ndarray:
      return rows + self.scale * (b[which] @ a)

    return add


def read_adapter(directory: pathlib.Path) -> Adapter:
  """Reads adapter_config.json and the names in adapter_model.safetensors.

  Args:
    directory: what PEFT's `save_pretrained` wrote for a causal language model.

  Returns:
    The adapter; its tensors are read when they are merged.

  Raises:
    InputError: another adapter method, an option that changes the merge, a
      pickle file, half a pair of factors, or a tensor that is neither factor
      nor saved module.
  """
  path = directory / "adapter_config.json"
  raw = json_fields.read_json(path)
  _refuse_other_values(raw, path)
  rank, alpha = raw.get("r"), raw.get("lora_alpha")
  if not isinstance(rank, int) or rank < 1:
    raise InputError(
      f"{path} says r {rank!r}; it must be a positive integer: correct the file"
    )
  if not isinstance(alpha, int | float):
    raise InputError(
      f"{path} says lora_alpha {alpha!r}; it must be a number: correct the file"
    )
  if raw.get("fan_in_fan_out"):
    # As PEFT does for linear layers, the only ones these decoders have.
    logging.warning("%s sets fan_in_fan_out, which is ignored", path)
  divisor = math.sqrt(rank) if raw.get("use_rslora") else rank
  entries = tensor_files.list_tensors(directory, "adapter_model")
  sides, replacements, strange = _sort_tensors(entries)
  strange += [
    entry.name
    for module, pair in sides.items()
    for entry in pair.values()
    if len(pair) != 2
  ]
  if strange:
    raise InputError(
      f"{directory} holds {', '.join(sorted(strange)[:20])}"
      f" ({len(strange)} in all), which is neither a pair of lora_A and lora_B"
      " nor a saved module: use a LoRA adapter of linear layers"
    )
  return Adapter(
    directory=directory,
    rank=rank,
    scale=float(alpha) / divisor,
    updates={
      module: LowRank(a=pair["A"], b=pair["B"])
      for module, pair in sides.items()
    },
    replacements=replacements,
  )


def _sort_tensors(
  entries: dict[str, tensor_files.TensorEntry],
) -> tuple[
  dict[str, dict[str, tensor_files.TensorEntry]],
  dict[str, tensor_files.TensorEntry],
  list[str],
]:
  """Factors by weight and side, saved modules by name, and the rest."""
  sides: dict[str, dict[str, tensor_files.TensorEntry]] = {}
  replacements: dict[str, tensor_files.TensorEntry] = {}
  strange: list[str] = []
  for stored, entry in entries.items():
    name = stored.removeprefix(_PREFIX)
    # PEFT's wrappers; beside factors of the head it stores the head itself.
    name = re.sub(r"\.((modules_to_save\.)?default|base_layer)(?=\.)", "", name)
    match = _LOW_RANK.match(name)
    if match is not None:
      weight = _canonical(f"{match['module']}.weight")
      sides.setdefault(weight, {})[match["side"]] = entry
    elif ".lora_" in name or not stored.startswith(_PREFIX):
      strange.append(stored)
    else:
      replacements[_canonical(name)] = entry
  return sides, replacements, strange


def _canonical(name: str) -> str:
  kind = "connector" if _CONNECTOR.match(name) else "decoder"
  return key_layout.canonical_name(name, kind=kind) or name


def _refuse_other_values(raw: dict[str, Any], path: pathlib.Path) -> None:
  variants = {
    name: None
    for name in raw
    if name.endswith("_config") and name not in _HARMLESS_CONFIGS
  }
  for name, only in {**_ONLY, **variants}.items():
    value = raw.get(name)
    if value and value != only:
      raise InputError(
        f"{path} says {name} {value!r}; only {only!r} is implemented: merge the"
        " adapter with PEFT and give the merged directory"
      )
  start = raw.get("init_lora_weights")
  if isinstance(start, str) and start.startswith(_CHANGES_BASE):
    raise InputError(
      f"{path} says init_lora_weights {start!r}, which also changes the base"
      " weights: convert the adapter to a plain LoRA with PEFT"
    )
