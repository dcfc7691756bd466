"""The resize equals PIL's BICUBIC; padding is what it says it is."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL
import pytest
from PIL import Image

from vrex_jax import errors
from vrex_jax import resize as resize_lib

PILLOW = int(PIL.__version__.split(".")[0])
SHAPES = [
  (432, 768, 384),
  (360, 640, 384),
  (270, 480, 384),
  (64, 48, 23),
  (48, 64, 23),
  (31, 33, 97),
  (33, 31, 96),
  (97, 53, 31),
  (384, 384, 384),
  (400, 400, 399),
  (5, 400, 3),
  (400, 5, 7),
  (1, 1, 7),
  (2, 3, 1),
]


def pillow(pixels, height, width):
  """PIL's result, in this package's order of the two passes.

  Up to Pillow 12 rows always came first. One pass at a time gives either order
  with any Pillow, since each pass rounds to bytes.
  """
  source_height, source_width, _ = pixels.shape
  picture = Image.fromarray(pixels)
  shrinks_much = source_height - height > 2 * (source_width - width)
  if height < source_height and shrinks_much:
    picture = picture.resize((source_width, height), Image.Resampling.BICUBIC)
  else:
    picture = picture.resize((width, source_height), Image.Resampling.BICUBIC)
  return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width):
  """Gentle waves over the whole range, a different one in each channel."""
  y, x = np.mgrid[:height, :width]
  waves = [
    np.sin(2 * np.pi * (x / width * (c + 1) + y / height + c / 3))
    for c in range(3)
  ]
  return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def largest_difference(left, right):
  return int(np.abs(left.astype(int) - right.astype(int)).max())


@pytest.mark.parametrize("picture", [noise, smooth])
@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_stretch_equals_pil_byte_for_byte(height, width, size, picture):
  pixels = picture(height, width)
  out = resize_lib.resize(pixels, size)
  assert out.shape == (size, size, 3)
  assert out.dtype == np.uint8
  assert out.flags.c_contiguous
  np.testing.assert_array_equal(out, pillow(pixels, size, size))


@hypothesis.given(
  height=st.integers(1, 40),
  width=st.integers(1, 40),
  size=st.integers(1, 40),
  seed=st.integers(0, 99),
)
def test_stretch_equals_pil_at_any_shape(height, width, size, seed):
  pixels = noise(height, width, seed)
  np.testing.assert_array_equal(
    resize_lib.resize(pixels, size), pillow(pixels, size, size)
  )


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_stretch_is_within_one_of_pil_in_one_call(height, width, size):
  """As a user would call PIL; smooth pictures, where the order cannot show."""
  pixels = smooth(height, width)
  expected = Image.fromarray(pixels).resize(
    (size, size), Image.Resampling.BICUBIC
  )
  out = resize_lib.resize(pixels, size)
  assert largest_difference(out, np.asarray(expected)) <= 1


@pytest.mark.skipif(PILLOW < 13, reason="Pillow 13 chooses the order of passes")
@hypothesis.given(
  height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40)
)
def test_order_of_passes_is_pils(height, width, size):
  """Noise of black and white overshoots, so the order shows at once."""
  pixels = np.where(noise(height, width) < 128, 0, 255).astype(np.uint8)
  expected = Image.fromarray(pixels).resize(
    (size, size), Image.Resampling.BICUBIC
  )
  np.testing.assert_array_equal(
    resize_lib.resize(pixels, size), np.asarray(expected)
  )


@pytest.mark.parametrize(
  ("height", "width", "inner"),
  [
    (60, 90, (27, 40)),
    (90, 60, (40, 27)),
    (50, 50, (40, 40)),
    (1, 90, (1, 40)),
  ],
)
def test_pad_is_a_centred_stretch_on_zeros(height, width, inner):
  size = 40
  pixels = np.maximum(noise(height, width), 1)
  out = resize_lib.resize(pixels, size, "pad")
  top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
  expected = np.zeros((size, size, 3), np.uint8)
  expected[top : top + inner[0], left : left + inner[1]] = pillow(
    pixels, *inner
  )
  np.testing.assert_array_equal(out, expected)


def test_one_colour_stays():
  pixels = np.full((37, 91, 3), (3, 128, 252), np.uint8)
  assert (resize_lib.resize(pixels, 50) == (3, 128, 252)).all()


def test_same_size_changes_nothing():
  pixels = noise(29, 29)
  np.testing.assert_array_equal(resize_lib.resize(pixels, 29), pixels)


def test_input_need_not_be_contiguous():
  pixels = noise(40, 60)
  np.testing.assert_array_equal(
    resize_lib.resize(pixels[::-1, ::2], 17),
    resize_lib.resize(np.ascontiguousarray(pixels[::-1, ::2]), 17),
  )


def test_resizer_is_reused_and_leaves_its_input_alone():
  resizer = resize_lib.Resizer.create(20, 30, 12)
  pixels = noise(20, 30)
  before = pixels.copy()
  first, second = resizer(pixels), resizer(255 - pixels)
  np.testing.assert_array_equal(pixels, before)
  np.testing.assert_array_equal(first, resizer(pixels))
  assert (first != second).any()


def test_another_shape_or_dtype_is_refused():
  resizer = resize_lib.Resizer.create(20, 30, 12)
  with pytest.raises(AssertionError, match="shape"):
    resizer(noise(30, 20))
  with pytest.raises(AssertionError, match="type"):
    resizer(noise(20, 30).astype(np.float32))


def test_unknown_mode_and_empty_sides_are_named():
  with pytest.raises(errors.InputError, match=r"'crop'.*stretch, pad"):
    resize_lib.resize(noise(4, 4), 4, "crop")
  with pytest.raises(errors.InputError, match="4 x 0 to 4"):
    resize_lib.resize(noise(4, 0), 4)
  with pytest.raises(errors.InputError, match="4 x 4 to 0"):
    resize_lib.resize(noise(4, 4), 0)
