"""FreeKV (arXiv 2505.13109, ICLR 2026): last step's pages, corrected."""

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import pages
from vrex_jax.typing import Bitmap, Bool, Float, Int

__all__ = ["State", "freekv"]

DIGESTS = ("arkvale", "quest")


class State(flax.struct.PyTreeNode):
  """Dynamic. Page digests, and what the last step asked and chose.

  Attributes:
    budget: of all that is attended, sink and recent tokens included.
    threshold: heads whose query's cosine is below choose again at once.
    bounds: digests of all pages.
    query: last step's mean query; zero before the first.
    chosen: pages the last step chose, as slots.
  """

  budget: arguments.Budget
  threshold: Float  # f32 []
  bounds: pages.Bounds
  query: Float  # f32 [L, N, H]
  chosen: Bitmap  # u32 [L, K, S / 32]


def freekv(
  *,
  budget: int | float = arguments.Published(2048),
  sink_tokens: int = 512,
  recent_tokens: int = 512,
  page: int = 32,
  threshold: float = 0.8,
  digest: str = "arkvale",
  dense_layers: int = 1,
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """Attends to the pages chosen one step ago, unless the query has turned.

    s_p,g  = Σ_h max(q_g,h low_p,h , q_g,h high_p,h)
    sel_i  = best pages by the mean over the group of softmax_p(s_p,g)
    C_i    = mean over the group of cos(q_i, q_i-1)
    attend = sinks, recent, and sel_i-1 where C_i ≥ threshold, else sel_i

  for each KV head. sel_i is asked for in the background (`prefetch`): in the
  trace, `past_exposed` are the tokens that had to be waited for and
  `corrections` the heads that chose again. The first step corrects all heads.

  Adapted. A step is a chunk, and its query the mean of the chunk's; where the
  paper decodes, a chunk is one token. Consecutive steps may be frames: their
  mean queries are then compared. `prefetch` is what one step asks for; where it
  is kept meanwhile is the matter of `resident_tokens`. The first answer step
  compares with the last retrieving chunk before it. Softmax over pages is
  without 1/√H, as in the code's default (avgSM). A share counts for all three
  parts; at least one page is chosen.

  Args:
    budget: tokens attended in all, whole pages beyond sinks and recent tokens
      (code, efficiency: 2048), or share of the past; two knobs.
    sink_tokens: first tokens, always attended (code: 512).
    recent_tokens: last tokens, always attended (code: 512).
    page: tokens of a page (code: 32).
    threshold: paper: 0.8 for long inputs, 0.9 for long generation. A knob; 1.0
      always corrects, -1.0 hardly ever does.
    digest: "arkvale" (code's default) or "quest" (paper's text); see
      `pages.update`.
    dense_layers: first layers that attend to everything (code: 1).
    stages: published: answers only, after a dense prefill. "all" is the
      streaming variant.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> freekv(threshold=0.9).name
    'freekv(threshold=0.9)'

  Source: Sec. 3 of the paper; digests, avgSM and sizes from the code.
  """
  given = dict(locals())
  arguments.check_page("freekv", page)
  fixed = {"sink_tokens": sink_tokens, "recent_tokens": recent_tokens}
  arguments.check_sizes(
    "freekv", {name: (value, 0) for name, value in fixed.items()}
  )
  least = page * -(-(sink_tokens + recent_tokens + page) // page)
  arguments.check_budget("freekv", budget, page=page, least=least)
  arguments.check_number("freekv", "threshold", threshold, -1.0, 1.0, "0.8")
  arguments.check_word("freekv", "digest", digest, DIGESTS)
  arguments.check_sizes("freekv", {"dense_layers": (dense_layers, 0)})

  def init(spec, params, knobs, sample):
    del params, sample
    decoder = spec.decoder
    layers, heads = decoder.num_layers, decoder.num_heads
    sets = layers, decoder.num_kv_heads, spec.num_slots // bitmap.WORD_BITS
    return State(
      budget=arguments.read_budget("freekv", knobs, spec),
      threshold=jnp.asarray(knobs["threshold"], jnp.float32),
      bounds=pages.create(spec, page),
      query=jnp.zeros((layers, heads, decoder.head_dim), jnp.float32),
      chosen=jnp.zeros(sets, jnp.uint32),
    )

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    query, _ = choosing.asking_rows(queries, kv_heads, "mean")
    start = jnp.min(queries.position)
    position = view.slots.position
    always = (position < sink_tokens) | (position >= start - recent_tokens)
    number = state.budget.of(view.seen)
    rest = jnp.maximum((number - sink_tokens - recent_tokens) // page, 1)
    # A budget for the whole past is one for every page.
    rest = jnp.where(number < view.seen, rest, view.cursor // page + 1)
    held = pages.there(view, page)
    best = _best_pages(state, layer, query, held, rest)
    best = bitmap.pack(pages.spread(best, page))
    before = state.query[layer].reshape(query[:, :, 0].shape)
    turned = _cosine(query[:, :, 0], before) < state.threshold
    corrected = turned | jnp.all(before == 0.0, axis=(1, 2))
    sets = jnp.where(corrected[:, None], best, state.chosen[layer])
    fixed_set = choosing.set_of(always, kv_heads)
    # A chunk of padding alone is no step.
    step = jnp.any(queries.valid)
    put = lambda table, new: table.at[layer].set(
      jnp.where(step, new, table[layer])
    )
    state = state.replace(
      query=put(state.query, query.reshape(state.query[layer].shape)),
      chosen=put(state.chosen, best),
    )
    live = jnp.full((kv_heads,), jnp.sum(held, dtype=jnp.int32))
    counts = policy_lib.zero_counts((kv_heads,))._replace(
      groups_live=live,
      groups_scored=live * query.shape[1],
      corrections=(corrected & step).astype(jnp.int32),
    )
    selection = policy_lib.Selection(
      parts=(policy_lib.Part(sets | fixed_set),), prefetch=best | fixed_set
    )
    return selection, state, counts

  def write(state, view, chunk, stage):
    del stage
    bounds = pages.update(state.bounds, view, chunk, page, digest)
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    return state.replace(bounds=bounds), None, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(freekv, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("freekv", stages, arguments.DECODING),
      dense_layers=dense_layers,
      prefetches=True,
    ),
    knobs={**arguments.budget_knobs(budget), "threshold": threshold},
    init=init,
    select=select,
    write=write,
  )


def _best_pages(
  state: State, layer: int, query: Float, held: Bool, number: Int
) -> Bool:
  """sel_i of every KV head: b[K, S / page]; query f32[K, G, 1, H]."""
  score = pages.bound(state.bounds, layer, query, held)[:, :, 0]
  score = jnp.where(held[None, None], score, -1e30)
  weight = jnp.mean(jax.nn.softmax(score, axis=-1), axis=1)
  return choosing.highest(jnp.where(held[None], weight, -jnp.inf), number)


def _cosine(query: Float, before: Float) -> Float:
  """Mean over the group of the cosine of two steps: f32[K]."""
  size = lambda rows: jnp.sqrt(jnp.sum(rows * rows, axis=-1))
  scale = jnp.maximum(size(query) * size(before), 1e-30)
  return jnp.mean(jnp.sum(query * before, axis=-1) / scale, axis=-1)
