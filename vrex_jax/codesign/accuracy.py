r"""How much accuracy a setting costs, from the attention that it keeps.

The papers give no such model. This one is fitted to measured points of the
model that ships (`accuracy_points`). For each of two figures,

  λ = Σ_{stage, layer, head} w (size / 16)^q (1 - mass)^p     w ≥ 0, p ≥ 1
  drop = span (1 - exp(-λ / span))

`mass` is the share of the past's attention that is kept, `size` the tokens of a
cluster. The drop is 0 where all attention is kept, never falls when any head
keeps less, bends at 1 - mass = 0 (a little lost attention costs next to
nothing), and ends at what is left without the past. `narration` reads at
frames; `qa` reads at frames, which decides what is stored, and at questions.

Size is there because mass alone misleads: with larger clusters the best one
holds more attention, and answers are worse.

Nothing in the rooms task depends on what an answer's tokens read: an answer is
one word, and the question's last token says it. Their cost is *assumed* to be
that of a question that keeps as much.

Weights have a log-normal prior around one level a stage, to which each head
that the points say little about falls back. Points of a disturbed model count
with λ times a factor of the disturbance, fitted beside: how much more such a
model loses by keeping as little.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from vrex_jax.codesign import accuracy_points as points_lib
from vrex_jax.hwmodel import smooth
from vrex_jax.typing import Float, Int

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
STAGES_OF = {"qa": (0, 1), "narration": (0,)}
"""Indices of `accuracy_points.STAGES` that a figure depends on."""
PRIOR_SPREAD = 1.0
"""Standard deviation of log weights around their stage's: a factor of e."""
_SIZE = 16.0
"""Tokens of a cluster at which weights are given: about what the paper's
threshold of 7 makes on these streams."""
_SHARPNESS = 16.0


class Figure(flax.struct.PyTreeNode):
  """Dynamic. The model of one figure.

  Attributes:
    weight: w of the stages that the figure depends on.
    exponent: p.
    size_exponent: q.
    span: largest drop.
  """

  weight: Float  # f32 [stages, L, K]
  exponent: Float  # f32 []
  size_exponent: Float  # f32 []
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
    model: fitted.
    parameters: numbers that were fitted.
    effective: of them, what the points and not the prior decide: the trace of
      (JᵀJ + prior)⁻¹ JᵀJ.
    factors: of λ, by disturbance; 1 where it was not measured.
  """

  model: Figure
  parameters: int
  effective: float
  factors: dict[str, float]


def figures(
  model: AccuracyModel, mass: Float, groups: Float
) -> dict[str, Float]:
  """Drops in shares of items, f[] each.

  Args:
    model: fitted.
    mass: share of the past's attention that is kept, f[3, L, K], stages frame,
      question, answer.
    groups: clusters per past token, f[L, K] or f[3, L, K]; of a table that all
      heads share the first has all, the others 0. Points were measured with a
      table a head (docs/accuracy_model.md).

  Returns:
    "qa", "narration", measured; "answer", assumed: `qa` if questions kept
    what answers keep.
  """
  shared = jnp.max(groups, axis=-1, keepdims=True)
  own = jnp.where(groups > 0, groups, shared)
  size = jnp.broadcast_to(1.0 / own, mass.shape)
  return {
    "qa": predict(model.qa, mass[:2], size[:2]),
    "narration": predict(model.narration, mass[:1], size[:1]),
    "answer": predict(model.qa, mass[::2], size[::2]),
  }


def drop(
  model: AccuracyModel, mass: Float, kept: Float | None, groups: Float
) -> Float:
  """The worst of `figures`, smoothly: f[], at most 7 % above the worst.

  Args:
    model: fitted.
    mass: f[3, L, K].
    kept: f[3, L, K]; not used by this model. Kept share predicts worse
      (docs/accuracy_model.md).
    groups: f[L, K] or f[3, L, K].

  Example:
    >>> some = jnp.float32(2.0)
    >>> qa = Figure(jnp.ones((2, 1, 1)), some, some, jnp.float32(0.7))
    >>> told = Figure(jnp.ones((1, 1, 1)), some, some, jnp.float32(0.9))
    >>> whole = jnp.ones((3, 1, 1))
    >>> float(drop(AccuracyModel(qa, told), whole, None, 0.1 * whole))
    0.0
  """
  del kept
  worst = figures(model, mass, groups)
  return smooth.smooth_max(*worst.values(), sharpness=_SHARPNESS)


def predict(
  model: Figure, mass: Float, size: Float, factor: Float | float = 1.0
) -> Float:
  """Drop of one figure, f[...].

  Args:
    model: fitted.
    mass: f[..., stages, L, K].
    size: tokens of a cluster, alike.
    factor: of λ, f[...]; 1 for a model that is not disturbed.
  """
  lost = 1.0 - mass
  # 0 to a power has no derivative by the power; rounding may pass 1.
  some = lost > 0
  power = jnp.where(some, jnp.where(some, lost, 1.0) ** model.exponent, 0.0)
  scale = (size / _SIZE) ** model.size_exponent
  cost = jnp.einsum("slk,...slk->...", model.weight, scale * power) * factor
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
  found = {}
  for index, name in enumerate(points_lib.FIGURES):
    stages = STAGES_OF[name]
    found[name] = fit_figure(
      name,
      points.mass[:, stages],
      points.size[:, stages],
      points.drop[:, index],
      points.error[:, index],
      used(points, name),
      points.disturb,
      prior_spread=prior_spread,
    )
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
  size: np.ndarray | None,
  drops: np.ndarray,
  errors: np.ndarray,
  chosen: np.ndarray,
  disturb: np.ndarray,
  *,
  prior_spread: float = PRIOR_SPREAD,
) -> Fitted:
  """Fits one figure.

    Σ_P (drop - predicted)² / error² + Σ (log w - level of the stage)² / spread²
    + log(p - 1)² + q² + Σ (log factor)²

  Args:
    figure: of `accuracy_points.FIGURES`.
    mass: f[P, stages, L, K].
    size: tokens of a cluster, f[P, stages, L, K]; None leaves it out (q = 0).
    drops: f[P].
    errors: standard errors, f[P].
    chosen: points that count, b[P].
    disturb: "none" or the name of a disturbance, text [P].
    prior_spread: see `PRIOR_SPREAD`.
  """
  span = jnp.float32(SPAN[figure])
  shape = mass.shape[1:]
  sizes = np.full(mass.shape, _SIZE) if size is None else size
  inverse = np.where(chosen, 1.0 / errors, 0.0)
  names = sorted(set(disturb.tolist()) - {"none"})
  kinds = np.array([["none", *names].index(one) for one in disturb], np.int32)
  values = (
    *(jnp.asarray(one, jnp.float32) for one in (mass, sizes, drops, inverse)),
    jnp.asarray(kinds),
    span,
    jnp.float32(prior_spread),
  )
  stages, heads = shape[0], int(np.prod(shape))
  as_double = lambda array: np.asarray(array, np.float64)
  start = np.zeros(stages + heads + 2 + len(names))
  start[:stages] = np.log(0.05)
  result = optimize.least_squares(
    lambda free: as_double(_residuals(free, shape, *values)),
    start,
    jac=lambda free: as_double(_jacobian(free, shape, *values)),
    xtol=1e-5,
    ftol=1e-6,
    gtol=1e-5,
    max_nfev=200,
  )
  of_points, of_prior = np.split(result.jac, [len(drops)])
  points = of_points.T @ of_points
  both = points + of_prior.T @ of_prior
  # With one head in a stage there is nothing to deviate from.
  own = heads if heads > stages else 0
  free = _unpack(jnp.asarray(result.x, jnp.float32), shape)
  factors = np.exp(np.asarray(free.factors)).tolist()
  return Fitted(
    _model(free, span),
    stages + own + 1 + (size is not None) + len(names),
    float(np.trace(np.linalg.pinv(both) @ points)),
    dict(zip(names, factors, strict=True)),
  )


class _Free(NamedTuple):
  """What is searched; but for the levels 0 is the mean of the prior."""

  level: Float  # [stages, 1, 1], log
  deviation: Float  # [stages, L, K], log
  exponents: Float  # [2], log(p - 1) and q
  factors: Float  # [disturbances], log


def _unpack(free: Float, shape: tuple[int, ...]) -> _Free:
  stages = shape[0]
  heads = stages + int(np.prod(shape))
  return _Free(
    free[:stages].reshape(-1, 1, 1),
    free[stages:heads].reshape(shape),
    free[heads : heads + 2],
    free[heads + 2 :],
  )


def _model(free: _Free, span: Float) -> Figure:
  return Figure(
    jnp.exp(free.level + free.deviation),
    1.0 + jnp.exp(free.exponents[0]),
    free.exponents[1],
    span,
  )


def _distance(
  values: Float,
  shape: tuple[int, ...],
  mass: Float,
  size: Float,
  drops: Float,
  inverse: Float,
  kinds: Int,
  span: Float,
  prior_spread: Float,
) -> Float:
  """Of points and prior, in standard deviations."""
  free = _unpack(jnp.asarray(values, jnp.float32), shape)
  factor = jnp.concatenate([jnp.ones(1), jnp.exp(free.factors)])[kinds]
  missed = predict(_model(free, span), mass, size, factor) - drops
  return jnp.concatenate(
    [
      missed * inverse,
      free.deviation.reshape(-1) / prior_spread,
      free.exponents,
      free.factors,
    ]
  )


_residuals = jax.jit(_distance, static_argnums=1)
_jacobian = jax.jit(jax.jacfwd(_distance), static_argnums=1)
