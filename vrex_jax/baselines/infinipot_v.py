"""InfiniPot-V (arXiv 2506.15745, NeurIPS 2025): compress when memory is full.

frames ─► … ─► more than `memory` tokens held ─► down to `target` tokens:
recent frames, patches that changed (TaR), then large values (VaN)
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.typing import Bool, Float, Int

__all__ = ["State", "infinipot_v"]

_FRAME = policy_lib.STAGES.index("frame")


class State(flax.struct.PyTreeNode):
  """Dynamic. What is known of every slot, and two sizes.

  Attributes:
    memory: frame tokens held before a compression.
    target: frame tokens held after one.
    patch: place of the slot's token in its frame.
    norm: smoothed norm of its value.
  """

  memory: Int  # []
  target: Int  # []
  patch: Int  # [L, K, S]
  norm: Float  # f32 [L, K, S]


def infinipot_v(
  *,
  memory: int = arguments.Published(6144),
  target: int | None = None,
  changed_share: float = 0.5,
  recent_share: float = 0.25,
  kernels: tuple[int, ...] = (7, 5, 3, 1),
) -> policy_lib.KVPolicy:
  """Temporal redundancy (TaR) and value norms (VaN), for each KV head.

    TaR(t, p) = -(1/r) Σ over the last r frames t' of cos(k(t, p), k(t', p))
    VaN(t, p) = |v(t, p)|₂, averaged over a layer's kernel of patches

  When a head holds more than `memory` frame tokens it keeps `target` of them:
  all of the last r frames, the changed_share · target others of highest TaR,
  and the rest by VaN; for good. Text is kept; rotated keys keep their
  positions.

  Adapted. VaN is averaged along the frame's tokens when they arrive (the code
  pools in three, two, one and no dimension by quarter of the layers; there
  the kernels are the paper's 7, 5, 3, 1). r is recent_share · memory in whole
  frames, at least one. A stream compresses after the frame that fills the
  memory, so at most one frame more is ever held.

  Args:
    memory: frame tokens that start a compression (paper: 4K or 6K in all). A
      knob.
    target: frame tokens left; three quarters of the memory when None, as the
      published blocks have (24 frames of 32). A knob.
    changed_share: of the target, by TaR (code: 0.5).
    recent_share: of the memory, the frames kept whole (code: 0.25).
    kernels: of the value norm, by equal parts of the layers; odd.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> infinipot_v(memory=512).knobs
    {'memory': 512, 'target': 384}

  Source: Sec. 4 of the paper and its published code.
  """
  given = dict(locals())
  arguments.check_sizes("infinipot_v", {"memory": (memory, 2)})
  if target is None:
    target = _target_of(memory)
  arguments.check_sizes("infinipot_v", {"target": (target, 1)})
  shares = {"changed_share": changed_share, "recent_share": recent_share}
  for name, value in shares.items():
    arguments.check_number("infinipot_v", name, value, 0.0, 1.0, "0.5")
  if not isinstance(kernels, tuple) or not kernels:
    kernels = (kernels,)  # type: ignore
  for kernel in kernels:
    arguments.check_sizes("infinipot_v", {"kernels": (kernel, 1)})
    arguments.check_odd("infinipot_v", "kernels", kernel)
  arguments.check_at_most("infinipot_v", "target", target, "memory", memory)

  def init(spec, params, knobs, sample):
    del params, sample
    room = max(2, spec.capacity // 4)
    hint = str(room)
    if given["target"] is not None and target > room:  # which fits it no more
      hint += f", target={_target_of(room)}"
    memory = arguments.fitting(
      "infinipot_v", "memory", knobs["memory"], spec, hint
    )
    decoder = spec.decoder
    shape = decoder.num_layers, decoder.num_kv_heads, spec.num_slots
    return State(
      memory=jnp.asarray(memory, jnp.int32),
      target=jnp.asarray(knobs["target"], jnp.int32),
      patch=jnp.zeros(shape, jnp.int32),
      norm=jnp.zeros(shape, jnp.float32),
    )

  def select(state, view, layer, queries, stage):
    del layer, queries, stage
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    return policy_lib.attend_all(), state, counts

  def write(state, view, chunk, stage):
    counts = policy_lib.zero_counts(chunk.k_rotated.shape[:2])
    live = bitmap.unpack(view.live)
    if stage != "frame":
      return state, live, counts
    state = _note(state, chunk, kernels)
    member = live & (view.slots.kind == _FRAME)
    length = chunk.valid.shape[0]
    frames = (recent_share * state.memory.astype(jnp.float32)) // length
    first = jnp.max(chunk.frame) - jnp.maximum(frames.astype(jnp.int32), 1)
    recent = member & (view.slots.frame > first)
    changed = -_likeness(state.patch, view, recent, length)
    score = jnp.where(member & ~recent, changed, -jnp.inf)
    part = changed_share * state.target.astype(jnp.float32)
    forced = recent | choosing.highest(score, part.astype(jnp.int32))
    score = jnp.where(member, jnp.where(forced, jnp.inf, state.norm), -jnp.inf)
    kept = choosing.highest(score, state.target)
    full = jnp.sum(member, axis=-1, keepdims=True) > state.memory
    return state, jnp.where(full & member, kept, live), counts

  def move(state, source):
    take = lambda table: jnp.take_along_axis(table, source, axis=-1)
    return state.replace(patch=take(state.patch), norm=take(state.norm))

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(infinipot_v, given),
    needs=policy_lib.Needs(evicts=True, all_keys=True),
    knobs={"memory": memory, "target": target},
    init=init,
    select=select,
    write=write,
    move=move,
  )


def _target_of(memory: int) -> int:
  """The published ratio: 24 frames of 32."""
  return memory * 3 // 4


def _note(
  state: State, chunk: policy_lib.Chunk, kernels: tuple[int, ...]
) -> State:
  """Patch and smoothed value norm of a frame's tokens."""
  values = chunk.v.astype(jnp.float32)
  layers, heads, length, _ = values.shape
  norm = jnp.sqrt(jnp.sum(values * values, axis=-1)) * chunk.valid[None, None]
  smooth = jnp.stack(
    [
      _smoothed(
        norm[layer], chunk.valid, kernels[layer * len(kernels) // layers]
      )
      for layer in range(layers)
    ]
  )
  patch = jnp.broadcast_to(jnp.arange(length), (layers, heads, length))
  put = lambda table, new: jax.lax.dynamic_update_slice_in_dim(
    table, new.astype(table.dtype), chunk.start, axis=2
  )
  return state.replace(
    patch=put(state.patch, patch), norm=put(state.norm, smooth)
  )


def _smoothed(norm: Float, valid: Bool, kernel: int) -> Float:
  """Mean over the valid ones of `kernel` neighbours: f32[K, T]."""
  half = kernel // 2
  ones = jnp.ones((kernel,), jnp.float32)
  spread = lambda row: jnp.convolve(
    jnp.pad(row, (half, half)), ones, mode="valid"
  )
  number = jnp.maximum(spread(valid.astype(jnp.float32)), 1.0)
  return jax.vmap(spread)(norm) / number[None]


@functools.partial(jax.jit, static_argnames="length")
def _likeness(
  patch: Int, view: policy_lib.View, recent: Bool, length: int
) -> Float:
  """Mean cosine with the same patch of the recent frames: f32[L, K, S].

  Args:
    patch: i32[L, K, S].
    view: keys.
    recent: b[L, K, S], slots of recent frames.
    length: T of a frame.
  """
  patches = jnp.arange(length)[:, None]

  def one_head(key, place, near):
    key = key.astype(jnp.float32)
    size = jnp.maximum(jnp.sqrt(jnp.sum(key * key, axis=-1)), 1e-30)
    of_patch = (place[None] == patches) & near[None]  # [T, S]
    total = jnp.where(of_patch, 1.0 / size[None], 0.0) @ key
    mean = total / jnp.maximum(jnp.sum(of_patch, axis=1), 1)[:, None]
    cosine = jnp.einsum("th,sh->ts", mean, key) / size[None]
    return jnp.take_along_axis(cosine, place[None], axis=0)[0]

  # In the open, as in `window.attention`.
  layers, heads = recent.shape[:2]
  found = jnp.stack(
    [
      one_head(view.key[at], patch[at], recent[at])
      for at in np.ndindex(layers, heads)
    ]
  )
  return found.reshape(recent.shape)
