"""The functions of a policy alone, on random queries, keys and values.

What the driver does for one stream, in numpy: append, select, feedback, write,
evict. No decoder runs, so a policy's own arithmetic is all that is compiled,
and an oracle finds everything it needs in plain arrays.
"""

import copy
import types

import jax
import jax.numpy as jnp
import numpy as np

from tests import reference
from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.models import cache as cache_lib
from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary

LAYERS, WIDTH, CAPACITY, SLOTS = 2, 8, 120, 128
STAGES = policy_lib.STAGES


def unpack(words):
  return np.asarray(bitmap.unpack(jnp.asarray(words)))


def highest(score, number):
  """Mask of the `number` best scores above -inf, the first of equal ones."""
  order = np.argsort(-score, kind="stable")[: max(int(number), 0)]
  mask = np.zeros(score.shape, bool)
  mask[order] = True
  return mask & (score > -np.inf)


def projections(heads, kv_heads):
  """Random query and key kernels of every layer."""
  random = np.random.default_rng(7)
  draw = lambda number: {
    "kernel": random.standard_normal((heads * WIDTH, number * WIDTH))
  }
  return {
    "decoder": {
      f"layers_{layer}": {"q_proj": draw(heads), "k_proj": draw(kv_heads)}
      for layer in range(LAYERS)
    }
  }


def fresh(array):
  """A copy on the device of an array that changes later.

  A transfer may still be under way when `jnp.array` returns.
  """
  return jnp.asarray(np.array(array))


class Bare:
  """One stream under one policy.

  Arrays: key, raw, value [L, K, S, H]; valid [L, K, S]; position, frame, kind
  [S]. `query` is the last chunk's, rotated, [L, N, T, H].
  """

  def __init__(
    self, policy, *, group=2, kv_heads=2, knobs=None, jit=True, seed=0,
    chunk_tokens=6, sample=None, params=None, layers=LAYERS, lookahead=0,
  ):  # fmt: skip
    self.policy, self.group, self.kv_heads = policy, group, kv_heads
    self.layers, self.lookahead = layers, lookahead
    self.sample = sample
    self.heads = group * kv_heads
    self.params = params or projections(self.heads, kv_heads)
    decoder = config_lib.DecoderConfig(
      vocab_size=1, hidden_size=self.heads * WIDTH, intermediate_size=1,
      num_layers=layers, num_heads=self.heads, num_kv_heads=kv_heads,
      head_dim=WIDTH,
    )  # fmt: skip
    self.spec = policy_lib.Spec(
      decoder=decoder, num_slots=SLOTS, capacity=CAPACITY,
      chunk_tokens=tuple((stage, chunk_tokens) for stage in STAGES),
    )  # fmt: skip
    self.frequencies = np.asarray(
      rotary.inverse_frequencies(decoder.rope, WIDTH), np.float64
    )
    compiled = (
      jax.jit(policy.select, static_argnums=(2, 4)),
      jax.jit(policy.write, static_argnums=3),
    )
    self._functions = {True: compiled, False: (policy.select, policy.write)}
    self._begin(knobs, jit, seed)

  def again(self, knobs=None, *, jit=True, seed=0):
    """A new stream of the same policy; what is compiled is kept."""
    other = copy.copy(self)
    other._begin(knobs, jit, seed)
    return other

  def _begin(self, knobs, jit, seed):
    knobs = {**self.policy.knobs, **(knobs or {})}
    self.state = jax.tree.map(
      jnp.asarray,
      self.policy.init(self.spec, self.params, knobs, self.sample),
    )
    self._select, self._write = self._functions[jit]
    self.random = np.random.default_rng(seed)
    shape = (self.layers, self.kv_heads, SLOTS, WIDTH)
    self.key, self.raw, self.value = (np.zeros(shape, "f4") for _ in range(3))
    self.valid = np.zeros(shape[:-1], bool)
    self.position = np.zeros(SLOTS, np.int32)
    self.frame = np.full(SLOTS, -1, np.int32)
    self.kind = np.zeros(SLOTS, np.int8)
    self.cursor = self.seen = self.frames = 0

  def view(self):
    evicts = self.policy.needs.evicts
    wide = lambda row: np.broadcast_to(row, self.valid.shape) if evicts else row
    valid = self.valid if evicts else self.valid[0, 0]
    # Copies: the arrays change while a compiled function may still read them.
    return policy_lib.View(
      slots=cache_lib.SlotTable(
        *map(
          fresh,
          (valid, wide(self.position), wide(self.frame), wide(self.kind)),
        )
      ),
      live=bitmap.pack(fresh(valid)),
      cursor=jnp.int32(self.cursor),
      seen=jnp.int32(self.seen),
      key=fresh(self.key),
      value=fresh(self.value),
    )

  def turn(self, x, position):
    """Rotates the last two axes [tokens, H] of an array."""
    flat = x.reshape(-1, *x.shape[-2:])
    turned = [reference.rotate(one, position, self.frequencies) for one in flat]
    return np.stack(turned).reshape(x.shape).astype("f4")

  def live(self, layer=0, head=0):
    """Slots of the past, in time order."""
    return np.nonzero(self.valid[layer, head, : self.cursor])[0]

  def chunk(self, stage="frame", length=4, valid=None, first=False, last=False,
            inputs=None):  # fmt: skip
    """Feeds a chunk; returns what each layer selected: (selections, counts)."""
    draw = lambda heads: self.random.standard_normal(
      (self.layers, heads, length, WIDTH)
    ).astype("f4")
    query_raw, raw, value = inputs or (
      draw(self.heads), draw(self.kv_heads), draw(self.kv_heads),
    )  # fmt: skip
    self.open(stage, length, length if valid is None else valid, first, last)
    self.append(raw, value)
    self.query = self.turn(query_raw, self.now.position)
    found = []
    for layer in range(self.layers):
      found.append(self.ask(layer, query_raw[layer]))
      if self.policy.needs.mass and found[-1][1] is not None:
        self.hear(layer, self._mass(found[-1][0], layer))
    self.close(query_raw)
    return found

  def open(self, stage, length, valid, first=False, last=False):
    """Begins a chunk of `length` tokens, of which the first `valid` count."""
    offset = np.minimum(np.arange(length), max(valid - 1, 0))
    self.now = types.SimpleNamespace(
      stage=stage, kind=STAGES.index(stage), start=self.cursor, valid=valid,
      position=self.seen + offset, there=np.arange(length) < valid,
      first=jnp.asarray(first), last=jnp.asarray(last),
    )  # fmt: skip
    # The live slots before the chunk.
    self.before = self.valid & (np.arange(SLOTS) < self.cursor)

  def append(self, raw, value):
    """The chunk's keys and values of all layers: [L, K, T, H]."""
    new = slice(self.now.start, self.now.start + raw.shape[2])
    self.key[:, :, new] = self.turn(raw, self.now.position)
    self.raw[:, :, new], self.value[:, :, new] = raw, value

  def ask(self, layer, query_raw):
    """What a layer selects for queries [N, T, H], and its counts or None."""
    now = self.now
    if not policy_lib.retrieves(
      self.policy.needs, now.stage, layer, self.lookahead
    ):
      return policy_lib.attend_all(), None
    queries = policy_lib.Queries(
      jnp.asarray(self.turn(query_raw, now.position)),
      jnp.asarray(query_raw, jnp.float32),
      jnp.asarray(now.position, jnp.int32),
      jnp.full(now.there.shape, now.kind, jnp.int8),
      jnp.asarray(now.there), now.first, now.last,
    )  # fmt: skip
    selection, self.state, counts = self._select(
      self.state, self.view(), layer, queries, now.stage
    )
    # What was given may lie in arrays that change next.
    jax.block_until_ready((self.state, jax.tree.leaves(selection)))
    return selection, counts

  def hear(self, layer, mass):
    """Attention f[A, S] that a layer's slots received."""
    self.state = self.policy.feedback(
      self.state, layer, jnp.asarray(mass, jnp.float32), self.now.stage
    )

  def close(self, query_raw):
    """Commits the chunk, lets the policy write it, drops what is not kept."""
    now = self.now
    new = slice(now.start, now.start + len(now.there))
    self.frames += now.stage == "frame"
    self.valid[:, :, new], self.position[new] = now.there, now.position
    self.frame[new], self.kind[new] = self.frames - 1, now.kind
    self.cursor += now.valid
    self.seen += now.valid
    chunk = policy_lib.Chunk(
      *(
        fresh(table[:, :, new])
        for table in (self.key, self.raw, self.value)
      ),
      jnp.asarray(query_raw, jnp.float32),
      jnp.asarray(now.position, jnp.int32),
      fresh(self.frame[new]), fresh(self.kind[new]),
      jnp.asarray(now.there), jnp.int32(now.start), now.first, now.last,
    )  # fmt: skip
    self.state, keep, self.written = self._write(
      self.state, self.view(), chunk, now.stage
    )
    jax.block_until_ready(self.state)
    if keep is not None:
      assert self.policy.needs.evicts
      self.valid &= np.asarray(keep)

  def sets(self, selection, layer, part=0):
    """Slots of every row of a part, cut to the live ones: b[A, S]."""
    rows = policy_lib.rows_of(self.policy.needs, self.spec.decoder)
    live = np.repeat(self.before[layer], rows // self.kv_heads, axis=0)
    slots = selection.parts[part].slots
    return live if slots is None else unpack(slots) & live

  def frame_sets(self, *arguments, **named):
    """`chunk`, and for each layer the sets of its first part, b[A, S]."""
    found = self.chunk(*arguments, **named)
    return [self.sets(one, layer) for layer, (one, _) in enumerate(found)]

  def _mass(self, selection, layer):
    """Attention of the chunk's valid rows, added: f32[A, S]."""
    rows = policy_lib.rows_of(self.policy.needs, self.spec.decoder)
    sets = self.sets(selection, layer)
    mass = np.zeros((rows, SLOTS), "f4")
    for head in range(self.heads):
      row, kv = head * rows // self.heads, head // self.group
      for token in range(self.now.valid):
        own = self.now.start + np.arange(token + 1)
        slots = np.append(np.nonzero(sets[row])[0], own)
        score = self.key[layer, kv, slots] @ self.query[layer, head, token]
        mass[row, slots] += reference.softmax_rows(score[None] / WIDTH**0.5)[0]
    return mass
