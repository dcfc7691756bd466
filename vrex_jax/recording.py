"""A recorded stream: the queries, keys and values of every chunk.

`stream_video.py --record` writes them to `record.npz`; `replay.py` runs
policies on them.
"""

import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError

__all__ = [
  "Chunk",
  "Recording",
  "branches_of",
  "chunks_of",
  "from_arrays",
  "load",
]


class Recording(NamedTuple):
  """Static. One recorded stream, chunks end to end; host arrays.

  Attributes:
    query: rotated.
    key: rotated.
    value: values.
    position: of every token.
    frame: of every token.
    kind: stage of every token.
    valid: the stream has a token here.
    event: chunk of every token, from 0.
    frequencies: radians per position.
    query_next: rotated; of layer l, what layer l + 1's projection makes of
      layer l's input.
  """

  query: np.ndarray  # f[L, N, ΣT, H]
  key: np.ndarray  # f[L, K, ΣT, H]
  value: np.ndarray  # f[L, K, ΣT, H]
  position: np.ndarray  # i32 [ΣT]
  frame: np.ndarray  # i32 [ΣT]
  kind: np.ndarray  # i8 [ΣT]
  valid: np.ndarray  # b [ΣT]
  event: np.ndarray  # i32 [ΣT]
  frequencies: np.ndarray  # f32 [H / 2]
  query_next: np.ndarray  # f[L, N, ΣT, H]


class Chunk(NamedTuple):
  """Static. One event of a recording.

  Attributes:
    stage: "prompt", "frame", "question" or "answer".
    first: index of its first token.
    last: index behind its last token.
    undone: a later event begins no later in the stream, so that this one was
      taken back.
  """

  stage: str
  first: int
  last: int
  undone: bool


def load(path: str | pathlib.Path, stream_index: int = 0) -> Recording:
  """Reads one stream of a `record.npz`.

  Raises:
    InputError: no such file, or not a recording with queries, keys and values.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      missing = [name for name in Recording._fields if name not in arrays]
      if missing:
        raise InputError(
          f"{path} has no {', '.join(missing)}; a recording of stream_video.py"
          " is expected: run it with --record"
        )
      return from_arrays(dict(arrays), stream_index)
  except (
    OSError,
    EOFError,
    ValueError,
    TypeError,  # an .npy file is one array, not a folder of them
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    if isinstance(error, InputError):
      raise
    reason = "it is no .npz archive"
    if isinstance(error, OSError):
      reason = str(error.strerror or error)
    raise InputError(
      f"{path} cannot be read as a recording ({reason}); the record.npz of a"
      " run folder is expected: run stream_video.py with --record"
    ) from error


def from_arrays(
  arrays: dict[str, np.ndarray], stream_index: int = 0
) -> Recording:
  """One stream of the arrays that a `record.npz` holds."""
  heads = lambda name: arrays[name][:, stream_index]
  tokens = lambda name: arrays[name][stream_index]
  return Recording(
    heads("query"),
    heads("key"),
    heads("value"),
    tokens("position"),
    tokens("frame"),
    tokens("kind"),
    tokens("valid"),
    arrays["event"],
    arrays["frequencies"],
    heads("query_next"),
  )


def chunks_of(recording: Recording) -> list[Chunk]:
  """The events of a recording, in order."""
  bounds = np.flatnonzero(np.diff(recording.event)) + 1
  spans = zip(
    [0, *bounds.tolist()], [*bounds.tolist(), len(recording.event)], strict=True
  )
  chunks: list[Chunk] = []
  earliest = np.inf
  for first, last in reversed(list(spans)):
    begins = recording.position[first]
    chunks.append(
      Chunk(
        policy_lib.STAGES[int(recording.kind[first])],
        first,
        last,
        bool(begins >= earliest),
      )
    )
    earliest = min(earliest, begins)
  return chunks[::-1]


def branches_of(recording: Recording, chunks: list[Chunk]) -> list[int]:
  """Which chunks belong to the same question that was taken back.

  Args:
    recording: of the chunks.
    chunks: of `chunks_of`.

  Returns:
    For each chunk -1 where it stays in the stream, else the number of its
    branch: it goes on where the one before it ends, or begins another branch.
  """
  branches: list[int] = []
  newest, end = -1, -1
  for chunk in chunks:
    goes_on = bool(branches) and branches[-1] >= 0
    goes_on = goes_on and int(recording.position[chunk.first]) == end
    if chunk.undone and not goes_on:
      newest += 1
    branches.append(newest if chunk.undone else -1)
    end = int(recording.position[chunk.last - 1]) + 1
  return branches
