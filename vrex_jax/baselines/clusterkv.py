"""ClusterKV (Liu et al., arXiv 2412.03213, DAC 2025): clusters by a budget."""

import flax.struct
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import kmeans
from vrex_jax.typing import Bool, Float, Int

__all__ = ["State", "clusterkv"]


class State(flax.struct.PyTreeNode):
  """Dynamic. Clusters of the stream and the budget.

  Attributes:
    budget: of sinks and clusters.
    clusters: with their members.
  """

  budget: arguments.Budget
  clusters: kmeans.Clusters


def clusterkv(
  *,
  budget: int | float = arguments.Published(1024),
  block: int = 320,
  cluster_tokens: int = 80,
  iterations: int = 20,
  sink_tokens: int = 16,
  dense_layers: int = 2,
  chunk: str = "mean",
  heads: str = "query",
  stages: str | tuple[str, ...] = "published",
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """Clusters by q · centre, cut inside the last one to hit the budget.

    cosine k-means on rotated keys (kmeans.lloyd)
    s_c = q · μ_c, clusters taken in falling order until their sizes reach the
    budget; of the last one the first tokens
    attended: sinks + these + tokens not clustered yet

  Adapted to a stream. The paper clusters a whole prompt into length / 80
  clusters and, while decoding, every 320 new tokens alone; here every `block`
  tokens are clustered alone from the start, into block / cluster_tokens
  clusters, so that no work grows with the square of the stream. The paper's
  cluster is ~80 tokens; the code uses 8 clusters for 320 decoded tokens
  (cluster_tokens=40). Before a block is full its tokens are attended, beyond
  the budget. A chunk of several tokens asks as `chunk` says. The cache of
  recently chosen clusters is a matter of placement and left out.

  Args:
    budget: tokens of sinks and clusters (accuracy code: 1024), or share of the
      past; two knobs.
    block: tokens clustered together (paper, decoding: 320).
    cluster_tokens: tokens of a cluster on average; divides `block`.
    iterations: of k-means (code: 20).
    sink_tokens: first tokens, always attended and in no cluster (code: 16).
    dense_layers: first layers that attend to everything (code: 2).
    chunk: "mean" or "max".
    heads: "query" (paper) or "kv", the union of a group's tokens.
    stages: published: answers only, after a dense prefill. "all" is the
      streaming variant.
    seed: of the first centres, random tokens.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> clusterkv(budget=512, stages="all").name
    'clusterkv(budget=512, stages=all)'

  Source: Sec. III of the paper; sizes and the update of un-normalised keys from
  the published code.
  """
  given = dict(locals())
  sizes = {"block": (block, 1), "cluster_tokens": (cluster_tokens, 1)}
  sizes |= {"iterations": (iterations, 0), "sink_tokens": (sink_tokens, 0)}
  sizes |= {"dense_layers": (dense_layers, 0), "seed": (seed, 0)}
  arguments.check_sizes("clusterkv", sizes)
  arguments.check_divides("clusterkv", "cluster_tokens", cluster_tokens, block)
  arguments.check_budget("clusterkv", budget, least=sink_tokens + 1)
  arguments.check_word("clusterkv", "chunk", chunk, choosing.CHUNK_RULES)
  arguments.check_word("clusterkv", "heads", heads, choosing.HEAD_RULES)
  rule = kmeans.Rule(
    block=block,
    clusters=block // cluster_tokens,
    iterations=iterations,
    sink_tokens=sink_tokens,
    centered=False,
    seed=seed,
  )

  def init(spec, params, knobs, sample):
    del params, sample
    return State(
      budget=arguments.read_budget("clusterkv", knobs, spec),
      clusters=kmeans.create(spec, rule, values=False),
    )

  def select(state, view, layer, queries, stage):
    del stage
    clusters = state.clusters
    query, asks = choosing.asking_rows(queries, view.num_kv_heads, chunk)
    score = choosing.products(query, clusters.center[layer])
    score = jnp.where(asks[None, None, :, None], score, -jnp.inf)
    number = state.budget.of(view.seen) - sink_tokens
    size, label = clusters.size[layer], clusters.label[layer]
    chosen = _first_tokens(
      jnp.max(score, axis=2), size, label, clusters.rank[layer], number
    )
    loose = (label < 0) & bitmap.unpack(view.live)[None]
    slots = choosing.to_rows(chosen | loose[:, None], heads)
    selection, counts = choosing.one_part(view, slots)
    live = jnp.sum(size > 0, axis=-1, dtype=jnp.int32)
    counts = choosing.count_groups(counts, live, query, asks)
    return selection, state, counts

  def write(state, view, chunk_, stage):
    del stage
    clusters = kmeans.label_new_blocks(state.clusters, view, rule)
    counts = policy_lib.zero_counts(chunk_.k_rotated.shape[:2])
    return state.replace(clusters=clusters), None, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(clusterkv, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("clusterkv", stages, arguments.DECODING),
      dense_layers=dense_layers,
      granularity=heads,
    ),
    knobs=arguments.budget_knobs(budget),
    init=init,
    select=select,
    write=write,
    groups=lambda state, layer: state.clusters.label[layer],
  )


def _first_tokens(
  score: Float, size: Int, label: Int, rank: Int, number: Int
) -> Bool:
  """The first `number` tokens in the order of clusters: b[K, G, S].

  Args:
    score: f32[K, G, C].
    size: i32[K, C]; empty clusters are passed over.
    label: i32[K, S].
    rank: i32[K, S], place inside the cluster.
    number: i32[].
  """
  score = jnp.where(size[:, None] > 0, score, -jnp.inf)
  order = jnp.argsort(-score, axis=-1, stable=True)
  in_order = jnp.take_along_axis(
    jnp.broadcast_to(size[:, None], score.shape), order, axis=-1
  )
  before = jnp.cumsum(in_order, axis=-1) - in_order
  back = jnp.argsort(order, axis=-1)
  before = jnp.take_along_axis(before, back, axis=-1)  # [K, G, C]
  index = jnp.broadcast_to(
    jnp.maximum(label, 0)[:, None], (*score.shape[:2], label.shape[-1])
  )
  place = jnp.take_along_axis(before, index, axis=-1) + rank[:, None]
  return (place < number) & (label >= 0)[:, None]
