"""A policy that chooses as it does and is then given another set of slots.

For measuring only: how fast is a step that attends to exactly 5 % of the past,
with everything the policy does to choose still done? The set is drawn at
random, whole clusters of scattered tokens, as many for every layer and head.
"""

import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError
from vrex_jax.typing import Bitmap, Int

__all__ = [
  "CLUSTER_TOKENS",
  "check",
  "cluster_ids",
  "force_ratio",
  "forced_slots",
]

CLUSTER_TOKENS = 32
"""Mean number of tokens in a cluster."""


def check(policy: policy_lib.KVPolicy, ratio: float) -> None:
  """Raises when a policy cannot be forced to a share of the past.

  Raises:
    InputError: the policy evicts, or the ratio is not between 0 and 1.
  """
  if policy.needs.evicts:
    raise InputError(
      f"--forced_ratio was given for {policy.name}, which evicts; only a policy"
      " that can recall may be given other slots: name such a one, as in"
      ' --policy "full | resv"'
    )
  if not 0.0 <= ratio <= 1.0:
    raise InputError(
      f"--forced_ratio {ratio} is not a share of the past; it must lie between"
      " 0 and 1: try 0.05"
    )


def cluster_ids(tokens: int, seed: int) -> np.ndarray:
  """A random cluster for each token, scattered over the stream.

  Args:
    tokens: length of the stream.
    seed: of the draw.

  Returns:
    i32[tokens]; ⌈tokens / 32⌉ clusters, equal in size up to one token.

  Example:
    >>> np.bincount(cluster_ids(96, seed=0)).tolist()
    [32, 32, 32]
  """
  count = max(1, -(-tokens // CLUSTER_TOKENS))
  ids = np.arange(tokens, dtype=np.int32) % count
  return np.random.default_rng(seed).permutation(ids)


def forced_slots(
  spec: policy_lib.Spec,
  rows: int,
  ratio: float,
  *,
  past_tokens: int,
  recent_tokens: int,
  seed: int,
) -> np.ndarray:
  """A random set of exactly the asked size for every layer and row.

  The recent tokens, which the driver attends to in any case, count first; then
  whole clusters in a random order, the last one cut.

  Args:
    spec: shapes.
    rows: A.
    ratio: share of the past, in [0, 1].
    past_tokens: slots 0 … past_tokens - 1 hold the past.
    recent_tokens: of these the last are always attended.
    seed: of the draw; the clusters are those of `cluster_ids`.

  Returns:
    u32[L, A, S / 32], each of max(recent_tokens, round(ratio · past_tokens))
    slots.
  """
  size = round(ratio * past_tokens)
  ids = cluster_ids(past_tokens, seed)
  random = np.random.default_rng([seed, 1])
  mask = np.zeros((spec.decoder.num_layers, rows, spec.num_slots), bool)
  first_recent = max(0, past_tokens - recent_tokens)
  for line in mask.reshape(-1, spec.num_slots):
    turn = random.permutation(ids.max(initial=0) + 1)[ids]
    turn[first_recent:] = -1
    chosen = np.argsort(turn, kind="stable")[: max(size, recent_tokens)]
    line[chosen] = True
  return np.packbits(mask, axis=-1, bitorder="little").view(np.uint32)


def force_ratio(
  inner: policy_lib.KVPolicy,
  ratio: float,
  *,
  past_tokens: int,
  recent_tokens: int,
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """`inner` with its selections replaced by `forced_slots`.

  All of `inner.select` runs: its sets enter the forced one in a way that
  changes nothing and that the compiler cannot see through. Counts, positions
  and extra rows are the inner policy's; all forced slots are in the first part.
  The sets are a leaf of the state, `slots`: another ratio is another leaf, not
  another program.

  Args:
    inner: policy that recalls (does not evict).
    ratio: share of the past that every head attends to.
    past_tokens: length of the past at which the step is measured.
    recent_tokens: the driver's window.
    seed: of the draw.

  Raises:
    InputError: see `check`.
  """
  check(inner, ratio)

  def init(spec, params, knobs, sample):
    slots = forced_slots(
      spec,
      policy_lib.rows_of(inner.needs, spec.decoder),
      ratio,
      past_tokens=past_tokens,
      recent_tokens=recent_tokens,
      seed=seed,
    )
    return {
      "inner": inner.init(spec, params, knobs, sample),
      "slots": jnp.asarray(slots),
    }

  def select(state, view, layer, queries, stage):
    chosen, new, counts = inner.select(
      state["inner"], view, layer, queries, stage
    )
    # No number of slots is negative, but the compiler does not know.
    never = _digest(chosen) < 0
    slots = jnp.where(never, jnp.uint32(0), state["slots"][layer])
    first, *others = chosen.parts
    none = jnp.zeros_like(slots)
    forced = policy_lib.Selection(
      parts=(
        first.replace(slots=slots),
        *(part.replace(slots=none) for part in others),
      ),
      prefetch=None if chosen.prefetch is None else slots,
    )
    return forced, {**state, "inner": new}, counts

  def write(state, view, chunk, stage):
    new, keep, counts = inner.write(state["inner"], view, chunk, stage)
    return {**state, "inner": new}, keep, counts

  groups, feedback = inner.groups, inner.feedback
  return inner._replace(
    init=init,
    select=select,
    write=write,
    groups=groups and (lambda state, layer: groups(state["inner"], layer)),
    feedback=feedback
    and (
      lambda state, *arguments: {
        **state,
        "inner": feedback(state["inner"], *arguments),
      }
    ),
  )


def _digest(chosen: policy_lib.Selection) -> Int:
  """A count that depends on every set of a selection: i32[]."""
  sets: list[Bitmap] = [
    part.slots for part in chosen.parts if part.slots is not None
  ]
  if chosen.prefetch is not None:
    sets.append(chosen.prefetch)
  return sum((jnp.sum(bitmap.count(one)) for one in sets), jnp.int32(0))
