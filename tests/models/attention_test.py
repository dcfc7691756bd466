"""Past and chunk attention against a dense softmax in float64.

Sets of very different sizes: empty, one slot, exactly one work item (256), one
more, and more than eight items (2048 slots), so that every border of the work
list is crossed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vrex_jax import bitmap
from vrex_jax.models import attention
from vrex_jax.models import rotary

LAYERS, BATCH, KV_HEADS, HEADS, WIDTH, SLOTS = 2, 2, 2, 4, 8, 2560
LAYER, LENGTH = 1, 3
FREQUENCIES = (1.0 / 100.0 ** (np.arange(0, WIDTH, 2) / WIDTH)).astype("f4")
SIZES = [0, 1, 256, 257, 700, 2100, 2560, 31]


def normal(seed, *shape):
  random = np.random.default_rng(seed)
  return random.standard_normal(shape).astype(np.float32)


KEYS = normal(0, LAYERS, BATCH, KV_HEADS, SLOTS, WIDTH)
VALUES = normal(1, LAYERS, BATCH, KV_HEADS, SLOTS, WIDTH)
STORED = {
  "per stream": np.sort(
    np.random.default_rng(2).integers(0, 9000, (BATCH, SLOTS))
  ).astype(np.int32),
  "per head": np.random.default_rng(3)
  .integers(0, 9000, (LAYERS, BATCH, KV_HEADS, SLOTS))
  .astype(np.int32),
}


def sets_of(rows, sizes):
  """Random sets of given sizes: b[B, A, S]."""
  random = np.random.default_rng(4)
  mask = np.zeros((BATCH * rows, SLOTS), bool)
  for line, size in zip(mask, sizes[: BATCH * rows], strict=True):
    line[random.choice(SLOTS, size, replace=False)] = True
  return mask.reshape(BATCH, rows, SLOTS)


def query_of(rows, seed=5):
  return normal(seed, BATCH, rows, LENGTH * HEADS // rows, WIDTH)


def rotated(keys, shift):
  """Keys [..., H] turned by `shift` positions [...], in float64."""
  angle = shift[..., None] * FREQUENCIES.astype(np.float64)
  first, second = np.split(keys.astype(np.float64), 2, axis=-1)
  cosine, sine = np.cos(angle), np.sin(angle)
  return np.concatenate(
    [first * cosine - second * sine, second * cosine + first * sine], axis=-1
  )


def per_row(array, rows):
  """[B, K, S, …] of one layer -> [B, A, S, …]."""
  return np.repeat(array, rows // KV_HEADS, axis=1)


def dense(query, key, value, mask):
  """out and lse over the keys of a mask: [B, A, M, H], [B, A, S, H] twice."""
  query, key, value = (x.astype(np.float64) for x in (query, key, value))
  scores = np.einsum("bamh,bash->bams", query, key) / WIDTH**0.5
  scores = np.where(mask[:, :, None], scores, -np.inf)
  top = np.maximum(scores.max(axis=-1), -1e300)
  weights = np.exp(scores - top[..., None])
  total = weights.sum(axis=-1)
  with np.errstate(divide="ignore"):
    lse = top + np.log(total)
  out = np.einsum("bams,bash->bamh", weights, value)
  return out / np.maximum(total, 1e-300)[..., None], lse


def close(partial, expected, tolerance=1e-5):
  np.testing.assert_allclose(
    partial.out, expected[0], rtol=tolerance, atol=tolerance
  )
  np.testing.assert_allclose(
    partial.lse, expected[1], rtol=tolerance, atol=tolerance
  )


WORK_LIST = jax.jit(attention.work_list_attention, static_argnums=5)
PREFIX = jax.jit(attention.prefix_attention, static_argnums=5)


def rotation_of(kind, stored):
  """The rotation and its shift: rule "rank" or "fixed"."""
  if kind is None:
    return None
  target = jnp.asarray([40, 7], jnp.int32) if kind == "fixed" else None
  return attention.KeyRotation(
    jnp.asarray(STORED[stored]), jnp.asarray(FREQUENCIES), target
  )


def moved_keys(kind, stored, mask):
  """Keys per row [B, A, S, H], turned one by one to where the rule says."""
  rows = mask.shape[1]
  keys = per_row(KEYS[LAYER], rows)
  if kind is None:
    return keys
  position = STORED[stored]
  if stored == "per head":
    position = per_row(position[LAYER], rows)
  else:
    position = np.broadcast_to(position[:, None], mask.shape)
  target = np.cumsum(mask, axis=-1) - 1
  if kind == "fixed":
    target = np.broadcast_to(np.array([40, 7])[:, None, None], mask.shape)
  return rotated(keys, target - position)


@pytest.mark.parametrize(
  ("rows", "kind", "stored"),
  [
    (KV_HEADS, None, "per stream"),
    (HEADS, None, "per stream"),
    (KV_HEADS, "rank", "per head"),
    (HEADS, "rank", "per stream"),
    (HEADS, "fixed", "per head"),
  ],
)
@pytest.mark.parametrize("turn", [0, 3])
def test_work_list_attention_is_dense_attention_over_each_set(
  rows, kind, stored, turn
):
  sizes = SIZES[turn:] + SIZES[:turn]
  mask, query = sets_of(rows, sizes), query_of(rows)
  found = WORK_LIST(
    query,
    KEYS,
    VALUES,
    bitmap.pack(jnp.asarray(mask)),
    rotation_of(kind, stored),
    LAYER,
  )
  keys = moved_keys(kind, stored, mask)
  # Angles at position 9000 are good to 1e-4 in float32.
  tolerance = 1e-5 if kind is None else 1e-3
  close(
    found, dense(query, keys, per_row(VALUES[LAYER], rows), mask), tolerance
  )
  empty = ~mask.any(axis=-1)
  assert np.all(np.isneginf(np.asarray(found.lse)[empty]))
  assert not np.any(np.asarray(found.out)[empty])


@pytest.mark.parametrize("kind", ["rank", "fixed"])
def test_moving_keys_is_rotating_them_explicitly(kind):
  """With the package's own rotary arithmetic the two agree to rounding."""
  mask, query = sets_of(HEADS, SIZES), query_of(HEADS)
  rotation = rotation_of(kind, "per stream")
  words = bitmap.pack(jnp.asarray(mask))
  found = WORK_LIST(query, KEYS, VALUES, words, rotation, LAYER)
  target = np.cumsum(mask, axis=-1) - 1
  if kind == "fixed":
    target = np.broadcast_to(np.array([40, 7])[:, None, None], mask.shape)
  shift = target - STORED["per stream"][:, None]
  keys = rotary.rotate(
    jnp.asarray(per_row(KEYS[LAYER], HEADS)),
    rotary.angles(jnp.asarray(shift), FREQUENCIES),
  )
  close(
    found,
    dense(query, np.asarray(keys), per_row(VALUES[LAYER], HEADS), mask),
    2e-5,
  )


@pytest.mark.parametrize("cursor", [0, 1, 511, 512, 513, SLOTS])
def test_prefix_attention_is_dense_attention_below_the_cursor(cursor):
  valid = np.random.default_rng(6).random((BATCH, SLOTS)) < 0.6
  query = query_of(KV_HEADS)
  found = PREFIX(query, KEYS, VALUES, valid, jnp.int32(cursor), LAYER)
  mask = (valid & (np.arange(SLOTS) < cursor))[:, None].repeat(KV_HEADS, 1)
  close(found, dense(query, KEYS[LAYER], VALUES[LAYER], mask))


def test_prefix_and_work_list_agree_on_the_same_slots():
  valid = np.random.default_rng(7).random((BATCH, SLOTS)) < 0.3
  query = query_of(KV_HEADS)
  whole = PREFIX(query, KEYS, VALUES, valid, jnp.int32(SLOTS), LAYER)
  words = bitmap.pack(jnp.asarray(valid))[:, None].repeat(KV_HEADS, 1)
  listed = WORK_LIST(query, KEYS, VALUES, words, None, LAYER)
  close(listed, whole, 2e-6)


@pytest.mark.parametrize("rank", [255, 300, 2100])
def test_many_query_rows_are_handled_in_smaller_steps(rank):
  """Below, just above and far above the size at which steps are cut."""
  query = normal(12, BATCH, KV_HEADS, rank, WIDTH)
  valid = np.random.default_rng(13).random((BATCH, SLOTS)) < 0.5
  cursor = 1300
  mask = (valid & (np.arange(SLOTS) < cursor))[:, None].repeat(KV_HEADS, 1)
  expected = dense(query, KEYS[LAYER], VALUES[LAYER], mask)
  close(PREFIX(query, KEYS, VALUES, valid, jnp.int32(cursor), LAYER), expected)
  words = bitmap.pack(jnp.asarray(mask))
  close(WORK_LIST(query, KEYS, VALUES, words, None, LAYER), expected)


def test_permuting_the_batch_permutes_the_result():
  mask, query = sets_of(HEADS, SIZES), query_of(HEADS)
  words = bitmap.pack(jnp.asarray(mask))
  rotation = rotation_of("rank", "per stream")
  straight = WORK_LIST(query, KEYS, VALUES, words, rotation, LAYER)
  swapped = WORK_LIST(
    query[::-1],
    KEYS[:, ::-1],
    VALUES[:, ::-1],
    words[::-1],
    rotation._replace(stored=rotation.stored[::-1]),
    LAYER,
  )
  close(swapped, (straight.out[::-1], straight.lse[::-1]), 2e-6)


def test_slots_outside_the_sets_are_never_read():
  """Not masked, not there: no value they hold can reach the result."""
  mask, query = sets_of(KV_HEADS, [40, 300, 5, 700]), query_of(KV_HEADS)
  words = bitmap.pack(jnp.asarray(mask))
  outside = np.broadcast_to(~mask[None, ..., None], KEYS.shape)
  poison = lambda array: np.where(outside, np.float32(np.nan), array)
  clean = WORK_LIST(query, KEYS, VALUES, words, None, LAYER)
  dirty = WORK_LIST(query, poison(KEYS), poison(VALUES), words, None, LAYER)
  np.testing.assert_array_equal(clean.out, dirty.out)
  np.testing.assert_array_equal(clean.lse, dirty.lse)


def test_keys_stored_in_bfloat16_are_attended_in_float32():
  mask, query = sets_of(KV_HEADS, SIZES[2:]), query_of(KV_HEADS)
  small_keys, small_values = (
    jnp.asarray(x).astype(jnp.bfloat16) for x in (KEYS, VALUES)
  )
  words = bitmap.pack(jnp.asarray(mask))
  widen = lambda array: np.asarray(array.astype(jnp.float32))[LAYER]
  expected = dense(query, widen(small_keys), widen(small_values), mask)
  close(
    WORK_LIST(query, small_keys, small_values, words, None, LAYER), expected
  )
  valid = mask[:, 0]
  expected = dense(
    query, widen(small_keys), widen(small_values), mask[:, :1].repeat(2, 1)
  )
  close(
    PREFIX(query, small_keys, small_values, valid, jnp.int32(SLOTS), LAYER),
    expected,
  )


def chunk_inputs():
  query = normal(8, BATCH, HEADS, 5, WIDTH)
  key = normal(9, BATCH, KV_HEADS, 5, WIDTH)
  value = normal(10, BATCH, KV_HEADS, 5, WIDTH)
  valid = np.array(
    [[True, True, True, True, False], [False, True] * 2 + [True]]
  )
  return query, key, value, valid


def chunk_mask(valid):
  """b[B, N, T, T]: causal, valid keys, and every token itself."""
  causal = np.tril(np.ones((5, 5), bool)) & valid[:, None, :]
  return np.repeat((causal | np.eye(5, dtype=bool))[:, None], HEADS, axis=1)


def test_chunk_attention_is_causal_and_ignores_padding():
  query, key, value, valid = chunk_inputs()
  found = attention.chunk_attention(query, key, value, jnp.asarray(valid))
  mask = chunk_mask(valid)
  for token in range(5):
    close(
      attention.Partial(
        found.out[:, :, token : token + 1], found.lse[:, :, token : token + 1]
      ),
      dense(
        query[:, :, token : token + 1],
        per_row(key, HEADS),
        per_row(value, HEADS),
        mask[:, :, token],
      ),
    )


def test_partials_of_disjoint_sets_merge_to_their_union():
  mask, query = sets_of(HEADS, SIZES), query_of(HEADS)
  thirds = np.random.default_rng(11).integers(0, 3, mask.shape)
  partials = [
    WORK_LIST(
      query,
      KEYS,
      VALUES,
      bitmap.pack(jnp.asarray(mask & (thirds == third))),
      None,
      LAYER,
    )
    for third in range(3)
  ]
  # merge asks for a key in every row; row 0 has an empty set.
  one = (query_of(HEADS, 12), np.zeros((BATCH, HEADS, LENGTH), np.float32))
  merged = attention.merge(
    (*partials, attention.Partial(*map(jnp.asarray, one)))
  )
  out, lse = dense(
    query, per_row(KEYS[LAYER], HEADS), per_row(VALUES[LAYER], HEADS), mask
  )
  total = np.logaddexp(lse, one[1])
  expected = (
    np.exp(lse - total)[..., None] * out
    + np.exp(one[1] - total)[..., None] * one[0]
  )
  close(merged, (expected, total))
  close(
    attention.merge(
      (attention.Partial(*map(jnp.asarray, one)), *partials[::-1])
    ),
    merged,
    1e-6,
  )


def test_an_extra_row_counts_as_its_weight_in_copies():
  query = query_of(KV_HEADS)
  key, value = (
    normal(13, BATCH, KV_HEADS, 4, WIDTH),
    normal(14, BATCH, KV_HEADS, 4, WIDTH),
  )
  copies = np.array([1, 3, 0, 7])
  with np.errstate(divide="ignore"):
    log_weight = np.log(copies).astype(np.float32)
  found = attention.extra_attention(
    query, key, value, jnp.broadcast_to(log_weight, (BATCH, KV_HEADS, 4))
  )
  repeat = lambda array: np.repeat(array, copies, axis=2)
  expected = dense(
    query, repeat(key), repeat(value), np.ones((BATCH, KV_HEADS, 11), bool)
  )
  close(found, expected)


def test_extra_rows_that_are_all_off_are_no_rows():
  query = query_of(KV_HEADS)
  rows = jnp.ones((BATCH, KV_HEADS, 4, WIDTH))
  off = jnp.full((BATCH, KV_HEADS, 4), -jnp.inf)
  own = attention.Partial(
    jnp.asarray(query), jnp.zeros((BATCH, KV_HEADS, LENGTH * 2))
  )

  def merged(query_, rows_):
    extra = attention.extra_attention(query_, rows_, rows_, off)
    return attention.merge((own, extra)).out

  np.testing.assert_array_equal(merged(query, rows), own.out)
  gradients = jax.jit(jax.grad(lambda *x: merged(*x).sum(), argnums=(0, 1)))
  for gradient in gradients(query, rows):
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def dense_mass(query, key, mask, lse, counts):
  """Σ over counted rows of exp(q · k / sqrt(H) - lse): [B, A, S]."""
  scores = np.einsum(
    "bamh,bash->bams", query.astype(np.float64), key.astype(np.float64)
  )
  weights = np.exp(scores / WIDTH**0.5 - lse[..., None])
  weights = np.where(mask[:, :, None] & counts[..., None], weights, 0.0)
  return weights.sum(axis=2)


@pytest.mark.parametrize("rows", [KV_HEADS, HEADS])
def test_slot_mass_is_what_each_slot_received(rows):
  mask, query = sets_of(rows, SIZES), query_of(rows)
  keys = moved_keys("rank", "per stream", mask)
  _, lse = dense(query, keys, keys, mask)
  lse = np.where(np.isfinite(lse), lse, 0.0) + 0.5
  counts = np.random.default_rng(15).random(lse.shape) < 0.7
  found = jax.jit(attention.slot_mass, static_argnums=4)(
    query,
    KEYS,
    bitmap.pack(jnp.asarray(mask)),
    rotation_of("rank", "per stream"),
    LAYER,
    lse.astype(np.float32),
    counts,
  )
  np.testing.assert_allclose(
    found, dense_mass(query, keys, mask, lse, counts), rtol=1e-3, atol=1e-5
  )


def test_mass_of_past_and_chunk_adds_up_to_the_valid_rows():
  """Every valid query row spends a mass of one, on the past and the chunk."""
  query, key, value, valid = chunk_inputs()
  words = bitmap.pack(jnp.asarray(sets_of(KV_HEADS, SIZES)))
  grouped = attention.group_queries(jnp.asarray(query), KV_HEADS)
  past = WORK_LIST(grouped, KEYS, VALUES, words, None, LAYER)
  own = attention.chunk_attention(query, key, value, jnp.asarray(valid))
  own = attention.Partial(
    attention.group_queries(own.out, KV_HEADS),
    own.lse.reshape(BATCH, KV_HEADS, -1),
  )
  lse = attention.merge((own, past)).lse
  counts = valid[:, None].repeat(HEADS, 1).reshape(BATCH, KV_HEADS, -1)
  on_past = attention.slot_mass(
    grouped, KEYS, words, None, LAYER, lse, jnp.asarray(counts)
  )
  on_chunk = attention.chunk_mass(
    query, key, jnp.asarray(valid), lse.reshape(BATCH, HEADS, 5)
  )
  np.testing.assert_array_equal(
    np.asarray(on_chunk).any(axis=1) <= valid, np.ones((BATCH, 5), bool)
  )
  spent = on_past.sum(-1) + on_chunk.reshape(BATCH, KV_HEADS, -1).sum(-1)
  np.testing.assert_allclose(spent, counts.sum(-1), rtol=1e-5)


def small_problem(rows, seed=16):
  """64 slots, sets of 0, 1, 20 and 64 …: for finite differences."""
  keys = normal(seed, 2, 1, 2, 512, WIDTH)
  values = normal(seed + 1, 2, 1, 2, 512, WIDTH)
  query = normal(seed + 2, 1, rows, LENGTH * HEADS // rows, WIDTH)
  mask = np.zeros((1, rows, 512), bool)
  random = np.random.default_rng(seed)
  for row, size in enumerate([300, 0, 1, 20][-rows:]):
    mask[0, row, random.choice(512, size, replace=False)] = True
  return query, keys, values, mask


def dense_partial(query, keys, values, mask, rotation, layer):
  """`work_list_attention` by a mask, differentiable by jax itself."""
  rows = query.shape[1]
  widen = lambda array: jnp.repeat(array[layer], rows // 2, axis=1)
  key, value = widen(keys), widen(values)
  if rotation is not None:
    target = jnp.cumsum(mask, axis=-1) - 1
    if rotation.target is not None:
      target = jnp.full(mask.shape, rotation.target[0])
    shift = target - rotation.stored[:, None]
    key = rotary.rotate(key, rotary.angles(shift, rotation.frequencies))
  scores = jnp.einsum("bamh,bash->bams", query, key) / WIDTH**0.5
  there = jnp.any(mask, axis=-1)[:, :, None]
  scores = jnp.where(mask[:, :, None], scores, -1e9)
  lse = jax.nn.logsumexp(scores, axis=-1)
  out = jnp.einsum("bams,bash->bamh", jnp.exp(scores - lse[..., None]), value)
  return attention.Partial(
    jnp.where(there[..., None], out, 0.0), jnp.where(there, lse, -jnp.inf)
  )


def loss_of(attend, *, through_lse):
  """A smooth scalar of out (and lse) with a different weight per entry."""

  def loss(query, keys, values):
    partial = attend(query, keys, values)
    weights = jnp.asarray(normal(20, *partial.out.shape))
    loss = jnp.sum(weights * partial.out)
    if through_lse:
      lse = jnp.where(jnp.isfinite(partial.lse), partial.lse, 0.0)
      loss += jnp.sum(jnp.sin(weights[..., 0] * lse))
    return loss

  return loss


@pytest.mark.parametrize(
  ("rows", "kind", "through_lse"),
  [(4, None, False), (2, None, True), (4, "rank", True), (2, "fixed", True)],
)
def test_gradients_of_work_list_attention(rows, kind, through_lse):
  query, keys, values, mask = small_problem(rows)
  stored = jnp.asarray(np.arange(512)[None] * 3, jnp.int32)
  rotation = None
  if kind is not None:
    target = jnp.asarray([11]) if kind == "fixed" else None
    rotation = attention.KeyRotation(stored, jnp.asarray(FREQUENCIES), target)
  words = bitmap.pack(jnp.asarray(mask))
  ours = loss_of(
    lambda *x: attention.work_list_attention(*x, words, rotation, 1),
    through_lse=through_lse,
  )
  theirs = loss_of(
    lambda *x: dense_partial(*x, jnp.asarray(mask), rotation, 1),
    through_lse=through_lse,
  )
  found = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(query, keys, values)
  expected = jax.jit(jax.grad(theirs, argnums=(0, 1, 2)))(query, keys, values)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  assert all(np.any(gradient) for gradient in found)


def test_gradients_of_prefix_attention():
  query, keys, values, _ = small_problem(2)
  valid = np.random.default_rng(21).random((1, 512)) < 0.5
  cursor = 400
  mask = jnp.asarray(valid & (np.arange(512) < cursor))[:, None].repeat(2, 1)
  ours = loss_of(
    lambda *x: attention.prefix_attention(*x, valid, jnp.int32(cursor), 1),
    through_lse=True,
  )
  theirs = loss_of(
    lambda *x: dense_partial(*x, mask, None, 1), through_lse=True
  )
  found = jax.jit(jax.grad(ours, argnums=(0, 1, 2)))(query, keys, values)
  expected = jax.jit(jax.grad(theirs, argnums=(0, 1, 2)))(query, keys, values)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_finite_differences():
  query, keys, values, mask = small_problem(2)
  words = bitmap.pack(jnp.asarray(mask))
  stored = jnp.asarray(np.arange(512)[None], jnp.int32)
  rotation = attention.KeyRotation(stored, jnp.asarray(FREQUENCIES), None)
  loss = loss_of(
    lambda *x: attention.work_list_attention(*x, words, rotation, 1),
    through_lse=True,
  )
  check_grads(
    jax.jit(loss),
    (query, keys, values),
    order=1,
    modes=["rev"],
    eps=1e-2,
    atol=2e-2,
    rtol=2e-2,
  )


def test_numpy_arrays_are_taken_as_they_are():
  query, keys, values, mask = small_problem(2)
  words = np.asarray(bitmap.pack(jnp.asarray(mask)))
  expected = dense(query, keys[1], values[1], mask)
  rotation = attention.KeyRotation(
    np.arange(512, dtype=np.int32)[None], FREQUENCIES, None
  )
  attend = lambda turn: attention.work_list_attention(
    query, keys, values, words, turn, 1
  )
  close(attend(None), expected)
  assert np.all(np.isfinite(attend(rotation).out))
  close(
    attention.prefix_attention(query, keys, values, mask[:, 1], 512, 1),
    dense(query, keys[1], values[1], mask[:, 1:].repeat(2, 1)),
  )


def test_a_cursor_past_the_valid_slots_reads_whole_chunks_only():
  """S must hold whole chunks of 512 slots, or the last ones would be lost."""
  with pytest.raises(AssertionError):
    attention.prefix_attention(
      query_of(KV_HEADS),
      KEYS[:, :, :, :500],
      VALUES[:, :, :, :500],
      jnp.ones((BATCH, 500), bool),
      jnp.int32(3),
      LAYER,
    )
