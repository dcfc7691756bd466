"""Rotary position embedding (RoPE), in the half-split layout of Hugging Face.

Pair i of a head is (x[i], x[i + H/2]). It is rotated by position * frequency_i:

  rotate(x, p) = x * cos(p f) + (-x[H/2:], x[:H/2]) * sin(p f)

Rotations add: rotate(rotate(x, a), b) = rotate(x, a + b). That is how a cached
key moves to another position without its unrotated form.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.models import config as config_lib
from vrex_jax.typing import Array, Float, Int

__all__ = [
  "Turn",
  "angles",
  "inverse_frequencies",
  "rotate",
  "rotate_by",
  "turn_once",
]

_SPLIT_BITS = 12
_SPLIT = 1 << _SPLIT_BITS
# 6.28125 and 0.00193023681640625 have 8 and 12 significant bits.
_TWO_PI_PARTS = tuple(
  np.float32(part)
  for part in (
    6.28125,
    0.00193023681640625,
    2.0 * np.pi - 6.28125 - 0.00193023681640625,
  )
)


class Turn(NamedTuple):
  """Dynamic. A rotation of every pair.

  Attributes:
    cosine: of the angle.
    sine: of the angle.
  """

  cosine: Float  # f32 [..., H / 2]
  sine: Float  # f32 [..., H / 2]


def inverse_frequencies(
  rope: config_lib.RopeConfig, head_dim: int
) -> np.ndarray:
  """Rotation in radians per position of every pair.

  f_i = theta^(-2 i / H), then scaled: "linear" divides every frequency by
  `factor`; "llama3" divides those of wavelength above
  original_max / low_freq_factor, keeps those below
  original_max / high_freq_factor and interpolates between.

  Args:
    rope: rotary settings.
    head_dim: H.

  Returns:
    f32[H / 2], radians per position.

  Raises:
    ValueError: `rope.scaling` is not "none", "linear" or "llama3".

  Example:
    >>> inverse_frequencies(config_lib.RopeConfig(theta=100.0), 4)
    array([1. , 0.1], dtype=float32)

  Source: Su et al., arXiv 2104.09864, Sec. 3.2; the llama3 rule is the one
  published with Llama 3.1 ("rope_type": "llama3").
  """
  exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
  frequency = 1.0 / rope.theta**exponent
  if rope.scaling == "none":
    return frequency.astype(np.float32)
  if rope.scaling == "linear":
    return (frequency / rope.factor).astype(np.float32)
  if rope.scaling == "llama3":
    wavelength = 2.0 * np.pi / frequency
    context = rope.original_max_position_embeddings
    # 0 at the long end (scaled), 1 at the short end (kept).
    ramp = (context / wavelength - rope.low_freq_factor) / (
      rope.high_freq_factor - rope.low_freq_factor
    )
    ramp = np.clip(ramp, 0.0, 1.0)
    scaled = (1.0 - ramp) * frequency / rope.factor + ramp * frequency
    return scaled.astype(np.float32)
  raise ValueError(
    f"rope scaling is {rope.scaling!r}; it must be none, linear or llama3:"
    " other rules are not implemented"
  )


def angles(
  positions: Int,
  frequencies: Array | np.ndarray,
  sections: tuple[int, ...] | None = None,
) -> Float:
  """Rotation angle of every position and pair.

  position · frequency, up to whole turns. float32 cannot hold large products
  (at position 10^6 their spacing is 0.06 rad), so the position is split,
  p = 4096 · high + low, and

    angle = low f + high (4096 f mod 2π)

  with the remainder taken once, in extended precision. Within ±4095 this is the
  plain product; at 10^6 the error is about 10^-4 rad instead of 0.06.

  Args:
    positions: i32[..., T], or i32[3, ..., T] with `sections` (time, height,
      width components of M-RoPE); may be negative.
    frequencies: f32[H / 2], radians per position.
    sections: pairs that follow each component; sums to H / 2. None for
      ordinary RoPE.

  Returns:
    f32[..., T, H / 2], radians.

  Example:
    >>> angles(jnp.array([0, 2]), np.array([1.0, 0.1], np.float32)).tolist()
    [[0.0, 0.0], [2.0, 0.20000000298023224]]
  """
  frequencies = jnp.asarray(frequencies, jnp.float32)
  row = (1,) * positions.ndim + (-1,)
  fine = frequencies.reshape(row)
  coarse = _whole_turns_off(frequencies * _SPLIT).reshape(row)
  # Rounded towards zero: a small negative shift stays a small angle.
  low = jnp.fmod(positions, _SPLIT)
  high = (positions - low) >> _SPLIT_BITS
  wide = lambda part: part.astype(jnp.float32)[..., None]
  product = wide(low) * fine + wide(high) * coarse
  if sections is None:
    return product
  component = np.repeat(np.arange(len(sections)), sections)
  parts = [
    product[component[pair], ..., pair] for pair in range(len(component))
  ]
  return jnp.stack(parts, axis=-1)


def _whole_turns_off(angle: Float) -> Float:
  """angle mod 2π in [-π, π], for angles up to a few thousand radians.

  Source: Cody and Waite, Software Manual for the Elementary Functions, 1980:
  2π in parts of few bits, so that turns times a part is exact.
  """
  turns = jnp.round(angle / np.float32(2.0 * np.pi))
  for part in _TWO_PI_PARTS:
    angle = angle - turns * part
  return angle


def rotate(x: Float, angle: Float) -> Float:
  """Rotates heads by given angles.

  Args:
    x: f[..., H].
    angle: f32[..., H / 2], radians, broadcast against the leading axes of x
      (equal rank).

  Returns:
    f[..., H] in x's dtype; the arithmetic is float32 or wider.

  Example:
    >>> quarter = jnp.full((1, 1), jnp.pi / 2)
    >>> rotate(jnp.array([[1.0, 0.0]]), quarter).round(6).tolist()
    [[-0.0, 1.0]]

  Source: Su et al., arXiv 2104.09864, Eq. 34 (half-split order of pairs).
  """
  return rotate_by(x, _turn(angle))


def turn_once(angle: Float) -> Turn:
  """Cosine and sine of angles that many heads and layers share.

  On a CPU, XLA would fuse the two functions into every rotation and compute
  them again for each head of each layer (a tenth of a step of 196 tokens). It
  does not look into a branch whose condition it does not know; every finite
  angle takes it.

  Args:
    angle: f32[..., H / 2], radians, finite.

  Returns:
    Turn of the same shape.

  Example:
    >>> turn_once(jnp.zeros(2)).cosine.tolist()
    [1.0, 1.0]
  """
  nothing = lambda x: Turn(jnp.zeros_like(x), jnp.zeros_like(x))
  return jax.lax.platform_dependent(
    angle,
    cpu=lambda x: jax.lax.cond(jnp.all(x < jnp.inf), _turn, nothing, x),
    default=_turn,
  )


def _turn(angle: Float) -> Turn:
  return Turn(jnp.cos(angle), jnp.sin(angle))


def rotate_by(x: Float, turn: Turn) -> Float:
  """`rotate` with cosine and sine at hand.

  Args:
    x: f[..., H].
    turn: f32[..., H / 2] each, broadcast against the leading axes of x (equal
      rank).

  Returns:
    f[..., H] in x's dtype; the arithmetic is float32 or wider.
  """
  wide = x.astype(jnp.promote_types(x.dtype, turn.cosine.dtype))
  first, second = jnp.split(wide, 2, axis=-1)
  rotated = jnp.concatenate(
    [
      first * turn.cosine - second * turn.sine,
      second * turn.cosine + first * turn.sine,
    ],
    axis=-1,
  )
  return rotated.astype(x.dtype)
