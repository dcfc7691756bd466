"""A training at a step, and the file it is kept in.

The file is safetensors: parameters, moments of the optimiser and the outcome of
every step so far, with stage, step and settings as text in its header. It is
written beside its place and moved there, so that it is always whole.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import tensor_files
from vrex_jax.models import video_llm
from vrex_jax.training import curriculum as curriculum_lib
from vrex_jax.typing import Parameters, PyTree

__all__ = [
  "Log",
  "TrainState",
  "begin",
  "begin_stage",
  "load",
  "optimiser",
  "save",
]

_HEAD_SIZES = {"shape": 12, "colour": 8, "room": 12}


class Log(NamedTuple):
  """Dynamic. Outcome of every step of a stage so far.

  Attributes:
    loss: of each step.
    right: right answers of each step, by the stage's kinds.
    asked: answers of each step, likewise.
  """

  loss: np.ndarray  # f32 [steps]
  right: np.ndarray  # i32 [steps, kinds]
  asked: np.ndarray  # i32 [steps, kinds]


class TrainState(NamedTuple):
  """Dynamic. A training after some steps.

  Attributes:
    params: {"model", "heads"}: of the model, and the labels' read-outs, which
      the first stage alone uses.
    optimiser: of the stage.
    stage: number of the stage.
    step: steps of it that are done.
    logs: one for each stage that was begun.
  """

  params: Parameters
  optimiser: PyTree
  stage: int
  step: int
  logs: tuple[Log, ...]


def optimiser(stage: curriculum_lib.Stage) -> optax.GradientTransformation:
  """AdamW on gradients clipped to norm 1; only matrices decay."""
  # A stage of a few steps is a test; its warm-up must end before it does.
  warm_up = min(stage.warm_up, stage.steps // 2)
  rate = optax.warmup_cosine_decay_schedule(
    stage.peak / 10, stage.peak, warm_up, max(stage.steps, 1), stage.floor
  )
  matrices = lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(rate, b2=0.98, weight_decay=0.02, mask=matrices),
  )


def begin(
  config: config_lib.ModelConfig,
  stages: tuple[curriculum_lib.Stage, ...],
  seed: int,
) -> TrainState:
  """A training before its first step."""
  width = config.decoder.hidden_size
  random = np.random.default_rng([seed, len(_HEAD_SIZES)])
  heads = {
    name: jnp.asarray(0.05 * random.standard_normal((width, size), np.float32))
    for name, size in _HEAD_SIZES.items()
  }
  model = video_llm.random_parameters(config, jax.random.key(seed))
  empty = TrainState({"model": model, "heads": heads}, (), -1, 0, ())
  return begin_stage(empty, stages)


def begin_stage(
  state: TrainState, stages: tuple[curriculum_lib.Stage, ...]
) -> TrainState:
  """The next stage, before its first step."""
  stage = stages[state.stage + 1]
  kinds = len(stage.kinds)
  log = Log(
    np.zeros(0, np.float32),
    np.zeros((0, kinds), np.int32),
    np.zeros((0, kinds), np.int32),
  )
  return TrainState(
    params=state.params,
    optimiser=optimiser(stage).init(state.params),
    stage=state.stage + 1,
    step=0,
    logs=(*state.logs, log),
  )


def save(
  state: TrainState, path: pathlib.Path, settings: Mapping[str, Any]
) -> None:
  """Writes a training to a file.

  Args:
    state: the training.
    path: the file; replaced when all is written.
    settings: that must be the same when it is taken up again.
  """
  from safetensors import numpy as safetensors_numpy

  header = {
    "stage": json.dumps(state.stage),
    "step": json.dumps(state.step),
    "settings": json.dumps(dict(settings), sort_keys=True),
  }
  beside = path.with_name(path.name + ".part")
  beside.write_bytes(safetensors_numpy.save(_named(state), metadata=header))
  os.replace(beside, path)


def load(
  path: pathlib.Path,
  config: config_lib.ModelConfig,
  stages: tuple[curriculum_lib.Stage, ...],
  settings: Mapping[str, Any],
) -> TrainState:
  """Reads a training back.

  Args:
    path: the file.
    config: the model's shape.
    stages: of the curriculum.
    settings: of this run.

  Raises:
    InputError: the file is damaged, or of a training with other settings.
  """
  header = _header(path, settings)
  at, step = header["stage"], header["step"]
  shape = jax.eval_shape(lambda: _blank(config, stages, at))
  entries = tensor_files.list_file(path)
  # The steps of the stage under way are as many as the file says.
  leaves, structure = jax.tree_util.tree_flatten_with_path(shape)
  values = []
  for where, leaf in leaves:
    name = jax.tree_util.keystr(where, simple=True, separator="/")
    if name not in entries or entries[name].shape != leaf.shape:
      raise InputError(
        f"{path} lacks {name} in the shape {list(leaf.shape)}; the file must be"
        " of this version's training: leave out --resume, or name another --out"
      )
    values.append(jnp.asarray(tensor_files.read_tensor(entries[name])))
  params, optimiser_state = jax.tree.unflatten(structure, values)
  logs = tuple(
    Log(
      *(
        tensor_files.read_tensor(entries[f"logs/{number}/{field}"])
        for field in Log._fields
      )
    )
    for number in range(at + 1)
  )
  return TrainState(params, optimiser_state, at, step, logs)


def _blank(config, stages, at):
  """Parameters and optimiser of a stage, for their shapes."""
  width = config.decoder.hidden_size
  heads = {name: jnp.zeros((width, n)) for name, n in _HEAD_SIZES.items()}
  model = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    video_llm.parameter_shapes(config),
  )
  params = {"model": model, "heads": heads}
  return params, optimiser(stages[at]).init(params)


def _named(state: TrainState) -> dict[str, np.ndarray]:
  pairs = jax.tree_util.tree_leaves_with_path((state.params, state.optimiser))
  named = {
    jax.tree_util.keystr(where, simple=True, separator="/"): np.asarray(leaf)
    for where, leaf in pairs
  }
  for number, log in enumerate(state.logs):
    for field, values in log._asdict().items():
      named[f"logs/{number}/{field}"] = values
  return named


def _header(path: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any]:
  import safetensors

  try:
    with safetensors.safe_open(path, framework="np") as file:
      header = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
    then = header["settings"]
  except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
    raise InputError(
      f"{path} is not a training that can be taken up again ({error}): leave"
      " out --resume, or name another --out"
    ) from None
  now = json.loads(json.dumps(dict(settings)))
  for name in sorted({*then, *now}):
    if then.get(name) != now.get(name):
      raise InputError(
        f"--resume is given and the training in {path} had {name}"
        f" {then.get(name)}, this one {now.get(name)}; only the same training"
        " can be taken up again: leave out --resume, or name another --out"
      )
  return header
