"""InfiniGen (Lee et al., arXiv 2406.19707, OSDI 2024): speculated tokens.

Queries and keys are turned so that few columns hold most of every product;
those columns alone score every key, one layer ahead with the driver's
look-ahead (`--lookahead 1 --lookahead_query next`).
"""

import inspect

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.errors import InputError
from vrex_jax.typing import Float

__all__ = ["State", "infinigen", "infinigenp"]


class State(flax.struct.PyTreeNode):
  """Dynamic. The partial basis, and every key in it.

  Attributes:
    cap: most tokens of a row.
    alpha: scores this far below the best one are left out.
    basis: columns kept of each head's turn.
    key: every key in them.
  """

  cap: arguments.Budget
  alpha: Float  # f32 []
  basis: Float  # f32 [L, K, H, columns]
  key: Float  # f32 [L, K, S, columns]


def infinigen(
  *,
  budget: int | float = 0.2,
  alpha: float = 4.0,
  partial: float = 0.3,
  dense_layers: int = 1,
  chunk: str = "mean",
  heads: str = "query",
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """Tokens within alpha of the best partial score, as many for every head.

    A     right singular vectors of a head's sample queries (offline)
    D_p   the columns of A with the largest Σ|q A| + Σ|k A|
    s     = (q A)[D_p] · (k A)[D_p] / √H
    n     = min(⌊mean over heads of #{s > max s - alpha}⌋, budget)
    every head attends to its n best tokens

  A is orthogonal: with all columns s is the exact score. Selecting for layer
  l + 1 from layer l's input is the driver's look-ahead 1 with the query
  `next`; with look-ahead 0 the layer's own query is used.

  Adapted. Rotated queries and keys are turned (the paper folds A into the
  weights of models without rotary embedding). Query heads that share a KV head
  share its turn. Without recorded queries (`stream_state.init(sample=…)`) A is
  made from the query and key projections instead, as if inputs were white; and
  the columns are chosen there, once, since a stream has no end of prefill at
  which to choose them. The mean over heads is of one stream; the paper's is
  over the batch, too. The victims of a bounded host pool are left out.

  Args:
    budget: most tokens of a row, or share of the past (accuracy code: 0.2 of
      it); two knobs.
    alpha: in units of the scaled score (paper: 4 for OPT, 5 for Llama-2). A
      knob.
    partial: share of a head's columns kept (paper: 0.3).
    dense_layers: first layers that attend to everything (paper: 1).
    chunk: "mean" or "max": how a chunk of several tokens asks.
    heads: "query" or "kv", the union of a group's tokens.
    stages: published: answers only, after a dense prefill. "all" is
      `infinigenp`.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> infinigen(alpha=5.0).name
    'infinigen(alpha=5.0)'

  Source: Secs. 4.1-4.3; D_p and the cap follow the published code.
  """
  given = dict(locals())
  return _make(infinigen, given)


def infinigenp(
  *,
  budget: int | float = 0.2,
  alpha: float = 4.0,
  partial: float = 0.3,
  dense_layers: int = 1,
  chunk: str = "mean",
  heads: str = "query",
) -> policy_lib.KVPolicy:
  """InfiniGen that also retrieves while prefilling: infinigen(stages=all).

  InfiniGenP is the name V-Rex (arXiv 2512.12284) gives to it.

  Args:
    budget: this and all that follow: see `infinigen`.
    alpha: see there.
    partial: see there.
    dense_layers: see there.
    chunk: see there.
    heads: see there.

  Example:
    >>> infinigenp().needs.stages
    ('frame', 'question', 'answer')
  """
  given = dict(locals())
  return _make(infinigenp, {**given, "stages": "all"})


def _make(factory, given) -> policy_lib.KVPolicy:
  name = factory.__name__
  budget, alpha, partial = (
    given[key] for key in ("budget", "alpha", "partial")
  )
  chunk, heads = given["chunk"], given["heads"]
  arguments.check_budget(name, budget)
  arguments.check_number(name, "alpha", alpha, 0.0, 1e9, "4.0")
  arguments.check_number(name, "partial", partial, 0.0, 1.0, "0.3")
  arguments.check_sizes(name, {"dense_layers": (given["dense_layers"], 0)})
  arguments.check_word(name, "chunk", chunk, choosing.CHUNK_RULES)
  arguments.check_word(name, "heads", heads, choosing.HEAD_RULES)

  def init(spec, params, knobs, sample):
    # Before the weights, whose numbers cannot be traced (`check_fits`).
    cap = arguments.read_budget(name, knobs, spec)
    decoder = spec.decoder
    columns = max(1, round(partial * decoder.head_dim))
    bases = _bases(decoder, params, sample, columns)
    shape = (*bases.shape[:2], spec.num_slots, columns)
    return State(
      cap=cap,
      alpha=jnp.asarray(knobs["alpha"], jnp.float32),
      basis=jnp.asarray(bases, jnp.float32),
      key=jnp.zeros(shape, jnp.float32),
    )

  def select(state, view, layer, queries, stage):
    del stage
    query, asks = choosing.asking_rows(queries, view.num_kv_heads, chunk)
    turned = jnp.einsum("kgmh,khc->kgmc", query, state.basis[layer])
    score = choosing.products(turned, state.key[layer])
    score = score * query.shape[-1] ** -0.5
    score = jnp.where(asks[None, None, :, None], score, -jnp.inf)
    live = bitmap.unpack(view.live)
    score = jnp.where(live[None, None], jnp.max(score, axis=2), -jnp.inf)
    best = jnp.max(score, axis=-1, keepdims=True)
    near = jnp.sum(score > best - state.alpha, axis=-1, dtype=jnp.int32)
    number = jnp.sum(near) // near.size
    number = jnp.minimum(number, state.cap.of(view.seen))
    chosen = choosing.highest(score, number)
    slots = choosing.to_rows(chosen, heads)
    selection, counts = choosing.one_part(view, slots)
    scored = jnp.sum(live, dtype=jnp.int32) * jnp.sum(asks, dtype=jnp.int32)
    counts = counts._replace(
      keys_scored=jnp.full((view.num_kv_heads,), query.shape[1]) * scored
    )
    return selection, state, counts

  def write(state, view, chunk_, stage):
    del view, stage
    # Masked by what is stored, so that every layer reads the table before it
    # changes, and it need not be copied.
    stored = chunk_.valid[None, None, :, None]
    rows = jnp.where(stored, chunk_.k_rotated.astype(jnp.float32), 0.0)
    partial_keys = jnp.einsum("lkth,lkhc->lktc", rows, state.basis)
    key = jax.lax.dynamic_update_slice_in_dim(
      state.key, partial_keys, chunk_.start, axis=2
    )
    counts = policy_lib.zero_counts(rows.shape[:2])
    return state.replace(key=key), None, counts

  parameters = inspect.signature(factory).parameters
  return policy_lib.KVPolicy(
    name=arguments.canonical_name(
      factory, {key: given[key] for key in parameters}
    ),
    needs=policy_lib.Needs(
      stages=arguments.stages_of(name, given["stages"], arguments.DECODING),
      dense_layers=given["dense_layers"],
      granularity=heads,
      weights=True,
    ),
    knobs={**arguments.budget_knobs(budget), "alpha": alpha},
    init=init,
    select=select,
    write=write,
  )


def _bases(decoder, params, sample, columns) -> np.ndarray:
  """Columns kept of every head's turn: f64[L, K, H, columns]."""
  return np.stack(
    [
      [
        partial_basis(query, key, columns)
        for query, key in _rows(decoder, params, sample, layer)
      ]
      for layer in range(decoder.num_layers)
    ]
  )


def _rows(decoder, params, sample, layer):
  """Queries and keys, or projections, of every KV head: f[M, H] each."""
  heads, width = decoder.num_kv_heads, decoder.head_dim
  if sample is not None:
    query = np.asarray(sample["query"][layer], np.float64)
    query = query.reshape(heads, -1, width)
    return list(zip(query, np.asarray(sample["key"][layer]), strict=True))
  if "decoder" not in params:
    raise InputError(
      "infinigen: the stream has neither model parameters nor a sample of"
      " queries and keys; one of them says which columns matter: hand over"
      " sample={'query': …, 'key': …}, or run the model itself"
    )
  weights = params["decoder"][f"layers_{layer}"]
  split = lambda name: np.asarray(weights[name]["kernel"], np.float64).reshape(
    decoder.hidden_size, heads, -1, width
  )
  query, key = split("q_proj"), split("k_proj")
  return [
    (query[:, head].reshape(-1, width), key[:, head].reshape(-1, width))
    for head in range(heads)
  ]


def partial_basis(
  query: np.ndarray, key: np.ndarray, columns: int
) -> np.ndarray:
  """The columns of a head's turn that matter most.

  Args:
    query: f[M, H], rows to turn by: singular vectors are theirs.
    key: f[M, H].
    columns: how many to keep.

  Returns:
    f64[H, columns], orthonormal columns.

  Example:
    >>> partial_basis(np.diag([1.0, 3.0]), np.eye(2), 1).round().tolist()
    [[0.0], [1.0]]
  """
  # The triangle of M rows is H × H, and has their right singular vectors.
  triangle = np.linalg.qr(query, mode="r")
  turn = np.linalg.svd(triangle, full_matrices=True)[2].T
  size = sum(np.abs(rows @ turn).sum(axis=0) for rows in (query, key))
  return turn[:, np.argsort(-size, kind="stable")[:columns]]
