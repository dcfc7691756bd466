"""Sign codes of every key: ReSV's distance without its clusters."""

import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.resv import hashing

__all__ = ["hash_topk"]


def hash_topk(
  *,
  budget: int | float = arguments.Published(1024),
  hash_bits: int = 32,
  chunk: str = "mean",
  heads: str = "kv",
  stages: str | tuple[str, ...] = "published",
  seed: int = 0,
) -> policy_lib.KVPolicy:
  """The `budget` keys whose hash codes are nearest to the query's.

    code(x)  = signs of `hash_bits` random projections (hashing)
    score(k) = -Hamming distance(code(q), code(k))

  A control of this project that asks what clustering adds: codes, hyperplanes
  and rotated keys are those of ReSV (arXiv 2512.12284, Sec. IV.B), but a code
  stands for its own key and is compared with the query, and there is no
  WiCSum. Of equal distances the oldest tokens are taken: with 32 bits many are
  equal.

  Args:
    budget: tokens of a row, or share of the past; two knobs.
    hash_bits: bits of a code.
    chunk: "mean" or "max", how a chunk of several tokens asks.
    heads: "kv": the scores of a group's query heads are added and the KV head
      takes its `budget`; "query": each takes its own.
    stages: "published" and "all" are all stages.
    seed: of the hyperplanes.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> hash_topk(budget=64, hash_bits=128).name
    'hash_topk(budget=64, hash_bits=128)'
  """
  given = dict(locals())
  arguments.check_budget("hash_topk", budget)
  arguments.check_sizes("hash_topk", {"hash_bits": (hash_bits, 1)})
  arguments.check_number("hash_topk", "hash_bits", hash_bits, 1, 128, "32")
  arguments.check_sizes("hash_topk", {"seed": (seed, 0)})
  arguments.check_word("hash_topk", "chunk", chunk, choosing.CHUNK_RULES)
  arguments.check_word("hash_topk", "heads", heads, choosing.HEAD_RULES)
  words = -(-hash_bits // hashing.WORD_BITS)

  def init(spec, params, knobs, sample):
    del params, sample
    decoder = spec.decoder
    shape = decoder.num_layers, decoder.num_kv_heads, words, spec.num_slots
    return {
      "budget": arguments.read_budget("hash_topk", knobs, spec),
      "code": jnp.zeros(shape, jnp.uint32),
    }

  def codes(x):
    planes = hashing.hyperplanes(seed, x.shape[-1], hash_bits)
    return hashing.hash_codes(x, planes)

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    query, asks = choosing.asking_rows(queries, kv_heads, chunk)
    table = state["code"][layer][:, None]  # [K, 1, W, S]
    distance = hashing.hamming_distance(codes(query), table)  # [K, G, M, S]
    score = jnp.where(asks[None, None, :, None], -distance, -hash_bits - 1)
    score = jnp.max(score, axis=2).astype(jnp.float32)
    if heads == "kv":
      score = jnp.sum(score, axis=1, keepdims=True)
    live = bitmap.unpack(view.live)
    score = jnp.where(live[None, None], score, -jnp.inf)
    number = state["budget"].of(view.seen)
    chosen = choosing.highest(score, number)
    selection, counts = choosing.one_part(
      view, choosing.to_rows(chosen, "query")
    )
    compared = jnp.sum(live, dtype=jnp.int32) * jnp.sum(asks, dtype=jnp.int32)
    group = query.shape[1]
    counts = counts._replace(
      code_comparisons=jnp.broadcast_to(compared * group, (kv_heads,))
    )
    return selection, state, counts

  def write(state, view, chunk_, stage):
    del view, stage
    code = codes(chunk_.k_rotated).swapaxes(-1, -2)  # [L, K, W, T]
    # Masked by what is stored, so that every layer reads the table before it
    # changes, and it need not be copied.
    code = jnp.where(chunk_.valid[None, None, None], code, jnp.uint32(0))
    at = (0, 0, 0, chunk_.start)
    table = jax.lax.dynamic_update_slice(state["code"], code, at)
    shape = chunk_.k_rotated.shape[:2]
    number = jnp.sum(chunk_.valid, dtype=jnp.int32)
    counts = policy_lib.zero_counts(shape)._replace(
      keys_hashed=jnp.broadcast_to(number, shape)
    )
    return {**state, "code": table}, None, counts

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(hash_topk, given),
    needs=policy_lib.Needs(
      stages=arguments.stages_of("hash_topk", stages, arguments.ALL_STAGES),
      granularity=heads,
    ),
    knobs=arguments.budget_knobs(budget),
    init=init,
    select=select,
    write=write,
  )
