"""ReSV (V-Rex, arXiv 2512.12284, HPCA 2026) as a KV-cache policy.

  write   keys of a chunk ─► hash bits ─► join or open clusters
  select  query rows ─► scores of mean keys ─► WiCSum per row ─► reduce rows
          ─► members of the kept clusters, + sinks, + tokens in no cluster
          (`selecting.py`)

per layer and KV head, for frames, questions and answers alike. Training-free;
original keys and values stay as they are. Nothing is evicted: a cluster left
out now can be chosen later.

The chunk is clustered after its last layer, so a token is attended by its own
chunk and first scored by the next one.
"""

import dataclasses
import inspect
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError
from vrex_jax.resv import choices as choices_lib
from vrex_jax.resv import clustering
from vrex_jax.resv import hashing
from vrex_jax.resv import selecting
from vrex_jax.resv import state as state_lib
from vrex_jax.resv import wicsum
from vrex_jax.typing import Float, Int

__all__ = ["State", "resv"]

State = state_lib.State


def resv(
  *,
  wicsum_ratio: float | Float | np.ndarray = 0.3,
  hamming_threshold: int = 7,
  text_ratio: float | Float | np.ndarray | None = None,
  hash_bits: int = 32,
  hash_keys: str = "rotated",
  key_centering: str = "none",
  table: str = "head",
  code: str = "first",
  min_join_cosine: float | None = None,
  rows: str = "union",
  votes: int = 2,
  scores: str = "clamped",
  form: str = "exact",
  buckets: int = wicsum.BUCKETS,
  sink_tokens: int = 4,
  stages: tuple[str, ...] = ("frame", "question", "answer"),
  table_capacity: int | None = None,
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """Hash-bit key clustering and WiCSum thresholding.

  Args:
    wicsum_ratio: share of a row's weighted score sum that its clusters must
      pass (paper: 0.3); 0 keeps the best cluster, 1 everything. A knob, which
      may also be an array that broadcasts to [STAGES, L, K].
    hamming_threshold: keys whose codes differ in fewer bits are near (paper:
      7). A knob.
    text_ratio: `wicsum_ratio` of questions and answers, where it is not that of
      frames (paper: one threshold, and one retrieval ratio each, Table II). A
      knob; None for the same.
    hash_bits: this and all that follow: see `choices.Choices`.
    hash_keys: see there.
    key_centering: see there.
    table: see there.
    code: see there.
    min_join_cosine: see there.
    rows: see there.
    votes: see there.
    scores: see there.
    form: see there.
    buckets: see there.
    sink_tokens: see there.
    stages: see there.
    table_capacity: see there.
    seed: see there.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> resv(wicsum_ratio=0.2, rows="pooled").name
    'resv(wicsum_ratio=0.2, hamming_threshold=7, rows=pooled)'
    >>> resv(text_ratio=0.02).name
    'resv(wicsum_ratio=0.3, hamming_threshold=7, text_ratio=0.02)'

  Source: Secs. IV.B-C, settings of Sec. VI.E.
  """
  chosen = choices_lib.Choices(
    hash_bits=hash_bits,
    hash_keys=hash_keys,
    key_centering=key_centering,
    table=table,
    code=code,
    min_join_cosine=min_join_cosine,
    rows=rows,
    votes=votes,
    scores=scores,
    form=form,
    buckets=buckets,
    sink_tokens=sink_tokens,
    stages=stages,
    table_capacity=table_capacity,
    seed=seed,
  )
  _check_ratio("wicsum_ratio", wicsum_ratio, 0.3)
  if text_ratio is not None:
    _check_ratio("text_ratio", text_ratio, 0.02)
  _check_threshold(hamming_threshold, chosen.hash_bits)
  knobs = {
    "wicsum_ratio": wicsum_ratio,
    "hamming_threshold": hamming_threshold,
    "text_ratio": text_ratio,
  }
  return policy_lib.KVPolicy(
    name=_name(knobs, chosen),
    needs=policy_lib.Needs(stages=chosen.stages),
    knobs=knobs,
    init=lambda spec, params, knobs, sample: state_lib.create(
      chosen, spec, knobs
    ),
    select=lambda *arguments: selecting.select(chosen, *arguments),
    write=lambda *arguments: _write(chosen, *arguments),
    groups=_groups,
  )


def _check_ratio(name: str, ratio: Any, usual: float) -> None:
  if not _is_ratio(ratio):
    raise InputError(
      f"resv: {name} is {ratio!r}; it must be a number from 0 (the best"
      f" cluster) to 1 (everything, as above it): try {name}={usual}"
    )


def _check_threshold(threshold: Any, bits: int) -> None:
  whole = isinstance(threshold, (int, np.integer))
  if not whole or isinstance(threshold, bool) or not 0 <= threshold <= bits + 1:
    raise InputError(
      f"resv: hamming_threshold is {threshold!r}; it must be a whole number"
      f" from 0 (every key its own cluster) to {bits + 1} (one cluster), as"
      f" codes of {bits} bits differ in at most {bits}: try hamming_threshold=7"
    )


def _is_ratio(value: Any) -> bool:
  """Finite numbers from 0 on, one or an array of them."""
  if isinstance(value, (bool, str)):
    return False
  try:
    values = np.asarray(value, np.float64)
  except (TypeError, ValueError):
    return False
  return bool(np.all(values >= 0.0) and np.all(values < math.inf))


def _name(knobs: dict[str, Any], chosen: choices_lib.Choices) -> str:
  """Knobs, and every choice that is not the default."""
  defaults = inspect.signature(resv).parameters
  given: dict[str, Any] = {
    name: value if np.ndim(value) == 0 else np.asarray(value).tolist()
    for name, value in knobs.items()
    if value is not None
  }
  for name, value in dataclasses.asdict(chosen).items():
    if value != defaults[name].default:
      given[name] = value
  return f"resv({', '.join(f'{key}={value}' for key, value in given.items())})"


def _per_table(keys: Float, num_tables: int) -> Float:
  """f[L, K, T, H] -> f[L, R, T, width]: heads side by side in one table."""
  layers, heads, length, width = keys.shape
  if num_tables == heads:
    return keys
  return keys.swapaxes(1, 2).reshape(layers, 1, length, heads * width)


def _write(
  chosen: choices_lib.Choices,
  state: State,
  view: policy_lib.View,
  chunk: policy_lib.Chunk,
  stage: str,
) -> tuple[State, None, policy_lib.Counts]:
  del view, stage
  layers, heads = chunk.k_rotated.shape[:2]
  num_tables, _, width = state.table.key_sum.shape[1:]
  keys = _per_table(chunk.k_rotated, num_tables)
  hashed = keys
  if chosen.hash_keys == "raw":
    hashed = _per_table(chunk.k_raw, num_tables)
  hashed = hashed.astype(jnp.float32)
  center = None
  if state.center_sum is not None and state.center_count is not None:
    live = chunk.valid[None, None, :, None]
    total = state.center_sum + jnp.sum(jnp.where(live, hashed, 0.0), axis=2)
    number = state.center_count + jnp.sum(chunk.valid, dtype=jnp.int32)
    state = state.replace(center_sum=total, center_count=number)
    center = total / jnp.maximum(number, 1).astype(jnp.float32)
    hashed = hashed - center[:, :, None]
  planes = hashing.hyperplanes(chosen.seed, width, chosen.hash_bits)
  tokens = clustering.Tokens(
    code=hashing.hash_codes(hashed, planes),
    key=keys,
    valid=chunk.valid,
    start=chunk.start,
  )
  arguments = (
    state.table,
    tokens,
    state.hamming_threshold,
    chosen.min_join_cosine,
  )
  if chosen.code == "following":
    table, done = clustering.insert_tokens(*arguments, planes, center)
  else:
    table, done = clustering.insert_chunk(*arguments)

  number = jnp.sum(chunk.valid, dtype=jnp.int32)
  # A table that all heads share did its work once: on the first head's account.
  own = (jnp.arange(heads) < num_tables)[None]
  wide = lambda value: jnp.where(
    own, jnp.broadcast_to(value, (layers, heads)), 0
  )
  bit = jnp.where(done.full, int(policy_lib.Overflow.TABLE_FULL), 0)
  counts = policy_lib.zero_counts((layers, heads))._replace(
    keys_hashed=wide(number),
    code_comparisons=wide(done.comparisons),
    overflow=wide(bit).astype(jnp.int32),
  )
  return state.replace(table=table), None, counts


def _groups(state: State, layer: int) -> Int:
  """Cluster of every slot, the paper's unit of placement: i32[K or 1, S]."""
  return state.table.member[layer]
