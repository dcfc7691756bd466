r"""How much accuracy a setting costs, from the attention that it keeps.

A reconstruction of nothing: the papers give no such model. Fitted to measured
points of the model that ships (`accuracy_points`), for each of two figures,

  λ = Σ_{stage, layer, head} w (1 - mass)^p          w ≥ 0, p ≥ 1
  drop = span (1 - exp(-λ / span))

which is 0 where all attention is kept, never falls when any head keeps less,
bends at 1 - mass = 0 (a little lost attention costs next to nothing), and ends
at what is left without the past. `narration` reads at frames; `qa` reads at
frames, which decides what is stored, and at questions.

Nothing in the rooms task depends on what an answer's tokens read: an answer is
one word, and the question's last token says it. Their cost is *assumed* to be
that of a question that keeps as much.

Weights have a log-normal prior around one level a stage, with which each head
that the points say little about falls back to its stage.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from vrex_jax.codesign import accuracy_points as points_lib
from vrex_jax.hwmodel import smooth
from vrex_jax.typing import Float

__all__ = [
  "PRIOR_SPREAD",
  "SPAN",
  "STAGES_OF",
  "AccuracyModel",
  "Figure",
  "Fitted",
  "drop",
  "figures",
  "fit",
  "fit_figure",
  "predict",
  "used",
]

SPAN = {"qa": 0.71, "narration": 0.97}
"""Largest drops: right answers of `full`, less 26.5 % that always saying the
likeliest word of a kind gives, and less the 0 % of narration that a window of
16 frames gives (512 frames; README, `evaluate_qa.py`)."""
PRIOR_SPREAD = 1.0
"""Standard deviation of log weights around their stage's: a factor of e."""
_EXPONENT_SPREAD = 1.0
"""Of log(p - 1) around p = 2."""
STAGES_OF = {"qa": (0, 1), "narration": (0,)}
"""Indices of `accuracy_points.STAGES` that a figure depends on."""
_SHARPNESS = 16.0


class Figure(flax.struct.PyTreeNode):
  """Dynamic. The model of one figure.

  Attributes:
    weight: w of the stages that the figure depends on.
    exponent: p.
    span: largest drop.
  """

  weight: Float  # f32 [stages, L, K]
  exponent: Float  # f32 []
  span: Float  # f32 []


class AccuracyModel(flax.struct.PyTreeNode):
  """Dynamic. Drops against `full` of the model that ships.

  Attributes:
    qa: of all questions; stages frame and question.
    narration: of what is said about old objects; stage frame.
  """

  qa: Figure
  narration: Figure


class Fitted(NamedTuple):
  """Static. A fit of one figure.

  Attributes:
    model: of `Figure`.
    parameters: numbers that were fitted.
    effective: of them, what the points and not the prior decide: the trace of
      (JᵀJ + prior)⁻¹ JᵀJ.
  """

  model: Figure
  parameters: int
  effective: float


def figures(model: AccuracyModel, mass: Float) -> dict[str, Float]:
  """Drops in shares of items, f[] each.

  Args:
    model: fitted.
    mass: share of the past's attention that is kept, f[3, L, K], stages frame,
      question, answer.

  Returns:
    "qa", "narration", measured; "answer", assumed: `qa` if questions kept
    what answers keep.
  """
  as_question = jnp.stack([mass[0], mass[2]])
  return {
    "qa": predict(model.qa, mass[:2]),
    "narration": predict(model.narration, mass[:1]),
    "answer": predict(model.qa, as_question),
  }


def drop(model: AccuracyModel, mass: Float, kept: Float | None = None) -> Float:
  """The worst of `figures`, smoothly: f[], at most 7 % above the worst.

  Args:
    model: fitted.
    mass: f[3, L, K].
    kept: f[3, L, K]; not used by this model. Kept share alone predicts worse
      (docs/accuracy_model.md).

  Example:
    >>> one = Figure(jnp.ones((2, 1, 1)), jnp.float32(2), jnp.float32(0.7))
    >>> two = Figure(jnp.ones((1, 1, 1)), jnp.float32(2), jnp.float32(0.9))
    >>> float(drop(AccuracyModel(one, two), jnp.ones((3, 1, 1))))
    0.0
  """
  del kept
  worst = figures(model, mass)
  return smooth.smooth_max(*worst.values(), sharpness=_SHARPNESS)


def predict(model: Figure, mass: Float) -> Float:
  """Drop of one figure, f[...].

  Args:
    model: fitted.
    mass: f[..., stages, L, K].
  """
  lost = 1.0 - mass
  # 0 to a power has no derivative by the power; rounding may pass 1.
  some = lost > 0
  power = jnp.where(some, jnp.where(some, lost, 1.0) ** model.exponent, 0.0)
  cost = jnp.sum(model.weight * power, axis=(-3, -2, -1))
  return -model.span * jnp.expm1(-cost / model.span)


def fit(
  points: points_lib.Points, *, prior_spread: float = PRIOR_SPREAD
) -> tuple[AccuracyModel, dict[str, Fitted]]:
  """Fits both figures by weighted least squares; deterministic.

  Points that share a prefill share their narration, which counts once.

  Args:
    points: measured.
    prior_spread: see `PRIOR_SPREAD`.

  Returns:
    The model, and by figure how it was fitted. Errors on points left out:
    `accuracy_errors`.
  """
  found = {
    name: fit_figure(
      name,
      points.mass[:, STAGES_OF[name]],
      points.drop[:, index],
      points.error[:, index],
      used(points, name),
      prior_spread=prior_spread,
    )
    for index, name in enumerate(points_lib.FIGURES)
  }
  return AccuracyModel(found["qa"].model, found["narration"].model), found


def used(points: points_lib.Points, figure: str) -> np.ndarray:
  """b[P]: all points; of narration the first of each prefill."""
  if figure == "qa":
    return np.ones(len(points.prefill), bool)
  chosen = np.zeros(len(points.prefill), bool)
  keys = list(zip(points.disturb, points.prefill, strict=True))
  chosen[[keys.index(key) for key in dict.fromkeys(keys)]] = True
  return chosen


def fit_figure(
  figure: str,
  mass: np.ndarray,
  drops: np.ndarray,
  errors: np.ndarray,
  chosen: np.ndarray,
  *,
  prior_spread: float = PRIOR_SPREAD,
) -> Fitted:
  """Fits one figure.

    Σ_P (drop - predicted)² / error² + Σ (log w - level of the stage)² / spread²
    + log(p - 1)² / 1²

  Args:
    figure: of `accuracy_points.FIGURES`.
    mass: f[P, stages, L, K].
    drops: f[P].
    errors: standard errors, f[P].
    chosen: points that count, b[P].
    prior_spread: see `PRIOR_SPREAD`.

  Returns:
    `Fitted`.
  """
  span = jnp.float32(SPAN[figure])
  shape = mass.shape[1:]
  inverse = jnp.asarray(np.where(chosen, 1.0 / errors, 0.0), jnp.float32)
  data = (jnp.asarray(mass, jnp.float32), jnp.asarray(drops, jnp.float32))
  values = (*data, inverse, span, jnp.float32(prior_spread))
  size = shape[0] + int(np.prod(shape)) + 1
  # With one head there is nothing to deviate from.
  parameters = size if shape[1:] != (1, 1) else shape[0] + 1
  as_double = lambda array: np.asarray(array, np.float64)
  result = optimize.least_squares(
    lambda free: as_double(_residuals(free, shape, *values)),
    np.concatenate(
      [np.full(shape[0], np.log(0.05)), np.zeros(size - shape[0])]
    ),
    jac=lambda free: as_double(_jacobian(free, shape, *values)),
    xtol=1e-5,
    ftol=1e-6,
    gtol=1e-5,
    max_nfev=200,
  )
  jacobian = result.jac
  of_points, of_prior = jacobian[: len(drops)], jacobian[len(drops) :]
  points = of_points.T @ of_points
  both = points + of_prior.T @ of_prior
  effective = float(np.trace(np.linalg.pinv(both) @ points))
  return Fitted(
    _model(jnp.asarray(result.x), shape, span), parameters, effective
  )


def _model(free: Float, shape: tuple[int, ...], span: Float) -> Figure:
  """(level of each stage, deviation of each head, log(p - 1)) -> model."""
  stages = shape[0]
  level = free[:stages].reshape(-1, 1, 1)
  weight = jnp.exp(level + free[stages:-1].reshape(shape))
  return Figure(
    weight.astype(jnp.float32),
    (1.0 + jnp.exp(free[-1])).astype(jnp.float32),
    span,
  )


def _distance(
  free: Float,
  shape: tuple[int, ...],
  mass: Float,
  drops: Float,
  inverse: Float,
  span: Float,
  prior_spread: Float,
) -> Float:
  """Of points and prior, in standard deviations."""
  free = jnp.asarray(free, jnp.float32)
  missed = predict(_model(free, shape, span), mass) - drops
  return jnp.concatenate(
    [
      missed * inverse,
      free[shape[0] : -1] / prior_spread,
      free[-1:] / _EXPONENT_SPREAD,
    ]
  )


_residuals = jax.jit(_distance, static_argnums=1)
_jacobian = jax.jit(jax.jacfwd(_distance), static_argnums=1)
