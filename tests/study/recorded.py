"""Recordings made by hand: contents that come back, no model, no video."""

import numpy as np

from vrex_jax import recording as recording_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary

CONTENTS = 8
"""Tokens of a frame; every frame shows the same ones."""


def recording(
  *, layers=2, heads=4, kv_heads=2, width=16, frames=24, noise=0.2, seed=0
):
  """Frames of tokens that come back: eight contents, noise, rotated keys.

  A layer guesses the query of the next one without error.
  """
  random = np.random.default_rng(seed)
  tokens = CONTENTS * frames
  frequencies = np.asarray(
    rotary.inverse_frequencies(config_lib.RopeConfig(), width)
  )
  contents = random.standard_normal((layers, kv_heads, CONTENTS, width))
  base = np.tile(contents, (1, 1, frames, 1))
  key = base + noise * random.standard_normal(base.shape)
  wide = np.repeat(base, heads // kv_heads, axis=1)
  query = wide + 0.5 * random.standard_normal(wide.shape)
  single = lambda array: array.astype(np.float32)
  return recording_lib.Recording(
    query=single(query),
    key=single(key),
    value=single(random.standard_normal(key.shape)),
    position=np.arange(tokens, dtype=np.int32),
    frame=np.repeat(np.arange(frames, dtype=np.int32), CONTENTS),
    kind=np.ones(tokens, np.int8),
    valid=np.ones(tokens, bool),
    event=np.repeat(np.arange(frames, dtype=np.int32), CONTENTS),
    frequencies=frequencies,
    query_next=np.roll(single(query), -1, axis=0),
  )


def save(path, one):
  """Writes a recording as a run with --record does: a batch of one stream."""
  arrays = {
    name: array[:, None] if array.ndim == 4 else array[None]
    for name, array in one._asdict().items()
  }
  for name in ("event", "frequencies"):
    arrays[name] = getattr(one, name)
  np.savez(path, **arrays)
