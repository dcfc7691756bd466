"""How far the accuracy model is off on points that it has not seen.

A fold leaves out all settings of one prefill, which share frames and streams;
of one Hamming threshold; or all that are disturbed. Beside the error stands the
noise of the measurement itself, which no model passes, and what poorer models
reach on the same folds:

  attention and size, by head    the model (`accuracy`)
  attention, by head             the same without the size of clusters
  attention and size, by stage   the same with means of a stage
  kept share, by stage           the same with the mean kept share of a stage
  constant                       the mean drop
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import accuracy
from vrex_jax.codesign import accuracy_points as points_lib

__all__ = [
  "MODELS",
  "NEAR",
  "THE_MODEL",
  "Left",
  "disturbance_rows",
  "error_rows",
  "left_out",
]

NEAR = 0.05
"""Drops that are looked at by themselves: those a design may be chosen at."""


class Left(NamedTuple):
  """Static. Predictions of one model for points it was not fitted to.

  Attributes:
    predicted: f64[P]; nan where a point was in no fold.
    parameters: numbers that were fitted.
    effective: of them, decided by the points; mean over folds.
  """

  predicted: np.ndarray
  parameters: int
  effective: float


Predict = Callable[[np.ndarray], tuple[np.ndarray, int, float]]
"""Points to fit, b[P] -> predictions of all, parameters, effective ones."""


def error_rows(points: points_lib.Points) -> list[dict[str, Any]]:
  """Errors of every model, figure and way to leave out; shares of items.

  Args:
    points: measured.

  Returns:
    Rows of {figure, left_out, model, points, parameters, effective, error,
    noise, ratio, near_points, near_error, near_noise}: `error` is the root mean
    square of measured - predicted on points left out; `noise` that of their
    standard errors; `ratio` the mean of (error / standard error)², 1 where
    nothing but noise is left; `near_…` of points that fall less than 5 points.
  """
  rows = []
  for figure in points_lib.FIGURES:
    for name in _folds(points):
      for model in MODELS:
        left = left_out(points, figure, model, name)
        rows.append(_row(points, figure, name, model, left))
  return rows


def disturbance_rows(points: points_lib.Points) -> list[dict[str, Any]]:
  """The model's errors apart by disturbance, each prefill left out.

  Args:
    points: measured.

  Returns:
    Rows of {figure, disturb, points, error, noise, bias}: `bias` is the mean of
    measured - predicted, the others as in `error_rows`.
  """
  rows = []
  for index, figure in enumerate(points_lib.FIGURES):
    left = left_out(points, figure, THE_MODEL)
    for name in dict.fromkeys(points.disturb.tolist()):
      chosen = np.isfinite(left.predicted) & (points.disturb == name)
      missed = (points.drop[:, index] - left.predicted)[chosen]
      rows.append(
        {
          "figure": figure,
          "disturb": name,
          "points": int(chosen.sum()),
          "error": float(np.sqrt(np.mean(missed**2))),
          "noise": float(np.sqrt(np.mean(points.error[chosen, index] ** 2))),
          "bias": float(np.mean(missed)),
        }
      )
  return rows


def left_out(
  points: points_lib.Points, figure: str, model: str, fold: str = "prefill"
) -> Left:
  """Predictions for each fold by a fit to all others.

  Args:
    points: measured.
    figure: of `accuracy_points.FIGURES`.
    model: key of `MODELS`.
    fold: "prefill", "hamming_threshold" or "disturbed".
  """
  predict = MODELS[model](points, figure)
  chosen = accuracy.used(points, figure)
  predicted = np.full(len(chosen), np.nan)
  effective, parameters = [], 0
  for fold_ in _folds(points)[fold]:
    values, parameters, decided = predict(chosen & ~fold_)
    predicted[fold_ & chosen] = values[fold_ & chosen]
    effective.append(decided)
  return Left(predicted, parameters, float(np.mean(effective)))


def _folds(points: points_lib.Points) -> dict[str, list[np.ndarray]]:
  """Points of every fold, b[P], by what is left out."""
  disturbed = points.disturb != "none"
  found = {
    "prefill": list(
      _equal(
        np.char.add(points.disturb.astype(str), points.prefill.astype(str))
      )
    )
  }
  if len(np.unique(points.hamming_threshold)) > 1:
    found["hamming_threshold"] = list(_equal(points.hamming_threshold))
  if disturbed.any() and not disturbed.all():
    found["disturbed"] = [disturbed]
  return found


def _equal(labels: np.ndarray) -> Iterator[np.ndarray]:
  for label in np.unique(labels):
    yield labels == label


def _row(
  points: points_lib.Points, figure: str, fold: str, model: str, left: Left
) -> dict[str, Any]:
  index = points_lib.FIGURES.index(figure)
  drop, error = points.drop[:, index], points.error[:, index]
  known = np.isfinite(left.predicted)
  near = known & (drop < NEAR)
  missed = left.predicted - drop
  root = lambda values: float(np.sqrt(np.mean(values**2)))
  return {
    "figure": figure,
    "left_out": fold,
    "model": model,
    "points": int(known.sum()),
    "parameters": left.parameters,
    "effective": left.effective,
    "error": root(missed[known]),
    "noise": root(error[known]),
    "ratio": float(np.mean((missed / error)[known] ** 2)),
    "near_points": int(near.sum()),
    "near_error": root(missed[near]),
    "near_noise": root(error[near]),
  }


def _form(
  points: points_lib.Points,
  figure: str,
  features: np.ndarray,
  size: np.ndarray | None = None,
) -> Predict:
  """The model's form on some features, f[P, 3, L, K]."""
  index = points_lib.FIGURES.index(figure)
  stages = accuracy.STAGES_OF[figure]
  used = features[:, stages]
  sizes = None if size is None else size[:, stages]

  def predict(chosen: np.ndarray) -> tuple[np.ndarray, int, float]:
    fitted = accuracy.fit_figure(
      figure,
      used,
      sizes,
      points.drop[:, index],
      points.error[:, index],
      chosen,
      # A disturbance that is left out has no factor of its own.
      np.where(
        np.isin(points.disturb, points.disturb[chosen]), points.disturb, "none"
      ),
    )
    given = np.ones(used.shape) if sizes is None else sizes
    factor = [fitted.factors.get(name, 1.0) for name in points.disturb]
    values = accuracy.predict(
      fitted.model, *map(jnp.asarray, (used, given, factor))
    )
    return np.asarray(values), fitted.parameters, fitted.effective

  return predict


def _mean(features: np.ndarray) -> np.ndarray:
  return features.mean(axis=(2, 3), keepdims=True)


def _constant(points: points_lib.Points, figure: str) -> Predict:
  index = points_lib.FIGURES.index(figure)
  weight = points.error[:, index] ** -2

  def predict(chosen: np.ndarray) -> tuple[np.ndarray, int, float]:
    mean = np.average(points.drop[chosen, index], weights=weight[chosen])
    return np.full(len(chosen), mean), 1, 1.0

  return predict


THE_MODEL = "attention and size, by head"
"""Key of the one that is used."""
MODELS: dict[str, Callable[[points_lib.Points, str], Predict]] = {
  THE_MODEL: lambda points, figure: _form(
    points, figure, points.mass, points.size
  ),
  "attention, by head": lambda points, figure: _form(
    points, figure, points.mass
  ),
  "attention and size, by stage": lambda points, figure: _form(
    points, figure, _mean(points.mass), _mean(points.size)
  ),
  "kept share, by stage": lambda points, figure: _form(
    points, figure, _mean(points.kept)
  ),
  "constant": _constant,
}
"""Name -> (points, figure) -> how it predicts."""
