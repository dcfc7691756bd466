"""LiveVLM (arXiv 2505.15269, DAC 2026): two memories, pages for a question.

frame ─► short-term: last frames, whole ─► long-term: at most `memory` tokens,
         the best of every stretch of time (VSB)
question ─► best pages of the long-term memory (PaR), the short-term whole
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing
from vrex_jax.baselines import keeping
from vrex_jax.baselines import window as window_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Bitmap, Bool, Float, Int

__all__ = ["State", "livevlm"]

_FRAME = policy_lib.STAGES.index("frame")


class State(flax.struct.PyTreeNode):
  """Dynamic. Sizes, the observation window and the question at hand.

  Attributes:
    memory: tokens of the long-term memory.
    ratio: share of its pages that a question reads.
    window: queries of the last vision tokens.
    query: sum of the question's unrotated queries.
    chosen: slots that the question reads.
  """

  memory: Int  # []
  ratio: Float  # f32 []
  window: window_lib.Window
  query: Float  # f32 [L, N, H]
  chosen: Bitmap  # u32 [L, K, S / 32]


def livevlm(
  *,
  memory: int = arguments.Published(12288),
  bucket_tokens: int = 1,
  unconditional: float = 0.1,
  window_tokens: int = 0,
  short_frames: int = 8,
  page: int = 16,
  ratio: float = 0.4,
  stages: str | tuple[str, ...] = "published",
) -> policy_lib.KVPolicy:
  """Vision sink bucketing (VSB) and position-agnostic retrieval (PaR).

  VSB, when frames leave the short-term memory and the long-term one is full:

    S_j     mean over the last vision tokens and the group of
            softmax(q K / √H)_j over vision tokens alone
    bucket  of N = memory / bucket_tokens equal stretches of the stream's time
    keep    the best `unconditional` share anywhere; then, by falling S, tokens
            whose bucket has room, up to `memory`; the rest is gone

  PaR, for a question: pages of `page` kept tokens, each as its mean key
  without rotation; score = mean query · mean key, per KV head; the best `ratio`
  of the pages and all of the short-term memory are attended, at their original
  positions. The answer reads the question's pages.

  Reconstructed in part, from the second version of the paper; its code was not
  read. Not found there: the number of last vision tokens (here one frame), the
  unconditional share (here 0.1), the length of the short-term memory (here
  `short_frames`), whether tokens already in the long-term memory are scored
  anew (here yes), and whether S is taken by head (here by KV head, mean over
  its group). Pooling of the question is the mean of its queries over all its
  chunks so far. Text is kept and attended.

  Args:
    memory: M, long-term tokens of a KV head (paper: 12K). A knob; the number
      of buckets follows it.
    bucket_tokens: capacity of a bucket (paper: 1).
    unconditional: share of the candidates kept wherever they are.
    window_tokens: last vision tokens that score; 0 for one frame.
    short_frames: frames of the short-term memory.
    page: tokens of a page (paper: 16).
    ratio: share of the pages a question reads (paper: 0.4). A knob.
    stages: published: questions and answers. "all": frames read by pages, too,
      each asking for itself.

  Raises:
    InputError: a value that cannot be used.

  Example:
    >>> livevlm(memory=1024, ratio=0.2).needs.stages
    ('question', 'answer')

  Source: Secs. III-IV of the paper (v2).
  """
  given = dict(locals())
  sizes = {"memory": (memory, 1), "bucket_tokens": (bucket_tokens, 1)}
  sizes |= {"window_tokens": (window_tokens, 0), "page": (page, 1)}
  sizes |= {"short_frames": (short_frames, 1)}
  arguments.check_sizes("livevlm", sizes)
  for name, value in (("unconditional", unconditional), ("ratio", ratio)):
    arguments.check_number("livevlm", name, value, 0.0, 1.0, "0.4")
  retrieving = arguments.stages_of("livevlm", stages, ("question", "answer"))
  arguments.check_answers("livevlm", retrieving)

  def init(spec, params, knobs, sample):
    del params, sample
    memory = arguments.fitting("livevlm", "memory", knobs["memory"], spec)
    decoder = spec.decoder
    layers, heads = decoder.num_layers, decoder.num_kv_heads
    tokens = window_tokens or dict(spec.chunk_tokens)["frame"]
    words = layers, heads, spec.num_slots // bitmap.WORD_BITS
    return State(
      memory=jnp.asarray(memory, jnp.int32),
      ratio=jnp.asarray(knobs["ratio"], jnp.float32),
      window=window_lib.create(spec, tokens),
      query=jnp.zeros((layers, decoder.num_heads, decoder.head_dim)),
      chosen=jnp.zeros(words, jnp.uint32),
    )

  def select(state, view, layer, queries, stage):
    counts = policy_lib.zero_counts((view.num_kv_heads,))
    if stage != "answer":
      fresh = queries.first if stage == "question" else True
      state, pages_read = _read_pages(state, view, layer, queries, fresh)
      counts = counts._replace(groups_live=pages_read, groups_scored=pages_read)
    slots = state.chosen[layer] | bitmap.pack(~_long_term(view, layer))
    part = policy_lib.Part(slots=slots)
    return policy_lib.Selection(parts=(part,)), state, counts

  def _long_term(view, layer):
    """Frame tokens that have left the short-term memory: b[K, S]."""
    slots = jax.tree.map(lambda leaf: leaf[layer], view.slots)
    live = bitmap.unpack(view.live[layer])
    newest = jnp.max(jnp.where(live, slots.frame, -1))
    old = slots.frame <= newest - short_frames
    return live & old & (slots.kind == _FRAME)

  def _read_pages(state, view, layer, queries, fresh):
    """Adds to the question and chooses its pages anew."""
    live = queries.valid[None, :, None]
    added = jnp.where(live, queries.unrotated.astype(jnp.float32), 0.0)
    before = jnp.where(fresh, 0.0, state.query[layer])
    query = before + jnp.sum(added, axis=1)
    member = _long_term(view, layer)
    raw = _unrotated(state.window.frequencies, view, layer)
    asked = query.reshape(view.num_kv_heads, -1, query.shape[-1]).mean(axis=1)
    slots, number = _best_pages(raw, member, asked, state.ratio, page)
    state = state.replace(
      query=state.query.at[layer].set(query),
      chosen=state.chosen.at[layer].set(bitmap.pack(slots)),
    )
    return state, number

  def write(state, view, chunk, stage):
    counts = policy_lib.zero_counts(chunk.k_raw.shape[:2])
    live = bitmap.unpack(view.live)
    if stage != "frame":
      return state, live, counts
    window = window_lib.push(state.window, chunk)
    newest = jnp.max(chunk.frame)
    slots = view.slots
    vision = live & (slots.kind == _FRAME)
    member = vision & (slots.frame <= newest - short_frames)
    weight = window_lib.attention(window, view, vision)
    shape = live.shape[0], live.shape[1], -1, live.shape[-1]
    weight = jnp.mean(weight.reshape(shape), axis=2)
    full = jnp.sum(member, axis=-1, keepdims=True) > state.memory

    def compressed():
      kept = bucketed(
        jnp.where(member, weight, -jnp.inf),
        slots.position,
        state.memory,
        bucket_tokens,
        unconditional,
      )
      return jnp.where(full & member, kept, live)

    keep = keeping.if_needed(jnp.any(full), compressed, live)
    return state.replace(window=window), keep, counts

  def move(state, source):
    chosen = jnp.take_along_axis(bitmap.unpack(state.chosen), source, axis=-1)
    return state.replace(chosen=bitmap.pack(chosen))

  return policy_lib.KVPolicy(
    name=arguments.canonical_name(livevlm, given),
    needs=policy_lib.Needs(
      stages=retrieving,
      evicts=True,
      all_keys=True,
    ),
    knobs={"memory": memory, "ratio": ratio},
    init=init,
    select=select,
    write=write,
    move=move,
  )


@functools.partial(jax.jit, static_argnames=("bucket_tokens", "unconditional"))
def bucketed(
  score: Float,
  position: Int,
  memory: Int,
  bucket_tokens: int,
  unconditional: float,
) -> Bool:
  """VSB's keep rule.

  Args:
    score: f32[..., S]; -inf for slots that are no candidates.
    position: i32[..., S], not negative.
    memory: i32[], most tokens kept; at most S.
    bucket_tokens: room of a bucket; the work grows with it.
    unconditional: share of the candidates kept wherever they are.

  Returns:
    b[..., S], at most `memory` set in each row.
  """
  member = score > -jnp.inf
  size = jnp.sum(member, axis=-1, keepdims=True)
  length = 1 + jnp.max(jnp.where(member, position, 0), axis=-1, keepdims=True)
  share = jnp.ceil(unconditional * size.astype(jnp.float32)).astype(jnp.int32)
  first = jnp.minimum(share, memory)
  strong = choosing.highest(score, first[..., 0])
  buckets = jnp.maximum(memory // bucket_tokens, 1)
  stretch = length.astype(jnp.float32) / buckets.astype(jnp.float32)
  bucket = jnp.floor(position.astype(jnp.float32) / stretch).astype(jnp.int32)
  # Strong tokens have their bucket's room first.
  rank = jnp.where(strong, jnp.inf, score)
  room = _best_of_buckets(rank, bucket, bucket_tokens) & ~strong
  rest = choosing.highest(
    jnp.where(room, score, -jnp.inf), (memory - first)[..., 0]
  )
  return strong | rest


@functools.partial(jnp.vectorize, excluded=(2,), signature="(s),(s)->(s)")
def _best_of_buckets(score: Float, bucket: Int, number: int) -> Bool:
  """The `number` best of every bucket, of equal ones the first: b[S].

  A pass over the slots for each of them: sorting costs a CPU far more.

  Args:
    score: f32[S]; -inf is never chosen.
    bucket: i32[S], at most S for candidates.
    number: static.
  """
  slots = score.shape[0]
  index = jnp.arange(slots)
  bucket = jnp.clip(bucket, 0, slots)  # past the end: of no candidate

  def choose(_, left):
    best = jax.ops.segment_max(left, bucket, slots + 1)[bucket]
    wins = (left == best) & (left > -jnp.inf)
    place = jnp.where(wins, index, slots)
    first = jax.ops.segment_min(place, bucket, slots + 1)[bucket]
    return jnp.where(index == first, -jnp.inf, left)

  left = jax.lax.fori_loop(0, number, choose, score)
  return left != score


def _unrotated(frequencies: Float, view: policy_lib.View, layer: int) -> Float:
  """Keys of a layer without their positions: f32[K, S, H]."""
  angle = rotary.angles(-view.slots.position[layer], frequencies)
  return rotary.rotate(view.key[layer].astype(jnp.float32), angle)


def _best_pages(
  raw: Float, member: Bool, asked: Float, ratio: Float, page: int
) -> tuple[Bool, Int]:
  """Members of the best pages b[K, S], and the number of pages i32[K].

  Args:
    raw: f32[K, S, H].
    member: b[K, S]; pages are `page` members next to one another.
    asked: f32[K, H].
    ratio: f32[], share of the pages.
    page: tokens of a page.
  """
  slots = member.shape[-1]
  room = -(-slots // page)
  place = (jnp.cumsum(member, axis=-1) - 1) // page
  place = jnp.where(member, place, room)
  add = jax.vmap(lambda rows, at: jax.ops.segment_sum(rows, at, room + 1))
  rows = raw * member.astype(jnp.float32)[..., None]
  # All pages but the last one are full.
  before = page * jnp.arange(room)[None]
  size = jnp.clip(jnp.sum(member, axis=-1, keepdims=True) - before, 0, page)
  held = size > 0
  divisor = jnp.maximum(size, 1).astype(jnp.float32)
  mean = add(rows, place)[:, :room] / divisor[..., None]
  score = jnp.einsum("kh,kph->kp", asked, mean)
  number = jnp.sum(held, axis=-1, dtype=jnp.int32)
  wanted = jnp.ceil(ratio * number.astype(jnp.float32)).astype(jnp.int32)
  chosen = choosing.highest(jnp.where(held, score, -jnp.inf), wanted)
  inside = jnp.take_along_axis(chosen, jnp.minimum(place, room - 1), axis=-1)
  return inside & member, number
