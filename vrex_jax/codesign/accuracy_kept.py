"""What the measured settings keep of a recorded past.

By the same curves that a design is read from (`curves`): open loop, on streams
that ran under `full`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import disturbing
from vrex_jax import observing
from vrex_jax import policy_syntax
from vrex_jax.codesign import accuracy_points as points_lib
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import rooms_run
from vrex_jax.evaluation import calibration
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["SIZES", "curves_of", "disturbance", "with_kept"]

SIZES = {"channel_scale": 1.0, "sink": 8.0}
"""Of disturbances, as in `evaluate_qa.py`. Under the third, a bias of all keys,
every code is alike and ReSV reads everything: nothing is to be learned."""
_FIRST = 2**30
"""Index of the first recorded stream; no setting is asked on it."""


def disturbance(
  model: checkpoint_lib.Checkpoint, name: str
) -> disturbing.Disturbance | None:
  """By name, of the usual size; None for "none".

  Args:
    model: whose keys give the sizes.
    name: "none" or key of `SIZES`.
  """
  if name == "none":
    return None
  sizes = calibration.sizes_of(model)
  return disturbing.make(name, SIZES[name], sizes, model.config.decoder)


def curves_of(
  model: checkpoint_lib.Checkpoint,
  word_ids: Mapping[str, int],
  disturb: str,
  *,
  frames: int,
  hamming_thresholds: Sequence[int],
  recorded: int,
  seed: int,
) -> curves_lib.Curves:
  """Curves of streams of the rooms task, their mean.

  Args:
    model: weights and tokenizer.
    word_ids: token of every word.
    disturb: "none" or key of `SIZES`.
    frames: length of the streams.
    hamming_thresholds: static choices, otherwise the paper's.
    recorded: streams.
    seed: of the streams.
  """
  shape = episodes_lib.EpisodeConfig(frames=frames)
  driver = streaming.compile_batch(
    model,
    policy_syntax.make_policy("full"),
    streaming.StreamOptions(batch=1, disturb=disturbance(model, disturb)),
    shape,
    observe=observing.record_chunk,
  )
  choices = [
    curves_lib.StaticChoice(hamming_threshold=one) for one in hamming_thresholds
  ]
  found = []
  for index in range(recorded):
    episode = episodes_lib.draw(shape, seed, _FIRST + index)
    one = rooms_run.stream_episode(model, driver, episode, word_ids)
    if one.recording is not None:
      grid = curves_lib.default_grid()
      found.append(curves_lib.of_recording(one.recording, choices, grid))
  return jax.tree.map(lambda *parts: sum(parts) / len(parts), *found)


def with_kept(
  lines: Sequence[Mapping[str, Any]], curves: curves_lib.Curves
) -> list[dict[str, Any]]:
  """Lines of one disturbance with what their thresholds keep.

  Args:
    lines: of `accuracy_points.point`.
    curves: of streams that are disturbed alike.
  """
  found = []
  for line in lines:
    choice = curves_lib.StaticChoice(
      hamming_threshold=int(line["hamming_threshold"])
    )
    index = curves_lib.choice_index(curves, choice)
    ratio = points_lib.table_of(line, "ratio")
    point = curves_lib.at(curves, index, jnp.asarray(ratio, jnp.float32))
    kept, mass = np.asarray(point.kept), np.asarray(point.mass)
    size = 1.0 / np.asarray(point.groups)
    found.append(
      dict(line) | points_lib.columns(kept=kept, mass=mass, size=size)
    )
  return found
