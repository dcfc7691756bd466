"""Names of tensors: what files call them, and which leaf of ours each fills.

Two pure maps meet at one canonical name:

  name in a file ──canonical_name──► canonical name ◄──tensor_source── leaf path

Canonical names:

  vision_tower.{embeddings, encoder.layers.i, post_layernorm, head}…
  multi_modal_projector.linear_{1,2}.{weight, bias},   image_newline
  language_model.{embed_tokens, layers.i, norm}…,      lm_head.weight

LLaVA-OneVision lies on disk in three layouts with the same tensors: written by
transformers up to 4.51 (`vision_tower.vision_model.…`,
`language_model.model.…`, `language_model.lm_head…`), by 5.x (without
`.vision_model`), and as named in memory (a leading `model.`). Text models are
`model.…` and `lm_head…`; SigLIP towers are `vision_model.…`, or bare.
"""

import dataclasses
import re

import numpy as np

__all__ = ["TensorSource", "canonical_name", "tensor_source"]

# Buffers older versions of transformers saved; they hold no weights.
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|position_ids)$")

# A whole SiglipModel also holds its text tower, which a video model lacks.
_SIGLIP_TEXT = re.compile(r"^(text_model\.|logit_(scale|bias)$)")

_CONNECTOR = re.compile(
  r"^(?:[\w.]+\.)?(?P<layer>0|2|linear_1|linear_2)\.(?P<leaf>weight|bias)$"
)

_ONEVISION_RULES = (
  (
    r"^model\.(?=vision_tower|language_model|multi_modal_projector|image_new)",
    "",
  ),
  (r"^vision_tower\.vision_model\.", "vision_tower."),
  (r"^language_model\.model\.", "language_model."),
  (r"^language_model\.lm_head\.", "lm_head."),
)

_VISION_LAYER = {
  "norm1": "layer_norm1",
  "norm2": "layer_norm2",
  "fc1": "mlp.fc1",
  "fc2": "mlp.fc2",
}
_VISION_HEAD = {
  "norm": "layernorm",
  "out_proj": "attention.out_proj",
  "fc1": "mlp.fc1",
  "fc2": "mlp.fc2",
}
_DECODER_LAYER = {
  "input_norm": "input_layernorm",
  "post_norm": "post_attention_layernorm",
  "gate_proj": "mlp.gate_proj",
  "up_proj": "mlp.up_proj",
  "down_proj": "mlp.down_proj",
}
_THIRDS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSource:
  """Static. Where the values of one leaf come from.

  Attributes:
    name: canonical name of the tensor.
    axes: leaf = transpose(tensor, axes).
    third: the leaf is this third (0, 1, 2) of the tensor's leading axis: the
      fused query, key and value of SigLIP's pooling head; None for all of it.
  """

  name: str
  axes: tuple[int, ...]
  third: int | None = None

  def file_shape(self, leaf_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape the tensor must have for a leaf of `leaf_shape`.

    Example:
      >>> TensorSource(name="w", axes=(1, 0), third=0).file_shape((4, 2))
      (6, 4)
    """
    shape = [leaf_shape[axis] for axis in np.argsort(self.axes)]
    if self.third is not None:
      shape[0] *= 3
    return tuple(shape)


def canonical_name(name: str, *, kind: str) -> str | None:
  """Canonical name of a tensor in a file.

  Args:
    name: name in the file.
    kind: what the file holds: "onevision", "decoder" (a text model), "vision"
      (SiglipModel or SiglipVisionModel) or "connector" (two linear layers,
      `0` and `2` of a torch Sequential or `linear_1` and `linear_2`, after
      any prefix).

  Returns:
    The canonical name; None for a tensor that is left out by rule: rotary and
    position buffers, and the text half of a SiglipModel.

  Raises:
    ValueError: `kind` is none of these.

  Example:
    >>> canonical_name("model.language_model.norm.weight", kind="onevision")
    'language_model.norm.weight'
    >>> canonical_name("language_model.model.norm.weight", kind="onevision")
    'language_model.norm.weight'
    >>> canonical_name("model.norm.weight", kind="decoder")
    'language_model.norm.weight'
  """
  if _BUFFERS.search(name):
    return None
  if kind == "onevision":
    for pattern, replacement in _ONEVISION_RULES:
      name = re.sub(pattern, replacement, name)
    return name
  if kind == "decoder":
    return re.sub(r"^model\.", "language_model.", name)
  if kind == "vision":
    if _SIGLIP_TEXT.match(name):
      return None
    return "vision_tower." + name.removeprefix("vision_model.")
  if kind == "connector":
    match = _CONNECTOR.match(name)
    if match is None:
      return name
    layer = {"0": "linear_1", "2": "linear_2"}.get(match["layer"])
    return f"multi_modal_projector.{layer or match['layer']}.{match['leaf']}"
  raise ValueError(f"unknown kind of tensor file {kind!r}")


def tensor_source(path: tuple[str, ...]) -> TensorSource:
  """The tensor that fills one leaf of the parameter tree.

  Kernels are stored [out, in] in files and [in, out] here; the patch
  convolution [D, 3, p, p] there and [p, p, 3, D] here.

  Args:
    path: keys from the root: ("decoder", "layers_0", "q_proj", "kernel").

  Returns:
    Name and layout of the tensor.

  Raises:
    ValueError: the tree has no such part.

  Example:
    >>> tensor_source(("decoder", "layers_3", "gate_proj", "kernel")).name
    'language_model.layers.3.mlp.gate_proj.weight'
  """
  part, rest = path[0], path[1:]
  if part == "vision":
    return _vision_source(rest)
  if part == "connector":
    if rest == ("newline",):
      return TensorSource(name="image_newline", axes=(0,))
    return _leaf(f"multi_modal_projector.{rest[0]}", rest[-1])
  if part == "decoder":
    if rest[0] == "lm_head":
      return _leaf("lm_head", rest[-1])
    module = _layer_module(rest, "layers", _DECODER_LAYER)
    return _leaf(f"language_model.{module}", rest[-1])
  raise ValueError(f"no tensor is known for the parameter {'/'.join(path)}")


def _vision_source(rest: tuple[str, ...]) -> TensorSource:
  first, leaf = rest[0], rest[-1]
  if first == "patch_embedding":
    name = f"vision_tower.embeddings.patch_embedding.{_file_leaf(leaf)}"
    axes = (2, 3, 1, 0) if leaf == "kernel" else (0,)
    return TensorSource(name=name, axes=axes)
  if first == "position_embedding":
    return TensorSource(
      name="vision_tower.embeddings.position_embedding.weight", axes=(0, 1)
    )
  if first == "post_norm":
    return _leaf("vision_tower.post_layernorm", leaf)
  if first == "head":
    return _head_source(rest[1:])
  module = _layer_module(rest, "encoder.layers", _VISION_LAYER)
  return _leaf(f"vision_tower.{module}", leaf)


def _head_source(rest: tuple[str, ...]) -> TensorSource:
  """The attention-pooling head; torch fuses its q, k and v projections."""
  if rest == ("probe",):
    return TensorSource(name="vision_tower.head.probe", axes=(0, 1, 2))
  module, leaf = rest
  if module in _THIRDS:
    name = f"vision_tower.head.attention.in_proj_{_file_leaf(leaf)}"
    axes = (1, 0) if leaf == "kernel" else (0,)
    return TensorSource(name=name, axes=axes, third=_THIRDS[module])
  return _leaf(f"vision_tower.head.{_lookup(module, _VISION_HEAD)}", leaf)


def _layer_module(
  rest: tuple[str, ...], layers: str, modules: dict[str, str]
) -> str:
  """layers_3/q_proj -> layers.3.self_attn.q_proj; norm -> norm."""
  match = re.fullmatch(r"layers_(\d+)", rest[0])
  if match is None:
    return rest[0]
  attention = rest[1] in (*_THIRDS, "o_proj", "out_proj")
  module = f"self_attn.{rest[1]}" if attention else _lookup(rest[1], modules)
  return f"{layers}.{match[1]}.{module}"


def _lookup(module: str, modules: dict[str, str]) -> str:
  if module not in modules:
    raise ValueError(f"no tensor is known for the module {module!r}")
  return modules[module]


def _leaf(module: str, leaf: str) -> TensorSource:
  """Weight and bias of a linear layer, a norm or an embedding."""
  axes = {"kernel": (1, 0), "embedding": (0, 1)}.get(leaf, (0,))
  return TensorSource(name=f"{module}.{_file_leaf(leaf)}", axes=axes)


def _file_leaf(leaf: str) -> str:
  return "bias" if leaf == "bias" else "weight"
