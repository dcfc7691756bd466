"""Turned and mirrored pictures are shown as their file says."""

import struct

import numpy as np
import pytest

from tests import films
from vrex_jax import video

ONE = 1 << 16
UPRIGHT_MATRIX = (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)


def write_with_matrix(path, matrix):
  """Three frames, bright in the top left corner, shown through a matrix.

  QuickTime's matrix (a b u / c d v / x y w) takes a point (p, q), q downwards,
  to (a p + c q + x, b p + d q + y). It is put into the track header.
  """
  pixels = np.zeros((48, 64, 3), np.uint8)
  pixels[:16, :16] = 255
  films.write(path, [pixels] * 3)
  data = path.read_bytes()
  assert data.count(struct.pack(">9i", *UPRIGHT_MATRIX)) == 2
  place = data.rindex(struct.pack(">9i", *UPRIGHT_MATRIX))
  assert data.rindex(b"tkhd") < place
  patch = struct.pack(">9i", *matrix)
  path.write_bytes(data[:place] + patch + data[place + len(patch) :])
  return path


@pytest.mark.parametrize(
  ("matrix", "size", "corner"),
  [
    (UPRIGHT_MATRIX, (48, 64), "top left"),
    ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "top right"),
    ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (48, 64), "bottom right"),
    ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "bottom left"),
    ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), (48, 64), "top right"),
    ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), (48, 64), "bottom left"),
    ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "top left"),
    ((0, -ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), (64, 48), "bottom right"),
    ((0,) * 9, (48, 64), "top left"),
  ],
  ids=[
    "none",
    "clockwise",
    "half",
    "counter-clockwise",
    "mirrored across",
    "mirrored down",
    "transposed",
    "transposed, half",
    "broken",
  ],
)
def test_the_display_matrix_is_applied(tmp_path, matrix, size, corner):
  path = write_with_matrix(tmp_path / "a.mp4", matrix)
  info = video.probe(path)
  assert (info.height, info.width) == size
  for frame in video.read_frames(path, fps=10):
    assert frame.pixels.shape == (*size, 3)
    assert frame.pixels.flags.c_contiguous
    brightness = {
      "top left": frame.pixels[:12, :12].mean(),
      "top right": frame.pixels[:12, -12:].mean(),
      "bottom left": frame.pixels[-12:, :12].mean(),
      "bottom right": frame.pixels[-12:, -12:].mean(),
    }
    assert brightness.pop(corner) > 200
    assert max(brightness.values()) < 50
