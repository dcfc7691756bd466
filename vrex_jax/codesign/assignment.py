"""Which cluster every token of a recording joins, for many Th_hd at once.

A cluster keeps the code of the token that opened it (`resv`, code "first"), so
clusters are named by that token and nothing but codes decides:

  t joins argmin { distance(t, o) : o opened, t sees o, distance < Th_hd },
  the oldest of equally near ones; else t opens a cluster itself.

That is the rule of `clustering.insert_chunk`, token by token. A token sees what
came before it in the stream, and of questions that were taken back only its
own. Th_hd is traced: all of them run side by side by `vmap`, in one program a
shape of codes. Tables have room for every token.

Source: V-Rex (arXiv 2512.12284), Sec. IV.B.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax.resv import hashing
from vrex_jax.typing import Array, Int

__all__ = ["codes_of", "columns", "openers"]

_INDEX_BITS = 22
_NOWHERE = np.int32(2**31 - 1)


def codes_of(
  keys: np.ndarray, *, hash_bits: int, table: str, seed: int = 0
) -> Array:
  """Hash codes of all tokens.

  Args:
    keys: f[L, K, tokens, H], rotated.
    hash_bits: P.
    table: "head", or "layer" for one code of all heads.
    seed: of the hyperplanes.

  Returns:
    u32[L, R, tokens, W].
  """
  layers, heads, tokens, width = keys.shape
  if table == "layer":
    keys = keys.swapaxes(1, 2).reshape(layers, 1, tokens, heads * width)
  planes = hashing.hyperplanes(seed, keys.shape[-1], hash_bits)
  return hashing.hash_codes(jnp.asarray(keys), planes)


@jax.jit
def openers(codes: Array, branch: Int, thresholds: Int) -> Int:
  """The token that opened the cluster of every token.

  Args:
    codes: u32[L, R, tokens, W].
    branch: i32[tokens], -1 for what stays in the stream, else the number of the
      question that was taken back.
    thresholds: i32[Z], Th_hd.

  Returns:
    i32[Z, L, R, tokens]; its own index for a token that opens one.

  Example:
    >>> codes = jnp.uint32([0b00, 0b11, 0b01]).reshape(1, 1, 3, 1)
    >>> stored = jnp.full((3,), -1)
    >>> openers(codes, stored, jnp.array([0, 2, 3]))[:, 0, 0].tolist()
    [[0, 1, 2], [0, 1, 0], [0, 0, 0]]
  """
  return jax.vmap(functools.partial(_openers, codes, branch))(thresholds)


def _openers(codes: Array, branch: Int, threshold: Int) -> Int:
  tokens = codes.shape[2]
  table = jnp.swapaxes(codes, -1, -2)  # [L, R, W, tokens]
  index = jnp.arange(tokens, dtype=jnp.int32).reshape(1, 1, tokens)
  branch = branch.reshape(1, 1, tokens)

  def join(opened, token):
    code = jax.lax.dynamic_slice_in_dim(codes, token, 1, axis=2)
    distance = hashing.hamming_distance(code, table)[:, :, 0]
    seen = (branch < 0) | (branch == branch[0, 0, token])
    near = opened & seen & (index < token) & (distance < threshold)
    pair = jnp.where(near, (distance << _INDEX_BITS) | index, _NOWHERE)
    best = jnp.min(pair, axis=-1)
    opens = best == _NOWHERE
    opened = jax.lax.dynamic_update_slice_in_dim(
      opened, opens[..., None], token, axis=2
    )
    return opened, jnp.where(opens, token, best & ((1 << _INDEX_BITS) - 1))

  nothing = jnp.zeros(codes.shape[:3], bool)
  _, found = jax.lax.scan(join, nothing, index[0, 0])
  return jnp.moveaxis(found, 0, -1)


def columns(
  opener: np.ndarray, branch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Clusters numbered by age, as a table would.

  Clusters of a question that was taken back follow those of the stream before
  it, and their numbers are given again afterwards.

  Args:
    opener: i32[..., tokens], of one Th_hd.
    branch: i32[tokens], as in `openers`.

  Returns:
    The cluster of every token, and how many clusters there are once it is in:
    i32[..., tokens] each.

  Example:
    >>> cluster, number = columns(
    ...   np.array([0, 1, 1, 3]), np.array([-1, 0, 0, -1])
    ... )
    >>> cluster.tolist(), number.tolist()
    ([0, 1, 1, 1], [1, 2, 2, 2])
  """
  opens = opener == np.arange(opener.shape[-1])
  stored = np.cumsum(opens & (branch < 0), axis=-1)
  number = stored.copy()
  for one in np.unique(branch[branch >= 0]):
    own = np.flatnonzero(branch == one)
    number[..., own] += np.cumsum(opens[..., own], axis=-1)
  cluster = np.take_along_axis(number - 1, opener, axis=-1)
  return cluster.astype(np.int32), number.astype(np.int32)
