"""H2O (Zhang et al., arXiv 2306.14048, NeurIPS 2023): heavy hitters."""

import flax.struct
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import keeping
from vrex_jax.typing import Bool, Float

__all__ = ["State", "h2o"]


class State(flax.struct.PyTreeNode):
  """Dynamic. Attention received so far.

  Attributes:
    heavy: tokens kept by mass.
    recent: last tokens kept.
    mass: accumulated attention; 0 once a token is dropped.
    mine: slots each row keeps.
  """

  heavy: arguments.Budget
  recent: arguments.Budget
  mass: Float  # f32 [L, A, S]
  mine: Bool  # [L, A, S]


def h2o(
  *,
  heavy: int | float = 0.1,
  recent: int | float = 0.1,
  heads: str = "query",
) -> policy_lib.KVPolicy:
  """Keeps the tokens with the most accumulated attention, and recent ones.

    acc_j ← acc_j + Σ over the chunk's rows of softmax(q K / √H)_j
    keep    the last `recent` tokens and the `heavy` highest acc of the others

  after every chunk, for good; a dropped token's sum goes with it. Rotated keys
  keep their positions, as in the paper's simulation.

  Adapted: a step is a chunk, frames included, so that the stream never holds
  more than the budget and one chunk. The paper attends to a whole prompt
  before it drops anything, and takes shares of that prompt's length: here of
  the tokens seen so far, which grow. Choosing for each query head, a KV head
  holds the union of its group (the paper's models have no groups).

  Args:
    heavy: tokens, or share of those seen (paper: 0.1); two knobs.
    recent: likewise (paper: 0.1); two knobs.
    heads: "query" (paper) or "kv": mass is added over the group.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> h2o(heavy=256, recent=256).needs.evicts
    True

  Source: Secs. 4.1-4.2 and Algorithm 1 of the paper.
  """
  given = dict(locals())
  for name, value in (("heavy", heavy), ("recent", recent)):
    arguments.check_budget("h2o", value, name=name)
  arguments.check_word("h2o", "heads", heads, choosing.HEAD_RULES)

  def init(spec, params, knobs, sample):
    del params, sample
    rows = policy_lib.rows_of(needs, spec.decoder)
    shape = spec.decoder.num_layers, rows, spec.num_slots
    return State(
      heavy=arguments.read_budget("h2o", knobs, spec, "heavy"),
      recent=arguments.read_budget("h2o", knobs, spec, "recent"),
      mass=jnp.zeros(shape, jnp.float32),
      mine=jnp.zeros(shape, bool),
    )

  def select(state, view, layer, queries, stage):
    del queries, stage
    selection, counts = choosing.one_part(view, bitmap.pack(state.mine[layer]))
    return selection, state, counts

  def feedback(state, layer, mass, stage):
    del stage
    return state.replace(mass=state.mass.at[layer].add(mass))

  def write(state, view, chunk, stage):
    del stage
    mine = keeping.held_by(state.mine, view, chunk)
    position = keeping.per_row(view.slots.position, mine.shape[1])
    end = keeping.end_of(chunk)
    newest = mine & (position >= end - state.recent.of(view.seen))
    score = jnp.where(mine & ~newest, state.mass, -jnp.inf)
    mine = newest | choosing.highest(score, state.heavy.of(view.seen))
    mass = jnp.where(mine, state.mass, 0.0)
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    keep = keeping.keep_of(mine, view.num_kv_heads)
    return state.replace(mass=mass, mine=mine), keep, counts

  def move(state, source):
    return state.replace(
      mass=keeping.follow(state.mass, source),
      mine=keeping.follow(state.mine, source),
    )

  needs = policy_lib.Needs(evicts=True, mass=True, granularity=heads)
  return policy_lib.KVPolicy(
    name=arguments.canonical_name(h2o, given),
    needs=needs,
    knobs={
      **arguments.budget_knobs(heavy, "heavy"),
      **arguments.budget_knobs(recent, "recent"),
    },
    init=init,
    select=select,
    write=write,
    feedback=feedback,
    move=move,
  )
