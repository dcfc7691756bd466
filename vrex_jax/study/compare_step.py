"""Decoder step of a frame under every policy, and what choosing costs of it.

  full                     the whole past
  method at a share        its own rule runs, then a random set of that share
  the same without a rule  the same set, nothing is computed to find it
                           ─► the difference is the cost of selection and
                              tables, and of moved positions and extra rows

A method that evicts cannot be given a set, and has no cost apart: it is timed
over as many tokens as it would hold, against `full` in a race just before.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vrex_jax import model_source
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax.benchmark import cell
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import step as step_lib
from vrex_jax.models import dense
from vrex_jax.models import video_llm

__all__ = [
  "FIELDS",
  "measure_evicting",
  "measure_forced",
  "random_setting",
  "without_rule",
]

FIELDS = (
  "policy",
  "shape",
  "cache_tokens",
  "frame_tokens",
  "forced_ratio",
  "retrieval_ratio",
  "cpu_ms",
  "full_cpu_ms",
  "full_over_own",
  "ceiling",
  "selection_cpu_ms",
  "threads",
)
"""Fields of a row, in order; see docs/notation.md."""


def without_rule(policy: policy_lib.KVPolicy) -> policy_lib.KVPolicy:
  """A policy with the same needs that neither chooses nor writes anything.

  Args:
    policy: one that does not evict.

  Example:
    >>> from vrex_jax import policy_syntax
    >>> bare = without_rule(policy_syntax.make_policy("quest(stages=all)"))
    >>> bare.needs.dense_layers
    2
  """

  def select(state, view, layer, queries, stage):
    del layer, queries, stage
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    return policy_lib.attend_all(), state, counts

  def write(state, view, chunk, stage):
    del view, stage
    return state, None, policy_lib.zero_counts(chunk.k_rotated.shape[:2])

  return policy_lib.KVPolicy(
    name=f"{policy.name} without its rule",
    needs=dataclasses.replace(policy.needs, prefetches=False, weights=False),
    knobs={},
    init=lambda spec, params, knobs, sample: {},
    select=select,
    write=write,
  )


def random_setting(plan: plans.Plan, threads: int) -> cell.Setting:
  """Random weights, past and frame of a plan.

  Args:
    plan: what is measured.
    threads: cores in use; kernels are stored for them.
  """
  model = plans.model_config(plan.shape, plan.frame_tokens)
  params = video_llm.random_parameters(
    model,
    jax.random.key(plan.seed),
    dtype=model_source.storage_dtype(plan.dtype),
  )
  params = dense.store_for(params, plan.batch * plan.frame_tokens, threads)
  config = plans.stream_config(plan, model.decoder)
  frame = step_lib.random_frame(
    config, model, with_vision=False, seed=plan.seed
  )
  return cell.Setting(
    plan, model, params, frame, cell.random_past(plan), threads
  )


def measure_forced(
  setting: cell.Setting,
  policy: policy_lib.KVPolicy,
  shares: Sequence[float],
  *,
  rounds: int,
) -> list[dict[str, Any]]:
  """Races a policy that recalls against `full` and itself without its rule.

  Args:
    setting: what is measured on.
    policy: one that does not evict.
    shares: of the past, forced.
    rounds: see `timing.race`.

  Returns:
    A row a share, fields of `FIELDS`.
  """
  bare = without_rule(policy)
  found = cell.measure(
    setting,
    [policy_syntax.make_policy("full"), policy, bare],
    ratios=shares,
    rounds=rounds,
  )
  full, *others = found.rows
  times = {(one["policy"], one["forced_ratio"]): one for one in others}
  return [
    _row(times[policy.name, share], full, times[bare.name, share])
    for share in shares
  ]


def measure_evicting(
  setting: cell.Setting,
  policy: policy_lib.KVPolicy,
  share: float,
  *,
  rounds: int,
) -> dict[str, Any]:
  """Times a policy that evicts over a share of the past, which is all it has.

  Args:
    setting: with the whole past, for `full`.
    policy: one that evicts.
    share: of the past, held.
    rounds: see `timing.race`.

  Returns:
    A row, fields of `FIELDS`.
  """
  full = policy_syntax.make_policy("full")
  reference = cell.measure(setting, [full], rounds=rounds).rows[0]
  plan = setting.plan
  held = dataclasses.replace(
    plan, cache_tokens=max(1, round(share * plan.cache_tokens))
  )
  short = dataclasses.replace(setting, plan=held, past=cell.random_past(held))
  found = cell.measure(short, [full, policy], rounds=rounds)
  own = {**found.rows[1], "cache_tokens": plan.cache_tokens}
  part = held.cache_tokens / plan.cache_tokens
  own["retrieval_ratio"] = {
    stage: one * part for stage, one in own["retrieval_ratio"].items()
  }
  return _row(own, reference, None)


def _row(
  own: Mapping[str, Any],
  full: Mapping[str, Any],
  bare: Mapping[str, Any] | None,
) -> dict[str, Any]:
  selection_ms = None if bare is None else own["cpu_ms"] - bare["cpu_ms"]
  values = {
    **own,
    "full_cpu_ms": full["cpu_ms"],
    "full_over_own": full["cpu_ms"] / own["cpu_ms"],
    "selection_cpu_ms": selection_ms,
  }
  return {name: values[name] for name in FIELDS}
