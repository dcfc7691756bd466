"""One prefill for several policies that read everything while they prefill.

Many published methods choose only when a question comes. Until then they differ
in what they write down about keys, not in the keys; so one stream attends to
everything and lets each of them write:

  frames ─► full attention ─► write of policy 1, write of policy 2, …
  question to policy i ─► its own part of the state, the same cache
"""

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

from vrex_jax import driver as driver_lib
from vrex_jax import policy as policy_lib

__all__ = ["lend", "prefills_densely", "take_back", "together"]


def prefills_densely(policy: policy_lib.KVPolicy) -> bool:
  """Reads the whole past at prompt and frames, and changes nothing of it.

  Example:
    >>> from vrex_jax import policy_syntax
    >>> late = policy_syntax.make_policy("resv(stages=('question', 'answer'))")
    >>> prefills_densely(late)
    True
    >>> prefills_densely(policy_syntax.make_policy("resv"))
    False
  """
  needs = policy.needs
  reads_all = policy.name == "full" or not {"prompt", "frame"} & set(
    needs.stages
  )
  changes = needs.evicts or needs.mass or needs.prefetches or needs.reindexes
  return reads_all and not changes and needs.resident is None


def together(policies: Sequence[policy_lib.KVPolicy]) -> policy_lib.KVPolicy:
  """Writes what each policy would; for prompt and frames only.

  Args:
    policies: all of which `prefills_densely`.

  Returns:
    A policy whose state is the tuple of theirs.
  """

  def write(states, view, chunk, stage):
    after = tuple(
      policy.write(state, view, chunk, stage)[0]
      for policy, state in zip(policies, states, strict=True)
    )
    return after, None, policy_lib.zero_counts(chunk.k_rotated.shape[:2])

  return policy_lib.KVPolicy(
    name=" | ".join(policy.name for policy in policies),
    needs=policy_lib.Needs(
      stages=(), weights=any(policy.needs.weights for policy in policies)
    ),
    knobs=tuple(policy.knobs for policy in policies),
    init=lambda spec, params, knobs, sample: tuple(
      policy.init(spec, params, own, sample)
      for policy, own in zip(policies, knobs, strict=True)
    ),
    select=lambda *arguments: _never(),
    write=write,
  )


def lend(run: driver_lib.Run, index: int) -> driver_lib.Run:
  """The run as policy `index` sees it, without events; `run` is used up."""
  state = run.state.replace(policy=run.state.policy[index])
  return driver_lib.Run(
    state, cursor=run.cursor, frames=run.frames, time_s=run.time_s
  )


def take_back(
  run: driver_lib.Run, lent: driver_lib.Run, index: int
) -> driver_lib.Run:
  """`run` again, after a policy's questions were undone."""
  states = list(run.state.policy)
  states[index] = lent.state.policy
  state = lent.state.replace(policy=tuple(states))
  return dataclasses.replace(run, state=state)


def _never() -> NoReturn:
  raise ValueError(
    "policies that share a prefill do not select while they prefill; ask each"
    " with its own programs"
  )
