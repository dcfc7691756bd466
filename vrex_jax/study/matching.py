"""Policies at the same share of the past: which knob says it, and how far.

Budgets mean different things to different methods (docs/policies.md), so a
method gets a *dose* for each stage that its knob is of, from 0 to 1 and the
more, the more is read:

  quest           budget=0.1                    a share: the dose is the share
  streaming_llm   window_tokens=dose · past     calibrated
  resv            wicsum_ratio=dose             calibrated

and doses are calibrated by bisection until the share that was read, counted by
the trace on streams that no evaluation sees, is the one that is wanted. What is
reached is reported beside it: pages, sinks and tokens that are in no cluster
yet do not go below a size.

First layers that some methods keep dense (`dense_layers`) retrieve here as all
others do; a share would mean little where half of a small model reads
everything.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax.errors import InputError

__all__ = [
  "METHODS",
  "VARIANTS",
  "Doses",
  "Method",
  "Past",
  "Search",
  "check_methods",
  "first_doses",
  "make",
  "matched_stage",
  "search",
  "searched",
]

VARIANTS = ("published", "asked", "all")
"""Stages that retrieve: the method's own; questions and answers; frames too."""
Doses = Mapping[str, float]
"""Stage -> dose, from 0 to 1."""


class Past(NamedTuple):
  """Static. The stream that a share is of.

  Attributes:
    tokens: at its end.
    frame_tokens: of a frame.
  """

  tokens: int
  frame_tokens: int


class Method(NamedTuple):
  """Static. How a method is told a share.

  Attributes:
    arguments: (share, doses, past) -> arguments. What is static depends on
      share and past only, so that a search over doses compiles once.
    stage: the first that reads a share of the past as published.
    variants: of `VARIANTS`, those that differ.
    calibrated: stages whose dose is searched; () where a share is an argument.
  """

  arguments: Callable[[float, Doses, Past], dict[str, Any]]
  stage: str
  variants: tuple[str, ...]
  calibrated: tuple[str, ...] = ()


def _tokens(dose: float, past: Past) -> int:
  return max(1, round(dose * past.tokens))


def _budget(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  del doses, past
  return {"budget": share}


def _sparse(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  return {**_budget(share, doses, past), "dense_layers": 0}


def _resv(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  del share, past
  return {"wicsum_ratio": doses["frame"], "text_ratio": doses["question"]}


def _sliding_window(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  del share
  frames = doses["frame"] * past.tokens / past.frame_tokens
  return {"frames": max(1, round(frames))}


def _streaming_llm(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  del share
  return {"window_tokens": _tokens(doses["frame"], past)}


def _freekv(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  """Sinks and recent tokens a quarter of the budget each, as published."""
  del doses
  quarter = _tokens(share / 4, past)
  fixed = {"sink_tokens": quarter, "recent_tokens": quarter}
  return {"budget": share, **fixed, "dense_layers": 0}


def _clusterkv(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  """Four clusters a block, as published; a block at most half of the share.

  Tokens of a block that is not full are attended, and would be most of a short
  past; the budget also holds the sinks.
  """
  cluster = max(1, min(80, _tokens(share / 8, past)))
  return {
    "budget": max(doses["frame"], 1e-6),
    "block": 4 * cluster,
    "cluster_tokens": cluster,
    "sink_tokens": min(16, cluster),
    "dense_layers": 0,
  }


def _retroinfer(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  """Blocks of at most half of the share, for the same reason."""
  clusters = max(1, min(64, _tokens(share / 32, past)))
  return {
    "exact_share": doses["frame"],
    "block": 16 * clusters,
    "recent_tokens": min(64, _tokens(share / 4, past)),
    "dense_layers": 0,
  }


def _rekv(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  return {"frames": share, "window_tokens": _tokens(doses["frame"], past)}


def _livevlm(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  """A short-term memory of half the share, at most the default."""
  frames = share * past.tokens / past.frame_tokens
  short = max(1, min(8, round(frames / 2)))
  return {"ratio": doses["question"], "short_frames": short}


def _infinipot_v(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  """The target three quarters of the memory, as published."""
  del share
  memory = max(2, _tokens(doses["frame"], past))
  return {"memory": memory, "target": max(1, 3 * memory // 4)}


def _inf_mllm(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  """A window of half the share; the dose is of the relevant tokens."""
  window = _tokens(share / 2, past)
  relevant = round(doses["frame"] * past.tokens)
  return {"relevant_tokens": relevant, "window_tokens": window}


def _h2o(share: float, doses: Doses, past: Past) -> dict[str, Any]:
  del doses, past
  return {"heavy": share / 2, "recent": share / 2}


_EVERYWHERE = ("asked", "all")
_EVICTS = ("all",)
METHODS: Mapping[str, Method] = {
  "resv": Method(_resv, "frame", _EVERYWHERE, ("frame", "question")),
  "sliding_window": Method(_sliding_window, "frame", _EVICTS, ("frame",)),
  "streaming_llm": Method(_streaming_llm, "frame", _EVICTS, ("frame",)),
  "quest": Method(_sparse, "answer", VARIANTS),
  "freekv": Method(_freekv, "answer", VARIANTS),
  "clusterkv": Method(_clusterkv, "answer", VARIANTS, ("frame",)),
  "retroinfer": Method(_retroinfer, "answer", VARIANTS, ("frame",)),
  "infinigen": Method(_sparse, "answer", ("published", "asked")),
  "infinigenp": Method(_sparse, "frame", ("all",)),
  "rekv": Method(_rekv, "frame", _EVERYWHERE, ("frame",)),
  "livevlm": Method(_livevlm, "question", ("published", "all"), ("question",)),
  "infinipot_v": Method(_infinipot_v, "frame", _EVICTS, ("frame",)),
  "inf_mllm": Method(_inf_mllm, "frame", _EVICTS, ("frame",)),
  "h2o": Method(_h2o, "frame", _EVICTS),
  "snapkv": Method(_budget, "answer", ("published", "all")),
  "hash_topk": Method(_budget, "frame", _EVERYWHERE),
  "oracle_topk": Method(_budget, "frame", _EVERYWHERE),
  "random": Method(_budget, "frame", _EVERYWHERE),
}
"""Methods by name; one line adds one. A method of one knob has dose `frame`."""

_NO_STAGES = ("sliding_window", "streaming_llm", "infinipot_v", "inf_mllm",
              "h2o", "infinigenp")  # fmt: skip
"""Take no argument `stages`."""


def check_methods(names: Sequence[str], flag: str = "--policies") -> None:
  """Refuses names that cannot be matched.

  Args:
    names: of methods.
    flag: that gave them.

  Raises:
    InputError: none, or an unknown one.
  """
  unknown = [name for name in names if name not in METHODS]
  if unknown or not names:
    given = repr(unknown[0]) if unknown else "empty"
    raise InputError(
      f"{flag} is {given}; it must name methods of {', '.join(METHODS)}, apart"
      " by commas (full is always there): correct it"
    )


def matched_stage(name: str, variant: str) -> str:
  """The stage whose share is matched: the first that reads a part.

  Example:
    >>> [matched_stage("quest", variant) for variant in VARIANTS]
    ['answer', 'question', 'frame']
  """
  return {"asked": "question", "all": "frame"}.get(variant, METHODS[name].stage)


def searched(name: str, variant: str) -> dict[str, str]:
  """Doses to search, and the stage that each one is measured at.

  Example:
    >>> searched("resv", "all"), searched("clusterkv", "published")
    ({'frame': 'frame', 'question': 'question'}, {'frame': 'answer'})
  """
  doses = METHODS[name].calibrated
  if len(doses) > 1:
    return {dose: dose for dose in doses if variant == "all" or dose != "frame"}
  if name == "rekv" and variant == "asked":  # its window is of frames
    return {}
  return {dose: matched_stage(name, variant) for dose in doses}


def first_doses(share: float) -> dict[str, float]:
  """Where a search begins: the share itself."""
  return {"frame": share, "question": share}


def make(
  name: str,
  variant: str,
  share: float,
  past: Past,
  doses: Doses | None = None,
  **more: Any,
) -> policy_lib.KVPolicy:
  """A method at a share of the past.

  Args:
    name: of `METHODS`.
    variant: one of its variants.
    share: wanted, in (0, 1].
    past: that it is of.
    doses: found by a search; `first_doses` when None.
    **more: further arguments of the method.

  Example:
    >>> make("quest", "all", 0.1, Past(1000, 10)).name
    'quest(budget=0.1, dense_layers=0, stages=all)'
    >>> make("sliding_window", "all", 0.1, Past(1000, 10)).knobs
    {'frames': 10}
  """
  doses = first_doses(share) if doses is None else doses
  arguments = METHODS[name].arguments(share, doses, past)
  if variant == "asked":
    arguments["stages"] = ("question", "answer")
  elif variant == "all" and name not in (*_NO_STAGES, "resv"):
    arguments["stages"] = "all"
  arguments |= more
  listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
  return policy_syntax.make_policy(f"{name}({listed})", "--policies")


class Search(NamedTuple):
  """Static. What a search found.

  Attributes:
    doses: by stage.
    reached: share read at each searched stage.
    runs: streams it took.
  """

  doses: dict[str, float]
  reached: dict[str, float]
  runs: int


def search(
  reached: Callable[[Doses], Mapping[str, float]],
  wanted: float,
  stages: Mapping[str, str],
  *,
  tolerance: float = 0.05,
  rounds: int = 8,
) -> Search:
  """Doses at which stages read a share of the past, by bisection.

  Stages are searched side by side: the dose of one does not touch what
  another reads. The share grows with its dose.

  Args:
    reached: doses -> share read, by stage.
    wanted: share.
    stages: dose -> stage that it is measured at; empty measures nothing.
    tolerance: relative difference that is good enough.
    rounds: at most so many calls.

  Returns:
    The doses that came closest.

  Example:
    >>> square = lambda doses: {"frame": doses["frame"] ** 2}
    >>> found = search(square, 0.25, {"frame": "frame"})
    >>> round(found.doses["frame"], 2), found.runs
    (0.51, 6)
  """
  doses = first_doses(wanted)
  low = dict.fromkeys(stages, 0.0)
  high = dict.fromkeys(stages, 1.0)
  best: dict[str, tuple[float, float]] = {}
  runs = 0
  while stages and runs < rounds:
    got = reached(doses)
    runs += 1
    for dose, stage in stages.items():
      closer = dose not in best or (
        abs(got[stage] - wanted) < abs(best[dose][1] - wanted)
      )
      if closer:
        best[dose] = doses[dose], got[stage]
      side = high if got[stage] > wanted else low
      side[dose] = doses[dose]
    off = [abs(one - wanted) for _, one in best.values()]
    if max(off) <= tolerance * wanted:
      break
    doses |= {dose: round((low[dose] + high[dose]) / 2, 5) for dose in stages}
  return Search(
    doses={**doses, **{dose: value for dose, (value, _) in best.items()}},
    reached={stages[dose]: one for dose, (_, one) in best.items()},
    runs=runs,
  )
