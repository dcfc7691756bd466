"""Resizing of decoded pictures, equal to PIL's BICUBIC byte for byte.

A resize is a product with a banded matrix along each axis, rounded to bytes
after either:

  out[i] = floor(sum_j weight[i, j] x[j] + 1/2), clipped to 0 .. 255

Row i holds the cubic kernel around the place of output pixel i, stretched by
the scale when shrinking (antialiasing). PIL rounds its weights to 22 binary
places. Such numbers times a byte add up exactly in float64, so a BLAS product
gives PIL's very sums.
"""

import dataclasses
import math
from typing import NamedTuple

import chex
import numpy as np

from vrex_jax.errors import InputError
from vrex_jax.typing import Frame

__all__ = ["Resizer", "resize"]

FRACTION_BITS = 22
# Output pixels per product: a matrix is non-zero near its diagonal only.
BLOCK = 16


class Band(NamedTuple):
  """Some neighbouring rows of a resizing matrix, without the zeros around.

  Attributes:
    start: first output pixel.
    source_start: first input pixel with a weight.
    weights: f64[output pixels, input pixels], multiples of 2^-22.
  """

  start: int
  source_start: int
  weights: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Resizer:
  """Static. Resizes pictures of one shape; build it once with `create`.

  Attributes:
    height: of the input, in pixels.
    width: of the input, in pixels.
    size: side of the square output, in pixels.
    top: rows of zeros above the picture.
    left: columns of zeros left of the picture.
    vertical: matrix from the input's height to the picture's.
    horizontal: matrix from the input's width to the picture's.
    vertical_first: order of the two; each rounds, so it can show.
  """

  height: int
  width: int
  size: int
  top: int
  left: int
  vertical: tuple[Band, ...]
  horizontal: tuple[Band, ...]
  vertical_first: bool

  @classmethod
  def create(
    cls, height: int, width: int, size: int, mode: str = "stretch"
  ) -> "Resizer":
    """Weights for one input shape.

    Args:
      height: of the input, in pixels.
      width: of the input, in pixels.
      size: side of the output, in pixels.
      mode: "stretch" (both sides to `size`) or "pad" (longer side to `size`,
        the other in proportion, rounded to a whole pixel; zeros around, half
        on either side and the odd one at the bottom or right).

    Returns:
      The resizer.

    Raises:
      InputError: unknown `mode`, or a side below 1.

    Example:
      >>> resizer = Resizer.create(2, 4, 4, mode="pad")
      >>> resizer(np.full((2, 4, 3), 9, np.uint8))[:, 0, 0]
      array([0, 9, 9, 0], dtype=uint8)
    """
    if min(height, width, size) < 1:
      raise InputError(
        f"a resize from {height} x {width} to {size} was asked for; every"
        " side must be at least 1 pixel: check the picture and the image size"
      )
    if mode == "stretch":
      inner_height = inner_width = size
    elif mode == "pad":
      scale = size / max(height, width)
      inner_height = max(1, round(height * scale))
      inner_width = max(1, round(width * scale))
    else:
      raise InputError(
        f"resize mode is {mode!r}; it must be one of stretch, pad: set the"
        " model's image resize to one of them"
      )
    return cls(
      height=height,
      width=width,
      size=size,
      top=(size - inner_height) // 2,
      left=(size - inner_width) // 2,
      vertical=_bands(_weights(height, inner_height)),
      horizontal=_bands(_weights(width, inner_width)),
      # Pillow 13's rule; before it, always False.
      vertical_first=(
        inner_height < height
        and height - inner_height > 2 * (width - inner_width)
      ),
    )

  def __call__(self, pixels: Frame) -> Frame:
    """u8[height, width, 3] -> u8[size, size, 3]."""
    chex.assert_type(pixels, np.uint8)
    chex.assert_shape(pixels, (self.height, self.width, 3))
    if self.vertical_first:
      picture = _resize_rows(
        self.horizontal, _resize_columns(self.vertical, pixels)
      )
    else:
      picture = _resize_columns(
        self.vertical, _resize_rows(self.horizontal, pixels)
      )
    height, width, channels = picture.shape
    if height == width == self.size:
      return np.ascontiguousarray(picture)
    square = np.zeros((self.size, self.size, channels), np.uint8)
    square[self.top : self.top + height, self.left : self.left + width] = (
      picture
    )
    return square


def resize(pixels: Frame, size: int, mode: str = "stretch") -> Frame:
  """Resizes one picture to a square, as PIL's BICUBIC does.

  Many pictures of one shape: `Resizer.create` once, then call it.

  Args:
    pixels: u8[height, width, 3], RGB.
    size: side of the output, in pixels.
    mode: "stretch" or "pad", see `Resizer.create`.

  Returns:
    u8[size, size, 3], RGB.

  Raises:
    InputError: unknown `mode`, or a side below 1.

  Example:
    >>> ramp = np.arange(0, 240, 40, np.uint8).reshape(1, 6, 1)
    >>> resize(np.tile(ramp, (6, 1, 3)), 3)[0, :, 0]
    array([ 22, 100, 178], dtype=uint8)

  Source: Keys, "Cubic convolution interpolation for digital image
  processing", 1981 (a = -0.5); rounding as in Pillow's 8-bit resampling.
  """
  chex.assert_rank(pixels, 3)
  height, width, _ = pixels.shape
  return Resizer.create(height, width, size, mode)(pixels)


def _weights(source: int, target: int) -> np.ndarray:
  """Resizing matrix of one axis: f64[target, source], multiples of 2^-22."""
  scale = source / target
  stretch = max(scale, 1.0)
  center = (np.arange(target)[:, None] + 0.5) * scale
  # The kernel is 0 from 2 pixels on; what falls outside is left out, and the
  # rest scaled to sum to 1.
  first = np.floor(center - 2.0 * stretch + 0.5)
  last = np.minimum(source, np.floor(center + 2.0 * stretch + 0.5))
  place = first + np.arange(math.ceil(4.0 * stretch) + 1)
  kernel = _cubic((place + 0.5 - center) / stretch)
  kernel = np.where((place >= 0) & (place < last), kernel, 0.0)
  kernel /= kernel.sum(axis=1, keepdims=True)
  weights = np.zeros((target, source))
  column = np.clip(place, 0, source - 1).astype(np.intp)
  np.add.at(weights, (np.arange(target)[:, None], column), kernel)
  scaled = weights * 2.0**FRACTION_BITS
  return np.trunc(scaled + np.copysign(0.5, scaled)) * 2.0**-FRACTION_BITS


def _cubic(x: np.ndarray) -> np.ndarray:
  """Keys' kernel with a = -0.5, at distance x in pixels."""
  x = np.abs(x)
  near = (1.5 * x - 2.5) * x * x + 1.0
  far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
  return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _bands(weights: np.ndarray) -> tuple[Band, ...]:
  """Cuts a banded matrix into dense pieces of `BLOCK` rows."""
  bands = []
  for start in range(0, len(weights), BLOCK):
    rows = weights[start : start + BLOCK]
    used = np.flatnonzero(rows.any(axis=0))
    low, high = int(used[0]), int(used[-1]) + 1
    bands.append(Band(start, low, np.ascontiguousarray(rows[:, low:high])))
  return tuple(bands)


def _resize_rows(bands: tuple[Band, ...], pixels: np.ndarray) -> np.ndarray:
  """u8[height, source, 3] -> u8[height, target, 3]."""
  turned = _resize_columns(bands, pixels.transpose(1, 0, 2))
  return turned.transpose(1, 0, 2)


def _resize_columns(bands: tuple[Band, ...], pixels: np.ndarray) -> np.ndarray:
  """u8[source, width, 3] -> u8[target, width, 3]."""
  flat = pixels.reshape(len(pixels), -1).astype(np.float64)
  target = bands[-1].start + len(bands[-1].weights)
  out = np.empty((target, flat.shape[1]), np.uint8)
  for band in bands:
    rows, columns = band.weights.shape
    total = band.weights @ flat[band.source_start :][:columns]
    total += 0.5
    # Assignment to bytes cuts the fraction off: floor, for what is left.
    out[band.start : band.start + rows] = np.clip(total, 0, 255, out=total)
  return out.reshape(target, *pixels.shape[1:])
