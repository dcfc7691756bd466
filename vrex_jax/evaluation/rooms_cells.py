"""The rooms task under some policies and at some lengths, cell by cell."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import tqdm

from vrex_jax import policy as policy_lib
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import sharing
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = ["Cell", "Rows", "evaluate", "ordered"]

Cell = tuple[policy_lib.KVPolicy, episodes_lib.EpisodeConfig]
"""A policy, and the shape of its streams."""
Rows = MutableMapping[tuple[str, int], dict[str, Any]]
"""Rows by policy and length."""


def evaluate(
  model: checkpoint_lib.Checkpoint,
  cells: Sequence[Cell],
  options: streaming.StreamOptions,
  rows: Rows,
  write: Callable[[], None],
  *,
  streams: int,
  word_ids: Mapping[str, int],
  seed: int,
  film: bool,
  stopped: Callable[[], bool],
) -> None:
  """Fills in the rows that are missing; a bar shows frames.

  Args:
    model: weights and tokenizer.
    cells: in order; of each length one is of the policy `full`.
    options: how episodes are streamed.
    rows: so far; new ones are added.
    write: called whenever there are new ones.
    streams: of a cell.
    word_ids: token of every word.
    seed: of the streams.
    film: see `cell.evaluate`.
    stopped: has the user asked to end?
  """
  waiting = _groups([c for c in cells if (c[0].name, c[1].frames) not in rows])
  total = sum(shape.frames * streams for _, shape in waiting)
  with tqdm.tqdm(total=total, unit="frame", disable=None) as bar:
    for group, shape in waiting:
      names = " | ".join(policy.name for policy in group)
      bar.set_description(f"{names}, {shape.frames} frames")
      new = cell.evaluate(
        model,
        group,
        options,
        shape,
        streams=streams,
        word_ids=word_ids,
        seed=seed,
        film=film,
        told=bar.update,
        stopped=stopped,
      )
      if not new:
        return
      rows.update({(row["policy"], row["frames"]): row for row in new})
      full = rows["full", shape.frames]
      for row in new:
        row["minus_full"] = cell.paired(row, full)
      write()


def ordered(cells: Sequence[Cell], rows: Rows) -> list[dict[str, Any]]:
  """Rows that are there, in the order of their cells."""
  keys = [(policy.name, shape.frames) for policy, shape in cells]
  return [rows[key] for key in keys if key in rows]


def _groups(
  cells: Sequence[Cell],
) -> list[tuple[list[policy_lib.KVPolicy], episodes_lib.EpisodeConfig]]:
  """Cells in order; those of one length that prefill densely are one."""
  groups: list[
    tuple[list[policy_lib.KVPolicy], episodes_lib.EpisodeConfig]
  ] = []
  dense: dict[int, list[policy_lib.KVPolicy]] = {}
  for policy, shape in cells:
    shares = sharing.prefills_densely(policy)
    if shares and shape.frames in dense:
      dense[shape.frames].append(policy)
      continue
    groups.append(([policy], shape))
    if shares:
      dense[shape.frames] = groups[-1][0]
  return groups
