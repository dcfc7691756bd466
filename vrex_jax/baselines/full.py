"""The full cache: every past token is attended. The row of every table."""

from vrex_jax import policy as policy_lib

__all__ = ["full"]


def full() -> policy_lib.KVPolicy:
  """Attends to the whole past and keeps all of it.

  Retrieval ratio 1 at every stage; the reference for all other policies.

  Example:
    >>> full().name
    'full'
  """

  def select(state, view, layer, queries, stage):
    del layer, queries, stage
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    return policy_lib.attend_all(), state, counts

  def write(state, view, chunk, stage):
    del view, stage
    return state, None, policy_lib.zero_counts(chunk.k_rotated.shape[:2])

  return policy_lib.KVPolicy(
    name="full",
    needs=policy_lib.Needs(),
    knobs={},
    init=lambda spec, params, knobs, sample: {},
    select=select,
    write=write,
  )
