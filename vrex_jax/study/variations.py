"""What an ablation of ReSV compares: a base with one thing changed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax.errors import InputError
from vrex_jax.resv import resv as resv_lib
from vrex_jax.study import disturb

__all__ = [
  "DRIVER",
  "REPAIRS",
  "VARIATIONS",
  "Case",
  "cases",
  "check_resv",
  "repaired",
]

VARIATIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
  "table": [{"table": "layer"}],
  "code": [{"code": "following"}],
  "hash_bits": [
    {"hash_bits": 16, "hamming_threshold": 4},
    {"hash_bits": 64, "hamming_threshold": 14},
    {"hash_bits": 128, "hamming_threshold": 28},
  ],
  "hash_keys": [{"hash_keys": "raw"}],
  "key_centering": [
    {"key_centering": "mean"},
    {"key_centering": "mean", "hash_keys": "raw"},
  ],
  "rows": [{"rows": "pooled"}, {"rows": "vote", "votes": 4}],
  "scores": [{"scores": "raw"}, {"scores": "shift_min"}, {"scores": "exp"}],
  "form": [{"form": "buckets"}],
  "min_join_cosine": [{"min_join_cosine": 0.5}, {"min_join_cosine": 0.8}],
  "sink_tokens": [{"sink_tokens": 0}],
  "recent_tokens": [{"recent_tokens": 0}],
  "lookahead": [
    {"lookahead": 1},
    {"lookahead": 1, "lookahead_query": "next"},
  ],
}
"""Choice -> changes of the base, or of the driver (`DRIVER`)."""

DRIVER = ("recent_tokens", "lookahead", "lookahead_query")
"""Arguments that are not the policy's but of `replay.replay`."""

REPAIRS: Sequence[Mapping[str, Any]] = (
  {},
  {"key_centering": "mean"},
  {"scores": "shift_min"},
  {"key_centering": "mean", "scores": "shift_min"},
)
"""Changes that are meant to undo what a disturbance does."""


class Case(NamedTuple):
  """Static. One row of a comparison.

  Attributes:
    choice: what is varied, or how the recording is disturbed.
    change: the changed arguments as text; "" for the base.
    policy: the base with them.
    driver: those of them that are not the policy's (`DRIVER`).
  """

  choice: str
  change: str
  policy: policy_lib.KVPolicy
  driver: Mapping[str, Any]


def check_resv(policy: policy_lib.KVPolicy, flag: str) -> None:
  """Refuses what is not ReSV by itself; nothing else has clusters.

  Args:
    policy: any.
    flag: that gave it, for the message.

  Raises:
    InputError: another policy, or one with a combinator.
  """
  if not policy.name.startswith("resv(") or " + " in policy.name:
    raise InputError(
      f"{flag} has {policy.name}; its clusters are looked at, so that it must"
      " be resv without a combinator: write resv(argument=value, …)"
    )


def cases(base: str, names: Sequence[str] = ()) -> list[Case]:
  """The base, then every variation of it.

  Args:
    base: policy text, `resv(…)`.
    names: choices to vary, of `VARIATIONS`; all when empty.

  Raises:
    InputError: an unknown choice, a base that is not ReSV, or one that a
      variation does not go with.

  Example:
    >>> [case.change for case in cases("resv(votes=2)", ["rows", "form"])]
    ['', 'rows=pooled', 'rows=vote, votes=4', 'form=buckets']
  """
  _check_names(names, VARIATIONS, "choices")
  arguments = _base_arguments(base)
  found = [_case("base", arguments, {}, base)]
  for name in dict.fromkeys(names or VARIATIONS):
    for change in VARIATIONS[name]:
      found.append(_case(name, arguments, change, base))
  return found


def repaired(base: str, names: Sequence[str] = ()) -> list[Case]:
  """Every disturbance with every repair of the base.

  Args:
    base: policy text, `resv(…)`.
    names: of `disturb.DISTURBANCES`; all when empty.

  Raises:
    InputError: see `cases`.
  """
  _check_names(names, disturb.DISTURBANCES, "disturbances")
  arguments = _base_arguments(base)
  return [
    _case(name, arguments, repair, base)
    for name in dict.fromkeys(names or disturb.DISTURBANCES)
    for repair in REPAIRS
  ]


def _check_names(
  names: Sequence[str], known: Mapping[str, Any], what: str
) -> None:
  unknown = [name for name in names if name not in known]
  if unknown:
    raise InputError(
      f"--vary has {unknown[0]!r}; it must name {what} of"
      f" {', '.join(known)}: correct it"
    )


def _base_arguments(base: str) -> dict[str, Any]:
  check_resv(policy_syntax.make_policy(base, "--base"), "--base")
  return policy_syntax.policy_arguments(base, "--base")[1]


def _case(
  name: str, base: Mapping[str, Any], change: Mapping[str, Any], text: str
) -> Case:
  said = ", ".join(f"{key}={value}" for key, value in change.items())
  driver = {key: one for key, one in change.items() if key in DRIVER}
  own = {key: one for key, one in change.items() if key not in DRIVER}
  try:
    policy = resv_lib.resv(**{**base, **own})
  except InputError as error:
    raise InputError(
      f"--base is {text}, which does not go with {said} ({error}): change it,"
      " or leave that out (--vary)"
    ) from error
  return Case(name, said, policy, driver)
