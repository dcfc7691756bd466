"""Where a run's model comes from: a checkpoint, or random weights."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.models import presets
from vrex_jax.models import prompt
from vrex_jax.models import tokenizer as tokenizer_lib
from vrex_jax.models import video_llm

__all__ = [
  "SHIPPED",
  "activation_dtype",
  "check_memory",
  "check_shape",
  "load_model",
  "storage_dtype",
]

SHIPPED = pathlib.Path(__file__).parent / "assets" / "rooms"
"""The small trained model; its README is the model card."""
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def storage_dtype(name: str) -> Any:
  """dtype of weights and cache.

  Raises:
    InputError: neither float32 nor bfloat16.
  """
  if name not in _DTYPES:
    raise InputError(
      f"--dtype is {name!r}; it must be float32 or bfloat16: choose one"
    )
  return _DTYPES[name]


def activation_dtype(name: str) -> Any:
  """dtype of activations: float32 on CPU, where bfloat16 arithmetic is slower.

  Elsewhere the storage dtype.
  """
  if jax.default_backend() == "cpu":
    return jnp.float32
  return storage_dtype(name)


def check_memory(needed_bytes: int, what: str, remedy: str) -> None:
  """Refuses what cannot fit, on machines that tell their free memory.

  Args:
    needed_bytes: about to be allocated on the default device.
    what: what needs it.
    remedy: what the user can do.

  Raises:
    InputError: more is needed than is free.
  """
  free = _free_bytes()
  if free is not None and needed_bytes > free:
    raise InputError(
      f"{what} needs {needed_bytes / 2**30:.1f} GiB and"
      f" {free / 2**30:.1f} GiB are free: {remedy}"
    )


def check_shape(checkpoint: str | None, preset: str | None) -> None:
  """Refuses a preset beside a checkpoint.

  Args:
    checkpoint: value of --checkpoint.
    preset: of --preset.

  Raises:
    InputError: both were given.
  """
  if checkpoint is not None and preset is not None:
    raise InputError(
      f"--preset is {preset} beside --checkpoint; a preset is the shape of a"
      " random model and a checkpoint brings its own: give one of the two"
    )


def load_model(
  checkpoint: str | None,
  preset: str | None,
  *,
  dtype: str,
  seed: int,
  template: str | None = None,
  report: Callable[[str], None] = lambda text: None,
) -> checkpoint_lib.Checkpoint:
  """Loads a checkpoint, makes random weights, or loads the shipped model.

  Args:
    checkpoint: Hugging Face directory or TOML of parts.
    preset: name in `presets.PRESETS`, for random weights of that shape, used
      without a checkpoint; without either, the model that ships is loaded.
    dtype: "float32" or "bfloat16", storage of the weights.
    seed: of the random weights.
    template: prompt template to use instead of the model family's.
    report: told in one line what the model is.

  Returns:
    Model, tokenizer, template and stop ids.

  Raises:
    InputError: see `checkpoint.load` and `presets.preset`; the weights do not
      fit into memory.
  """
  kind = storage_dtype(dtype)
  if checkpoint is not None:
    model = checkpoint_lib.load(checkpoint, dtype=dtype)
    report(f"checkpoint {checkpoint}")
  elif preset is None:
    model = checkpoint_lib.load(SHIPPED, dtype=dtype)
    count = video_llm.num_parameters(model.params)
    report(
      f"{count / 1e6:.4g} M parameters, ships with the package: trained on"
      " rendered rooms, of other videos it knows nothing"
    )
  else:
    config = presets.preset(preset)
    shapes = video_llm.parameter_shapes(config, kind)
    count = video_llm.num_parameters(shapes)
    check_memory(
      count * jnp.dtype(kind).itemsize,
      f"preset {preset} with {dtype} weights",
      "use --dtype=bfloat16 or a smaller --preset",
    )
    report(
      f"preset {preset}, {count / 1e6:.4g} M RANDOM weights (no checkpoint"
      " given): timings are real, answers are noise"
    )
    tokenizer = tokenizer_lib.ByteTokenizer(config.decoder.vocab_size)
    own = prompt.TEMPLATES["plain"]
    model = checkpoint_lib.Checkpoint(
      config=config,
      params=video_llm.random_parameters(
        config, jax.random.key(seed), dtype=kind
      ),
      tokenizer=tokenizer,
      template=own,
      stop_ids=prompt.stop_ids(own, tokenizer),
    )
  if template is None:
    return model
  chosen = prompt.load_template(template)
  stops = prompt.stop_ids(chosen, model.tokenizer, model.stop_ids)
  return model._replace(template=chosen, stop_ids=stops)


def _free_bytes() -> int | None:
  """Memory that can be taken without swapping; None where unknown."""
  if jax.default_backend() != "cpu":
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
      return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
  if not os.path.exists("/proc/meminfo"):
    return None
  with open("/proc/meminfo") as file:
    for line in file:
      if line.startswith("MemAvailable:"):
        return int(line.split()[1]) * 1024
  return None
