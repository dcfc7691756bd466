"""The past of a stream and its clusters, written on as a walk goes along.

Layers and KV heads are one axis here, A = L · K. Arrays lie so that what a
chunk reads is in one piece: keys and sums of keys by width first, members by
slot first.
"""

import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax import recording as recording_lib
from vrex_jax.codesign import assignment

__all__ = ["Saved", "Slots", "Table"]

Saved = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What a table was before a question: sums, counts, clusters in use."""


class Slots:
  """Keys, positions and frames of the past, up to a cursor.

  Attributes:
    key: rotated, f32[A, H, slots].
    position: i64[slots].
    frame: i64[slots]; -1 where a token is of no frame.
    cursor: slots in use.
  """

  def __init__(self, recording: recording_lib.Recording):
    layers, heads, tokens, width = recording.key.shape
    self.key = np.zeros((layers * heads, width, tokens), np.float32)
    self.position = np.zeros(tokens, np.int64)
    self.frame = np.zeros(tokens, np.int64)
    self.cursor = 0

  def append(self, recording: recording_lib.Recording, span: slice) -> slice:
    """Writes tokens of a recording, and says where they lie."""
    heads, width, _ = self.key.shape
    end = self.cursor + span.stop - span.start
    place = slice(self.cursor, end)
    key = recording.key[:, :, span].astype(np.float32)
    self.key[:, :, place] = key.reshape(heads, -1, width).swapaxes(1, 2)
    self.position[place] = recording.position[span]
    is_frame = recording.kind[span] == policy_lib.STAGES.index("frame")
    self.frame[place] = np.where(is_frame, recording.frame[span], -1)
    self.cursor = end
    return place


class Table:
  """Clusters of one static choice.

  Attributes:
    cluster: of every token of the recording, i32[A, tokens].
    number: clusters once a token is in, i32[A, tokens].
    size: most clusters there will be.
    total: sum of the members' keys, f32[A, H, size].
    count: members, i64[A, size].
    member: cluster of every slot of the past, counted through all heads
      (a · size + cluster), i64[slots, A].
    filled: clusters in use, i64[A].
  """

  def __init__(
    self, opener: np.ndarray, branch: np.ndarray, heads: int, width: int
  ):
    layers, tables, tokens = opener.shape
    cluster, number = assignment.columns(opener, branch)
    wide = lambda array: np.repeat(array, heads // tables, axis=1).reshape(
      layers * heads, tokens
    )
    self.cluster, self.number = wide(cluster), wide(number)
    self.size = int(self.number.max())
    self.total = np.zeros((layers * heads, width, self.size), np.float32)
    self.count = np.zeros((layers * heads, self.size), np.int64)
    self.member = np.zeros((tokens, layers * heads), np.int64)
    self.filled = np.zeros(layers * heads, np.int64)

  def insert(self, key: np.ndarray, span: slice, place: slice) -> None:
    """Tokens of a chunk join, one after the other.

    Args:
      key: f32[A, H, T].
      span: tokens of the recording.
      place: slots they lie in.
    """
    heads = np.arange(len(self.count))
    joined = self.cluster[:, span]
    self.member[place] = (joined + heads[:, None] * self.size).T
    for offset in range(joined.shape[1]):
      self.total[heads, :, joined[:, offset]] += key[:, :, offset]
      self.count[heads, joined[:, offset]] += 1
    self.filled = self.number[:, span.stop - 1]

  def by_cluster(
    self, slots: np.ndarray | slice, weights: np.ndarray | None = None
  ) -> np.ndarray:
    """Sums over members: f64[A, size], or i64 numbers of them.

    Args:
      slots: which.
      weights: f64[slots, A]; 1 each when None.
    """
    flat = None if weights is None else weights.ravel()
    summed = np.bincount(self.member[slots].ravel(), flat, self.count.size)
    return summed.reshape(self.count.shape)

  def save(self) -> Saved:
    """What a question that is taken back will change."""
    most = int(self.filled.max(initial=0))
    sums, counts = self.total[..., :most], self.count[:, :most]
    return sums.copy(), counts.copy(), self.filled

  def restore(self, saved: Saved) -> None:
    """Takes a question back."""
    sums, counts, self.filled = saved
    most = counts.shape[1]
    self.total[..., :most], self.total[..., most:] = sums, 0.0
    self.count[:, :most], self.count[:, most:] = counts, 0
