"""Random tokens of the past: what a budget is worth without any choosing."""

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing

__all__ = ["random"]


def random(
  *,
  budget: int | float = arguments.Published(1024),
  redrawn: bool = False,
  heads: str = "kv",
  stages: str | tuple[str, ...] = "published",
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """The `budget` tokens of the past that drew the highest lots.

  A control of this project, from no paper. A token draws one lot for each
  layer and row, uniform on [0, 1). Fixed sets keep it for good: as the stream
  grows, a token leaves the set only for a newer one that drew better.
  Redrawn sets draw again for every chunk.

  Args:
    budget: tokens of a row, or share of the past; two knobs.
    redrawn: draw again for every chunk.
    heads: "kv" or "query": rows that draw for themselves.
    stages: "published" and "all" are all stages.
    seed: of the lots.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> random(budget=0.05).name
    'random(budget=0.05)'
  """
  given = dict(locals())
  arguments.check_budget("random", budget)
  arguments.check_word("random", "redrawn", redrawn, (False, True))
  arguments.check_word("random", "heads", heads, choosing.HEAD_RULES)
  arguments.check_sizes("random", {"seed": (seed, 0)})

  def init(spec, params, knobs, sample):
    del params, sample
    return {"budget": arguments.read_budget("random", knobs, spec)}

  def select(state, view, layer, queries, stage):
    del stage
    rows = view.num_kv_heads if heads == "kv" else len(queries.rotated)
    live = bitmap.unpack(view.live)
    key = jax.random.fold_in(jax.random.key(seed), layer)
    if redrawn:
      key = jax.random.fold_in(key, view.seen)
    lot = jax.random.uniform(key, (rows, len(live)))
    lot = jnp.where(live[None], lot, -jnp.inf)
    number = state["budget"].of(view.seen)
    chosen = choosing.highest(lot, number)
    selection, counts = choosing.one_part(view, bitmap.pack(chosen))
    return selection, state, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(random, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("random", stages, arguments.ALL_STAGES),
      granularity=heads,
    ),
    knobs=arguments.budget_knobs(budget),
    init=init,
    select=select,
    write=choosing.keep_all,
  )
