"""Sliding window over frames: what is older than the window is dropped."""

import jax.numpy as jnp

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError, check_whole_number

__all__ = ["sliding_window"]


def sliding_window(
  *, frames: int = 16, keep_prompt: bool = True
) -> policy_lib.KVPolicy:
  """Keeps the last frames, and the text that came with them.

  Token s is kept iff frame(s) > current frame - frames, or it belongs to the
  prompt and `keep_prompt`. Evicts: slots are reused, so a stream with no end
  runs in fixed capacity. Keys keep their original positions.

  Args:
    frames: frames kept (at least 1; a knob: traced, may be swept).
    keep_prompt: keep the system text; without it a chat model loses its
      instructions after `frames` frames.

  Raises:
    InputError: `frames` is below 1, or `keep_prompt` no truth value.

  Example:
    >>> sliding_window(frames=8).name
    'sliding_window(frames=8, keep_prompt=True)'
  """
  check_whole_number(
    "sliding_window: frames", frames, least=1, hint="frames=16"
  )
  if not isinstance(keep_prompt, bool):
    raise InputError(
      f"sliding_window: keep_prompt is {keep_prompt!r}; it must be True or"
      " False: try keep_prompt=True"
    )

  def init(spec, params, knobs, sample):
    del spec, params, sample
    return {"frames": jnp.asarray(knobs["frames"], jnp.int32)}

  def select(state, view, layer, queries, stage):
    del layer, queries, stage
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    return policy_lib.attend_all(), state, counts

  def write(state, view, chunk, stage):
    del stage
    keep = view.slots.frame > jnp.max(chunk.frame) - state["frames"]
    if keep_prompt:
      prompt = policy_lib.STAGES.index("prompt")
      keep = keep | (view.slots.kind == prompt)
    return state, keep, policy_lib.zero_counts(chunk.k_rotated.shape[:2])

  return policy_lib.KVPolicy(
    name=f"sliding_window(frames={frames}, keep_prompt={keep_prompt})",
    needs=policy_lib.Needs(evicts=True),
    knobs={"frames": frames},
    init=init,
    select=select,
    write=write,
    move=lambda state, source: state,
  )
