"""Constrained descent from many starts at once.

  minimise ln f(x)  subject to  g_i(x) ≤ 0

by the augmented Lagrangian of inequality constraints,

  L(x) = ln f + Σ_i ((max(0, λ_i + ρ g_i))² - λ_i²) / 2ρ

A round is some steps of Adam on L, then λ ← max(0, λ + ρ g), and ρ grows while
the violation does not shrink. Every start is a lane of one `vmap`, with its own
static choice and its own limits; a round is one jitted `scan`. The best point
that kept all limits is remembered lane by lane.

Source: Powell (1969), Hestenes (1969); inequalities as in Nocedal and Wright,
Numerical Optimization, 2nd ed., Sec. 17.4.
"""

import dataclasses
import json
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vrex_jax.codesign import objective as objective_lib
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import smooth
from vrex_jax.typing import Array, Float, Int

__all__ = [
  "Advance",
  "Found",
  "Plan",
  "Round",
  "State",
  "begin_at",
  "found",
  "load",
  "make_round",
  "round_of",
  "run",
  "save",
  "start",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Static. How long and how boldly.

  Attributes:
    starts: lanes.
    rounds: outer ones.
    steps: of Adam in a round.
    rate: of Adam, in x; falls to a twentieth over the rounds.
    sharpness: of the maxima.
    tolerance: violation that counts as none.
    spread: deviation of random starts around the first, in x.
    seed: of the starts.
  """

  starts: int = 32
  rounds: int = 20
  steps: int = 100
  rate: float = 0.1
  sharpness: float | None = smooth.DEFAULT_SHARPNESS
  tolerance: float = 1e-3
  spread: float = 2.0
  seed: int = 0


class State(flax.struct.PyTreeNode):
  """Dynamic. All lanes between two rounds.

  Attributes:
    x: where each is; f[starts, D].
    memory: of Adam.
    multipliers: λ; f[starts, 7].
    weight: ρ; f[starts].
    worst: largest violation after the last round; f[starts].
    choice: i32[starts], static choice of the algorithm.
    free: 1 for a number that moves, 0 for one that is held; f[starts, D].
    best_x: of the best point that kept all limits; f[starts, D].
    best: its ln f, or ∞; f[starts].
    rounds: done; i32[].
  """

  x: Float
  memory: Any
  multipliers: Float
  weight: Float
  worst: Float
  choice: Int
  free: Float
  best_x: Float
  best: Float
  rounds: Int


class Round(NamedTuple):
  """What is told after a round.

  Attributes:
    done: rounds.
    best: least ln f that kept all limits, or ∞.
    feasible: lanes that have such a point.
    seconds: of this run so far.
  """

  done: int
  best: float
  feasible: int
  seconds: float


class Found(NamedTuple):
  """What came out.

  Attributes:
    share: of the best lane, or of the one that passes its limits least.
    choice: its static choice.
    lane: its number.
    value: ln f.
    feasible: it keeps all limits.
  """

  share: np.ndarray
  choice: int
  lane: int
  value: float
  feasible: bool


Advance = Callable[[State, objective_lib.Limits], State]
"""A round: state, limits -> state."""


def _adam(plan: Plan) -> optax.GradientTransformation:
  total = plan.rounds * plan.steps
  rate = optax.cosine_decay_schedule(plan.rate, max(total, 1), alpha=0.05)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def start(
  problem: objective_lib.Problem,
  space: space_lib.Space,
  plan: Plan,
  choices: Sequence[int] | None = None,
) -> State:
  """Lanes before the first round, dealt to static choices in turn.

  The first lane of each choice is the space's start; the others lie around a
  point halfway between it and the middle of the cube, by normal steps in x.

  Args:
    problem: what is priced.
    space: what moves.
    plan: lanes, spread and seed.
    choices: static choices that are searched; None for all.
  """
  if choices is None:
    choices = range(len(np.atleast_1d(problem.choices.hash_bits)))
  centre = jnp.asarray(_logit(space_lib.shares(space, space.start)))
  key = jax.random.key(plan.seed)
  apart = plan.spread * jax.random.normal(key, (plan.starts, len(centre)))
  first = jnp.arange(plan.starts)[:, None] < len(choices)
  x = jnp.where(first, centre[None], 0.5 * centre[None] + apart)
  dealt = np.asarray(choices, np.int32)[np.arange(plan.starts) % len(choices)]
  return State(
    x=x,
    memory=jax.vmap(_adam(plan).init)(x),
    multipliers=jnp.zeros((plan.starts, len(objective_lib.LIMITS))),
    weight=jnp.full(plan.starts, 10.0, x.dtype),
    worst=jnp.full(plan.starts, jnp.inf, x.dtype),
    choice=jnp.asarray(dealt),
    free=jnp.ones_like(x),
    best_x=x,
    best=jnp.full(plan.starts, jnp.inf, x.dtype),
    rounds=jnp.int32(0),
  )


def begin_at(state: State, lane: int, share: np.ndarray, choice: int) -> State:
  """The same start, but for one lane.

  Args:
    state: of `start`.
    lane: its number.
    share: where it starts, f[D] in the cube.
    choice: its static choice.
  """
  x = state.x.at[lane].set(_logit(share))
  return state.replace(x=x, best_x=x, choice=state.choice.at[lane].set(choice))


def _logit(share: np.ndarray) -> np.ndarray:
  """Inverse of σ; ends of the cube are taken a little inside it."""
  share = np.clip(share, 0.02, 0.98)
  return np.log(share / (1.0 - share)).astype(np.float32)


def make_round(
  problem: objective_lib.Problem,
  space: space_lib.Space,
  plan: Plan,
) -> Advance:
  """`round_of` for a problem.

  Args:
    problem: what is priced.
    space: what moves.
    plan: steps.
  """

  def both(x, choice, own):
    design = space_lib.design(space, jax.nn.sigmoid(x))
    priced = objective_lib.figures(
      problem, design, choice, sharpness=plan.sharpness
    )
    passed = objective_lib.violations(problem, design, choice, priced, own)
    return objective_lib.logarithm(problem, priced), passed

  return round_of(both, plan)


def round_of(
  both: Callable[[Float, Int, Any], tuple[Float, Float]], plan: Plan
) -> Advance:
  """One outer round as a jitted function of state and limits, f[starts] each.

  Searches under other limits or from other starts share its program.

  Args:
    both: (x f[D], choice, limits of a lane) -> ln f, violations f[...].
    plan: steps.
  """
  adam = _adam(plan)

  def lagrangian(x, choice, own, multipliers, weight):
    value, passed = both(x, choice, own)
    pushed = jnp.maximum(multipliers + weight * passed, 0.0)
    penalty = jnp.sum(pushed**2 - multipliers**2) / (2.0 * weight)
    return value + penalty, (value, passed)

  def lane(state: State, own) -> State:
    def step(carry, _):
      x, memory, best_x, best = carry
      (_, (value, passed)), slope = jax.value_and_grad(
        lagrangian, has_aux=True
      )(x, state.choice, own, state.multipliers, state.weight)
      better = (jnp.max(passed) <= plan.tolerance) & (value < best)
      best_x = jnp.where(better, x, best_x)
      best = jnp.where(better, value, best)
      change, memory = adam.update(slope * state.free, memory)
      return (optax.apply_updates(x, change), memory, best_x, best), None

    carry = (state.x, state.memory, state.best_x, state.best)
    (x, memory, best_x, best), _ = jax.lax.scan(
      step, carry, None, length=plan.steps
    )
    _, passed = both(x, state.choice, own)
    worst = jnp.max(jnp.maximum(passed, 0.0))
    grows = worst > 0.5 * state.worst
    return state.replace(
      x=x,
      memory=memory,
      multipliers=jnp.maximum(state.multipliers + state.weight * passed, 0.0),
      weight=jnp.where(
        grows, jnp.minimum(2.0 * state.weight, 1e3), state.weight
      ),
      worst=worst,
      best_x=best_x,
      best=best,
    )

  places: dict[str, Any] = dict.fromkeys(State.__dataclass_fields__, 0)
  axes = State(**{**places, "rounds": None})

  @jax.jit
  def all_lanes(state: State, every: objective_lib.Limits) -> State:
    moved = jax.vmap(lane, in_axes=(axes, 0), out_axes=axes)(state, every)
    return moved.replace(rounds=state.rounds + 1)

  return all_lanes


def run(
  problem: objective_lib.Problem,
  space: space_lib.Space,
  limits: objective_lib.Limits,
  plan: Plan,
  *,
  state: State | None = None,
  advance: Advance | None = None,
  told: Callable[[Round, State], None] = lambda round_, state: None,
  stopped: Callable[[], bool] = lambda: False,
) -> State:
  """All rounds, or those that are left.

  Args:
    problem: what is priced.
    space: what moves.
    limits: f[] or f[starts] each.
    plan: how long.
    state: to go on from.
    advance: of `make_round`, to share its program.
    told: called after every round, for progress and for saving.
    stopped: has the user asked to end?
  """
  began = time.monotonic()
  state = start(problem, space, plan) if state is None else state
  advance = advance or make_round(problem, space, plan)
  every = jax.tree.map(
    lambda leaf: jnp.broadcast_to(jnp.asarray(leaf, float), (plan.starts,)),
    limits,
  )
  while int(state.rounds) < plan.rounds and not stopped():
    state = jax.block_until_ready(advance(state, every))
    best = np.asarray(state.best)
    told(
      Round(
        int(state.rounds),
        float(best.min()),
        int(np.isfinite(best).sum()),
        time.monotonic() - began,
      ),
      state,
    )
  return state


def found(state: State, lanes: Array | np.ndarray | None = None) -> Found:
  """The best lane; where none kept its limits, the one that passes them least.

  Args:
    state: after some rounds.
    lanes: only these, i[...].
  """
  index = np.arange(len(state.best)) if lanes is None else np.asarray(lanes)
  best = np.asarray(state.best)[index]
  feasible = bool(np.isfinite(best).any())
  order = best if feasible else np.asarray(state.worst)[index]
  lane = int(index[int(np.argmin(order))])
  x = state.best_x if feasible else state.x
  share = np.asarray(jax.nn.sigmoid(x[lane]))
  return Found(
    share, int(state.choice[lane]), lane, float(state.best[lane]), feasible
  )


def save(state: State, path: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Writes a state so that an interruption leaves the old or the new one.

  Args:
    state: between two rounds.
    path: of the file.
    config: settings that a search which goes on must share.
  """
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
  hidden = path.with_name(f".{path.name}")
  with hidden.open("wb") as file:
    np.savez(file, *leaves, config=np.array(_text(config)))
  os.replace(hidden, path)


def load(like: State, path: pathlib.Path, config: Mapping[str, Any]) -> State:
  """Reads a state back.

  Args:
    like: a state of the same problem and plan (`start`).
    path: of `save`.
    config: settings of this search.

  Raises:
    InputError: the file is of another search, or damaged.
  """
  leaves, tree = jax.tree.flatten(like)
  try:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
      kept = [file[f"arr_{index}"] for index in range(len(leaves))]
      same = str(file["config"][()]) == _text(config)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise InputError(
      f"{path} cannot be read ({error}); it must be what a search left: remove"
      " it, or name another --out"
    ) from None
  if not same or [one.shape for one in kept] != [np.shape(x) for x in leaves]:
    raise InputError(
      f"{path} was left by a search with other settings; only the same search"
      " goes on: name another --out"
    )
  return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in kept])


def _text(config: Mapping[str, Any]) -> str:
  return json.dumps(dict(config), sort_keys=True, default=str)
