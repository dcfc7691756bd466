"""Trade-off fronts: the same descent under limits that move, all in one run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import descent
from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import space as space_lib

__all__ = ["front"]

_FACTORS = {"area": (0.5, 3.0), "accuracy": (0.15, 6.0)}
_FIELDS = {"area": "area_m2", "accuracy": "accuracy_drop"}


def front(
  name: str,
  problem: objective_lib.Problem,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  plan: descent.Plan,
  *,
  around: np.ndarray,
  choice: int,
  advance: descent.Advance,
  places: int = 8,
  told: Callable[[descent.Round, descent.State], None] = lambda one, state: (
    None
  ),
  stopped: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
  """The best objective as one limit moves, the others as they are.

  Lanes are shared out among the places of the limit and start around a known
  point.

  Args:
    name: "area" or "accuracy".
    problem: what is priced.
    space: what moves.
    limits: in the middle.
    plan: of `advance`.
    around: point of the cube where lanes start, f[D].
    choice: static choice of the algorithm.
    advance: of `descent.make_round`.
    places: values of the limit, geometric.
    told: see `descent.run`.
    stopped: see there.

  Returns:
    {"limit", "objective" or None where no lane kept its limits}, rising.
  """
  places = min(places, plan.starts)
  low, high = _FACTORS[name]
  middle = float(getattr(limits, _FIELDS[name]))
  values = middle * np.geomspace(low, high, places)
  lane = np.arange(plan.starts) % places
  own = jax.tree.map(
    lambda leaf: jnp.full(plan.starts, leaf, jnp.float32), limits
  ).replace(**{_FIELDS[name]: jnp.asarray(values[lane], jnp.float32)})
  state = descent.start(problem, space, plan, [choice])
  share = np.clip(around, 0.02, 0.98)
  centre = jnp.asarray(np.log(share / (1.0 - share)), jnp.float32)
  state = state.replace(
    x=jnp.where(
      jnp.arange(plan.starts)[:, None] < places,
      centre[None],
      0.5 * (state.x + centre[None]),
    ),
  )
  state = descent.run(
    problem,
    space,
    own,
    plan,
    state=state,
    advance=advance,
    told=told,
    stopped=stopped,
  )
  found = []
  for index, value in enumerate(values):
    best = descent.found(state, np.flatnonzero(lane == index))
    found.append(
      {
        "limit": float(value),
        "objective": float(np.exp(best.value)) if best.feasible else None,
      }
    )
  return found
