"""Loading a checkpoint takes the memory of the model, and little more."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from tests import scripts
from tests.parity import references

_MEASURE = """
import sys
import jax
import numpy as np
from vrex_jax.models import checkpoint

def memory(name):
  with open("/proc/self/status") as file:
    return next(int(l.split()[1]) for l in file if l.startswith(name)) * 1024

checkpoint.load_decoder(sys.argv[1])
with open("/proc/self/clear_refs", "w") as file:
  file.write("5")  # the peak starts again from here
before = memory("VmRSS")
loaded = checkpoint.load_decoder(sys.argv[2])
params = loaded.params
print(
  memory("VmHWM") - before,
  sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
  max(leaf.nbytes for leaf in jax.tree.leaves(params)),
)
"""


def _write_large_decoder(directory, dtype):
  shape = {"hidden_size": 512, "vocab_size": 8192, "intermediate_size": 1536}
  config = {
    "model_type": "llama",
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    **shape,
  }
  (directory / "config.json").write_text(json.dumps(config))
  width, wide = shape["hidden_size"], shape["intermediate_size"]
  shapes = {"model.norm.weight": (width,)}
  for name in ("lm_head", "model.embed_tokens"):
    shapes[f"{name}.weight"] = (shape["vocab_size"], width)
  for layer in range(config["num_hidden_layers"]):
    prefix = f"model.layers.{layer}"
    for name in ("input_layernorm", "post_attention_layernorm"):
      shapes[f"{prefix}.{name}.weight"] = (width,)
    for name in "qkvo":
      shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (width, width)
    for name in ("gate", "up"):
      shapes[f"{prefix}.mlp.{name}_proj.weight"] = (wide, width)
    shapes[f"{prefix}.mlp.down_proj.weight"] = (width, wide)
  draw = np.random.default_rng(0)
  safetensors_numpy.save_file(
    {
      name: draw.standard_normal(one, np.float32).astype(dtype)
      for name, one in shapes.items()
    },
    references.weights(directory),
  )


@pytest.mark.skipif(
  not os.access("/proc/self/clear_refs", os.W_OK),
  reason="the peak of resident memory can be reset on Linux only",
)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_there_is_never_a_second_copy(stored, tmp_path):
  """Peak while loading: the model, the pages of one tensor, and a slab."""
  small = references.copy("llama_group1", tmp_path)
  large = tmp_path / "large"
  large.mkdir()
  _write_large_decoder(large, jnp.dtype(stored))
  optimised = scripts.environment(JAX_DISABLE_MOST_OPTIMIZATIONS="0")
  done = scripts.run_python(
    "-c", _MEASURE, str(small), str(large), env=optimised
  )
  assert done.returncode == 0, done.stderr
  peak, model, largest = map(int, done.stdout.split())
  assert model > 90e6
  slack = 30e6
  assert largest + slack < 0.6 * model
  assert peak <= model + largest + slack
