"""Fits and cross-validation of the memory models on simulator rows.

Everything is deterministic: constants lie on grids, and a fit takes the point
of least mean squared log (predicted / observed). With a group of rows left out
(all rows of one chunk size, queue depth, device, …) constants are fitted on the
others and judged on the group; a left-out figure is over all groups together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.hwmodel import dram as dram_lib
from vrex_jax.hwmodel import link as link_lib
from vrex_jax.hwmodel import memory_devices
from vrex_jax.hwmodel import memory_rows
from vrex_jax.hwmodel import sram as sram_lib
from vrex_jax.hwmodel import systolic

__all__ = [
  "Candidate",
  "Case",
  "dram_case",
  "link_case",
  "rate_limits",
  "sram_case",
  "systolic_case",
  "validate",
]

_DRAM_GRID = np.round(np.arange(2.0, 8.01, 0.05), 2)
_LINK_GRID = (
  np.round(np.arange(1.02, 1.61, 0.01), 2),
  np.round(np.arange(0.3, 1.51, 0.01), 2),
)


class Candidate(NamedTuple):
  """Static. A model that competes.

  Attributes:
    name: as printed.
    constants: names of the fitted constants; empty if there is none, or if the
      model keeps what it learns to itself.
    learnt: how many numbers it learns from the rows.
    fit: (mask b[rows]) -> (constants, predictions f[rows] of every row).
  """

  name: str
  constants: tuple[str, ...]
  learnt: int
  fit: Callable[[np.ndarray], tuple[Sequence[float], np.ndarray]]


class Case(NamedTuple):
  """Static. Rows of one quantity and what predicts them.

  Attributes:
    name: as printed.
    observed: f[rows], > 0.
    groups: what is left out -> label of every row.
    candidates: the model first, then what it is compared with.
  """

  name: str
  observed: np.ndarray
  groups: Mapping[str, Sequence[Any]]
  candidates: Sequence[Candidate]


def validate(case: Case, candidate: Candidate) -> dict[str, Any]:
  """Errors of one candidate, in and out of sample.

  Args:
    case: its rows.
    candidate: one of the case's.

  Returns:
    JSON-ready: model, candidate, rows, learnt, constants, predicted, and
    errors {"mean", "max"}: of the sample and, by group, of what was left out.
  """
  every = np.ones(len(case.observed), bool)
  constants, predicted = candidate.fit(every)
  left_out = {}
  for group, labels in case.groups.items():
    label_array = np.array([str(label) for label in labels])
    unseen = np.empty(len(predicted))
    folds = {}
    for label in dict.fromkeys(label_array.tolist()):
      out = label_array == label
      unseen[out] = candidate.fit(~out)[1][out]
      folds[label] = float(np.mean(_errors(unseen, case.observed)[out]))
    left_out[group] = {**_summary(unseen, case.observed), "folds": folds}
  return {
    "model": case.name,
    "candidate": candidate.name,
    "rows": len(case.observed),
    "learnt": candidate.learnt,
    "constants": dict(
      zip(candidate.constants, map(float, constants), strict=True)
    ),
    "in_sample": _summary(predicted, case.observed),
    "left_out": left_out,
    "observed": case.observed.tolist(),
    "predicted": predicted.tolist(),
  }


def dram_case(
  rows: memory_rows.DramRows,
  address_map: dram_lib.AddressMap | None = None,
) -> Case:
  """Share of the peak: the model, limits of single rates, and a constant.

  Args:
    rows: of the simulators.
    address_map: keep its rows alone; None for all.
  """
  name = "DRAM efficiency"
  own = np.ones(len(rows.efficiency), bool)
  if address_map is not None:
    name += f", {address_map.value}"
    own = np.array([one is address_map for one in rows.address_map])
  observed = rows.efficiency[own]
  chunks = np.where(rows.sequential, np.inf, rows.chunk_bytes)
  labels = {
    "chunk": chunks,
    "depth": rows.queue_depth.astype(int),
    "device": np.array(rows.device),
    "map": np.array([one.value for one in rows.address_map]),
  }
  groups = {
    key: column[own].tolist()
    for key, column in labels.items()
    if len(set(column[own].tolist())) > 1
  }
  candidates = [
    Candidate(
      title,
      ("limit_sharpness",),
      1,
      _on_grid(points, predictions[:, own], observed),
    )
    for title, (points, predictions) in (
      ("model", _dram_predictions(rows, dram_lib.dram_efficiency)),
      ("rate limits", _dram_predictions(rows, rate_limits)),
    )
  ]
  return Case(name, observed, groups, [*candidates, _median(observed)])


def link_case(rows: memory_rows.LinkRows) -> Case:
  """Bandwidth of an SSD: the model, no queueing, and a constant."""
  devices = _stack([memory_devices.link(name) for name in rows.device])
  sizes = jnp.asarray(rows.request_bytes)[None]
  depths = jnp.asarray(rows.queue_depth)[None]
  points = np.stack(np.meshgrid(*_LINK_GRID, indexing="ij"), axis=-1)
  points = points.reshape(-1, 2)
  tried = devices.replace(
    queue_sharpness=jnp.asarray(points[:, :1]),
    imbalance=jnp.asarray(points[:, 1:]),
  )
  predictions = jax.jit(link_lib.link_bytes_per_s)(
    tried, request_bytes=sizes, queue_depth=depths
  )
  payload = np.asarray(devices.payload_bytes_per_s)
  need = link_lib.demand(
    devices,
    request_bytes=sizes,
    link_s=sizes / devices.payload_bytes_per_s,
  )
  alone = np.asarray(depths * sizes / need.alone_s)
  no_queueing = np.minimum(payload, alone)[0].astype(float)
  return Case(
    "SSD bandwidth",
    rows.bytes_per_s,
    {
      "request": rows.request_bytes.astype(int).tolist(),
      "depth": rows.queue_depth.astype(int).tolist(),
      "device": rows.device,
    },
    [
      Candidate(
        "model",
        ("queue_sharpness", "imbalance"),
        2,
        _on_grid(points, np.asarray(predictions, float), rows.bytes_per_s),
      ),
      Candidate("no queueing", (), 0, lambda mask: ((), no_queueing)),
      _median(rows.bytes_per_s),
    ],
  )


def sram_case(rows: memory_rows.SramRows, quantity: str) -> Case:
  """One quantity of a memory: the model, a power law, proportional to size."""
  observed = getattr(rows, quantity)
  design = np.log2(
    np.stack([rows.size_bytes, rows.width_bytes, rows.feature_m], axis=1)
  )
  design = np.concatenate([np.ones((len(design), 1)), design], axis=1)

  def kriging(mask):
    table = sram_lib.fit_sram(memory_rows.SramRows(*(c[mask] for c in rows)))
    costs = sram_lib.sram_costs(
      table,
      size_bytes=jnp.asarray(rows.size_bytes),
      width_bytes=jnp.asarray(rows.width_bytes),
      feature_m=jnp.asarray(rows.feature_m),
    )
    return (), np.asarray(getattr(costs, quantity), float)

  def power_law(mask):
    trend = np.linalg.lstsq(design[mask], np.log(observed[mask]), rcond=None)[0]
    return (), np.exp(design @ trend)

  def proportional(mask):
    factor = np.median((observed / rows.size_bytes)[mask])
    return (), factor * rows.size_bytes

  return Case(
    f"SRAM {quantity}",
    observed,
    {"size": rows.size_bytes.astype(int).tolist()},
    [
      Candidate("model", (), 4 + len(observed), kriging),
      Candidate("power law", (), 4, power_law),
      Candidate("proportional", (), 1, proportional),
    ],
  )


def systolic_case(rows: memory_rows.SystolicRows) -> Case:
  """Cycles: the closed forms, and multiplications by array positions."""
  cycles = np.array(
    [
      systolic.systolic_cycles(
        rows=m,
        inner=k,
        columns=n,
        array_height=height,
        array_width=width,
        dataflow=systolic.Dataflow(flow),
      )
      for flow, m, k, n, height, width in zip(*rows[:-1], strict=True)
    ],
    float,
  )
  full = rows.rows * rows.inner * rows.columns
  full = full / (rows.array_height * rows.array_width)
  return Case(
    "Systolic cycles",
    rows.cycles,
    {},
    [
      Candidate("model", (), 0, lambda mask: ((), cycles)),
      Candidate("full array", (), 0, lambda mask: ((), full)),
    ],
  )


def rate_limits(
  params: dram_lib.DramTiming,
  *,
  chunk_bytes: Any,
  queue_depth: Any,
  address_map: dram_lib.AddressMap,
  footprint_bytes: Any,
) -> Any:
  """What is compared with: limits of single rates, every map alike.

  Args:
    params: the channel.
    chunk_bytes: f[...].
    queue_depth: f[...].
    address_map: not used.
    footprint_bytes: not used.
  """
  del address_map, footprint_bytes
  bursts = jnp.minimum(chunk_bytes, params.row_bytes) / params.burst_bytes
  chunks = 1.0 + (queue_depth - 1.0) / bursts
  served_s = bursts * params.burst_s * params.ranks
  limits = [
    jnp.ones_like(bursts),
    chunks
    * bursts
    * params.burst_s
    / (params.precharge_s + params.activate_s + bursts * params.same_group_s),
    4.0 * served_s / params.four_activate_s,
    served_s / params.activate_to_activate_s,
    served_s * params.banks / params.row_cycle_s,
  ]
  sharpness = params.limit_sharpness
  slowness = sum(limit**-sharpness for limit in limits)
  awake = 1.0 - params.refresh_s / params.refresh_interval_s
  return awake * slowness ** (-1.0 / sharpness)


def _dram_predictions(
  rows: memory_rows.DramRows, efficiency: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray]:
  """Grid points f[points, 1] and predictions f[points, rows]."""
  timing = _stack([memory_devices.dram(name) for name in rows.device])
  tried = timing.replace(limit_sharpness=jnp.asarray(_DRAM_GRID)[:, None])
  maps = np.array([one.value for one in rows.address_map])
  predictions = np.empty((len(_DRAM_GRID), len(maps)))
  compiled = jax.jit(efficiency, static_argnames="address_map")
  for address_map in dram_lib.AddressMap:
    every = compiled(
      tried,
      chunk_bytes=jnp.asarray(rows.chunk_bytes)[None],
      queue_depth=jnp.asarray(rows.queue_depth)[None],
      address_map=address_map,
      footprint_bytes=jnp.asarray(rows.footprint_bytes)[None],
    )
    own = maps == address_map.value
    predictions[:, own] = np.asarray(every)[:, own]
  return _DRAM_GRID[:, None], predictions


def _on_grid(
  points: np.ndarray, predictions: np.ndarray, observed: np.ndarray
) -> Callable[[np.ndarray], tuple[Sequence[float], np.ndarray]]:
  """A fit by trying every point: of equals, the first."""
  errors = np.log(predictions / observed) ** 2

  def fit(mask: np.ndarray) -> tuple[Sequence[float], np.ndarray]:
    best = int(np.argmin(errors[:, mask].mean(axis=1)))
    return points[best], predictions[best]

  return fit


def _median(observed: np.ndarray) -> Candidate:
  def fit(mask: np.ndarray) -> tuple[Sequence[float], np.ndarray]:
    middle = float(np.median(observed[mask]))
    return (), np.full(len(observed), middle)

  return Candidate("constant", (), 1, fit)


def _stack(devices: Sequence[Any]) -> Any:
  """Leaves f[1, rows]; constants that are tried are f[points, 1]."""
  return jax.tree.map(lambda *leaves: jnp.asarray(leaves)[None], *devices)


def _errors(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
  return np.abs(predicted / observed - 1.0)


def _summary(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
  errors = _errors(predicted, observed)
  return {"mean": float(errors.mean()), "max": float(errors.max())}
