r"""Train the small video LLM that ships with the package, from random weights.

  python experiments/train_streaming_qa.py --out runs/training

Stage by stage, from single frames to streams of 2304 frames of which some are
trained on: docs of `vrex_jax/training/curriculum.py` and of
`vrex_jax/tasks/rooms_batches.py`. Ends with a look at held-out streams (full
attention, every frame) and with the model in Hugging Face layout in
--out/model, which --checkpoint of the other scripts takes.

Ctrl-C, or a crash, loses a minute at most: the same command with --resume takes
the training up again and ends with the same weights, bit by bit.

Hardware: any JAX device. Minutes: about 45 on one CPU core; --curriculum tiny
runs through in seconds and learns nothing.
Expect: vrex_jax/assets/rooms/README.md, as measured with seed 0.
"""

import functools
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import interrupt
from vrex_jax import plotting
from vrex_jax import record
from vrex_jax.errors import InputError
from vrex_jax.training import curriculum as curriculum_lib
from vrex_jax.training import curves
from vrex_jax.training import drawing
from vrex_jax.training import evaluation
from vrex_jax.training import export
from vrex_jax.training import loop
from vrex_jax.training import small_model
from vrex_jax.training import state as state_lib

_CURRICULUM = flags.DEFINE_enum(
  "curriculum", "full", list(curriculum_lib.CURRICULA), "What is trained on."
)
_STEPS_SCALE = flags.DEFINE_float(
  "steps_scale", 1.0, "Factor of the steps of every stage."
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of weights and batches.", 0, command.MAX_SEED
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take up the training in --out again."
)
_WORKERS = flags.DEFINE_integer(
  "workers",
  None,
  "Processes that draw batches; 0 for a thread. Default: by the cores.",
  lower_bound=0,
  upper_bound=64,
)
_SAVE_SECONDS = flags.DEFINE_float(
  "save_seconds", 60.0, "Between two checkpoints.", lower_bound=0.0
)
_STREAMS = flags.DEFINE_integer(
  "streams", 16, "Held-out streams of each length; 0 for none.", lower_bound=0
)
_FRAMES = flags.DEFINE_list(
  "frames", ["128", "256", "512"], "Lengths of the held-out streams."
)
_PLOT = flags.DEFINE_bool("plot", True, "Draw curves.png (needs matplotlib).")
_OUT = flags.DEFINE_string("out", None, "Folder for checkpoint and results.")

_CHECKPOINT = "checkpoint.safetensors"
_MODEL = "model"


def _check_flags() -> list[int]:
  """Lengths of held-out streams."""
  if _OUT.value is None:
    raise InputError(
      "--out is missing; checkpoint and model need a folder: try"
      " --out=runs/training"
    )
  command.check_out(
    _OUT.value, [_CHECKPOINT, "config.toml", "curves.csv", "metrics.json"]
  )
  if _PLOT.value:
    plotting.check_installed()
  if not all(text.isdigit() and int(text) >= 36 for text in _FRAMES.value):
    raise InputError(
      f"--frames is {','.join(_FRAMES.value)}; lengths are whole numbers from"
      " 36 on (12 segments of 3 frames): try 128,256"
    )
  return [int(text) for text in _FRAMES.value]


def _begin(
  config, stages, path: pathlib.Path, settings: Mapping[str, Any]
) -> state_lib.TrainState:
  """The training where it stands."""
  if _RESUME.value and path.exists():
    state = state_lib.load(path, config, stages, settings)
    name = stages[state.stage].name
    print(f"resume stage {name}, {state.step} of {stages[state.stage].steps}")
    return state
  if path.exists():
    raise InputError(
      f"--out {_OUT.value} holds a training; it would be overwritten: add"
      " --resume to take it up again, or name another folder"
    )
  return state_lib.begin(config, stages, _SEED.value)


def _workers() -> int:
  """The device computes with most of the cores; drawing takes a fifth of it."""
  if _WORKERS.value is not None:
    return _WORKERS.value
  cores = record.usable_cores()
  if jax.default_backend() == "cpu":
    return min(1, cores - 1)
  return max(0, min(12, cores - 1))


def _train(config, stages, state, keep, stopped) -> state_lib.TrainState:
  done = sum(stage.steps for stage in stages[: state.stage]) + state.step
  with (
    drawing.pool(_workers()) as executor,
    tqdm.tqdm(
      total=sum(stage.steps for stage in stages),
      initial=done,
      unit="step",
      ncols=shutil.get_terminal_size().columns,
      disable=not sys.stderr.isatty(),
    ) as bar,
  ):

    def step(stage, outcome):
      bar.set_description(f"{stage.name}, loss {outcome.loss:.3f}", False)
      bar.update()

    def note(state):
      keep(state)
      stage = stages[state.stage]
      shares = curves.accuracy(stage, state.logs[-1])
      text = " ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
      tqdm.tqdm.write(f"{stage.name} {state.step}/{stage.steps}  {text}")

    watch = loop.Watch(step, note, stopped, _SAVE_SECONDS.value)
    return loop.train(config, stages, state, _SEED.value, executor, watch)


def _evaluate(
  config, params, lengths: Sequence[int]
) -> list[dict[str, float | int]]:
  """A row of accuracies for each length."""
  found: list[dict[str, float | int]] = []
  for frames in lengths if _STREAMS.value else []:
    counts = evaluation.evaluate(
      config, params, frames=frames, streams=_STREAMS.value, seed=_SEED.value
    )
    shares = evaluation.summary(counts)
    print(f"\n{frames} frames, {_STREAMS.value} streams")
    for kind, share in shares.items():
      print(f"  {kind:14} {100 * share:5.1f} %")
    found.append({"frames": frames, **shares})
  return found


def _write(stages, state, rows, started: float) -> None:
  others = {}
  if _PLOT.value:
    others["curves.png"] = functools.partial(
      curves.save_plot, stages, state.logs
    )
  settings = command.settings()
  out = pathlib.Path(_OUT.value)
  written = record.write_folder(
    out,
    config=settings,
    metrics_object=record.metrics(
      rows,
      config=settings,
      dtype="float32",
      seed=_SEED.value,
      started=started,
      interrupted=not _finished(stages, state),
    ),
    tables={"curves.csv": curves.rows(stages, state.logs)},
    others=others,
  )
  print(f"\nwritten to {out}: " + ", ".join(path.name for path in written))


def _finished(stages, state: state_lib.TrainState) -> bool:
  last = state.stage == len(stages) - 1
  return last and state.step == stages[-1].steps


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  lengths = _check_flags()
  stages = curriculum_lib.curriculum(_CURRICULUM.value, _STEPS_SCALE.value)
  config = small_model.shape()
  out = pathlib.Path(_OUT.value)
  settings = {
    "curriculum": _CURRICULUM.value,
    "steps_scale": _STEPS_SCALE.value,
    "seed": _SEED.value,
  }
  state = _begin(config, stages, out / _CHECKPOINT, settings)
  out.mkdir(parents=True, exist_ok=True)
  keep = lambda state: state_lib.save(state, out / _CHECKPOINT, settings)
  with interrupt.graceful("stopping after this step") as stopped:
    if not _finished(stages, state):
      state = _train(config, stages, state, keep, stopped)
  rows = []
  if _finished(stages, state):
    params = state.params["model"]
    files = export.export(config, params, small_model.TEMPLATE, out / _MODEL)
    print(f"model in {out / _MODEL}: " + ", ".join(path.name for path in files))
    rows = _evaluate(config, params, lengths)
  _write(stages, state, rows, started)
  if not _finished(stages, state):
    raise KeyboardInterrupt


if __name__ == "__main__":
  command.run(main)
