"""From what a user names to a problem: curves, accuracy, platform, model."""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import accuracy as accuracy_lib
from vrex_jax.codesign import accuracy_points
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import queued_link
from vrex_jax.codesign import turn
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import memory_binding
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import transfer
from vrex_jax.hwmodel import workload
from vrex_jax.models import presets

__all__ = ["MEMORIES", "drop_of", "held_out_curves", "memory_of", "problem_of",
           "read_curves"]  # fmt: skip

MEMORIES = ("queued", "ideal", "validated")
"""What request sizes and queues do: `queued_link`; nothing; `memory_binding`,
of the link alone."""


def read_curves(path: str | None) -> curves_lib.Curves:
  """Curves of a file, or of the package.

  Raises:
    InputError: no curves, or a stage without an event.
  """
  found = curves_lib.packaged() if path is None else curves_lib.load(path)
  if not np.isfinite(np.asarray(found.kept)).all():
    raise InputError(
      f"{path or 'the packaged curves'} lack a stage: the recording had no"
      " frame, question or answer with a past; record a stream with questions"
    )
  return found


def held_out_curves(
  path: str | None, curves_path: str | None
) -> curves_lib.Curves | None:
  """Curves of another stream, that designs are judged by; None for none.

  Args:
    path: of --held_out_curves. None: the package's beside the package's, none
      beside a file of one's own; empty: none.
    curves_path: of --curves.

  Raises:
    InputError: as `read_curves`.
  """
  if path == "" or (path is None and curves_path is not None):
    return None
  return curves_lib.packaged_held_out() if path is None else read_curves(path)


def drop_of(points: str | None) -> accuracy_lib.AccuracyModel:
  """The accuracy model fitted to a file of points, or to the package's."""
  path = accuracy_points.PACKAGED if points is None else pathlib.Path(points)
  model, _ = accuracy_lib.fit(accuracy_points.load(path))
  return model


def memory_of(name: str, platform: str) -> transfer.MemoryModel:
  """A memory model by its name in MEMORIES."""
  if name == "queued":
    return queued_link.QUEUED
  if name == "ideal":
    return transfer.IDEAL
  link = memory_binding.validated(platform).link_time_s
  return transfer.MemoryModel(link_time_s=link, prices_scatter=True)


def problem_of(
  description: platforms.Description,
  curves: curves_lib.Curves,
  held_out: curves_lib.Curves,
  accuracy: accuracy_lib.AccuracyModel,
  *,
  model: str,
  cached_tokens: int,
  batch: int,
  kv_precision: str,
  objective: str,
  memory: str,
) -> objective_lib.Problem:
  """The problem of a study.

  Args:
    description: of the platform that is sized.
    curves: that are searched on.
    held_out: exact curves of another stream, of the same choices.
    accuracy: fitted.
    model: preset that is priced.
    cached_tokens: S.
    batch: streams.
    kv_precision: of `workload.KV_VALUE_BYTES`.
    objective: of `objective.OBJECTIVES`.
    memory: of MEMORIES.

  Raises:
    InputError: curves of other choices, or of another shape than the points.
  """
  if held_out.choices != curves.choices:
    raise InputError(
      "the held-out curves have other static choices than those searched on;"
      " both must be made with the same flags of sweep_thresholds.py"
    )
  shape, own = curves.kept.shape[2:4], accuracy.narration.weight.shape[1:]
  if shape != own:
    raise InputError(
      f"the curves are of {shape[0]} layers and {shape[1]} KV heads and the"
      f" measured points of {own[0]} and {own[1]}; both must be of one model:"
      " give matching --curves and --accuracy_points"
    )
  return objective_lib.Problem(
    stream=turn.Stream(
      model=presets.preset(model),
      cached_tokens=float(cached_tokens),
      batch=float(batch),
      kv_value_bytes=workload.KV_VALUE_BYTES[kv_precision],
    ),
    base=description.platform,
    lookup=functools.partial(_without_recall, curves),
    exact=functools.partial(_without_recall, held_out),
    drop=functools.partial(accuracy_lib.drop, accuracy),
    choices=turn.Choice(
      np.array([float(one.hash_bits) for one in curves.choices]),
      np.array([float(one.table == "layer") for one in curves.choices]),
    ),
    objective=objective,
    memory=memory_of(memory, description.platform.name),
  )


def _without_recall(curves, index, ratio):
  """Not every recording knows it; nothing here asks for it."""
  return curves_lib.at(curves, jnp.asarray(index), ratio)._replace(recall=None)
