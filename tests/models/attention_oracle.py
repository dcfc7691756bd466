"""Inputs and a dense softmax in float64 that attention is compared with.

Sets of very different sizes: empty, one slot, exactly one work item (256), one
more, and more than eight items (2048 slots), so that every border of the work
list is crossed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.models import past_attention
from vrex_jax.models import work_list

LAYERS, BATCH, KV_HEADS, HEADS, WIDTH, SLOTS = 2, 2, 2, 4, 8, 2560
LAYER, LENGTH = 1, 3
FREQUENCIES = (1.0 / 100.0 ** (np.arange(0, WIDTH, 2) / WIDTH)).astype("f4")
SIZES = [0, 1, 256, 257, 700, 2100, 2560, 31]


def normal(seed, *shape):
  random = np.random.default_rng(seed)
  return random.standard_normal(shape).astype(np.float32)


KEYS = normal(0, LAYERS, BATCH, KV_HEADS, SLOTS, WIDTH)
VALUES = normal(1, LAYERS, BATCH, KV_HEADS, SLOTS, WIDTH)
STORED = {
  "per stream": np.sort(
    np.random.default_rng(2).integers(0, 9000, (BATCH, SLOTS))
  ).astype(np.int32),
  "per head": np.random.default_rng(3)
  .integers(0, 9000, (LAYERS, BATCH, KV_HEADS, SLOTS))
  .astype(np.int32),
}


def sets_of(rows, sizes):
  """Random sets of given sizes: b[B, A, S]."""
  random = np.random.default_rng(4)
  mask = np.zeros((BATCH * rows, SLOTS), bool)
  for line, size in zip(mask, sizes[: BATCH * rows], strict=True):
    line[random.choice(SLOTS, size, replace=False)] = True
  return mask.reshape(BATCH, rows, SLOTS)


def query_of(rows, seed=5):
  return normal(seed, BATCH, rows, LENGTH * HEADS // rows, WIDTH)


def rotated(keys, shift):
  """Keys [..., H] turned by `shift` positions [...], in float64."""
  angle = shift[..., None] * FREQUENCIES.astype(np.float64)
  first, second = np.split(keys.astype(np.float64), 2, axis=-1)
  cosine, sine = np.cos(angle), np.sin(angle)
  return np.concatenate(
    [first * cosine - second * sine, second * cosine + first * sine], axis=-1
  )


def per_row(array, rows):
  """[B, K, S, …] of one layer -> [B, A, S, …]."""
  return np.repeat(array, rows // KV_HEADS, axis=1)


def dense(query, key, value, mask):
  """out and lse over the keys of a mask: [B, A, M, H], [B, A, S, H] twice."""
  query, key, value = (x.astype(np.float64) for x in (query, key, value))
  scores = np.einsum("bamh,bash->bams", query, key) / WIDTH**0.5
  scores = np.where(mask[:, :, None], scores, -np.inf)
  top = np.maximum(scores.max(axis=-1), -1e300)
  weights = np.exp(scores - top[..., None])
  total = weights.sum(axis=-1)
  with np.errstate(divide="ignore"):
    lse = top + np.log(total)
  out = np.einsum("bams,bash->bamh", weights, value)
  return out / np.maximum(total, 1e-300)[..., None], lse


def close(partial, expected, tolerance=1e-5):
  np.testing.assert_allclose(
    partial.out, expected[0], rtol=tolerance, atol=tolerance
  )
  np.testing.assert_allclose(
    partial.lse, expected[1], rtol=tolerance, atol=tolerance
  )


WORK_LIST = jax.jit(past_attention.work_list_attention, static_argnums=5)
PREFIX = jax.jit(past_attention.prefix_attention, static_argnums=5)


def rotation_of(kind, stored):
  """The rotation and its shift: rule "rank" or "fixed"."""
  if kind is None:
    return None
  target = jnp.asarray([40, 7], jnp.int32) if kind == "fixed" else None
  return work_list.KeyRotation(
    jnp.asarray(STORED[stored]), jnp.asarray(FREQUENCIES), target
  )


def moved_keys(kind, stored, mask):
  """Keys per row [B, A, S, H], turned one by one to where the rule says."""
  rows = mask.shape[1]
  keys = per_row(KEYS[LAYER], rows)
  if kind is None:
    return keys
  position = STORED[stored]
  if stored == "per head":
    position = per_row(position[LAYER], rows)
  else:
    position = np.broadcast_to(position[:, None], mask.shape)
  target = np.cumsum(mask, axis=-1) - 1
  if kind == "fixed":
    target = np.broadcast_to(np.array([40, 7])[:, None, None], mask.shape)
  return rotated(keys, target - position)


def chunk_inputs():
  query = normal(8, BATCH, HEADS, 5, WIDTH)
  key = normal(9, BATCH, KV_HEADS, 5, WIDTH)
  value = normal(10, BATCH, KV_HEADS, 5, WIDTH)
  valid = np.array(
    [[True, True, True, True, False], [False, True] * 2 + [True]]
  )
  return query, key, value, valid


def chunk_mask(valid):
  """b[B, N, T, T]: causal, valid keys, and every token itself."""
  causal = np.tril(np.ones((5, 5), bool)) & valid[:, None, :]
  return np.repeat((causal | np.eye(5, dtype=bool))[:, None], HEADS, axis=1)


def small_problem(rows, seed=16):
  """64 slots, sets of 0, 1, 20 and 64 …: for finite differences."""
  keys = normal(seed, 2, 1, 2, 512, WIDTH)
  values = normal(seed + 1, 2, 1, 2, 512, WIDTH)
  query = normal(seed + 2, 1, rows, LENGTH * HEADS // rows, WIDTH)
  mask = np.zeros((1, rows, 512), bool)
  random = np.random.default_rng(seed)
  for row, size in enumerate([300, 0, 1, 20][-rows:]):
    mask[0, row, random.choice(512, size, replace=False)] = True
  return query, keys, values, mask
