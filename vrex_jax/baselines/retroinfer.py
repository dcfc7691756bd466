"""RetroInfer (arXiv 2505.02922): near clusters exactly, others estimated."""

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import kmeans
from vrex_jax.typing import Bool, Float

__all__ = ["State", "retroinfer"]


class State(flax.struct.PyTreeNode):
  """Dynamic. Clusters with summed values, and two shares of them.

  Attributes:
    exact_share: of the clusters, read token by token.
    estimated_share: of the clusters, attended as one row each.
    clusters: of the stream.
  """

  exact_share: Float  # f32 []
  estimated_share: Float  # f32 []
  clusters: kmeans.Clusters


def retroinfer(
  *,
  exact_share: float = 0.018,
  estimated_share: float = 0.232,
  block: int = 1024,
  cluster_tokens: int = 16,
  iterations: int = 10,
  sink_tokens: int = 4,
  recent_tokens: int = 64,
  dense_layers: int = 0,
  stages: str | tuple[str, ...] = "published",
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """Three zones: steady, retrieved, and estimated by a cluster's mean.

    rank      Σ over the group of softmax_c(q_g · μ_c / √H), for each KV head
    steady    sinks, the last `recent_tokens`, tokens not clustered yet
    retrieved members of the first exact_share of the clusters
    estimated the next estimated_share: one row (μ_c, mean value) of weight n_c

    num = Σ_c e^{q·μ_c/√H} (Σ v)_c      den = Σ_c n_c e^{q·μ_c/√H}

  merged by log-sum-exp: rows with log weight log n_c. Clusters beyond are left
  out. With exact_share 1.0 it is full attention.

  Adapted to a stream: the paper clusters a prompt in 16 segments and re-indexes
  every 1024 decoded tokens; here every `block` tokens are clustered alone from
  the start. Keys are compared centred by the block's mean, directions only. A
  recent token whose cluster is estimated is attended exactly and counts in the
  cluster's row, too: only the last recent_tokens of a block that has just been
  clustered can be. A chunk of several tokens adds the softmax over its tokens.
  Its cache of blocks on the device is a matter of placement and left out.

  Args:
    exact_share: of the clusters (paper: 1.8 %). A knob.
    estimated_share: of the clusters (paper: 23.2 %). A knob.
    block: tokens clustered together (paper, decoding: 1024).
    cluster_tokens: tokens of a cluster on average (paper: 16); divides `block`.
    iterations: of spherical k-means (code: 10).
    sink_tokens: first tokens, always attended (code: 4).
    recent_tokens: last tokens, always attended (code: 64).
    dense_layers: first layers that attend to everything.
    stages: published: answers only, after a dense prefill. "all" is the
      streaming variant.
    seed: of the first centres.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> retroinfer(exact_share=0.05).name
    'retroinfer(exact_share=0.05)'

  Source: Sec. 4 of the paper; sizes from the published code.
  """
  given = dict(locals())
  sizes = {"block": (block, 1), "cluster_tokens": (cluster_tokens, 1)}
  sizes |= {"iterations": (iterations, 0), "sink_tokens": (sink_tokens, 0)}
  sizes |= {"recent_tokens": (recent_tokens, 0), "seed": (seed, 0)}
  sizes |= {"dense_layers": (dense_layers, 0)}
  arguments.check_sizes("retroinfer", sizes)
  arguments.check_divides("retroinfer", "cluster_tokens", cluster_tokens, block)
  shares = {"exact_share": exact_share, "estimated_share": estimated_share}
  for name, value in shares.items():
    arguments.check_number("retroinfer", name, value, 0.0, 1.0, "0.05")
  rule = kmeans.Rule(
    block=block,
    clusters=block // cluster_tokens,
    iterations=iterations,
    sink_tokens=sink_tokens,
    centered=True,
    seed=seed,
  )

  def init(spec, params, knobs, sample):
    del params, sample
    return State(
      clusters=kmeans.create(spec, rule, values=True),
      **{name: jnp.asarray(knobs[name], jnp.float32) for name in shares},
    )

  def select(state, view, layer, queries, stage):
    del stage
    query, asks = choosing.asking_rows(queries, view.num_kv_heads, "max")
    rank = _ranks(state, layer, query, asks)
    exact, estimated = _zones(state, layer, rank)
    label = state.clusters.label[layer]
    inside = jnp.take_along_axis(exact, jnp.maximum(label, 0), axis=-1)
    start = jnp.min(queries.position)
    recent = view.slots.position >= start - recent_tokens
    # Live slots in no cluster: sinks, and the block that is not full yet.
    steady = (label < 0) | recent[None]
    slots = jnp.where(label < 0, False, inside) | steady
    slots = slots & bitmap.unpack(view.live)[None]
    selection, counts = choosing.one_part(
      view,
      bitmap.pack(slots),
      extra=_rows(state.clusters, layer, estimated),
    )
    live = jnp.sum(state.clusters.size[layer] > 0, axis=-1, dtype=jnp.int32)
    counts = choosing.count_groups(counts, live, query, asks)
    return selection, state, counts

  def write(state, view, chunk, stage):
    del stage
    clusters = kmeans.label_new_blocks(state.clusters, view, rule)
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    return state.replace(clusters=clusters), None, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(retroinfer, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("retroinfer", stages, arguments.DECODING),
      dense_layers=dense_layers,
    ),
    knobs=shares,
    init=init,
    select=select,
    write=write,
    groups=lambda state, layer: state.clusters.label[layer],
  )


def _ranks(state: State, layer: int, query: Float, asks: Bool) -> Float:
  """Softmax over clusters, added over rows: f32[K, C], -inf where empty."""
  held = state.clusters.size[layer] > 0
  score = choosing.products(query, state.clusters.center[layer])
  score = score * query.shape[-1] ** -0.5
  score = jnp.where(held[:, None, None], score, -1e30)
  weight = jax.nn.softmax(score, axis=-1)
  weight = jnp.where(asks[None, None, :, None], weight, 0.0)
  return jnp.where(held, jnp.sum(weight, axis=(1, 2)), -jnp.inf)


def _zones(state: State, layer: int, rank: Float) -> tuple[Bool, Bool]:
  """Clusters read exactly, and those estimated: b[K, C] twice."""
  held = jnp.sum(state.clusters.size[layer] > 0, axis=-1).astype(jnp.float32)
  number = lambda share: jnp.ceil(share * held).astype(jnp.int32)
  exact = choosing.highest(rank, number(state.exact_share))
  both = choosing.highest(
    rank, number(state.exact_share + state.estimated_share)
  )
  return exact, both & ~exact


def _rows(
  clusters: kmeans.Clusters, layer: int, estimated: Bool
) -> tuple[Float, Float, Float]:
  """Rows that stand for clusters: keys, values f32[K, C, H], log weights."""
  if clusters.value is None:
    raise ValueError("clusters have no values: create them with values=True")
  size = jnp.maximum(clusters.size[layer], 1).astype(jnp.float32)
  value = clusters.value[layer] / size[..., None]
  weight = jnp.where(estimated, jnp.log(size), -jnp.inf)
  return clusters.center[layer], value, weight
