"""ReSV's `write` and `select` on keys and queries written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import testing
from vrex_jax.models import cache as cache_lib

SLOTS, WIDTH = 96, 8


@functools.cache
def programs(choices):
  """A policy, and its `write` and `select` compiled; knobs are traced."""
  text = f"resv(sink_tokens=0, {choices})".replace(", )", ")")
  if "sink_tokens" in choices:
    text = f"resv({choices})"
  policy = policy_syntax.make_policy(text)
  write = jax.jit(policy.write, static_argnums=3)
  return policy, write, jax.jit(policy.select, static_argnums=(2, 4))


class Direct:
  """One stream of a policy without a model: one layer, heads of 8.

  No sinks unless `choices` has some. Chunks and queries are padded, so
  that tests share programs.
  """

  def __init__(self, choices="", *, heads=1, group=1, ratio=0.3, threshold=7):
    self.policy, self._write, self._select = programs(choices)
    self.heads, self.group = heads, group
    decoder = testing.decoder_config(
      num_heads=heads * group, group_size=group, num_layers=1, head_dim=WIDTH
    )
    spec = policy_lib.Spec(
      decoder=decoder, num_slots=SLOTS, capacity=SLOTS, chunk_tokens=()
    )
    knobs = {"wicsum_ratio": ratio, "hamming_threshold": threshold}
    self.state = self.policy.init(spec, {}, knobs, None)
    self.valid = np.zeros(SLOTS, bool)
    self.position = np.zeros(SLOTS, np.int32)
    self.cursor = 0

  @property
  def view(self):
    nothing = jnp.zeros((1, self.heads, SLOTS, WIDTH))
    return policy_lib.View(
      slots=cache_lib.SlotTable(
        valid=jnp.asarray(self.valid),
        position=jnp.asarray(self.position),
        frame=jnp.zeros(SLOTS, jnp.int32),
        kind=jnp.zeros(SLOTS, jnp.int8),
      ),
      live=bitmap.pack(jnp.asarray(self.valid)),
      cursor=jnp.int32(self.cursor),
      seen=jnp.int32(self.valid.sum()),
      key=nothing,
      value=nothing,
    )

  def write(self, keys, *, raw=None, valid=None, stage="frame"):
    """Keys [K, T, H], or [T, H] for all heads; the counts i32[K]."""
    raw = self._all_heads(keys if raw is None else raw)
    keys = self._all_heads(keys)
    length = keys.shape[2]
    valid = np.ones(length, bool) if valid is None else np.asarray(valid)
    where = slice(self.cursor, self.cursor + length)
    position = self.valid.sum() + np.cumsum(valid) - 1
    self.valid[where], self.position[where] = valid, position
    padding = 40 - length
    keys, raw = (
      np.pad(one, ((0, 0), (0, 0), (0, padding), (0, 0)), mode="edge")
      for one in (keys, raw)
    )
    valid, position = (
      np.pad(valid, (0, padding)),
      np.pad(position, (0, padding)),
    )
    chunk = policy_lib.Chunk(
      k_rotated=jnp.asarray(keys),
      k_raw=jnp.asarray(raw),
      v=jnp.zeros(keys.shape),
      queries=jnp.zeros((1, self.heads * self.group, *keys.shape[2:])),
      position=jnp.asarray(position, jnp.int32),
      frame=jnp.zeros(valid.shape, jnp.int32),
      kind=jnp.zeros(valid.shape, jnp.int8),
      valid=jnp.asarray(valid),
      start=jnp.int32(self.cursor),
      first=jnp.asarray(False),
      last=jnp.asarray(False),
    )
    self.state, keep, counts = self._write(self.state, self.view, chunk, stage)
    assert keep is None
    self.cursor += length
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], counts)

  def _all_heads(self, keys):
    keys = np.asarray(keys, np.float32)
    return np.broadcast_to(keys, (self.heads, *keys.shape[-2:]))[None]

  def queries(self, queries, valid=None):
    """Queries [N, T, H], or [T, H] for all heads."""
    rows = np.asarray(queries, np.float32)
    heads = self.heads * self.group
    rows = np.broadcast_to(rows, (heads, *rows.shape[-2:]))
    valid = np.ones(rows.shape[1], bool) if valid is None else np.asarray(valid)
    padding = 4 - rows.shape[1]
    rows = jnp.asarray(
      np.pad(rows, ((0, 0), (0, padding), (0, 0)), mode="edge")
    )
    valid = np.pad(valid, (0, padding))
    return policy_lib.Queries(
      rotated=rows,
      unrotated=rows,
      position=jnp.arange(4, dtype=jnp.int32),
      kind=jnp.zeros(4, jnp.int8),
      valid=jnp.asarray(valid),
      first=jnp.asarray(False),
      last=jnp.asarray(False),
    )

  def select(self, queries, *, valid=None, stage="frame"):
    """Slots of every head, as lists; the counts i32[K]."""
    asked = self.queries(queries, valid)
    selection, self.state, counts = self._select(
      self.state, self.view, 0, asked, stage
    )
    (part,) = selection.parts
    chosen = np.asarray(bitmap.unpack(part.slots)) & self.valid
    slots = [np.nonzero(row)[0].tolist() for row in chosen]
    return slots, jax.tree.map(np.asarray, counts)

  def member(self):
    """Cluster of every written slot: i32[R, cursor]."""
    return np.asarray(self.state.table.member)[0, :, : self.cursor]


def axis(*scales):
  """A key along the first axes: axis(2) = 2 e₁, axis(0, 1) = e₂."""
  return np.pad(np.asarray(scales, np.float32), (0, WIDTH - len(scales)))
