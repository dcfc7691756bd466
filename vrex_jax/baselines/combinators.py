"""Wrappers that add slots to whatever a policy selects.

`--policy "quest(budget=1024) + keep_sink(4)"` is keep_sink(quest(...), 4).
They change the selection only: a token the inner policy has evicted is gone.
"""

import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError, check_whole_number

__all__ = ["keep_recent", "keep_sink"]


def keep_sink(inner: policy_lib.KVPolicy, tokens: int) -> policy_lib.KVPolicy:
  """Always attends to the first `tokens` tokens of the stream.

  Args:
    inner: policy that selects the rest.
    tokens: sink tokens, at least 1; a knob named `keep_sink`.

  Raises:
    InputError: `tokens` is below 1, or `inner` already keeps sinks.
  """
  return _with_slots(
    inner,
    "keep_sink",
    tokens,
    lambda size, position, queries: position < size,
  )


def keep_recent(inner: policy_lib.KVPolicy, tokens: int) -> policy_lib.KVPolicy:
  """Always attends to the last `tokens` past tokens.

  Args:
    inner: policy that selects the rest.
    tokens: recent tokens, at least 1; a knob named `keep_recent`.

  Raises:
    InputError: `tokens` is below 1, or `inner` already keeps recent tokens.
  """
  return _with_slots(
    inner,
    "keep_recent",
    tokens,
    lambda size, position, queries: (
      position >= jnp.min(queries.position) - size
    ),
  )


def _with_slots(inner, label, tokens, rule) -> policy_lib.KVPolicy:
  """`inner` with the slots of `rule` joined to its first part."""
  check_whole_number(f"{label}: tokens", tokens, least=1, hint=f"{label}(4)")
  if label in inner.knobs:
    raise InputError(
      f"{inner.name!r} already has {label}; a combinator can wrap a policy"
      f" once: give {label} once, with the larger number"
    )

  def init(spec, params, knobs, sample):
    rest = {name: value for name, value in knobs.items() if name != label}
    return {
      "inner": inner.init(spec, params, rest, sample),
      label: jnp.asarray(knobs[label], jnp.int32),
    }

  def select(state, view, layer, queries, stage):
    chosen, new, counts = inner.select(
      state["inner"], view, layer, queries, stage
    )
    position = view.slots.position
    position = position[layer] if position.ndim == 3 else position[None]
    kept = bitmap.pack(rule(state[label], position, queries))
    in_rows = lambda sets: jnp.repeat(
      kept, max(1, len(sets) // len(kept)), axis=0
    )
    first, *others = chosen.parts
    if first.slots is not None:
      added = in_rows(first.slots)
      for other in others:
        if other.slots is None:
          added = jnp.zeros_like(added)
        else:
          added = added & ~other.slots
      first = first.replace(slots=first.slots | added)
    prefetch = chosen.prefetch
    if prefetch is not None:  # what is always read is asked for in time
      prefetch = prefetch | in_rows(prefetch)
    selection = policy_lib.Selection((first, *others), prefetch)
    return selection, {**state, "inner": new}, counts

  def write(state, view, chunk, stage):
    new, keep, counts = inner.write(state["inner"], view, chunk, stage)
    return {**state, "inner": new}, keep, counts

  def wrap(function):
    if function is None:
      return None
    return lambda state, *arguments: {
      **state,
      "inner": function(state["inner"], *arguments),
    }

  groups = None
  if inner.groups is not None:
    inner_groups = inner.groups
    groups = lambda state, layer: inner_groups(state["inner"], layer)
  return policy_lib.KVPolicy(
    name=f"{inner.name} + {label}({tokens})",
    needs=inner.needs,
    knobs={**inner.knobs, label: tokens},
    init=init,
    select=select,
    write=write,
    feedback=wrap(inner.feedback),
    groups=groups,
    move=wrap(inner.move),
  )
