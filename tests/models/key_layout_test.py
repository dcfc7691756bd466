import jax
import numpy as np
import pytest

from tests.parity import references
from vrex_jax.models import checkpoint
from vrex_jax.models import key_layout
from vrex_jax.models import presets
from vrex_jax.models import video_llm


@pytest.mark.parametrize(
  ("name", "kind", "canonical"),
  [
    (
      "vision_tower.vision_model.post_layernorm.bias",
      "onevision",
      "vision_tower.post_layernorm.bias",
    ),
    (
      "model.vision_tower.head.probe",
      "onevision",
      "vision_tower.head.probe",
    ),
    (
      "language_model.model.layers.3.mlp.up_proj.weight",
      "onevision",
      "language_model.layers.3.mlp.up_proj.weight",
    ),
    ("language_model.lm_head.weight", "onevision", "lm_head.weight"),
    ("lm_head.weight", "onevision", "lm_head.weight"),
    ("model.image_newline", "onevision", "image_newline"),
    ("image_newline", "onevision", "image_newline"),
    (
      "model.layers.0.input_layernorm.weight",
      "decoder",
      "language_model.layers.0.input_layernorm.weight",
    ),
    ("vision_model.head.probe", "vision", "vision_tower.head.probe"),
    ("head.probe", "vision", "vision_tower.head.probe"),
    ("0.weight", "connector", "multi_modal_projector.linear_1.weight"),
    (
      "model.connector.2.bias",
      "connector",
      "multi_modal_projector.linear_2.bias",
    ),
    (
      "multi_modal_projector.linear_2.weight",
      "connector",
      "multi_modal_projector.linear_2.weight",
    ),
  ],
)
def test_names_of_all_writers_meet(name, kind, canonical):
  assert key_layout.canonical_name(name, kind=kind) == canonical


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("model.layers.0.self_attn.rotary_emb.inv_freq", "decoder"),
    ("vision_model.embeddings.position_ids", "vision"),
    ("text_model.encoder.layers.0.mlp.fc1.weight", "vision"),
    ("text_model.head.bias", "vision"),
    ("logit_scale", "vision"),
  ],
)
def test_buffers_and_the_text_tower_are_left_out(name, kind):
  assert key_layout.canonical_name(name, kind=kind) is None


def test_a_name_no_rule_knows_stays_and_is_left_over():
  for kind in ("onevision", "connector"):
    name = key_layout.canonical_name("audio.weight", kind=kind)
    assert name == "audio.weight"


@pytest.mark.parametrize("preset", ["onevision-0.5b", "llama3-8b"])
def test_every_leaf_has_a_source_of_its_own(preset):
  """Fused thirds apart, no two leaves read the same tensor."""
  shapes = video_llm.parameter_shapes(presets.preset(preset))
  leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
  sources = [
    key_layout.tensor_source(tuple(key.key for key in path))
    for path, _ in leaves
  ]
  parts = {(source.name, source.third) for source in sources}
  assert len(parts) == len(leaves)
  for source, (_, shape) in zip(sources, leaves, strict=True):
    elements = np.prod(source.file_shape(shape.shape))
    assert elements == np.prod(shape.shape) * (1 if source.third is None else 3)


@pytest.mark.parametrize(
  "path",
  [
    ("audio", "kernel"),
    ("decoder", "layers_0", "router", "kernel"),
    ("vision", "head", "router", "kernel"),
  ],
)
def test_a_parameter_without_a_tensor_is_a_defect(path):
  with pytest.raises(ValueError, match="no tensor is known"):
    key_layout.tensor_source(path)


def test_unknown_kind_is_a_defect():
  with pytest.raises(ValueError, match="audio"):
    key_layout.canonical_name("weight", kind="audio")


@pytest.mark.parametrize("layout", references.LAYOUTS)
@pytest.mark.parametrize("name", references.ONEVISION)
def test_all_layouts_load_the_same_arrays(name, layout, tmp_path):
  path = references.copy(name, tmp_path)
  wanted = checkpoint.load(path)
  references.use_layout(path, layout)
  found = checkpoint.load(path)
  assert found.config == wanted.config
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
