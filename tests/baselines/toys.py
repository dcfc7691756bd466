"""Small working policies, one for every need of the contract.

Each has the bones of a published method and nothing else: what it stores, when
it scores, which slots and positions it asks for. `toys_test.py` holds each to
an oracle in numpy, so that it is the driver that is tested.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.models import rotary

PAGE = 16
PROMPT, FRAME, QUESTION, ANSWER = range(4)


def none(shape):
  return policy_lib.zero_counts(shape)


def make(name, needs, init, select, write, **others):
  return policy_lib.KVPolicy(
    name=name,
    needs=needs,
    knobs=others.pop("knobs", {}),
    init=init,
    select=select,
    write=write,
    **others,
  )


def one_part(view, slots, **rules):
  part = policy_lib.Part(slots=slots, **rules)
  return policy_lib.Selection((part,)), none((view.num_kv_heads,))


def keep_all(state, view, chunk, stage):
  del view, stage
  return state, None, none(chunk.k_rotated.shape[:2])


def best(score, size):
  """Mask of the `size` highest finite scores of each row: b[R, M]."""
  size = min(size, score.shape[-1])
  values, index = jax.lax.top_k(score, size)
  rows = jnp.arange(len(score))[:, None]
  return jnp.zeros(score.shape, bool).at[rows, index].set(values > -jnp.inf)


def chunk_slots(chunk, num_slots):
  """Slots the chunk's valid tokens lie in: b[S]."""
  index = jnp.arange(num_slots)[None] == (
    chunk.start + jnp.arange(len(chunk.valid))[:, None]
  )
  return jnp.any(index & chunk.valid[:, None], axis=0)


def nothing():
  """Selects no slot: what is attended is the driver's doing."""

  def select(state, view, layer, queries, stage):
    del layer, queries, stage
    words = view.live.shape[-1]
    slots = jnp.zeros((view.num_kv_heads, words), jnp.uint32)
    selection, counts = one_part(view, slots)
    return selection, state, counts

  return make(
    "nothing",
    policy_lib.Needs(),
    lambda spec, params, knobs, sample: {},
    select,
    keep_all,
  )


def quest(*, pages=1, stages=("frame", "answer")):
  """Bounds of rotated keys per page; the best pages of each query head."""

  def init(spec, params, knobs, sample):
    del params, knobs, sample
    decoder = spec.decoder
    shape = (
      decoder.num_layers,
      decoder.num_kv_heads,
      spec.num_slots // PAGE,
      decoder.head_dim,
    )
    return {"low": jnp.full(shape, jnp.inf), "high": jnp.full(shape, -jnp.inf)}

  def select(state, view, layer, queries, stage):
    del stage
    query = queries.rotated
    repeat = lambda table: jnp.repeat(
      table[layer], len(query) // view.num_kv_heads, axis=0
    )[:, None]
    low, high = repeat(state["low"]), repeat(state["high"])
    bound = jnp.sum(
      jnp.maximum(query[:, :, None] * low, query[:, :, None] * high), axis=-1
    )
    there = jnp.isfinite(low[..., 0])
    counted = there & queries.valid[None, :, None]
    score = jnp.max(jnp.where(counted, bound, -jnp.inf), axis=1)
    chosen = best(score, pages)
    slots = bitmap.pack(jnp.repeat(chosen, PAGE, axis=-1))
    live = jnp.sum(there[:: len(query) // view.num_kv_heads, 0], axis=-1)
    counts = none((view.num_kv_heads,))._replace(
      groups_live=live.astype(jnp.int32),
      groups_scored=live.astype(jnp.int32) * (len(query) // view.num_kv_heads),
    )
    return one_part(view, slots)[0], state, counts

  def write(state, view, chunk, stage):
    del view, stage
    length = len(chunk.valid)
    page = (chunk.start + jnp.arange(length)) // PAGE
    valid = chunk.valid[None, None, :, None]
    key = chunk.k_rotated
    low = jnp.where(valid, key, jnp.inf)
    high = jnp.where(valid, key, -jnp.inf)
    state = {
      "low": state["low"].at[:, :, page].min(low),
      "high": state["high"].at[:, :, page].max(high),
    }
    return state, None, none(key.shape[:2])

  needs = policy_lib.Needs(granularity="query", stages=stages)
  return make(f"quest(pages={pages})", needs, init, select, write)


def h2o(*, heavy=6, recent=8, by_query=False):
  """Keeps the tokens with the most accumulated attention, and recent ones.

  By query head, a slot is freed when no head of its group keeps it, and each
  head attends to its own.
  """

  def init(spec, params, knobs, sample):
    del params, knobs, sample
    decoder = spec.decoder
    heads = decoder.num_heads if by_query else decoder.num_kv_heads
    shape = (decoder.num_layers, heads, spec.num_slots)
    return {"mass": jnp.zeros(shape), "mine": jnp.zeros(shape, bool)}

  def select(state, view, layer, queries, stage):
    del queries, stage
    slots = bitmap.pack(state["mine"][layer])
    return one_part(view, slots)[0], state, none((view.num_kv_heads,))

  def feedback(state, layer, mass, stage):
    del stage
    return {**state, "mass": state["mass"].at[layer].add(mass)}

  def write(state, view, chunk, stage):
    del stage
    layers, heads, num_slots = state["mass"].shape
    group = heads // view.num_kv_heads
    per_row = lambda table: jnp.repeat(table, group, axis=1)
    mine = state["mine"] | chunk_slots(chunk, num_slots)[None, None]
    mine = mine & per_row(bitmap.unpack(view.live))
    position = per_row(view.slots.position)
    end = jnp.min(chunk.position) + jnp.sum(chunk.valid)
    newest = mine & (position >= end - recent)
    score = jnp.where(mine & ~newest, state["mass"], -jnp.inf)
    heavy_hitters = best(score.reshape(-1, num_slots), heavy)
    mine = newest | heavy_hitters.reshape(mine.shape)
    state = {"mass": jnp.where(mine, state["mass"], 0.0), "mine": mine}
    keep = jnp.any(mine.reshape(layers, -1, group, num_slots), axis=2)
    return state, keep, none((layers, view.num_kv_heads))

  def move(state, source):
    group = state["mass"].shape[1] // source.shape[1]
    source = jnp.repeat(source, group, axis=1)
    return {
      name: jnp.take_along_axis(table, source, axis=-1)
      for name, table in state.items()
    }

  needs = policy_lib.Needs(
    evicts=True, mass=True, granularity="query" if by_query else "kv"
  )
  return make(
    f"h2o(heavy={heavy}, recent={recent}, by_query={by_query})",
    needs,
    init,
    select,
    write,
    feedback=feedback,
    move=move,
  )


def rekv(*, frames=1, window=10):
  """Window and prompt while encoding; whole frames, re-indexed, for a question.

  The prompt is scored at position 0 from the window's far end. A question is
  the running mean of its queries over its chunks; the answer uses its frames.
  """

  def init(spec, params, knobs, sample):
    del params, knobs, sample
    decoder, room = spec.decoder, spec.capacity
    layers, head_dim = decoder.num_layers, decoder.head_dim
    return {
      "key": jnp.zeros((layers, decoder.num_kv_heads, room, head_dim)),
      "tokens": jnp.zeros((room,)),
      "query": jnp.zeros((layers, decoder.num_heads, head_dim)),
      "asked": jnp.zeros((layers,)),
      "begin": jnp.zeros((layers,), jnp.int32),
      "chosen": jnp.zeros((layers, room), bool),
    }

  def select(state, view, layer, queries, stage):
    start = jnp.min(queries.position)
    slots = view.slots
    prompt = slots.kind == PROMPT
    wide = lambda mask: bitmap.pack(
      jnp.broadcast_to(mask[None], (view.num_kv_heads, len(mask)))
    )
    counts = none((view.num_kv_heads,))
    if stage == "frame":
      near = (slots.position >= start - window) & ~prompt
      parts = (
        policy_lib.Part(wide(near)),
        policy_lib.Part(
          wide(prompt),
          key_rule="fixed",
          key_position=jnp.int32(0),
          query_rule="fixed",
          query_position=jnp.int32(window - 1),
        ),
      )
      return policy_lib.Selection(parts), state, counts
    if stage == "question":
      state = ask(state, layer, queries, start)
    own = (slots.position >= state["begin"][layer]) & (slots.kind >= QUESTION)
    old = (slots.kind == FRAME) & state["chosen"][layer][slots.frame]
    chosen = wide(prompt | old | own)
    part = policy_lib.Part(chosen, key_rule="rank", query_rule="rank")
    return policy_lib.Selection((part,)), state, counts

  def ask(state, layer, queries, start):
    valid = queries.valid[None, :, None]
    total = jnp.sum(jnp.where(valid, queries.unrotated, 0.0), axis=1)
    fresh = lambda old: jnp.where(queries.first, jnp.zeros_like(old), old)
    query = fresh(state["query"][layer]) + total
    asked = fresh(state["asked"][layer]) + jnp.sum(queries.valid)
    begin = jnp.where(queries.first, start, state["begin"][layer])
    tokens = jnp.maximum(state["tokens"], 1.0)
    mean_key = state["key"][layer] / tokens[None, :, None]
    mean_key = jnp.repeat(mean_key, len(query) // len(mean_key), axis=0)
    score = jnp.einsum("nh,nfh->f", query / asked, mean_key)
    score = jnp.where(state["tokens"] > 0, score, -jnp.inf)
    put = lambda name, value: state[name].at[layer].set(value)
    return {
      **state,
      "query": put("query", query),
      "asked": put("asked", asked),
      "begin": put("begin", begin),
      "chosen": put("chosen", best(score[None], frames)[0]),
    }

  def write(state, view, chunk, stage):
    del view
    counts = none(chunk.k_raw.shape[:2])
    if stage != "frame":
      return state, None, counts
    valid = chunk.valid[None, None, :, None]
    total = jnp.sum(jnp.where(valid, chunk.k_raw, 0.0), axis=2)
    frame = chunk.frame[0]
    state = {
      **state,
      "key": state["key"].at[:, :, frame].add(total),
      "tokens": state["tokens"].at[frame].add(jnp.sum(chunk.valid)),
    }
    return state, None, counts

  needs = policy_lib.Needs(reindexes=True)
  name = f"rekv(frames={frames}, window={window})"
  return make(name, needs, init, select, write)


def infinigen(*, alpha=2.0, columns=4):
  """Partial queries and keys in a basis prepared from weights and a sample.

  sample: {"query": f[L, N, M, H], "key": f[L, K, M, H]}, rotated. The basis of
  a KV head is the right singular vectors of its sample queries; of these the
  `columns` with the largest queries, keys and folded query weights are kept.
  """

  def init(spec, params, knobs, sample):
    decoder = spec.decoder
    kv_heads, head_dim = decoder.num_kv_heads, decoder.head_dim
    bases = np.zeros((decoder.num_layers, kv_heads, head_dim, columns), "f4")
    for layer in range(decoder.num_layers):
      projection = params["decoder"][f"layers_{layer}"]["q_proj"]["kernel"]
      weight = np.asarray(projection).reshape(-1, kv_heads, head_dim)
      query = np.asarray(sample["query"][layer]).reshape(kv_heads, -1, head_dim)
      for head in range(kv_heads):
        basis = np.linalg.svd(query[head], full_matrices=False)[2].T
        size = sum(
          np.abs(rows @ basis).sum(axis=0)
          for rows in (
            query[head],
            np.asarray(sample["key"][layer][head]),
            weight[:, head],
          )
        )
        bases[layer, head] = basis[:, np.argsort(-size)[:columns]]
    shape = (decoder.num_layers, kv_heads, spec.num_slots, columns)
    return {
      "basis": jnp.asarray(bases),
      "key": jnp.zeros(shape),
      "alpha": jnp.float32(knobs["alpha"]),
    }

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    heads, _, head_dim = queries.rotated.shape
    query = queries.rotated.reshape(kv_heads, -1, head_dim)
    partial = jnp.einsum("kmh,khr->kmr", query, state["basis"][layer])
    score = jnp.einsum("kmr,ksr->kms", partial, state["key"][layer])
    valid = jnp.tile(queries.valid, heads // kv_heads)[None, :, None]
    live = bitmap.unpack(view.live_in(layer))[:, None]
    score = jnp.where(valid & live, score / head_dim**0.5, -jnp.inf)
    score = jnp.max(score, axis=1)
    near = score > jnp.max(score, axis=-1, keepdims=True) - state["alpha"]
    scored = jnp.broadcast_to(view.cursor, (kv_heads,))
    counts = none((kv_heads,))._replace(keys_scored=scored)
    return one_part(view, bitmap.pack(near))[0], state, counts

  def write(state, view, chunk, stage):
    del view, stage
    partial = jnp.einsum("lkth,lkhr->lktr", chunk.k_rotated, state["basis"])
    key = jax.lax.dynamic_update_slice(
      state["key"], partial, (0, 0, chunk.start, 0)
    )
    return {**state, "key": key}, None, none(partial.shape[:2])

  needs = policy_lib.Needs(weights=True, sample=True)
  name = f"infinigen(alpha={alpha}, columns={columns})"
  return make(name, needs, init, select, write, knobs={"alpha": alpha})


def retro():
  """The last frame exactly; every older one as its mean row, by its weight."""

  def init(spec, params, knobs, sample):
    del params, knobs, sample
    decoder, room = spec.decoder, spec.capacity
    shape = (decoder.num_layers, decoder.num_kv_heads, room, decoder.head_dim)
    return {
      "key": jnp.zeros(shape),
      "value": jnp.zeros(shape),
      "tokens": jnp.zeros((room,)),
    }

  def select(state, view, layer, queries, stage):
    del queries, stage
    kv_heads = view.num_kv_heads
    slots, tokens = view.slots, state["tokens"]
    newest = jnp.max(jnp.where(tokens > 0, jnp.arange(len(tokens)), -1))
    exact = bitmap.pack(slots.frame == newest)
    older = (tokens > 0) & (jnp.arange(len(tokens)) < newest)
    log_weight = jnp.log(jnp.where(older, tokens, 0.0))
    mean = lambda table: table[layer] / jnp.maximum(tokens, 1.0)[None, :, None]
    extra = (
      mean(state["key"]),
      mean(state["value"]),
      jnp.broadcast_to(log_weight[None], (kv_heads, len(tokens))),
    )
    wide = jnp.broadcast_to(exact[None], (kv_heads, len(exact)))
    selection, counts = one_part(view, wide, extra=extra)
    return selection, state, counts

  def write(state, view, chunk, stage):
    del view, stage
    valid = chunk.valid[None, None, :, None]
    total = lambda rows: jnp.sum(jnp.where(valid, rows, 0.0), axis=2)
    frame = chunk.frame[0]
    add = lambda name, rows: state[name].at[:, :, frame].add(total(rows))
    state = {
      "key": add("key", chunk.k_rotated),
      "value": add("value", chunk.v),
      "tokens": state["tokens"].at[frame].add(jnp.sum(chunk.valid)),
    }
    return state, None, none(chunk.v.shape[:2])

  needs = policy_lib.Needs(stages=("frame",))
  return make("retro", needs, init, select, write)


def freekv(*, budget=6, speculative=True):
  """Attends to what the last step chose; asks for what this one chooses."""

  def init(spec, params, knobs, sample):
    del params, sample
    decoder = spec.decoder
    words = (decoder.num_layers, decoder.num_kv_heads, spec.num_slots // 32)
    return {
      "last": jnp.zeros(words, jnp.uint32),
      "speculative": jnp.asarray(knobs["speculative"]),
    }

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    query = queries.rotated.reshape(
      kv_heads, -1, len(queries.valid), queries.rotated.shape[-1]
    )
    score = jnp.einsum("kgth,ksh->kgts", query, view.key[layer])
    valid = queries.valid[None, None, :, None]
    score = jnp.sum(jnp.where(valid, score, 0.0), axis=(1, 2))
    live = bitmap.unpack(view.live_in(layer))
    chosen = bitmap.pack(best(jnp.where(live, score, -jnp.inf), budget))
    last = state["last"][layer]
    attended = jnp.where(state["speculative"], last, chosen)
    state = {**state, "last": state["last"].at[layer].set(chosen)}
    selection = policy_lib.Selection(
      (policy_lib.Part(attended),), prefetch=chosen
    )
    return selection, state, none((kv_heads,))

  needs = policy_lib.Needs(all_keys=True, prefetches=True, resident=0)
  name = f"freekv(budget={budget}, speculative={speculative})"
  knobs = {"speculative": speculative}
  return make(name, needs, init, select, keep_all, knobs=knobs)


def livevlm(*, memory=8, observe=3, pages=1):
  """Keeps what the last tokens of a frame look at; reads pages for a question.

  The frame just seen stays whole. A page is what is left of one frame; it is
  scored by its mean unrotated key, and attended at original positions.
  """

  def init(spec, params, knobs, sample):
    del params, knobs, sample
    decoder = spec.decoder
    return {
      "frequencies": jnp.asarray(
        rotary.inverse_frequencies(decoder.rope, decoder.head_dim)
      ),
      "frames": jnp.zeros((spec.capacity,)),
    }

  def turn(state, x, position):
    return rotary.rotate(x, rotary.angles(position, state["frequencies"]))

  def select(state, view, layer, queries, stage):
    del stage
    kv_heads = view.num_kv_heads
    frame = view.slots.frame[layer]
    live = bitmap.unpack(view.live[layer])
    raw = turn(state, view.key[layer], -view.slots.position[layer])
    every = jnp.arange(len(state["frames"]))[None, None]
    member = (frame[:, :, None] == every) & live[:, :, None]
    size = jnp.sum(member, axis=1)
    mean = jnp.einsum("ksf,ksh->kfh", member.astype(raw.dtype), raw)
    mean = mean / jnp.maximum(size, 1)[:, :, None]
    valid = queries.valid[None, :, None]
    asked = jnp.sum(jnp.where(valid, queries.unrotated, 0.0), axis=1)
    asked = asked.reshape(kv_heads, -1, asked.shape[-1]).sum(axis=1)
    score = jnp.einsum("kh,kfh->kf", asked, mean)
    chosen = best(jnp.where(size > 0, score, -jnp.inf), pages)
    inside = jnp.take_along_axis(chosen, jnp.maximum(frame, 0), axis=1)
    slots = bitmap.pack(inside & (frame >= 0))
    return one_part(view, slots)[0], state, none((kv_heads,))

  def write(state, view, chunk, stage):
    counts = none(chunk.k_raw.shape[:2])
    live = bitmap.unpack(view.live)
    if stage != "frame":
      return state, live, counts
    kv_heads, head_dim = view.num_kv_heads, view.key.shape[-1]
    layers, _, length, _ = chunk.queries.shape
    position = jnp.broadcast_to(chunk.position, chunk.queries.shape[:-1])
    query = turn(state, chunk.queries, position)[:, :, length - observe :]
    query = query.reshape(layers, kv_heads, -1, head_dim)
    score = jnp.einsum("lkmh,lksh->lkms", query, view.key) / head_dim**0.5
    score = jax.nn.softmax(
      jnp.where(live[:, :, None], score, -jnp.inf), axis=-1
    ).mean(axis=2)
    newest = live & chunk_slots(chunk, live.shape[-1])[None, None]
    older = jnp.where(live & ~newest, score, -jnp.inf)
    kept = best(older.reshape(-1, live.shape[-1]), memory).reshape(live.shape)
    return state, newest | kept, counts

  needs = policy_lib.Needs(evicts=True, all_keys=True, stages=("question",))
  return make(
    f"livevlm(memory={memory}, observe={observe}, pages={pages})",
    needs,
    init,
    select,
    write,
    move=lambda state, source: state,
  )
