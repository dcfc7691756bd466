"""The static choices of ReSV: what may be varied, and what values it takes.

Defaults are those of `resv.resv`; why they are what they are is told in
docs/design/0004-resv-choices.md.
"""

import dataclasses

from vrex_jax import policy as policy_lib
from vrex_jax.errors import InputError, check_whole_number
from vrex_jax.resv import wicsum

__all__ = ["Choices"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
  """Static. What the paper leaves open, or fixes and may be varied.

  Attributes:
    hash_bits: P (paper: 32).
    hash_keys: "rotated" (paper: after RoPE) or "raw" keys are hashed. Scores
      always use rotated keys, as attention does.
    key_centering: "none", or "mean": the mean key of layer and head so far is
      taken off before hashing. Real models add a large constant to their keys,
      which would make all codes alike.
    table: "head" keeps a table for each KV head; "layer" one for all heads, on
      their concatenated keys, which the sizes named in the paper fit.
    code: "first": a cluster keeps the code of its first member; "following":
      it is that of its mean key, and tokens enter one by one.
    min_join_cosine: None; or a token joins only a cluster whose mean key is at
      least this similar. Guards against codes that are near by chance.
    rows: "union" (paper): a cluster that any query row keeps is kept; "pooled":
      one row, the mean query; "vote": at least `votes` rows.
    votes: for "vote"; where fewer rows ask, as a token of an answer does, all
      of them must.
    scores: one of `wicsum.TREATMENTS`; the paper is silent on scores below 0.
    form: "exact", or "buckets" as the WTU selects.
    buckets: of the WTU (paper: 20).
    sink_tokens: first tokens of the stream, always attended.
    stages: where it retrieves; elsewhere everything is attended. The prompt is
      short and there is nothing to gain.
    table_capacity: clusters a table can hold; None for one to 8 slots. Past it
      tokens that match nothing are in no cluster, are always attended, and the
      overflow bit is set.
    seed: of the hyperplanes.
  """

  hash_bits: int
  hash_keys: str
  key_centering: str
  table: str
  code: str
  min_join_cosine: float | None
  rows: str
  votes: int
  scores: str
  form: str
  buckets: int
  sink_tokens: int
  stages: tuple[str, ...]
  table_capacity: int | None
  seed: int

  def __post_init__(self):
    for name, allowed in _WORDS.items():
      value = getattr(self, name)
      if value not in allowed:
        raise InputError(
          f"resv: {name} is {value!r}; it must be one of {', '.join(allowed)}:"
          f" try {name}={allowed[0]}"
        )
    for name, least in _LEAST.items():
      value = getattr(self, name)
      if value is not None:
        check_whole_number(
          f"resv: {name}", value, least=least, hint=f"{name}={max(least, 1)}"
        )
    if self.hash_bits > 128:
      raise InputError(
        f"resv: hash_bits is {self.hash_bits}; it must be at most 128: try"
        " hash_bits=32"
      )
    known = isinstance(self.stages, tuple) and all(
      one in policy_lib.STAGES for one in self.stages
    )
    if not known or not self.stages:
      raise InputError(
        f"resv: stages is {self.stages!r}; it must name some of"
        f" {', '.join(policy_lib.STAGES)}: try stages=('frame', 'question',"
        " 'answer')"
      )
    if self.code == "following" and self.hash_keys == "raw":
      raise InputError(
        "resv: code is following and hash_keys raw; a mean key is one of"
        " rotated keys and cannot be hashed like raw ones: use code=first or"
        " hash_keys=rotated"
      )
    cosine = self.min_join_cosine
    number = isinstance(cosine, (int, float)) and not isinstance(cosine, bool)
    if cosine is not None and not (number and -1.0 <= cosine <= 1.0):
      raise InputError(
        f"resv: min_join_cosine is {cosine!r}; it must lie between -1 and 1:"
        " try min_join_cosine=0.5"
      )


_WORDS = {
  "hash_keys": ("rotated", "raw"),
  "key_centering": ("none", "mean"),
  "table": ("head", "layer"),
  "code": ("first", "following"),
  "rows": ("union", "pooled", "vote"),
  "scores": wicsum.TREATMENTS,
  "form": ("exact", "buckets"),
}
_LEAST = {
  "hash_bits": 1,
  "votes": 1,
  "buckets": 1,
  "sink_tokens": 0,
  "table_capacity": 1,
  "seed": 0,
}
