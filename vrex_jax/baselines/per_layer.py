"""Another policy in some of the layers.

  --policy 'quest(budget=512) + per_layer((0, 1), "streaming_llm")'

Layers 0 and 1 follow the policy in quotes, all others the one on the left.
"""

from typing import Any

import jax.numpy as jnp

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError, check_whole_number

__all__ = ["per_layer"]

_LABEL = "per_layer"


def per_layer(
  inner: policy_lib.KVPolicy,
  layers: int | tuple[int, ...],
  other: policy_lib.KVPolicy,
) -> policy_lib.KVPolicy:
  """`other` in the given layers, `inner` in the rest.

  Both see every chunk at `write`; each selects in its own layers, at its own
  stages, and its evictions count there alone. `full` goes with every policy
  that leaves the window on the device to the stream; any two others must agree
  on who selects (query or KV heads) and on whether they evict, since the slots
  of a stream are kept by one rule. That window is one for all layers, so that
  `flexgen` goes with itself alone.

  Args:
    inner: policy of the other layers.
    layers: index or indices from 0. Those past the model's last are refused
      when a stream begins.
    other: their policy; in text form it stands in quotes.

  Raises:
    InputError: no layers, or policies that do not go together.

  Example:
    >>> from vrex_jax import policy_syntax
    >>> policy_syntax.make_policy('resv + per_layer(0, "full")').name
    'resv(wicsum_ratio=0.3, hamming_threshold=7) + per_layer((0,), "full")'
  """
  chosen = (layers,) if isinstance(layers, int) else layers
  if not isinstance(chosen, tuple) or not chosen:
    raise InputError(
      f"{_LABEL}: layers is {layers!r}; it must be one or several indices: try"
      f" {_LABEL}((0, 1), ...)"
    )
  for layer in chosen:
    check_whole_number(f"{_LABEL}: layers", layer, least=0, hint="(0, 1)")
  _check_together(inner, other)
  of = lambda layer: other if layer in chosen else inner
  place = lambda layer: _LABEL if layer in chosen else "inner"

  def init(spec, params, knobs, sample):
    count = spec.decoder.num_layers
    if max(chosen) >= count:
      raise InputError(
        f"{_LABEL}: layers has {max(chosen)}; the model's are 0 to {count - 1}:"
        " leave out what is beyond"
      )
    rest = {name: value for name, value in knobs.items() if name != _LABEL}
    return {
      "inner": inner.init(spec, params, rest, sample),
      _LABEL: other.init(spec, params, knobs[_LABEL], sample),
    }

  def select(state, view, layer, queries, stage):
    policy, own = of(layer), place(layer)
    if not policy_lib.retrieves(policy.needs, stage, layer, 0):
      counts = policy_lib.zero_counts((view.num_kv_heads,))
      return policy_lib.attend_all(), state, counts
    selection, new, counts = policy.select(
      state[own], view, layer, queries, stage
    )
    return selection, {**state, own: new}, counts

  def write(state, view, chunk, stage):
    first, keep, counts = inner.write(state["inner"], view, chunk, stage)
    second, kept, added = other.write(state[_LABEL], view, chunk, stage)
    state = {"inner": first, _LABEL: second}
    theirs = jnp.zeros((chunk.k_rotated.shape[0], 1), bool)
    theirs = theirs.at[jnp.array(chosen)].set(True)
    counts = policy_lib.Counts(
      *(
        jnp.where(theirs, new, old)
        for new, old in zip(added, counts, strict=True)
      )
    )
    if keep is None and kept is None:
      return state, None, counts
    everything = jnp.ones_like(view.slots.valid)
    keep = everything if keep is None else keep
    kept = everything if kept is None else kept
    return state, jnp.where(theirs[:, :, None], kept, keep), counts

  def feedback(state, layer, mass, stage):
    heard, own = of(layer).feedback, place(layer)
    if heard is None:
      return state
    return {**state, own: heard(state[own], layer, mass, stage)}

  def move(state, source):
    moved = {}
    for own, policy in (("inner", inner), (_LABEL, other)):
      follow = policy.move
      moved[own] = state[own] if follow is None else follow(state[own], source)
    return moved

  needs = _needs(inner, other)
  return policy_lib.KVPolicy(
    name=f'{inner.name} + {_LABEL}({chosen}, "{other.name}")',
    needs=needs,
    knobs={**inner.knobs, _LABEL: other.knobs},
    init=init,
    select=select,
    write=write,
    feedback=feedback if needs.mass else None,
    move=move if needs.evicts else None,
  )


def _check_together(
  inner: policy_lib.KVPolicy, other: policy_lib.KVPolicy
) -> None:
  if _LABEL in inner.knobs or '"' in other.name:
    raise InputError(
      f"{inner.name!r} already has {_LABEL}, or {other.name!r} does; it can be"
      " given once: join the layers that share a policy"
    )
  if inner.needs.resident != other.needs.resident:
    fixes, leaves = inner.name, other.name
    if inner.needs.resident is None:
      fixes, leaves = leaves, fixes
    raise InputError(
      f"{_LABEL}: {fixes} fixes the tokens on the device and {leaves} leaves"
      " them to the stream; there is one window for all layers: give one of"
      " them to every layer, or use full and --resident_tokens"
    )
  if "full" in (inner.name, other.name):
    return
  for need in ("granularity", "evicts"):
    mine, theirs = getattr(inner.needs, need), getattr(other.needs, need)
    if mine != theirs:
      raise InputError(
        f"{_LABEL}: {inner.name} and {other.name} differ in {need} ({mine},"
        f" {theirs}); both must be alike, or one be full: where they have an"
        " argument heads, give both the same"
      )


def _needs(
  inner: policy_lib.KVPolicy, other: policy_lib.KVPolicy
) -> policy_lib.Needs:
  """What either asks for."""
  first, second = inner.needs, other.needs
  either: dict[str, Any] = {
    name: getattr(first, name) or getattr(second, name)
    for name in (
      "evicts", "mass", "all_keys", "weights", "sample", "prefetches",
      "reindexes",
    )
  }  # fmt: skip
  return policy_lib.Needs(
    stages=tuple(
      stage
      for stage in policy_lib.STAGES
      if stage in first.stages or stage in second.stages
    ),
    dense_layers=min(first.dense_layers, second.dense_layers),
    granularity=second.granularity
    if inner.name == "full"
    else first.granularity,
    resident=first.resident,
    **either,
  )
