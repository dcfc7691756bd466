"""The decoder step of one frame over a filled cache, ready to be timed.

  compile ─► FilledStep(program, state) ──► runner(name, snapshot)
                 ▲                              │ run:   state donated
                 └──────────────────────────────┘ reset: snapshot restored

The step is what a live stream runs for each frame: the embedding, all layers
with the policy plugged in, the policy's `write`; and the final norm, no head.
A reset puts back cursor, metadata and policy state. Keys and values are not
touched: the next run writes over the chunk.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax import stream
from vrex_jax import stream_state
from vrex_jax import trace as trace_lib
from vrex_jax.benchmark import timing
from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import video_llm
from vrex_jax.typing import Array, Float, Parameters

__all__ = [
  "FilledStep",
  "Program",
  "attended",
  "compile_step",
  "empty_past",
  "random_frame",
]


class Program(NamedTuple):
  """Static. A compiled step.

  Attributes:
    call: (params, state, frame) -> state, hidden, event; donates the state.
    compile_s: seconds to lower and compile it.
    temporary_bytes: memory it needs beside arguments and results.
    state_bytes: size of the state.
  """

  call: Callable[..., Any]
  compile_s: float
  temporary_bytes: int
  state_bytes: int


def compile_step(
  config: stream_state.StreamConfig,
  model: config_lib.ModelConfig,
  policy: policy_lib.KVPolicy,
  params: Parameters,
  state: stream_state.StreamState,
  frame: Array | jax.ShapeDtypeStruct,
) -> Program:
  """Compiles the step ahead of time.

  Args:
    config: shapes of the stream.
    model: the video LLM.
    policy: the policy.
    params: its parameters.
    state: a stream; only its shapes are read.
    frame: u8[B, size, size, 3] to embed, or hidden states f[B, T, D].
  """

  def step(params_, state_, frame_):
    hidden, valid = frame_, jnp.ones(frame_.shape[:2], bool)
    if frame_.dtype == jnp.uint8:
      hidden, valid = video_llm.embed_frame_tokens(
        model, params_, frame_, state_.frame == 0, dtype=config.dtype
      )
    state_, hidden, event, _ = stream.prefill_chunk(
      config,
      policy,
      params_["decoder"],
      state_,
      hidden.astype(config.dtype),
      valid,
      stage="frame",
      first=jnp.all(state_.frame == 0),
      last=False,
    )
    norm = decoder_lib.RMSNorm(config.decoder.rms_norm_eps, config.dtype)
    hidden = norm.apply({"params": params_["decoder"]["norm"]}, hidden)
    return state_, hidden, event

  begun = time.perf_counter()
  call = jax.jit(step, donate_argnums=1).lower(params, state, frame).compile()
  compile_s = time.perf_counter() - begun
  memory = call.memory_analysis()
  return Program(
    call=call,
    compile_s=compile_s,
    temporary_bytes=memory.temp_size_in_bytes if memory else 0,
    state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
  )


class FilledStep:
  """Dynamic. A program and the state it takes and gives back.

  Attributes:
    hidden: result of the last run, f[B, T, D].
    event: counts of the last run.
  """

  hidden: Float
  event: trace_lib.Event

  def __init__(
    self,
    program: Program,
    params: Parameters,
    state: stream_state.StreamState,
    frame: Array,
  ):
    self._program = program
    self._params = params
    self._state = state
    self._frame = frame

  def snapshot(self) -> stream_state.Snapshot:
    """Cursor, metadata and policy state as they are now."""
    return stream_state.snapshot(self._state)

  def cached(
    self, saved: stream_state.Snapshot
  ) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of a past: f[L, B, K, used, H] twice, copies."""
    cache, used = self._state.cache, int(saved.cursor)
    copy = lambda array: np.array(np.asarray(array)[..., :used, :])
    return copy(cache.key), copy(cache.value)

  def runner(self, name: str, saved: stream_state.Snapshot) -> timing.Runner:
    """The last frame, again and again, on the same past.

    Args:
      name: name of the runner.
      saved: the past; runners of several snapshots may share one step.
    """

    def reset():
      # Copies, because the next run donates them.
      again = jax.tree.map(jnp.copy, saved)
      self._state = stream_state.restore(self._state, again)
      jax.block_until_ready(again)

    return timing.Runner(name, reset, self._run)

  def _run(self) -> None:
    self._state, self.hidden, self.event = jax.block_until_ready(
      self._program.call(self._params, self._state, self._frame)
    )


def empty_past(saved: stream_state.Snapshot) -> stream_state.Snapshot:
  """The same stream before its first token; for policies without a state."""
  zero = jnp.zeros_like(saved.next_position)
  return saved._replace(
    cursor=jnp.zeros_like(saved.cursor), next_position=zero, seen=zero
  )


def random_frame(
  config: stream_state.StreamConfig,
  model: config_lib.ModelConfig,
  *,
  with_vision: bool,
  seed: int,
) -> Array:
  """Pixels u8[B, size, size, 3], or hidden states f32[B, T, D]."""
  random = np.random.default_rng([seed, 2])
  if with_vision:
    side = model.image.size
    pixels = random.integers(0, 256, (config.batch, side, side, 3), np.uint8)
    return jnp.asarray(pixels)
  shape = (config.batch, config.frame_tokens, config.decoder.hidden_size)
  return jnp.asarray(random.standard_normal(shape, np.float32))


class Attended(NamedTuple):
  """Static. What a step attended to.

  Attributes:
    retrieval_ratio: by stage, over retrieving layers.
    share: of the frame stage, over all layers.
    groups: clusters, pages or frames in a table that has any, mean; 0 for a
      policy without.
  """

  retrieval_ratio: dict[str, float]
  share: float
  groups: float


def attended(
  config: stream_state.StreamConfig,
  policy: policy_lib.KVPolicy,
  event: trace_lib.Event,
) -> Attended:
  """What one event attended to, and how many groups it chose from."""
  rows = policy_lib.rows_of(policy.needs, config.decoder)
  trace = trace_lib.from_events(
    jax.tree.map(lambda leaf: leaf[None], event),
    time_s=np.zeros(1),
    retrieves=np.asarray(stream_state.retrieving_layers(config, policy), bool),
    rows_per_head=rows // config.decoder.num_kv_heads,
  )
  live = np.asarray(event.counts.groups_live)
  return Attended(
    trace_lib.retrieval_ratio(trace),
    trace_lib.retrieval_ratio(trace, all_layers=True)["frame"],
    float(live.sum() / max(1, np.count_nonzero(live))),
  )
