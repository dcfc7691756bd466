"""From a point of the cube to something that can be built.

Units and rows become whole, widths and memories of the engine powers of two,
bandwidths those of a class, thresholds thousandths. That moves a design off its
limits, to either side, so that a local search follows: one step of one field,
of two fields against each other (more of this, less of that), or of all
thresholds of a stage, as long as it helps. Points are judged as they are built:
hard maxima, and the exact rule on a stream that was held out.

A point that passes a limit is worse than any that passes none, and the less it
passes the better; so the search first mends and then improves.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vrex_jax.codesign import interfaces
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import pricing
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError

__all__ = ["Rounded", "buildable", "ladder_of", "nearest", "repair"]

_POWERS = (
  "hcu_rows",
  "hcu_width",
  "wtu_rows",
  "wtu_width",
  "hash_bytes",
  "key_hash_bytes",
  "score_bytes",
  "count_bytes",
  "request_bytes",
  "link_depth",
  "dot_inputs",
)
_STEPS = {
  "cores": 1.0,
  "dot_units": 8.0,
  "vector_lanes": 8.0,
  "clock_hz": 25e6,
  "memory_bytes": 16 * 1024.0,
  "wtu_buckets": 1.0,
}
_CAPACITIES = np.array([8, 12, 16, 24, 32, 48, 64, 80, 96, 128]) * 1e9
"""What memory is sold in."""
_RATIO_STEP = 1e-3
_TOKEN_STEP = 64.0
_BROKEN = 1e3


class Rounded(NamedTuple):
  """A buildable design.

  Attributes:
    design: numbers.
    value: ln f, as built.
    passed: violations, f[7].
    evaluations: points that were judged.
  """

  design: space_lib.Design
  value: float
  passed: np.ndarray
  evaluations: int

  @property
  def feasible(self) -> bool:
    """No limit is passed."""
    return bool(np.max(self.passed) <= 0.0)


def buildable(name: str, low: float, high: float) -> np.ndarray:
  """Values of a field that can be built, rising.

  Args:
    name: of a field that is one number.
    low: least.
    high: most.

  Example:
    >>> buildable("hcu_width", 4, 64).tolist()
    [4.0, 8.0, 16.0, 32.0, 64.0]
  """
  if name in _POWERS:
    values = 2.0 ** np.arange(-1, 40)
  elif name == "capacity_bytes":
    values = _CAPACITIES
  elif name.endswith("_bytes_per_s"):
    kind = name.removesuffix("_bytes_per_s")
    values = interfaces.classes(kind).bandwidth_bytes_per_s
  else:
    step = _STEPS[name]
    values = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
  inside = (values >= low * (1 - 1e-6)) & (values <= high * (1 + 1e-6))
  return values[inside]


def ladder_of(space: space_lib.Space) -> dict[str, np.ndarray]:
  """Values of every free field that is one number; the start's own with them.

  A paper's own size need not be on our grid.

  Raises:
    InputError: nothing that can be built lies within a field's bounds.
  """
  found = {}
  for name in space.free:
    own = np.asarray(getattr(space.start, name), float)
    if own.ndim:
      continue
    low, high = space.low[name], space.high[name]
    values = buildable(name, low, high)
    known = np.isclose(values, own, rtol=1e-6).any()
    inside = low * (1 - 1e-6) <= own <= high * (1 + 1e-6)
    if inside and not known:
      values = np.sort(np.append(values, own))
    if not len(values):
      raise InputError(
        f"{name} may lie between {low:g} and {high:g}, where nothing can be"
        " built; widen its --bounds to hold a whole unit, a power of two or a"
        " class that is sold"
      )
    found[name] = values
  return found


def nearest(
  space: space_lib.Space,
  at: space_lib.Design,
  ladder: Mapping[str, np.ndarray],
) -> space_lib.Design:
  """Every free field at its nearest value of a ladder, by its logarithm."""
  changed: dict[str, Any] = {}
  for name, values in ladder.items():
    apart = np.abs(np.log(values / float(getattr(at, name))))
    changed[name] = float(values[int(np.argmin(apart))])
  if "ratio" in space.free:
    changed["ratio"] = _on_grid(space, "ratio", np.asarray(at.ratio))
  if "resident_tokens" in space.free:
    changed["resident_tokens"] = _on_grid(
      space, "resident_tokens", np.asarray(at.resident_tokens)
    )
  return space.start.replace(**changed)


def _on_grid(
  space: space_lib.Space, name: str, values: np.ndarray
) -> np.ndarray:
  step = _RATIO_STEP if name == "ratio" else _TOKEN_STEP
  values = np.round(np.asarray(values, float) / step) * step
  return np.clip(values, space.low[name], space.high[name])


def repair(
  pricer: pricing.Pricer,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  at: space_lib.Design,
  choice: int,
  *,
  exact: bool = True,
  most_steps: int = 200,
  ladder: Mapping[str, np.ndarray] | None = None,
) -> Rounded:
  """Rounds a design and searches around it.

  Args:
    pricer: of the problem.
    space: what may move.
    limits: to keep.
    at: any design in the space.
    choice: static choice of the algorithm.
    exact: judge by the exact rule on the held-out stream.
    most_steps: improvements, at most.
    ladder: values of every free field that is one number; None for all that
      can be built.
  """
  ladder = dict(ladder_of(space) if ladder is None else ladder)
  current = nearest(space, at, ladder)
  seen, best = 0, np.inf
  for _ in range(most_steps + 1):
    around = [current, *_moves(space, ladder, current)]
    priced = pricer(pricer.place(around, choice, exact=exact), limits)
    seen += len(around)
    keys = _keys(priced.value, priced.passed)
    index = int(np.argmin(keys))
    current = around[index]
    if not keys[index] < best - 1e-6:
      break
    best = float(keys[index])
  return Rounded(
    current, float(priced.value[index]), priced.passed[index], seen
  )


def _keys(values: np.ndarray, passed: np.ndarray) -> np.ndarray:
  broken = np.sum(np.maximum(passed, 0.0), axis=-1)
  keys = np.where(np.max(passed, axis=-1) <= 0.0, values, _BROKEN + broken)
  return np.where(np.isfinite(keys), keys, np.inf)


def _moves(
  space: space_lib.Space,
  ladder: Mapping[str, np.ndarray],
  at: space_lib.Design,
) -> Iterator[space_lib.Design]:
  """Neighbours of a buildable design."""
  near = {}
  for name, values in ladder.items():
    here = int(np.argmin(np.abs(values - float(getattr(at, name)))))
    near[name] = {
      step: float(values[here + step])
      for step in (-4, -2, -1, 1, 2, 4)
      if 0 <= here + step < len(values)
    }
    for value in near[name].values():
      yield at.replace(**{name: value})
  for more, less in itertools.permutations(near, 2):
    if 1 in near[more] and -1 in near[less]:
      yield at.replace(**{more: near[more][1], less: near[less][-1]})
  yield from _soft_moves(space, at)


def _soft_moves(
  space: space_lib.Space, at: space_lib.Design
) -> Iterator[space_lib.Design]:
  """Thresholds, alone, by stage and together; windows together."""
  ratio, window = np.asarray(at.ratio), np.asarray(at.resident_tokens)
  if "ratio" in space.free:
    masks = [np.ones_like(ratio)]
    masks += [
      np.arange(3)[:, None, None] == stage * np.ones_like(ratio)
      for stage in range(3)
    ]
    masks += [one.reshape(ratio.shape) for one in np.eye(ratio.size)]
    for mask, step in itertools.product(masks, (-20, -3, -1, 1, 3, 20)):
      moved = ratio + mask * step * _RATIO_STEP
      yield at.replace(ratio=_on_grid(space, "ratio", moved))
  if "resident_tokens" in space.free:
    for step in (-16, -4, -1, 1, 4, 16):
      moved = window + step * _TOKEN_STEP
      yield at.replace(
        resident_tokens=_on_grid(space, "resident_tokens", moved)
      )
