"""Exact scores of every key: the best that a budget can buy."""

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing

__all__ = ["oracle_topk"]

ROWS_AT_ONCE = 64
"""Query rows scored together; bounds the scores in memory."""


def oracle_topk(
  *,
  budget: int | float = arguments.Published(1024),
  heads: str = "kv",
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """The `budget` tokens with the most attention from this very chunk.

    mass(s) = Σ over rows of softmax(q · K / √H)_s     over all past slots

  with a row for every valid token and query head. No other set of this size
  holds more of the attention that the rows pay to the past, added over rows:
  an upper bound, which reads every key and so saves nothing. (Attention
  inside the chunk is left out of the softmax: it is attended anyway.)

  A control of this project, from no paper.

  Args:
    budget: tokens of a row, or share of the past; two knobs.
    heads: "kv": the mass is added over the group; "query": each query head
      takes its own.
    stages: "published" and "all" are all stages.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> oracle_topk(budget=0.1).needs.all_keys
    True
  """
  given = dict(locals())
  arguments.check_budget("oracle_topk", budget)
  arguments.check_word("oracle_topk", "heads", heads, choosing.HEAD_RULES)

  def init(spec, params, knobs, sample):
    del params, sample
    return {"budget": arguments.read_budget("oracle_topk", knobs, spec)}

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    query, asks = choosing.asking_rows(queries, kv_heads, "max")
    live = bitmap.unpack(view.live)
    mass = _mass(query, asks, view.key[layer], live)
    if heads == "kv":
      mass = jnp.sum(mass, axis=1, keepdims=True)
    score = jnp.where(live[None, None], mass, -jnp.inf)
    chosen = choosing.highest(score, state["budget"].of(view.seen))
    slots = choosing.to_rows(chosen, "query")
    selection, counts = choosing.one_part(view, slots)
    scored = jnp.sum(live, dtype=jnp.int32) * jnp.sum(asks, dtype=jnp.int32)
    counts = counts._replace(
      keys_scored=jnp.broadcast_to(scored * query.shape[1], (kv_heads,))
    )
    return selection, state, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(oracle_topk, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("oracle_topk", stages, arguments.ALL_STAGES),
      granularity=heads,
      all_keys=True,
    ),
    knobs=arguments.budget_knobs(budget),
    init=init,
    select=select,
    write=choosing.keep_all,
  )


@jax.jit
def _mass(query, asks, key, live):
  """Attention of valid rows to live slots, added: f32[K, G, S].

  Args:
    query: f32[K, G, T, H].
    asks: b[T].
    key: f[K, S, H].
    live: b[S].
  """
  length, width = query.shape[-2:]
  size = min(length, ROWS_AT_ONCE)
  padding = -length % size
  query = jnp.pad(query, ((0, 0), (0, 0), (0, padding), (0, 0)))
  asks = jnp.pad(asks, (0, padding))

  def body(total, first):
    rows = jax.lax.dynamic_slice_in_dim(query, first, size, axis=2)
    count = jax.lax.dynamic_slice_in_dim(asks, first, size)
    score = choosing.products(rows, key.astype(jnp.float32))
    score = jnp.where(live[None, None, None], score * width**-0.5, -1e30)
    weight = jax.nn.softmax(score, axis=-1)
    weight = jnp.where(count[None, None, :, None], weight, 0.0)
    return total + jnp.sum(weight, axis=2), None

  empty = jnp.zeros((*query.shape[:2], key.shape[1]), jnp.float32)
  starts = jnp.arange(0, length + padding, size)
  return jax.lax.scan(body, empty, starts)[0]
