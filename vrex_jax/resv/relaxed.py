"""A soft WiCSum: how much is kept, with a gradient in the threshold.

The exact rule (`wicsum`) keeps cluster j of a row while what lies strictly
above it has not passed the threshold:

  e_j = Σ_{u: Score_u > Score_j} Score_u · TC_u / Sum,   kept iff e_j ≤ ratio

so j comes in at e_j, and the kept share is a staircase in the ratio. Here every
stair is smeared: j comes in at a logistic variable around e_j of scale θ (the
temperature), cut to [0, 1], and its weight is the chance that it is in:

  w_j = (σ((r - e_j) / θ) - σ(-e_j / θ)) / (σ((1 - e_j) / θ) - σ(-e_j / θ))

  w_j  1 ┤           ╭────      r: the ratio, held to [0, 1]
         │         ╭─╯
       0 ┼─────────╯            θ → 0: a step at e_j;  θ → ∞: w_j = r
         0         e_j     1

A row's best cluster (e_j = 0, and all that tie with it) has weight 1. The cut
makes both ends exact at any temperature: at 0 the best alone, from 1 on
everything, also what scores nothing (e_j = 1). A plain σ((r - e_j) / θ) would
give one half to either. w_j rises with the ratio, and

  |w_j - exact_j| ≤ 2 exp(-|r - e_j| / θ) / tanh(1 / 2θ);

only at r = e_j, where the exact rule says kept, it stays near one half.

This is for finding thresholds on recorded scores: it sorts, and the stream does
not use it. Th_hd (Hamming threshold), N_hp (hash bits) and votes over rows stay
discrete: enumerate them, each with its own recorded scores, and count votes
with the exact rule. Signed sums ("raw") have no soft form either.

Source: the rule is V-Rex (arXiv 2512.12284), Sec. IV.C, Eqs. 1-3; the
relaxation is ours.
"""

import chex
import jax
import jax.numpy as jnp

from vrex_jax.errors import InputError
from vrex_jax.resv import wicsum
from vrex_jax.typing import Bool, Float, Int

__all__ = ["ROWS", "kept_share", "kept_shares", "soft_wicsum", "union"]

ROWS = ("union", "pooled")
"""How the rows of a head become one."""


def soft_wicsum(
  scores: Float,
  counts: Int,
  ratio: Float | float,
  temperature: Float | float,
  *,
  treatment: str = "clamped",
) -> Float:
  """How surely every row keeps each cluster.

  Args:
    scores: f[M, C], query rows times mean keys. float64 stays float64, all
      else is computed in float32.
    counts: i32[C], tokens of each cluster; clusters with none have weight 0.
    ratio: f[] or f[M], share of the weighted sum to pass (Th_r-wics). Outside
      [0, 1] without a gradient; at 0 and 1 with the one to the inside.
    temperature: f[], θ > 0, in units of the ratio; 0.02 smears a stair over
      about a tenth of the scale.
    treatment: of scores, as in `wicsum.wicsum`; not "raw".

  Returns:
    f[M, C] in [0, 1], differentiable in ratio, temperature and (but where two
    scores change places) scores.

  Raises:
    InputError: a temperature that is not above 0, or the treatment "raw".

  Example:
    >>> scores = jnp.array([[9.0, 8, 7, 2, 1, 1, 1, 1]])
    >>> counts = jnp.array([4, 3, 3, 2, 3, 2, 2, 3])
    >>> weights = jax.jit(soft_wicsum)(scores, counts, 0.8, 0.02)
    >>> print(weights[0].round(2))  # e_2 = 60 / 95, e_3 = 81 / 95
    [1.   1.   1.   0.07 0.01 0.01 0.01 0.01]
  """
  chex.assert_rank(scores, 2)
  rank, clusters = scores.shape
  chex.assert_shape(counts, (clusters,))
  _check(temperature, treatment)
  dtype = jnp.promote_types(scores.dtype, jnp.float32)
  live = (counts > 0)[None]
  treated = jnp.where(live, scores.astype(dtype), -jnp.inf)
  treated = wicsum.treat(treated, treatment)
  enters, best = _entry_ratios(treated, counts.astype(dtype))
  ratio = jnp.asarray(ratio, dtype)
  ratio = jnp.where(ratio < 0, 0.0, jnp.where(ratio > 1, 1.0, ratio))
  ratio = jnp.broadcast_to(ratio, (rank,))[:, None]

  below = lambda at: jax.nn.sigmoid((at - enters) / temperature)
  start = below(0.0)
  # Where the temperature smears everything, w_j = r; float32 has no span left.
  span = below(1.0) - start
  weights = jnp.where(
    span > 0, (below(ratio) - start) / jnp.where(span > 0, span, 1.0), ratio
  )
  return jnp.where(live, jnp.where(best, 1.0, weights), 0.0)


def _check(temperature: Float | float, treatment: str) -> None:
  if isinstance(temperature, (int, float)) and not temperature > 0:
    raise InputError(
      f"temperature is {temperature!r}; it must be above 0: try 0.02, or"
      " wicsum.wicsum for the exact rule"
    )
  if treatment == "raw":
    raise InputError(
      "treatment is 'raw'; signed sums have no soft form: use clamped,"
      " shift_min or exp"
    )


def _entry_ratios(scores: Float, counts: Float) -> tuple[Float, Bool]:
  """e of every cluster, f[M, C], and which are a row's best, b[M, C].

  Scores are treated, -inf for clusters that are not there.
  """
  best = (scores == jnp.max(scores, axis=1, keepdims=True)) & (counts > 0)[None]
  positive = jnp.maximum(scores, 0.0)
  order = jnp.argsort(-positive, axis=1)
  take = lambda array, index: jnp.take_along_axis(array, index, axis=1)

  ranked = take(positive, order)
  passed = jnp.cumsum(take(positive * counts[None], order), axis=1)
  before = jnp.pad(passed[:, :-1], ((0, 0), (1, 0)))
  # Equal scores enter together, with the first of them.
  opens = jnp.pad(ranked[:, 1:] < ranked[:, :-1], ((0, 0), (1, 0)))
  index = jnp.arange(scores.shape[1])[None]
  first = jax.lax.cummax(jnp.where(opens, index, 0), axis=1)
  above = take(take(before, first), jnp.argsort(order, axis=1))

  total = passed[:, -1:]
  share = above / jnp.where(total > 0, total, 1.0)
  # What adds nothing to the sum enters at 1, whatever the rounding.
  share = jnp.where(positive > 0, jnp.minimum(share, 1.0), 1.0)
  return jnp.where(best, 0.0, share), best


def union(weights: Float) -> Float:
  """How surely some row keeps each cluster: 1 - Π (1 - w), f[M, C] -> f[C].

  Exact for weights 0 and 1; between them rows count as independent, which is
  more than their union where rows agree.

  Example:
    >>> union(jnp.array([[0.5, 1.0], [0.5, 0.3]])).tolist()
    [0.75, 1.0]
  """
  if weights.shape[0] == 1:
    return weights[0]
  # log(1 - 1) has no gradient; a row that is sure decides alone.
  sure = weights >= 1
  out = jnp.sum(jnp.log1p(-jnp.where(sure, 0.0, weights)), axis=0)
  return jnp.where(jnp.any(sure, axis=0), 1.0, -jnp.expm1(out))


def kept_share(
  scores: Float,
  counts: Int,
  ratio: Float | float,
  temperature: Float | float,
  *,
  valid: Bool | None = None,
  rows: str = "union",
  treatment: str = "clamped",
) -> Float:
  """Share of the clustered tokens that one head keeps: Σ_j w_j TC_j / Σ_j TC_j.

  Sinks, recent tokens and tokens in no cluster are not counted.

  Args:
    scores: f[M, C], of one layer and KV head.
    counts: i32[C].
    ratio: f[]; with "union" also f[M].
    temperature: f[], θ.
    valid: b[M]; other rows ask for nothing. All, when None.
    rows: "union", or "pooled": one row, the mean of the valid ones before
      treatment (the scores of the mean query).
    treatment: as in `soft_wicsum`.

  Returns:
    f[] in [0, 1]; 0 without a token or without a valid row.

  Raises:
    InputError: rows is another word, or as `soft_wicsum`.

  Example:
    >>> scores, counts = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([5, 3, 2])
    >>> share = lambda ratio: kept_share(scores, counts, ratio, 0.05)
    >>> both = jax.jit(jax.value_and_grad(share))(0.6)
    >>> [round(float(at), 2) for at in both]
    [0.58, 1.17]
  """
  if rows not in ROWS:
    raise InputError(
      f"rows is {rows!r}; it must be one of {', '.join(ROWS)}: count votes with"
      " the exact rule, wicsum.wicsum"
    )
  if valid is None:
    valid = jnp.ones(scores.shape[:1], bool)
  chex.assert_shape(valid, scores.shape[:1])
  if rows == "pooled":
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    number = jnp.maximum(jnp.sum(valid), 1).astype(scores.dtype)
    scores = jnp.where(valid[:, None], scores, 0.0)
    scores = jnp.sum(scores, axis=0, keepdims=True) / number
    valid = jnp.any(valid)[None]
  weights = soft_wicsum(scores, counts, ratio, temperature, treatment=treatment)
  kept = union(jnp.where(valid[:, None], weights, 0.0))
  tokens = counts.astype(kept.dtype)
  return jnp.sum(kept * tokens) / jnp.maximum(jnp.sum(tokens), 1.0)


def kept_shares(
  scores: Float,
  counts: Int,
  ratio: Float,
  temperature: Float | float,
  *,
  valid: Bool | None = None,
  rows: str = "union",
  treatment: str = "clamped",
) -> Float:
  """`kept_share` of every layer and KV head, on recorded scores: f[L, K].

  One head after the other, and the gradient computes each again: the memory is
  that of one head.

  Args:
    scores: f[L, K, M, C].
    counts: i32[L, K, C].
    ratio: f[L, K].
    temperature: f[], θ; it and the others as in `kept_share`.
    valid: b[M].
    rows: one of ROWS.
    treatment: of scores.

  Example:
    >>> scores, counts = jnp.ones((4, 2, 5, 3)), jnp.full((4, 2, 3), 7)
    >>> kept_shares(scores, counts, jnp.full((4, 2), 0.3), 0.02).shape
    (4, 2)
  """
  chex.assert_rank(scores, 4)
  layers, heads, _, clusters = scores.shape
  chex.assert_shape(counts, (layers, heads, clusters))
  chex.assert_shape(ratio, (layers, heads))

  @jax.checkpoint
  def one(scores, counts, ratio):
    return kept_share(
      scores,
      counts,
      ratio,
      temperature,
      valid=valid,
      rows=rows,
      treatment=treatment,
    )

  flat = lambda array: array.reshape(layers * heads, *array.shape[2:])
  every = (flat(scores), flat(counts), flat(ratio))
  shares = jax.lax.map(lambda head: one(*head), every)
  return shares.reshape(layers, heads)
