"""SnapKV (Li et al., arXiv 2404.14469, NeurIPS 2024): what a prompt reads."""

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import keeping
from vrex_jax.baselines import window as window_lib
from vrex_jax.typing import Bool, Float

__all__ = ["State", "snapkv"]


class State(flax.struct.PyTreeNode):
  """Dynamic. The observation window, and what each row keeps.

  Attributes:
    budget: tokens kept, the window included.
    window: last queries.
    mine: slots each row keeps.
  """

  budget: arguments.Budget
  window: window_lib.Window
  mine: Bool  # [L, A, S]


def snapkv(
  *,
  budget: int | float = arguments.Published(2048),
  window_tokens: int = 32,
  kernel: int = 5,
  pooling: str = "mean",
  heads: str = "query",
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """Keeps what the last `window_tokens` tokens attend to, when a prompt ends.

    v_j = Σ over the window of softmax(q K / √H)_j      causal in the window
    v   ← pooled over `kernel` neighbouring tokens
    keep  the budget - window_tokens highest v, and the window

  for good; rotated keys keep their positions.

  Published, a prompt ends with a question: tokens go after its last chunk, and
  frames are held whole until then. stages=all, the streaming variant, evicts
  after every frame, its last tokens being the window, so that a stream never
  holds more than the budget and one chunk. After a question all later chunks
  add to what is kept, until the next one.

  Adapted: neighbours for pooling are the tokens a row still keeps, in order of
  time. Choosing for each query head (as the code, which repeats keys first), a
  KV head holds the union of its group. A question cut in chunks evicts when
  its last one is known (`last`).

  Args:
    budget: tokens kept by a row (LongBench settings: 1024, 2048 or 4096), or
      share of those seen; two knobs.
    window_tokens: of the observation window (class default 64, LongBench 32).
    kernel: neighbours pooled (class default: 5; ablations: 7).
    pooling: "mean" or "max".
    heads: "query" (code) or "kv": v is added over the group.
    stages: published: evicts at the end of a question; "all" at frames, too.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> snapkv(budget=1024).needs.evicts
    True

  Source: Sec. 4 and Listing 1 of the paper, and its code.
  """
  given = dict(locals())
  sizes = {"window_tokens": (window_tokens, 1), "kernel": (kernel, 1)}
  arguments.check_sizes("snapkv", sizes)
  arguments.check_odd("snapkv", "kernel", kernel)
  arguments.check_budget("snapkv", budget, least=window_tokens + 1)
  arguments.check_word("snapkv", "pooling", pooling, ("mean", "max"))
  arguments.check_word("snapkv", "heads", heads, choosing.HEAD_RULES)
  evicting = arguments.stages_of("snapkv", stages, ("question",))

  def init(spec, params, knobs, sample):
    del params, sample
    rows = policy_lib.rows_of(needs, spec.decoder)
    shape = spec.decoder.num_layers, rows, spec.num_slots
    return State(
      budget=arguments.read_budget("snapkv", knobs, spec),
      window=window_lib.create(spec, window_tokens),
      mine=jnp.zeros(shape, bool),
    )

  def select(state, view, layer, queries, stage):
    del queries, stage
    selection, counts = choosing.one_part(view, bitmap.pack(state.mine[layer]))
    return selection, state, counts

  def write(state, view, chunk, stage):
    window = window_lib.push(state.window, chunk)
    mine = keeping.held_by(state.mine, view, chunk)
    if stage in evicting:
      kept = _kept(state.budget.of(view.seen), window, view, mine, chunk)
      ends = chunk.last if stage == "question" else True
      mine = jnp.where(ends, kept, mine)
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    keep = keeping.keep_of(mine, view.num_kv_heads)
    return state.replace(window=window, mine=mine), keep, counts

  def _kept(number, window, view, mine, chunk):
    rows = mine.shape[1]
    live = bitmap.unpack(view.live)
    weight = window_lib.attention(window, view, live)
    if heads == "kv":
      shape = mine.shape[0], rows, -1, mine.shape[-1]
      weight = jnp.sum(weight.reshape(shape), axis=2)
    position = keeping.per_row(view.slots.position, rows)
    newest = mine & (position >= keeping.end_of(chunk) - window_tokens)
    vote = pooled(weight, mine & ~newest, kernel, pooling)
    return newest | choosing.highest(vote, number - window_tokens)

  needs = policy_lib.Needs(
    evicts=True, all_keys=True, granularity=heads, stages=arguments.ALL_STAGES
  )
  return policy_lib.KVPolicy(
    name=arguments.canonical_name(snapkv, given),
    needs=needs,
    knobs=arguments.budget_knobs(budget),
    init=init,
    select=select,
    write=write,
    move=lambda state, source: state.replace(
      mine=keeping.follow(state.mine, source)
    ),
  )


def pooled(weight: Float, member: Bool, kernel: int, pooling: str) -> Float:
  """Mean or maximum over the `kernel` nearest members, by rank.

  Members are brought side by side first; outside them counts 0, as the padding
  of a pooling layer does.

  Args:
    weight: f32[..., S].
    member: b[..., S].
    kernel: odd.
    pooling: "mean" or "max".

  Returns:
    f32[..., S], -inf for non-members.
  """
  slots = weight.shape[-1]
  rank = jnp.cumsum(member, axis=-1, dtype=jnp.int32) - 1
  put = lambda row, at: jnp.zeros_like(row).at[at].set(row, mode="drop")
  put = jnp.vectorize(put, signature="(s),(s)->(s)")
  side = put(weight, jnp.where(member, rank, slots))
  half = kernel // 2
  padding = [(0, 0)] * (side.ndim - 1) + [(half, half)]
  wide = jnp.pad(side, padding)
  shifted = [
    jax.lax.slice_in_dim(wide, at, at + side.shape[-1], axis=-1)
    for at in range(kernel)
  ]
  stacked = jnp.stack(shifted)
  found = stacked.mean(axis=0) if pooling == "mean" else stacked.max(axis=0)
  found = jnp.take_along_axis(found, jnp.maximum(rank, 0), axis=-1)
  return jnp.where(member, found, -jnp.inf)
