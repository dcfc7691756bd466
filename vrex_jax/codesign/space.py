"""What is searched: a design, its bounds, and a flat vector of it.

  design  physical numbers: thresholds, windows, units, memories, bandwidths
  share   where each lies between its bounds, in (0, 1)
  x       any real number: share = σ(x)

  sizes       low · (high / low)^share       equal factors are equally far
  thresholds  low + (high - low) · share     and windows

so that a gradient step never leaves the bounds and methods that know no
gradient search a cube. What is frozen keeps its number in `Space.start` and is
not in the vector.

Static choices of the algorithm (Hamming threshold, hash bits, table scope) are
not in a design: they are enumerated. Tokens per cluster follow from them.

Source of the form: box bounds by a logistic map, as in DOSA (MICRO 2023).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.typing import Float

__all__ = [
  "FIELDS",
  "GROUPS",
  "Design",
  "Field",
  "Space",
  "design",
  "make",
  "parse_bounds",
  "resize",
  "shares",
]


class Field(NamedTuple):
  """Static. One field of a design.

  Attributes:
    group: as `--free` names it.
    low: least.
    high: most; a factor of the start where `relative`.
    relative: both bounds are factors of the platform's own number.
    linear: equal differences are equally far; otherwise equal factors.
  """

  group: str
  low: float
  high: float
  relative: bool = False
  linear: bool = False


FIELDS: dict[str, Field] = {
  "ratio": Field("thresholds", 0.0, 1.0, linear=True),
  "resident_tokens": Field("window", 0.0, 8192.0, linear=True),
  "cores": Field("cores", 0.125, 4.0, relative=True),
  "dot_units": Field("cores", 16, 128),
  "dot_inputs": Field("cores", 16, 128),
  "vector_lanes": Field("cores", 16, 256),
  "clock_hz": Field("cores", 0.4e9, 1.2e9),
  "memory_bytes": Field("cores", 2.0**15, 2.0**21),
  "hcu_rows": Field("engine", 1, 8),
  "hcu_width": Field("engine", 4, 64),
  "wtu_rows": Field("engine", 1, 8),
  "wtu_width": Field("engine", 4, 64),
  "wtu_buckets": Field("engine", 8, 64),
  "hash_bytes": Field("engine", 32, 1024),
  "key_hash_bytes": Field("engine", 2.0**9, 2.0**16),
  "score_bytes": Field("engine", 2.0**9, 2.0**16),
  "count_bytes": Field("engine", 2.0**9, 2.0**16),
  "dram_bytes_per_s": Field("dram", 68.3e9, 546.1e9),
  "capacity_bytes": Field("dram", 16e9, 64e9),
  "link_bytes_per_s": Field("link", 2e9, 16e9),
  "request_bytes": Field("link", 512, 2.0**18),
  "link_depth": Field("link", 8, 256),
}
"""Every field of `Design`. Trees of at most 128 inputs and 128 trees are filled
by all matrices of the models that are priced."""
GROUPS = tuple(dict.fromkeys(field.group for field in FIELDS.values()))


class Design(flax.struct.PyTreeNode):
  """Dynamic. Thresholds and sizes; f[], arrays or plain numbers.

  Attributes:
    ratio: WiCSum threshold at frame, question and answer of every layer and KV
      head of the model that ran.
    resident_tokens: further tokens of the past that are kept on the device, by
      layer and KV head of the model that ran; 0 is what the paper keeps.
    cores: see `hwmodel.params.ComputeParameters`, as the next five.
    dot_units: MAC trees of a core.
    dot_inputs: inputs of a tree.
    vector_lanes: of a core.
    clock_hz: of the cores.
    memory_bytes: of a core, without the engine's.
    hcu_rows: see `hwmodel.params.EngineParameters`, as the next eight.
    hcu_width: bits in a cycle.
    wtu_rows: in lockstep.
    wtu_width: scores in a cycle.
    wtu_buckets: of a row.
    hash_bytes: codes of the chunk.
    key_hash_bytes: codes of the clusters.
    score_bytes: scores of a row.
    count_bytes: tokens of the clusters.
    dram_bytes_per_s: peak.
    capacity_bytes: DRAM of the device.
    link_bytes_per_s: nominal.
    request_bytes: most that one request to the storage asks for.
    link_depth: requests under way.
  """

  ratio: Any  # f32 [3, L, K]
  resident_tokens: Any  # f32 [L, K]
  cores: Any
  dot_units: Any
  dot_inputs: Any
  vector_lanes: Any
  clock_hz: Any
  memory_bytes: Any
  hcu_rows: Any
  hcu_width: Any
  wtu_rows: Any
  wtu_width: Any
  wtu_buckets: Any
  hash_bytes: Any
  key_hash_bytes: Any
  score_bytes: Any
  count_bytes: Any
  dram_bytes_per_s: Any
  capacity_bytes: Any
  link_bytes_per_s: Any
  request_bytes: Any
  link_depth: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
  """Static. Bounds, the start, and what may move.

  Attributes:
    low: of every field, a number each.
    high: likewise.
    start: where the search begins, and what frozen fields keep.
    free: names of the fields that move.
  """

  low: Mapping[str, float]
  high: Mapping[str, float]
  start: Design
  free: tuple[str, ...]

  @property
  def dimensions(self) -> int:
    """Numbers in the vector."""
    return sum(int(np.size(getattr(self.start, name))) for name in self.free)

  def labels(self) -> list[str]:
    """A name for every number of the vector.

    Those of arrays carry their indices: `ratio[0, 2, 1]`.
    """
    found = []
    for name in self.free:
      leaf = np.asarray(getattr(self.start, name))
      if leaf.ndim == 0:
        found.append(name)
      else:
        found += [f"{name}{list(index)}" for index in np.ndindex(leaf.shape)]
    return found


def make(
  start: Design,
  *,
  groups: Sequence[str] = GROUPS,
  frozen: Sequence[str] = (),
  bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Space:
  """The space around a start.

  A start outside the bounds of a field widens them, so that the paper's own
  sizing is always in the space; bounds given by the user stay.

  Args:
    start: numbers, numpy or python.
    groups: of GROUPS, whose fields move.
    frozen: fields that stay nevertheless.
    bounds: field -> least and most, instead of those in FIELDS.

  Raises:
    InputError: an unknown group, or nothing is left that could move.
  """
  for group in groups or [""]:
    if group not in GROUPS:
      raise InputError(
        f"--free names {group!r}; it must be some of {', '.join(GROUPS)}, or"
        " all: correct it"
      )
  given = dict(bounds or {})
  low, high = {}, {}
  for name, field in FIELDS.items():
    own = np.asarray(getattr(start, name), float)
    scale = float(own) if field.relative else 1.0
    low[name] = min(field.low * scale, float(own.min()))
    high[name] = max(field.high * scale, float(own.max()))
    if name in given:
      low[name], high[name] = given[name]
  free = tuple(
    name
    for name, field in FIELDS.items()
    if field.group in groups and name not in frozen
  )
  if not free:
    raise InputError(
      f"--free is {','.join(groups)} and nothing of it can move on this"
      " platform: free something else"
    )
  return Space(low=low, high=high, start=start, free=free)


def parse_bounds(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
  """Bounds as a user writes them: "cores=4:16".

  Raises:
    InputError: an unknown field, no two numbers, or bounds that cross.

  Example:
    >>> parse_bounds(["cores=4:16"])
    {'cores': (4.0, 16.0)}
  """
  found = {}
  for text in texts:
    name, _, rest = text.partition("=")
    if name not in FIELDS:
      raise InputError(
        f"--bounds has {text!r}; {name!r} is none of {', '.join(FIELDS)}:"
        " correct the name"
      )
    try:
      low, high = map(float, rest.split(":"))
    except ValueError:
      usual = FIELDS[name]
      least, most = (8, 16) if usual.relative else (usual.low, usual.high)
      raise InputError(
        f"--bounds has {text!r}; it must be name=least:most, in SI units: try"
        f" {name}={least:g}:{most:g}"
      ) from None
    positive = low >= 0 if FIELDS[name].linear else low > 0
    if not (positive and low < high < np.inf):
      raise InputError(
        f"--bounds has {text!r}, from {low:g} to {high:g}; the least must be"
        " positive and below the most: swap or correct them"
      )
    found[name] = (low, high)
  return found


def resize(space: Space, **fields: Any) -> Space:
  """The same space around a start with other numbers in some fields."""
  return dataclasses.replace(space, start=space.start.replace(**fields))


def design(space: Space, share: Float) -> Design:
  """The design at a point of the cube.

  Args:
    space: bounds and start.
    share: f[dimensions], each from 0 to 1.

  Returns:
    Design; frozen fields as in the start.
  """
  place, changed = 0, {}
  for name in space.free:
    own = np.asarray(getattr(space.start, name))
    part = share[place : place + own.size].reshape(own.shape)
    place += own.size
    low, high = space.low[name], space.high[name]
    if FIELDS[name].linear:
      changed[name] = low + (high - low) * part
    else:
      changed[name] = low * jnp.exp(np.log(high / low) * part)
  rest = {
    name: jnp.asarray(getattr(space.start, name), float) for name in FIELDS
  }
  return Design(**{**rest, **changed})


def shares(space: Space, at: Design) -> np.ndarray:
  """The point of the cube of a design, f[dimensions], clipped to it.

  Example:
    >>> import numpy as np
    >>> from vrex_jax.codesign import start
    >>> space = make(start.of_platform("vrex8", layers=1, kv_heads=1))
    >>> back = design(space, shares(space, space.start))
    >>> round(float(back.dram_bytes_per_s) / 1e9, 1)
    204.8
  """
  parts = []
  for name in space.free:
    value = np.asarray(getattr(at, name), float).ravel()
    low, high = space.low[name], space.high[name]
    if FIELDS[name].linear:
      part = (value - low) / (high - low)
    else:
      part = np.log(value / low) / np.log(high / low)
    parts.append(np.clip(part, 0.0, 1.0))
  return np.concatenate(parts)
