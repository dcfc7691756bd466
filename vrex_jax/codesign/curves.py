"""What ReSV keeps of a recording, as curves over its threshold.

Recorded queries and keys do not react to what is kept. So for one static choice
(Th_hd, N_hp, table) what a layer and KV head keeps at a stage depends on its
own threshold alone, and everything a design needs is a set of one-dimensional
curves:

  recording ─► walk ─► Curves [choice, stage, layer, head, ratio]
                        │
  thresholds [3, L, K] ─┴► at ─► kept, mass, groups, … [3, L, K]

`at` interpolates linearly: differentiable in the thresholds, microseconds, and
monotone where the curves are. That is *open loop*: a real stream with other
thresholds has other hidden states, and its queries ask for something else; how
much differs is measured by `experiments/sweep_thresholds.py --closed_loop`.
"""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import chex
import flax.struct
import jax.numpy as jnp
import numpy as np

from vrex_jax import recording as recording_lib
from vrex_jax.codesign import ranking
from vrex_jax.codesign import tally
from vrex_jax.codesign import walk as walk_lib
from vrex_jax.errors import InputError, check_whole_number
from vrex_jax.typing import Float, Int

__all__ = [
  "STAGES", "Curves", "Point", "StaticChoice", "at", "checked_grid",
  "choice_index", "config_of", "default_grid", "load", "of_recording",
  "packaged", "packaged_held_out", "packaged_path", "save",
]  # fmt: skip

STAGES = tally.STAGES
"""Axis of stages: frame, question, answer."""
_PACKAGED = "rooms_curves.npz"
_HELD_OUT = "rooms_curves_held_out.npz"
_ARRAYS = (
  "grid", "kept", "mass", "recall", "groups", "run_tokens", "buckets",
  "worst_buckets",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class StaticChoice:
  """Static. What has clusters of its own.

  Attributes:
    hamming_threshold: Th_hd.
    hash_bits: N_hp.
    table: "head" or "layer" (`resv.choices.Choices`).
  """

  hamming_threshold: int = 7
  hash_bits: int = 32
  table: str = "head"

  def __post_init__(self):
    check_whole_number("hash_bits", self.hash_bits, least=1, hint="32")
    if self.hash_bits > 128:
      raise InputError(
        f"hash_bits is {self.hash_bits}; it must be at most 128: try 32"
      )
    check_whole_number(
      "hamming_threshold", self.hamming_threshold, least=0, hint="7"
    )
    if self.hamming_threshold > self.hash_bits + 1:
      raise InputError(
        f"hamming_threshold is {self.hamming_threshold}; with"
        f" {self.hash_bits} hash bits it must be at most {self.hash_bits + 1}"
        " (one cluster): lower it"
      )
    if self.table not in ("head", "layer"):
      raise InputError(
        f"table is {self.table!r}; it must be head or layer: correct it"
      )


class Curves(flax.struct.PyTreeNode):
  """Dynamic. Z choices over G' ratios; nan where a stage has no event.

  Attributes:
    choices: static, Z of them.
    grid: ratios Th_r, rising.
    kept: Σ past tokens attended / Σ seen, sinks and recent ones included.
    mass: share of the past's attention mass on them, mean over query rows,
      query heads and events.
    recall: share of the evidence's tokens among them, mean over events whose
      evidence is known; None without any.
    groups: Σ clusters / Σ past tokens, of frames. A table that all heads share
      counts for the first.
    run_tokens: Σ fetched / Σ contiguous runs, laid out by cluster, with only
      the recent tokens on the device; at least 1.
    buckets: early-exit buckets that a row visits, mean.
    worst_buckets: that of the slowest row of an event, mean over events.
  """

  choices: tuple[StaticChoice, ...] = flax.struct.field(pytree_node=False)
  grid: Float  # f32 [ratios]
  kept: Float  # f32 [Z, 3, L, K, ratios]
  mass: Float  # f32 [Z, 3, L, K, ratios]
  recall: Float | None  # f32 [Z, 3, L, K, ratios]
  groups: Float  # f32 [Z, L, K]
  run_tokens: Float  # f32 [Z, 3, L, K, ratios]
  buckets: Float  # f32 [Z, 3, L, K, ratios]
  worst_buckets: Float  # f32 [Z, 3, L, K, ratios]


class Point(NamedTuple):
  """Dynamic. Curves at one threshold a stage, layer and head.

  Attributes are those of `Curves`; groups are repeated for every stage.
  """

  kept: Float  # f32 [3, L, K]
  mass: Float  # f32 [3, L, K]
  recall: Float | None  # f32 [3, L, K]
  groups: Float  # f32 [3, L, K]
  run_tokens: Float  # f32 [3, L, K]
  buckets: Float  # f32 [3, L, K]
  worst_buckets: Float  # f32 [3, L, K]


def default_grid(number: int = 33) -> np.ndarray:
  """Ratios from 0 to 1, closer together near 0, where most is decided.

  Example:
    >>> default_grid(5).tolist()
    [0.0, 0.0625, 0.25, 0.5625, 1.0]
  """
  return (np.linspace(0.0, 1.0, number) ** 2).astype(np.float32)


def of_recording(
  recording: recording_lib.Recording,
  choices: Sequence[StaticChoice],
  grid: np.ndarray,
  *,
  temperature: float | None = None,
  recent_tokens: int | None = None,
  rows: str = "union",
  votes: int = 2,
  evidence: Mapping[int, np.ndarray] | None = None,
  seed: int = 0,
) -> Curves:
  """Curves of one recorded stream.

  All else is as `resv` has it by default: keys hashed after rotation, a
  cluster keeps its first code, clamped scores, exact WiCSum, four sinks; tables
  hold every token.

  Args:
    recording: the stream; run under `full`, so that no choice colours it.
    choices: static choices.
    grid: ratios in [0, 1], rising.
    temperature: None for the exact staircase; θ of `resv/relaxed.py` for the
      smeared one.
    recent_tokens: always attended; one frame when None.
    rows: "union", "vote" or "pooled".
    votes: for "vote".
    evidence: event of the recording -> frames that show what it is about.
    seed: of the hyperplanes.

  Raises:
    InputError: no choice, a grid that does not rise within [0, 1], a
      temperature that is not above 0 or goes with "vote", another word for
      rows, or a recording without a frame that has a past.
  """
  grid = checked_grid(grid)
  _check(choices, temperature, rows, votes)
  sums = walk_lib.walk(
    recording,
    [(one.hamming_threshold, one.hash_bits, one.table) for one in choices],
    grid,
    tally.Options(
      recent_tokens=recent_tokens,
      rows=rows,
      votes=votes,
      temperature=temperature,
      seed=seed,
    ),
    evidence,
  )
  over = lambda value, number: _quotient(
    value, np.reshape(number, (1, len(STAGES), 1, 1, 1))
  )
  groups = sums.clusters[:, 0] / sums.seen[0]
  for index, choice in enumerate(choices):
    if choice.table == "layer":
      groups[index, :, 1:] = 0.0
  fetched = sums.kept - np.reshape(sums.recent, (1, len(STAGES), 1, 1, 1))
  runs = np.maximum(_quotient(fetched, sums.runs), 1.0)
  nowhere = np.reshape(sums.events == 0, (1, len(STAGES), 1, 1, 1))
  single = lambda value: jnp.asarray(value, jnp.float32)
  return Curves(
    choices=tuple(choices),
    grid=single(grid),
    kept=single(over(sums.kept, sums.seen)),
    mass=single(over(sums.mass, sums.events)),
    recall=single(over(sums.recall, sums.shown)) if sums.shown.any() else None,
    groups=single(groups),
    run_tokens=single(
      np.where(nowhere, np.nan, np.where(np.isfinite(runs), runs, 1.0))
    ),
    buckets=single(over(sums.buckets, sums.events)),
    worst_buckets=single(over(sums.worst_buckets, sums.events)),
  )


def _quotient(value: np.ndarray, number: np.ndarray) -> np.ndarray:
  """value / number; nan where that is 0."""
  return value / np.where(number > 0, number, np.nan)


def checked_grid(grid: np.ndarray | Sequence[float]) -> np.ndarray:
  """Ratios as f32[ratios].

  Raises:
    InputError: they do not rise within [0, 1].
  """
  grid = np.asarray(grid, np.float32)
  fits = grid.ndim == 1 and len(grid) > 1 and np.all(np.diff(grid) > 0)
  if not fits or grid[0] < 0 or grid[-1] > 1:
    raise InputError(
      f"the ratios are {grid.tolist()}; they must be two or more that rise"
      " within 0 and 1: try 0, 0.1, 0.3, 1"
    )
  return grid


def _check(
  choices: Sequence[StaticChoice],
  temperature: float | None,
  rows: str,
  votes: int,
) -> None:
  if not choices:
    raise InputError(
      "there is no static choice; curves need at least one: give StaticChoice()"
    )
  if rows not in ranking.REDUCTIONS:
    raise InputError(
      f"rows is {rows!r}; it must be one of {', '.join(ranking.REDUCTIONS)}:"
      " correct it"
    )
  check_whole_number("votes", votes, least=1, hint="2")
  if temperature is not None and not temperature > 0:
    raise InputError(
      f"temperature is {temperature!r}; it must be above 0: try 0.02, or None"
      " for the exact rule"
    )
  if temperature is not None and rows == "vote":
    raise InputError(
      "temperature is given with rows=vote; votes have no soft form: use the"
      " exact rule (temperature=None), union or pooled"
    )


def choice_index(curves: Curves, choice: StaticChoice) -> int:
  """Where a choice lies on the axis Z.

  Raises:
    InputError: the curves do not have it.
  """
  if choice not in curves.choices:
    raise InputError(
      f"the curves have no {choice}; they have"
      f" {', '.join(map(str, curves.choices))}: choose one of them, or make"
      " curves with sweep_thresholds.py --curves"
    )
  return curves.choices.index(choice)


def at(curves: Curves, index: Int | int, ratio: Float) -> Point:
  """Curves of one choice at given thresholds, linearly between grid points.

    y(r) = y_g + (r - g) / (g' - g) · (y_g' - y_g)    for g ≤ r ≤ g'

  Args:
    curves: the curves.
    index: i32[], on the axis Z.
    ratio: f[3, L, K]; held to the grid's ends, without a gradient outside.

  Returns:
    Point, differentiable in ratio; at a grid point with the slope to its right.

  Example:
    >>> flat = jnp.ones((1, 3, 1, 1, 2))
    >>> rising = flat.at[..., 0].set(0.2)
    >>> curves = Curves(choices=(StaticChoice(),), grid=jnp.array([0.0, 1.0]),
    ...   kept=rising, mass=flat, recall=None, groups=jnp.ones((1, 1, 1)),
    ...   run_tokens=flat, buckets=flat, worst_buckets=flat)
    >>> float(at(curves, 0, jnp.full((3, 1, 1), 0.5)).kept[0, 0, 0])
    0.6...
  """
  stages, layers, heads, ratios = curves.kept.shape[1:]
  chex.assert_shape(ratio, (stages, layers, heads))
  grid = curves.grid
  left = jnp.searchsorted(grid, ratio, side="right") - 1
  left = jnp.clip(left, 0, ratios - 2)
  part = (ratio - grid[left]) / (grid[left + 1] - grid[left])
  part = jnp.where(part < 0, 0.0, jnp.where(part > 1, 1.0, part))

  def read(array: Float) -> Float:
    own = array[index]
    low, high = (
      jnp.take_along_axis(own, at_[..., None], axis=-1)[..., 0]
      for at_ in (left, left + 1)
    )
    return low + part * (high - low)

  return Point(
    kept=read(curves.kept),
    mass=read(curves.mass),
    recall=None if curves.recall is None else read(curves.recall),
    groups=jnp.broadcast_to(curves.groups[index][None], ratio.shape),
    run_tokens=read(curves.run_tokens),
    buckets=read(curves.buckets),
    worst_buckets=read(curves.worst_buckets),
  )


def save(
  curves: Curves, path: str | pathlib.Path, config: Mapping[str, Any]
) -> None:
  """Writes curves as npz in half precision, without pickle.

  Args:
    curves: the curves.
    path: of the file.
    config: how they were made, kept in the file as JSON.
  """
  arrays = {
    name: np.asarray(getattr(curves, name), np.float16)
    for name in _ARRAYS
    if getattr(curves, name) is not None
  }
  # A ratio between its neighbours in half precision would move the curve.
  arrays["grid"] = np.asarray(curves.grid, np.float32)
  choices = [dataclasses.asdict(one) for one in curves.choices]
  with pathlib.Path(path).open("wb") as file:
    np.savez_compressed(
      file,
      choices=np.array(json.dumps(choices)),
      config=np.array(json.dumps(dict(config), sort_keys=True)),
      **arrays,  # type: ignore[arg-type]
    )


def load(path: str | pathlib.Path) -> Curves:
  """Reads what `save` wrote.

  Raises:
    InputError: no such file, or not curves.
  """
  stored = _read(path)
  try:
    choices = tuple(
      StaticChoice(**one) for one in json.loads(stored["choices"])
    )
    single = {
      name: jnp.asarray(stored[name], jnp.float32)
      for name in _ARRAYS
      if name != "recall"
    }
    recall = stored.get("recall")
    return Curves(
      choices=choices,
      recall=None if recall is None else jnp.asarray(recall, jnp.float32),
      **single,
    )
  except (KeyError, TypeError, ValueError) as error:
    raise _not_curves(path, error) from error


def config_of(path: str | pathlib.Path) -> dict[str, Any]:
  """How the curves in a file were made.

  Raises:
    InputError: as `load`.
  """
  try:
    return dict(json.loads(_read(path)["config"]))
  except (KeyError, TypeError, ValueError) as error:
    raise _not_curves(path, error) from error


def _read(path: str | pathlib.Path) -> dict[str, Any]:
  try:
    with (
      pathlib.Path(path).open("rb") as file,
      np.load(file, allow_pickle=False) as arrays,
    ):
      stored: dict[str, Any] = dict(arrays)
      for name in ("choices", "config"):
        stored[name] = str(arrays[name][()])
      return stored
  except (OSError, ValueError, KeyError, TypeError, EOFError,
          zipfile.BadZipFile) as error:  # fmt: skip
    raise _not_curves(path, error) from error


def _not_curves(path: str | pathlib.Path, error: Exception) -> InputError:
  if isinstance(error, InputError):
    return error
  why = "it is no .npz file"
  if isinstance(error, FileNotFoundError):
    why = "there is no such file"
  elif isinstance(error, KeyError):
    why = f"it lacks {error}"
  return InputError(
    f"{path} cannot be read as curves ({why}); a file that"
    " sweep_thresholds.py --curves wrote is expected: make one"
  )


def packaged() -> Curves:
  """Curves of the shipped model, on a stream of the rooms task."""
  return load(packaged_path())


def packaged_held_out() -> Curves:
  """The same choices and ratios on another stream, to judge what was found.

  Example:
    >>> searched, held_out = packaged(), packaged_held_out()
    >>> held_out.choices == searched.choices
    True
    >>> bool((held_out.grid == searched.grid).all())
    True
    >>> bool((held_out.kept == searched.kept).all())
    False
  """
  return load(packaged_path(held_out=True))


def packaged_path(*, held_out: bool = False) -> pathlib.Path:
  """Where they lie.

  Args:
    held_out: those of `packaged_held_out`.
  """
  folder = resources.files("vrex_jax.codesign") / "data"
  return pathlib.Path(str(folder / (_HELD_OUT if held_out else _PACKAGED)))
