"""One cell of a benchmark: all sides of one past and frame length, timed.

for each policy:   compile, fill, snapshot       ─┐
for each ratio:    another set of forced slots    ├─► runners ─► race ─► rows
for other sides:   check against `full`, and keep │
                   the fastest form of each      ─┘
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax import stream_state
from vrex_jax.benchmark import filling
from vrex_jax.benchmark import forced_ratio
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import rows as rows_lib
from vrex_jax.benchmark import step as step_lib
from vrex_jax.benchmark import timing
from vrex_jax.models import config as config_lib
from vrex_jax.models import dense as dense_lib
from vrex_jax.typing import Array, Parameters

__all__ = [
  "Contender",
  "Measurement",
  "Past",
  "Setting",
  "measure",
  "random_past",
]

_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
_FORM_ROUNDS = 3


class Contender(NamedTuple):
  """Dynamic. Another implementation of the same step.

  Attributes:
    side: as in a row; several forms of one side may run, the fastest counts.
    runner: what is timed.
    hidden: result of its last run, f32[B, T, D] after the final norm.
  """

  side: str
  runner: timing.Runner
  hidden: Callable[[], np.ndarray]


Past = Callable[
  [
    stream_state.StreamConfig,
    policy_lib.KVPolicy,
    Parameters,
    stream_state.StreamState,
  ],
  stream_state.StreamState,
]
"""(config, policy, params, empty state, donated) -> state with a past."""


@dataclasses.dataclass(frozen=True)
class Setting:
  """Dynamic. What a cell is measured on.

  Attributes:
    plan: the cell.
    model: the video LLM.
    params: its parameters.
    frame: the timed frame, see `step.compile_step`.
    past: fills a cache.
    threads: for the rows.
  """

  plan: plans.Plan
  model: config_lib.ModelConfig
  params: Parameters
  frame: Array
  past: Past
  threads: int


class Measurement(NamedTuple):
  """Static. Results of one cell.

  Attributes:
    rows: benchmark rows.
    dense: the step of `full` with an empty past.
    programs: per policy, what was compiled.
    forms: name of the form that was timed, by side.
  """

  rows: list[dict[str, Any]]
  dense: dict[str, Any]
  programs: list[dict[str, Any]]
  forms: dict[str, str]


class _Line(NamedTuple):
  """One of our rows in the making."""

  policy: policy_lib.KVPolicy
  forced_ratio: float | None
  runner: timing.Runner
  attended: step_lib.Attended


def random_past(plan: plans.Plan) -> Past:
  """A past of random keys and values."""
  return lambda config, policy, params, state: filling.fill(
    config, policy, state, plan.cache_tokens, seed=plan.seed
  )


def measure(
  setting: Setting,
  policies: Sequence[policy_lib.KVPolicy],
  *,
  ratios: Sequence[float] = (),
  contenders: Callable[[np.ndarray, np.ndarray], Sequence[Contender]] = (
    lambda keys, values: ()
  ),
  rounds: int,
  report: Callable[[], None] = lambda: None,
) -> Measurement:
  """Times every policy, ratio and contender of a cell.

  Args:
    setting: what is measured on.
    policies: the first must be `full`.
    ratios: forced shares of the past, for every policy but `full`; empty for
      the policies' own choice.
    contenders: called with the keys and values of `full`, f[L, B, K, S, H].
    rounds: see `timing.race`.
    report: called after every round.

  Raises:
    ValueError: the first policy is not `full`, or a contender computes
      something else.
    InputError: a ratio was given for a policy that evicts.
  """
  if policies[0].name != "full":
    raise ValueError(
      f"the first policy is {policies[0].name}; it must be full, which the"
      " others are compared with: put full first"
    )
  full, full_program = _prepare(setting, policies[0])
  saved = full.snapshot()
  line = _line(setting, policies[0], None, full, saved)
  others = _choose(setting.plan, full, contenders(*full.cached(saved)))
  lines, programs = [line], [(policies[0], full_program)]
  for policy in policies[1:]:
    more, program = _lines(setting, policy, ratios)
    lines += more
    programs.append((policy, program))

  dense = full.runner("dense", step_lib.empty_past(saved))
  times = timing.race(
    [
      *(one.runner for one in lines),
      *(one.runner for one in others),
      dense,
    ],
    rounds=rounds,
    report=report,
  )
  fields = plans.cell_fields(setting.plan)
  return Measurement(
    rows=[_our_row(setting, one, times) for one in lines]
    + [_their_row(setting, line, one, times) for one in others],
    dense={**fields, **times["dense"]._asdict()},
    programs=[
      {
        "policy": policy.name,
        **fields,
        "kernels": dense_lib.storage(setting.params),
        "compile_s": program.compile_s,
        "temporary_bytes": program.temporary_bytes,
        "state_bytes": program.state_bytes,
      }
      for policy, program in programs
    ],
    forms={one.side: one.runner.name for one in others},
  )


def _prepare(
  setting: Setting, policy: policy_lib.KVPolicy
) -> tuple[step_lib.FilledStep, step_lib.Program]:
  """Compiles a policy's step and gives it a past."""
  config = plans.stream_config(setting.plan, setting.model.decoder)
  state = stream_state.init(config, policy, setting.params)
  program = step_lib.compile_step(
    config, setting.model, policy, setting.params, state, setting.frame
  )
  state = setting.past(config, policy, setting.params, state)
  step = step_lib.FilledStep(program, setting.params, state, setting.frame)
  return step, program


def _lines(
  setting: Setting, policy: policy_lib.KVPolicy, ratios: Sequence[float]
) -> tuple[list[_Line], step_lib.Program]:
  """A policy at every forced ratio, or as it is; one cache for all."""
  if not ratios:
    step, program = _prepare(setting, policy)
    return [_line(setting, policy, None, step, step.snapshot())], program
  plan = setting.plan
  config = plans.stream_config(plan, setting.model.decoder)
  window = {
    "past_tokens": plan.cache_tokens,
    "recent_tokens": plan.frame_tokens,
    "seed": plan.seed,
  }
  forced = forced_ratio.force_ratio(policy, ratios[0], **window)
  step, program = _prepare(setting, forced)
  saved = step.snapshot()
  rows = policy_lib.rows_of(policy.needs, config.decoder)
  lines = []
  for ratio in ratios:
    slots = forced_ratio.forced_slots(
      stream_state.spec_of(config), rows, ratio, **window
    )
    wide = jnp.broadcast_to(slots[None], (plan.batch, *slots.shape))
    past = saved._replace(policy={**saved.policy, "slots": wide})
    lines.append(_line(setting, policy, ratio, step, past))
  return lines, program


def _line(
  setting: Setting,
  policy: policy_lib.KVPolicy,
  ratio: float | None,
  step: step_lib.FilledStep,
  saved: stream_state.Snapshot,
) -> _Line:
  """Runs once, to see what is attended."""
  config = plans.stream_config(setting.plan, setting.model.decoder)
  name = policy.name if ratio is None else f"{policy.name} at {ratio}"
  runner = step.runner(name, saved)
  runner.reset()
  runner.run()
  return _Line(
    policy, ratio, runner, step_lib.attended(config, policy, step.event)
  )


def _choose(
  plan: plans.Plan,
  full: step_lib.FilledStep,
  contenders: Sequence[Contender],
) -> list[Contender]:
  """The fastest form of every side, after all were found to agree."""
  ours = np.asarray(full.hidden, np.float32)
  for one in contenders:
    one.runner.reset()
    one.runner.run()
    theirs = one.hidden()
    difference = np.abs(theirs - ours).max() / np.abs(theirs).max()
    if not difference < _TOLERANCE[plan.dtype]:
      raise ValueError(
        f"{one.runner.name} differs from our step by {difference:.1e} of its"
        f" largest value; only equal results may be timed: {plan}"
      )
  best = []
  for side in dict.fromkeys(one.side for one in contenders):
    forms = [one for one in contenders if one.side == side]
    times = timing.race([one.runner for one in forms], rounds=_FORM_ROUNDS)
    best.append(min(forms, key=lambda one: times[one.runner.name].cpu_ms))
  return best


def _our_row(
  setting: Setting, line: _Line, times: Mapping[str, timing.Times]
) -> dict[str, Any]:
  limit = None
  if line.policy.name != "full":
    limit = rows_lib.ceiling(
      times["full"].cpu_ms, times["dense"].cpu_ms, line.attended.share
    )
  return rows_lib.row(
    setting.plan,
    policy=line.policy.name,
    side="ours",
    ceiling=limit,
    forced_ratio=line.forced_ratio,
    retrieval_ratio=line.attended.retrieval_ratio,
    groups=line.attended.groups,
    times=times[line.runner.name],
    threads=setting.threads,
  )


def _their_row(
  setting: Setting,
  full: _Line,
  other: Contender,
  times: Mapping[str, timing.Times],
) -> dict[str, Any]:
  return rows_lib.row(
    setting.plan,
    policy=full.policy.name,
    side=other.side,
    ceiling=None,
    forced_ratio=None,
    retrieval_ratio=full.attended.retrieval_ratio,
    groups=full.attended.groups,
    times=times[other.runner.name],
    threads=setting.threads,
  )
