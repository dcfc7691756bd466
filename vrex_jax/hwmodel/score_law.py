"""How many buckets a row visits before it may stop: expected, not traced.

Scores of a row, between its lowest (0) and its highest (1), are taken to be
exponential, cut off at 1:

  density(u) = λ e^(-λu) / (1 - e^(-λ)),      0 ≤ u ≤ 1

The WTU takes n equal buckets from the top. After k of them the share of the
score sum and the share of the scores that were seen are

  A(k) = ∫ u density du / ∫₀¹ u density du,   F(k) = ∫ density du,   u > 1 - k/n

and it goes on while A(k) ≤ θ. Rows differ: P(A ≥ θ) is a sigmoid of width τ, so

  E[buckets] = 1 + Σ_{k = 1}^{n - 1} (1 - σ((A(k) - θ) / τ))

λ is set so that a row sees 16 % of its scores at θ = 0.3, the paper's average;
that asks for scores that are nearly flat over their range.
Of m rows the slowest is expected at E + s · z(m), s the deviation of a row and
z the mean of the largest of m normal draws (`largest_normal`).

Source: early exit and the 16 %: V-Rex (arXiv 2512.12284), Sec. V.B, Fig. 11.
The law of the scores is an assumption; the paper shows none.
"""

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax.typing import Float

__all__ = ["LAW", "ScoreLaw", "largest_normal"]

_MOST_BUCKETS = 64


class ScoreLaw(flax.struct.PyTreeNode):
  """Dynamic. Shape of a row's scores.

  Attributes:
    decay_ratio: λ, range of the scores over their exponential scale.
    spread_share: τ, how far rows differ in their share of the sum.
  """

  decay_ratio: Float | float
  spread_share: Float | float

  def seen(self, depth: Float) -> tuple[Float, Float]:
    """A and F of the scores within `depth` of the top: f[...] each."""
    rate = self.decay_ratio
    low = 1.0 - depth
    top, bottom = jnp.exp(-rate), jnp.exp(-rate * low)
    weight = lambda u, e: (u + 1.0 / rate) * e
    total = 1.0 / rate - weight(1.0, top)
    share = (weight(low, bottom) - weight(1.0, top)) / total
    return share, (bottom - top) / (1.0 - top)

  def buckets(
    self, ratio: Float | float, number: Float | float, rows: Float
  ) -> tuple[Float, Float]:
    """Buckets a row visits, and the slowest of some rows: f[] each.

    Args:
      ratio: θ.
      number: n, at most 64; need not be whole.
      rows: m ≥ 1.

    Example:
      >>> mean, worst = LAW.buckets(0.3, 20.0, jnp.float32(1.0))
      >>> float(LAW.seen(mean / 20)[1])  # 16 % of the scores
      0.16...
    """
    index = jnp.arange(1, _MOST_BUCKETS, dtype=float)
    there = jnp.clip(number - index, 0.0, 1.0)
    share, _ = self.seen(jnp.minimum(index / number, 1.0))
    go_on = there * jax.nn.sigmoid((ratio - share) / self.spread_share)
    mean = 1.0 + jnp.sum(go_on)
    second = 1.0 + jnp.sum((2.0 * index + 1.0) * go_on)
    deviation = jnp.sqrt(jnp.maximum(second - mean**2, 1e-12))
    worst = mean + deviation * largest_normal(rows)
    return mean, jnp.minimum(worst, number)


def largest_normal(number: Float) -> Float:
  """Mean of the largest of `number` ≥ 1 standard normal draws.

  z = Φ⁻¹((m - 3/8) / (m + 1/4)), Blom's rule: 0 of one draw, off by 0.03 at
  most beyond.

  Example:
    >>> [round(float(largest_normal(jnp.float32(m))), 2) for m in (1, 2, 8)]
    [0.0, 0.59, 1.43]
  """
  number = jnp.maximum(number, 1.0)
  return jax.scipy.special.ndtri((number - 0.375) / (number + 0.25))


LAW = ScoreLaw(decay_ratio=1.0, spread_share=0.05)
"""λ solves F = 16 % at θ = 0.3 and 20 buckets; τ is assumed."""
