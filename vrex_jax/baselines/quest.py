"""Quest (Tang et al., arXiv 2406.10774, ICML 2024): pages by an upper bound."""

import jax.numpy as jnp

from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import pages

__all__ = ["quest"]


def quest(
  *,
  budget: int | float = arguments.Published(1024),
  page: int = 16,
  dense_layers: int = 2,
  chunk: str = "mean",
  heads: str = "query",
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """The pages whose bound of q · k is highest, for each query head.

    s_p = Σ_h max(q_h min_p,h , q_h max_p,h)  ≥  q · k for every key k of page p
    keep the last page and the best others, budget / page in all

  over rotated keys. Faithful for one query. Nothing is evicted and nothing
  leaves the device: reads shrink, memory does not.

  Departures: a chunk of several tokens asks as `chunk` says, the paper decodes
  token by token. The last page counts within the budget; the paper says only
  that it is always read. The evaluation code's floor of three pages is left
  out.

  Args:
    budget: tokens of a row in whole pages (paper: 512 to 4096), or share of
      the past; two knobs.
    page: tokens of a page (paper: 16).
    dense_layers: first layers that attend to everything (paper: 2).
    chunk: "mean" or "max".
    heads: "query" (paper) or "kv", the union of a group's pages, which may
      hold up to G budgets.
    stages: published: answers only, after a dense prefill. "all" is the
      streaming variant.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> quest(budget=512, stages="all").name
    'quest(budget=512, stages=all)'

  Source: Secs. 3.2-3.4; sizes of Sec. 4.
  """
  given = dict(locals())
  arguments.check_page("quest", page)
  arguments.check_budget("quest", budget, page=page)
  arguments.check_sizes("quest", {"dense_layers": (dense_layers, 0)})
  arguments.check_word("quest", "chunk", chunk, choosing.CHUNK_RULES)
  arguments.check_word("quest", "heads", heads, choosing.HEAD_RULES)

  def init(spec, params, knobs, sample):
    del params, sample
    return {
      "budget": arguments.read_budget("quest", knobs, spec),
      "bounds": pages.create(spec, page),
    }

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    query, asks = choosing.asking_rows(queries, kv_heads, chunk)
    held = pages.there(view, page)
    score = pages.bound(state["bounds"], layer, query, held)
    score = jnp.where(asks[None, None, :, None], score, -jnp.inf)
    score = jnp.max(score, axis=2)  # [K, G, S / page]
    index = jnp.arange(len(held))
    newest = index == jnp.max(jnp.where(held, index, -1))
    score = jnp.where(newest[None, None], jnp.inf, score)
    chosen = choosing.highest(score, state["budget"].pages(view.seen, page))
    slots = choosing.to_rows(pages.spread(chosen, page), heads)
    selection, counts = choosing.one_part(view, slots)
    live = jnp.full((kv_heads,), jnp.sum(held, dtype=jnp.int32))
    counts = choosing.count_groups(counts, live, query, asks)
    return selection, state, counts

  def write(state, view, chunk_, stage):
    del stage
    bounds = pages.update(state["bounds"], view, chunk_, page)
    counts = policy_lib.zero_counts(chunk_.k_rotated.shape[:2])
    return {**state, "bounds": bounds}, None, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(quest, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("quest", stages, arguments.DECODING),
      dense_layers=dense_layers,
      granularity=heads,
    ),
    knobs=arguments.budget_knobs(budget),
    init=init,
    select=select,
    write=write,
  )
