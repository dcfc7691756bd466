"""The order of a step: prediction and fetch run one layer ahead.

Layer l projects, predicts what layer l + 1 will attend to, attends and feeds
forward. The link fetches for layer l + 1 as soon as its prediction is made and
the link is free; layer l + 1 attends when its projections and the fetch are
done:

  cores  ─ vision ─┤qkv₀│att₀│ feed₀ │qkv₁│··wait··│att₁│ feed₁ │qkv₂│ …
  engine               │predict₁│         │predict₂│
  link   ┤fetch₀│               │    fetch₁        ││ fetch₂ …

  q(l) = c(l-1) + qkv(l)                 projections of layer l are done
  s(l) = max(q(l-1) + predict(l-1), f(l-1))      its fetch begins
  f(l) = s(l) + fetch(l)                         and is there
  a(l) = max(q(l), f(l))                         attention begins
  c(l) = a(l) + att(l) + feed(l)                 layer l is done

with f(0) = fetch(0): nothing chooses for layer 0, so its fetch begins with the
vision tower. A simulator of these events gives the same numbers.

What is computed below are differences of these times, which are never negative,
so that a smooth maximum (`smooth`) stays between maximum and sum:

  wait(l)  = a(l) - q(l)
  delay(l) = s(l) - a(l-1)      = max(predict(l-1) - wait(l-1), 0)
  step(l)  = a(l) - a(l-1)      = max(core(l), delay(l) + fetch(l))
  core(l)  = att(l-1) + feed(l-1) + qkv(l)

Source: V-Rex (arXiv 2512.12284), Sec. IV.A, Fig. 6, for the order; that one
link transfer is under way at a time is an assumption.
"""

from typing import NamedTuple

import jax

from vrex_jax.hwmodel import smooth
from vrex_jax.typing import Float

__all__ = ["Durations", "finish_s"]


class Durations(NamedTuple):
  """Dynamic. Seconds of everything that takes time.

  Attributes:
    vision_s: before layer 0.
    project_s: projections, and whatever must end before attention on the cores.
    predict_s: from then on, on the engine; of layer l for layer l + 1.
    attend_s: attention.
    feed_s: output projection and feed-forward layer.
    fetch_s: for this layer, on the link.
    head_s: after the last layer.
  """

  vision_s: Float  # []
  project_s: Float  # [L]
  predict_s: Float  # [L]
  attend_s: Float  # [L]
  feed_s: Float  # [L]
  fetch_s: Float  # [L]
  head_s: Float  # []


def finish_s(
  spans: Durations, *, sharpness: Float | float | None = None
) -> Float:
  """Seconds from the frame's pixels, or a token, to the end of the last layer.

  Args:
    spans: durations.
    sharpness: p of the smooth maximum; None for the hard one.

  Returns:
    f[].

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.ones(2)
    >>> spans = Durations(jnp.float32(1), one, 0 * one, one, one,
    ...                   jnp.float32([0, 5]), jnp.float32(0))
    >>> float(finish_s(spans))  # 1 + 1, fetch₁ 5, att₁ 1, feed₁ 1
    9.0
  """
  before = spans.vision_s + spans.project_s[0]
  start = smooth.smooth_max(before, spans.fetch_s[0], sharpness=sharpness)
  core = spans.attend_s[:-1] + spans.feed_s[:-1] + spans.project_s[1:]

  def layer(carry, inputs):
    waited, total = carry
    core, predict, fetch = inputs
    delay = smooth.smooth_max(predict, waited, sharpness=sharpness) - waited
    step = smooth.smooth_max(core, delay + fetch, sharpness=sharpness)
    return (step - core, total + step), None

  (_, total), _ = jax.lax.scan(
    layer,
    (start - before, start),
    (core, spans.predict_s[:-1], spans.fetch_s[1:]),
  )
  return total + spans.attend_s[-1] + spans.feed_s[-1] + spans.head_s
