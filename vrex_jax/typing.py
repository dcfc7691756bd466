"""Letters for array axes, and aliases that name what an array holds.

Every shape in a docstring or trailing comment uses this table, and nothing
else in the package is named by a single letter.

  ======  ==================================================================
  letter  axis
  ======  ==================================================================
  B       batch: independent video streams
  X       events: one per frame, question chunk or generated token
  F       frames of one block
  T       new tokens of one chunk (a frame, a question chunk, one answer token)
  S       slots of the KV cache
  L       decoder layers
  N       query heads
  K       KV heads
  G       query heads that share one KV head, G = N / K
  A       selection rows: K or N, one selected set of slots each
  M       query rows that share one selected set, M = T N / A
  R       cluster tables of a layer: K, or 1 for all heads
  W       32-bit words of a packed set or code
  H       head dimension
  D       model (hidden) dimension
  C       clusters a table can hold
  P       hash bits
  E       extra key rows a selection adds (summaries, prototypes)
  ======  ==================================================================

dtypes in shapes: f (floating), i32, u32, i8, b (bool).
"""

from typing import Any

import jax
import numpy as np

__all__ = [
  "Array",
  "Bitmap",
  "Bool",
  "Float",
  "Frame",
  "Int",
  "Parameters",
  "PyTree",
  "Tokens",
]

Array = jax.Array
Float = jax.Array
"""Floating array."""
Int = jax.Array
"""Integer array, i32 unless said otherwise."""
Bool = jax.Array
"""Boolean array."""
Bitmap = jax.Array
"""A set of slots: u32[..., S / 32], slot s is bit s % 32 of word s // 32."""
Tokens = jax.Array
"""Token ids, i32."""
Frame = np.ndarray
"""One decoded picture on the host: uint8[height, width, 3], RGB."""
Parameters = Any
"""A plain nested dict of arrays, per-layer leaves."""
PyTree = Any
