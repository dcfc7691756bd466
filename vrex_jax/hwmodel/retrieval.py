"""What a retrieval method attends to and fetches, without running it.

`Method` says what the V-Rex paper says of each method: which share of the past
it attends to for frames and for text, what it compares to choose, and whether
what it wants lies together. `Retrieval` is that at one cache length, by layer.

Which tokens a method would really take depends on the data; a trace knows
(`traced_work`, or `ratios` of one for another model).

Source: V-Rex (arXiv 2512.12284), Table II for ratios, Sec. VI.B for methods.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax.numpy as jnp

from vrex_jax.errors import InputError
from vrex_jax.hwmodel import residency
from vrex_jax.hwmodel import score_law
from vrex_jax.models import config as config_lib
from vrex_jax.typing import Float

__all__ = [
  "METHODS",
  "TOKENS_PER_CLUSTER",
  "Method",
  "Retrieval",
  "at_length",
  "method",
  "without_engine",
]

TOKENS_PER_CLUSTER = 32.0
"""Mean over the paper's runs (V-Rex, Sec. VI.B)."""
FRAME_TOKENS = 10.0
"""Of one frame, the paper's model; ReKV compares frames."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """Static. A published method, as the V-Rex paper runs it.

  Attributes:
    name: of `--policy`.
    frame_ratio: share of the past attended by a frame (Table II, average).
    text_ratio: by a generated token.
    candidates: what is compared: "none", "token", "frame" or "cluster".
    in_frames: retrieves in the frame stage too.
    keeps_resident: what is selected again stays on the device (`residency`);
      otherwise all that is attended is fetched.
    contiguous: what it fetches lies together.
    prediction: "engine" (a DRE, where there is one) or "software".
  """

  name: str
  frame_ratio: float
  text_ratio: float
  candidates: str = "none"
  in_frames: bool = True
  keeps_resident: bool = False
  contiguous: bool = True
  prediction: str = "software"

  def ratio(self, stage: str) -> float:
    """Share of the past attended; a question counts as a frame (Sec. II.A)."""
    return self.text_ratio if stage == "answer" else self.frame_ratio

  def retrieves(self, stage: str) -> bool:
    """Whether anything is compared at this stage."""
    chooses = self.candidates != "none"
    return chooses and (self.in_frames or stage == "answer")


_RESV = Method(
  name="resv",
  frame_ratio=0.327,
  text_ratio=0.025,
  candidates="cluster",
  keeps_resident=True,
  prediction="engine",
)
METHODS: dict[str, Method] = {
  one.name: one
  for one in (
    Method(name="flexgen", frame_ratio=1.0, text_ratio=1.0),
    Method(
      name="infinigen",
      frame_ratio=1.0,
      text_ratio=0.068,
      candidates="token",
      in_frames=False,
      contiguous=False,
    ),
    Method(
      name="infinigenp",
      frame_ratio=0.508,
      text_ratio=0.068,
      candidates="token",
      contiguous=False,
    ),
    Method(
      name="rekv", frame_ratio=0.584, text_ratio=0.312, candidates="frame"
    ),
    _RESV,
    dataclasses.replace(
      _RESV, name="resv_software", contiguous=False, prediction="software"
    ),
    dataclasses.replace(_RESV, name="resv_kvpu", contiguous=False),
  )
}
"""FlexGen, InfiniGen, InfiniGenP, ReKV; ReSV with the whole DRE, without any of
it, and with the KVPU but no KVMU (the ladder of Fig. 16)."""


def method(name: str) -> Method:
  """A method by name.

  Raises:
    InputError: there is none of this name.
  """
  if name not in METHODS:
    raise InputError(
      f"policy {name!r} has no published ratios; without a trace it must be one"
      f" of {', '.join(METHODS)}: choose one, or give --trace"
    )
  return METHODS[name]


def without_engine(how: Method) -> Method:
  """The same method on a machine that has no DRE.

  ReSV then predicts in software and lays nothing out by cluster.

  Example:
    >>> without_engine(METHODS["resv"]).prediction
    'software'
    >>> without_engine(METHODS["rekv"]) == METHODS["rekv"]
    True
  """
  if how.prediction != "engine":
    return how
  return dataclasses.replace(how, contiguous=False, prediction="software")


class Retrieval(flax.struct.PyTreeNode):
  """Dynamic. What a method does in one event; one KV head, one stream; f[L].

  Attributes:
    attended_tokens: of the past.
    fetched_tokens: of those, not on the device.
    run_tokens: of one contiguous fetch.
    candidates: clusters, frames or tokens compared, in a table.
    score_rows: rows of scores over all query heads of a stream.
    hashes: 1 where keys are hashed and clustered, else 0.
    reads_table: 1 where what is compared is read from DRAM.
    buckets: early-exit buckets a row visits, mean.
    worst_buckets: of the slowest row.
  """

  attended_tokens: Float
  fetched_tokens: Float
  run_tokens: Float
  candidates: Float
  score_rows: Float
  hashes: Float
  reads_table: Float
  buckets: Float
  worst_buckets: Float


def at_length(
  how: Method,
  decoder: config_lib.DecoderConfig,
  cached_tokens: Float,
  *,
  stage: str,
  chunk_tokens: Float | float,
  law: Callable[[Float], Float] = residency.LAW,
  scores: score_law.ScoreLaw = score_law.LAW,
  num_buckets: Float | float = 20.0,
  wicsum_ratio: Float | float = 0.3,
) -> Retrieval:
  """A method's retrieval over a past of a given length.

  Layer 0 attends to everything, from DRAM: it has no earlier layer that could
  choose for it (V-Rex, Fig. 6), and its past is kept on the device. A method
  that chooses nothing fetches in layer 0 too.

  Args:
    how: the method.
    decoder: L and N.
    cached_tokens: S, f[].
    stage: "frame", "question" or "answer".
    chunk_tokens: T; a row of scores for each token and query head.
    law: tokens to fetch of a frame's selection; of another stage's, in
      proportion to its ratio.
    scores: law of a row's scores, for the early exit.
    num_buckets: of the WTU.
    wicsum_ratio: share of the weighted sum to pass.

  Returns:
    Retrieval.
  """
  layers = decoder.num_layers
  chooses = how.retrieves(stage)
  first = jnp.arange(layers) == 0
  cached = jnp.broadcast_to(jnp.asarray(cached_tokens, float), (layers,))
  ratio = how.ratio(stage)
  wanted = ratio * cached
  fetched = wanted
  if how.keeps_resident:
    fetched = law(cached) * (ratio / how.frame_ratio)
  # The law exceeds the average ratio where the paper's own latencies do.
  attended = jnp.maximum(wanted, fetched)
  if chooses:
    attended = jnp.where(first, cached, attended)
    fetched = jnp.where(first, 0.0, fetched)
  candidates, rows = _compared(how, cached, chunk_tokens, decoder, chooses)
  later = jnp.where(first, 0.0, 1.0) if chooses else jnp.zeros(layers)
  clusters = chooses and how.candidates == "cluster"
  mean, worst = scores.buckets(
    wicsum_ratio, num_buckets, jnp.maximum(rows, 1.0)
  )
  return Retrieval(
    attended_tokens=attended,
    fetched_tokens=fetched,
    run_tokens=_run_tokens(how, cached, chooses),
    candidates=candidates * later,
    score_rows=rows * later,
    hashes=clusters * later,
    reads_table=later,
    buckets=mean * clusters * later,
    worst_buckets=worst * clusters * later,
  )


def _compared(
  how: Method,
  cached: Float,
  chunk_tokens: Float | float,
  decoder: config_lib.DecoderConfig,
  chooses: bool,
) -> tuple[Float, Float]:
  """Candidates of a table, and rows of scores of a stream.

  ReSV scores every token and query head. InfiniGen and ReKV are taken to score
  one row a query head, and one a layer: their own papers pool the queries.
  """
  if not chooses:
    return jnp.zeros_like(cached), jnp.zeros(())
  if how.candidates == "cluster":
    rows = jnp.asarray(chunk_tokens * decoder.num_heads, float)
    return cached / TOKENS_PER_CLUSTER, rows
  if how.candidates == "token":
    return cached, jnp.asarray(decoder.num_heads, float)
  return cached / FRAME_TOKENS, jnp.ones(())


def _run_tokens(how: Method, cached: Float, chooses: bool) -> Float:
  """Tokens of one request; a scattered choice is asked for token by token."""
  if chooses and not how.contiguous:
    return jnp.ones_like(cached)
  sizes = {"cluster": TOKENS_PER_CLUSTER, "frame": FRAME_TOKENS}
  if chooses and how.candidates in sizes:
    return jnp.full_like(cached, sizes[how.candidates])
  return jnp.maximum(cached, 1.0)
