"""Constants that nothing but V-Rex8's printed latencies can tell, and how well.

Fitted at batch 1, everything else held:

  DRAM efficiency        from 89 ms a token at 1K
  vision seconds, law    from the frame latencies at five lengths, together

A law gives fetched tokens from cached ones by two constants. Several are tried;
that one was chosen is itself a choice made on these five points. Left out one
length at a time, they say what the law is worth (`leave_one_out`).

The fit is a search on a grid, made finer five times, for the least largest
relative error. Latency depends on the law only through the number of fetched
tokens, so it is tabulated against that once (`table`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import workload
from vrex_jax.models import config as config_lib

__all__ = [
  "CHOSEN",
  "LAWS",
  "VERDICT",
  "Fitted",
  "Table",
  "constants",
  "fit",
  "held_constants",
  "law_constants",
  "leave_one_out",
  "predict",
  "solve",
  "table",
]

_GRID = 41
_ROUNDS = 6
_MOST_TOKENS = 12288.0

LAWS: dict[str, Callable[..., np.ndarray]] = {
  "power": lambda a, b, s: 1e3 * a * (s / 1024.0) ** np.log(1.0 + b),
  "logarithm": lambda a, b, s: 1e3 * a * np.log1p(b * s / 1e3),
  "saturating, rational": lambda a, b, s: 1e3 * a * s / (s + 1e3 * b),
  "saturating, root": lambda a, b, s: 1e3 * a * s / np.hypot(s, 1e3 * b),
  "saturating, exponential": lambda a, b, s: (
    -1e3 * a * np.expm1(-s / (1e3 * b))
  ),
}
"""(a, b, cached tokens) -> fetched tokens of a layer; a, b about 1 to 20."""
CHOSEN = "saturating, exponential"
"""All saturating laws pass within 10 %; this one has a meaning (`FetchLaw`)."""
VERDICT = (
  "5 latencies, fitted by 3 constants (a, b, vision): 2 degrees of freedom, and"
  " fewer, as the form was chosen on the same points. DRAM and link efficiency"
  " are fits to two further figures. A length that is left out may be missed by"
  " far more than one that is fitted: it is a description of five points, not a"
  " prediction"
)
_RANGES = {
  "power": ((0.05, 6.0), (0.0, 2.0)),
  "logarithm": ((0.05, 40.0), (0.001, 3.0)),
  "saturating, rational": ((1.0, 14.0), (0.5, 60.0)),
  "saturating, root": ((1.0, 14.0), (0.5, 60.0)),
  "saturating, exponential": ((1.0, 14.0), (0.5, 60.0)),
}


class Table(NamedTuple):
  """Latency without vision at every length, against fetched tokens."""

  fetched_tokens: np.ndarray  # f64 [points]
  latency_s: np.ndarray  # f64 [lengths, points]


class Fitted(NamedTuple):
  """One law and the vision seconds beside it.

  Attributes:
    law: key of LAWS.
    a, b: its constants.
    vision_s: seconds of vision.
    error: largest relative error over the lengths it was fitted to.
  """

  law: str
  a: float
  b: float
  vision_s: float
  error: float

  def fetched(self, cached_tokens: np.ndarray) -> np.ndarray:
    """Fetched tokens, never more than there are."""
    tokens = np.asarray(cached_tokens, float)
    return np.minimum(LAWS[self.law](self.a, self.b, tokens), tokens)


def constants(
  vrex8: params.Platform,
  agx_orin: params.Platform,
  model: config_lib.ModelConfig,
) -> dict[str, float]:
  """Every constant of the platform files that stands for a printed result.

  Each is found by halving, in this order, with those before it in place; a
  speed-up whose length the paper does not name is taken to belong to the end
  of the range where it is found.

  Returns:
    Value by name:
      vrex8.dram.efficiency          89 ms a token at 1K
      agx_orin.software.layer_s      text, FlexGen at 1K: 1.9 × 89 ms
      agx_orin.compute.vision_utilisation  frame, FlexGen at 1K: 2.2 × 121 ms
      agx_orin.link.efficiency       frame, FlexGen at 40K: 7.3 × 254 ms
      agx_orin.software.score_s      48 % of ReSV at 40K, 2.8 x of FlexGen
  """
  shortest, longest = paper.CACHE_TOKENS[0], paper.CACHE_TOKENS[-1]
  token_s, frame_s = paper.TOKEN_LATENCY_S[0], paper.FRAME_LATENCY_S
  flexgen_s = paper.FRAME_SPEED_UP[1] * frame_s[-1]
  found = {}
  found["vrex8.dram.efficiency"] = solve(
    lambda x: _at(
      _put(vrex8, "dram", efficiency=x), "resv", shortest, "answer"
    ),
    token_s,
    (0.3, 1.0),
    model,
  )
  put = lambda part, **values: _put(agx_orin, part, **values)
  layer_s = solve(
    lambda x: _at(put("software", layer_s=x), "flexgen", shortest, "answer"),
    paper.TEXT_SPEED_UP[0] * token_s,
    (0.0, 0.01),
    model,
  )
  agx_orin = put("software", layer_s=layer_s)
  found["agx_orin.software.layer_s"] = layer_s
  put = lambda part, **values: _put(agx_orin, part, **values)
  vision = solve(
    lambda x: _at(
      put("compute", vision_utilisation=x), "flexgen", shortest, "frame"
    ),
    paper.FRAME_SPEED_UP[0] * frame_s[0],
    (0.02, 0.9),
    model,
  )
  agx_orin = put("compute", vision_utilisation=vision)
  found["agx_orin.compute.vision_utilisation"] = vision
  put = lambda part, **values: _put(agx_orin, part, **values)
  found["agx_orin.link.efficiency"] = solve(
    lambda x: _at(put("link", efficiency=x), "flexgen", longest, "frame"),
    flexgen_s,
    (0.3, 1.0),
    model,
  )
  speed_up, _ = paper.ABLATION["agx_orin", "resv_software"]
  scores = (
    model.decoder.num_heads
    * paper.FRAME_TOKENS
    * (longest / retrieval.TOKENS_PER_CLUSTER)
  )
  prediction_s = paper.PREDICTION_SHARE * flexgen_s / speed_up
  found["agx_orin.software.score_s"] = prediction_s / (
    scores * (model.decoder.num_layers - 1)
  )
  return found


def law_constants(
  chosen: Mapping[str, Any],
  vrex8: params.Platform,
  model: config_lib.ModelConfig,
) -> dict[str, float]:
  """Constants of the chosen law's fit, as the package holds them.

  The exponential law's a and b are W / 1000 and W / (1000 r). The KVMU's worth
  follows: without it (8.1 / 6.0) times the latency, all of it on the link.

  Args:
    chosen: a, b and vision_s of the fit.
    vrex8: the platform.
    model: the paper's.
  """
  peak = vrex8.compute.peak_flops_per_s
  macs, _ = workload.vision_counts(model)
  full_s = paper.FRAME_LATENCY_S[-1]
  with_kvmu, _ = paper.ABLATION["vrex8", "resv"]
  without, _ = paper.ABLATION["vrex8", "resv_kvpu"]
  vision_s = chosen["vision_s"]
  return {
    "law.working_set_tokens": 1e3 * chosen["a"],
    "law.initial_ratio": chosen["a"] / chosen["b"],
    "vrex8.compute.vision_utilisation": 2.0 * macs / (peak * vision_s),
    "vrex8.link.scattered_efficiency": (full_s - vision_s)
    / (full_s * with_kvmu / without - vision_s),
  }


def held_constants() -> dict[str, float]:
  """The same constants as platform files and `residency.LAW` hold them."""
  held = {
    "law.working_set_tokens": float(residency.LAW.working_set_tokens),
    "law.initial_ratio": float(residency.LAW.initial_ratio),
  }
  for name in ("vrex8", "agx_orin"):
    platform = platforms.named(name).platform
    names = params.leaf_names(platform)
    values = jax.tree.leaves(platform)
    held |= {
      f"{name}.{leaf}": value for leaf, value in zip(names, values, strict=True)
    }
  return held


def solve(
  case: Callable[..., "_Case"],
  wanted_s: float,
  span: tuple[float, float],
  model: config_lib.ModelConfig,
) -> float:
  """The value of one constant at which a case takes so long.

  Latency is monotone in it; which way, the ends of the span tell.

  Args:
    case: the constant -> platform, method, cached tokens and stage.
    wanted_s: printed latency.
    span: where to look.
    model: the paper's.
  """
  seconds = jax.jit(lambda x: _latency_s(*case(x), model=model))
  low, high = span
  falls = float(seconds(low)) > float(seconds(high))
  for _ in range(26):
    middle = 0.5 * (low + high)
    above = float(seconds(middle)) > wanted_s
    low, high = (middle, high) if above == falls else (low, middle)
  return 0.5 * (low + high)


def table(
  platform: params.Platform,
  model: config_lib.ModelConfig,
  lengths: Sequence[int] = paper.CACHE_TOKENS,
  points: int = 769,
) -> Table:
  """Frame latency without vision, for any number of fetched tokens.

  Args:
    platform: to fit; its vision is taken off.
    model: the paper's.
    lengths: cached tokens.
    points: of the table, evenly spaced.
  """
  fetched = np.linspace(0.0, _MOST_TOKENS, points)

  def one(cached, tokens):
    return _latency_s(
      platform, "resv", cached, "frame", model=model, tokens=tokens
    )

  both = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))
  seconds = both(
    jnp.asarray(lengths, jnp.float32), jnp.asarray(fetched, jnp.float32)
  )
  return Table(fetched, np.asarray(seconds, np.float64))


def predict(
  fitted: Fitted, known: Table, lengths: Sequence[int] = paper.CACHE_TOKENS
) -> np.ndarray:
  """Frame latency of a fit at the lengths of a table, f64[lengths]."""
  tokens = fitted.fetched(np.asarray(lengths))
  rest = [
    np.interp(one, known.fetched_tokens, row)
    for one, row in zip(tokens, known.latency_s, strict=True)
  ]
  return fitted.vision_s + np.array(rest)


def fit(
  law: str,
  known: Table,
  *,
  lengths: Sequence[int] = paper.CACHE_TOKENS,
  printed_s: Sequence[float] = paper.FRAME_LATENCY_S,
  left_out: int | None = None,
) -> Fitted:
  """The least largest relative error over all lengths, or all but one.

  Args:
    law: key of LAWS.
    known: of `table`.
    lengths: cached tokens.
    printed_s: frame latencies.
    left_out: index of a length that is not used.
  """
  used = np.array([i for i in range(len(lengths)) if i != left_out])
  cached, wanted = np.asarray(lengths, float), np.asarray(printed_s)
  spans = [*_RANGES[law], (0.0, 0.1)]
  best = Fitted(law, 1.0, 1.0, 0.0, np.inf)
  for _ in range(_ROUNDS):
    a, b, vision_s = (
      axis.ravel()
      for axis in np.meshgrid(
        *(np.linspace(*span, _GRID) for span in spans), indexing="ij"
      )
    )
    worst = np.zeros_like(a)
    for index in used:
      tokens = np.minimum(LAWS[law](a, b, cached[index]), cached[index])
      rest = np.interp(tokens, known.fetched_tokens, known.latency_s[index])
      error = np.abs((vision_s + rest) / wanted[index] - 1.0)
      worst = np.maximum(worst, error)
    at = int(np.argmin(worst))
    if worst[at] < best.error:
      best = Fitted(
        law, float(a[at]), float(b[at]), float(vision_s[at]), float(worst[at])
      )
    spans = [
      _narrowed(span, centre, limit)
      for span, centre, limit in zip(
        spans,
        (best.a, best.b, best.vision_s),
        [*_RANGES[law], (0.0, 0.1)],
        strict=True,
      )
    ]
  return best


def leave_one_out(law: str, known: Table) -> np.ndarray:
  """Relative error at each length of a fit that has not seen it."""
  errors = []
  for index, printed in enumerate(paper.FRAME_LATENCY_S):
    fitted = fit(law, known, left_out=index)
    errors.append(predict(fitted, known)[index] / printed - 1.0)
  return np.array(errors)


def _narrowed(
  span: tuple[float, float], centre: float, limit: tuple[float, float]
) -> tuple[float, float]:
  reach = 0.2 * (span[1] - span[0])
  return max(centre - reach, limit[0]), min(centre + reach, limit[1])


class _Case(NamedTuple):
  """One printed result: where it was taken."""

  platform: params.Platform
  method: str
  cached_tokens: float
  stage: str


_at = _Case


def _put(platform: params.Platform, part: str, **values) -> params.Platform:
  """The platform with some numbers of one part replaced."""
  return platform.replace(**{part: getattr(platform, part).replace(**values)})


def _latency_s(platform, method, cached, stage, *, model, tokens=None):
  """One event at batch 1.

  With `tokens`, so many are fetched and vision is left out.
  """
  how = retrieval.METHODS[method]
  chunk = paper.FRAME_TOKENS if stage == "frame" else 1
  done = retrieval.at_length(
    how,
    model.decoder,
    jnp.asarray(cached, jnp.float32),
    stage=stage,
    chunk_tokens=chunk,
    law=residency.LAW if tokens is None else lambda past: tokens + 0.0 * past,
  )
  work = workload.from_retrieval(model, done, stage=stage, chunk_tokens=chunk)
  if tokens is not None:
    none = jnp.zeros_like(work.vision_macs)
    work = work.replace(vision_macs=none, vision_weight_bytes=none)
  schedule = latency.schedule_of(how, platform, stage=stage)
  return latency.estimate(platform, work, schedule).latency_s
