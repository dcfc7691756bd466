"""The model beside what the V-Rex paper prints, at batch 1 on the edge.

Every line says whether its figure was used to fit a constant. Agreement of a
fitted line is no evidence; agreement of a predicted one is some.
"""

from collections.abc import Sequence
from typing import Any

from vrex_jax import hardware_rows
from vrex_jax import summary
from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import paper
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import retrieval
from vrex_jax.models import presets

__all__ = ["compare", "entry", "table"]

_USED, _FREE = "fitted", "predicted"


def compare() -> list[dict[str, Any]]:
  """One entry a printed figure: what, paper, model, error, used.

  `model` is a pair where the disputed link energy makes it one; `error` is
  relative, of the nearer end, and 0 inside.
  """
  price = _Cases()
  shortest, longest = paper.CACHE_TOKENS[0], paper.CACHE_TOKENS[-1]
  entries = []

  def add(what, printed, model, used=_FREE):
    entries.append(entry(what, printed, model, used))

  for tokens, seconds in zip(
    paper.CACHE_TOKENS, paper.FRAME_LATENCY_S, strict=True
  ):
    one = price("vrex8", "resv", tokens)
    where = f"at {tokens // 1024}K"
    add(
      f"frame, ms, {where}", 1e3 * seconds, 1e3 * one["frame_latency_s"], _USED
    )
  for printed, tokens, used in (
    (paper.TOKEN_LATENCY_S[0], shortest, _USED),
    (paper.TOKEN_LATENCY_S[1], longest, _FREE),
  ):
    token = price("vrex8", "resv", tokens)["token_latency_s"]
    add(f"token, ms, at {tokens // 1024}K?", 1e3 * printed, 1e3 * token, used)
  for name, ends, field, uses in (
    ("frame", paper.FRAME_SPEED_UP, "frame_latency_s", (_USED, _USED)),
    ("text", paper.TEXT_SPEED_UP, "token_latency_s", (_USED, _FREE)),
  ):
    for value, tokens, how in zip(ends, (shortest, longest), uses, strict=True):
      ratio = price.ratio(("vrex8", "resv"), tokens, field)
      add(f"{name} speed-up, at {tokens // 1024}K?", value, ratio, how)
  for name, values, field in (
    ("frame", paper.FRAME_EFFICIENCY, "frame_energy_j"),
    ("text", paper.TEXT_EFFICIENCY, "token_energy_j"),
  ):
    for value, tokens in zip(values, paper.CACHE_TOKENS, strict=True):
      ratio = price.ratio(("vrex8", "resv"), tokens, field)
      add(f"{name} energy ratio, at {tokens // 1024}K", value, ratio)
  for (platform, method), (speed, efficiency) in paper.ABLATION.items():
    case, where = (platform, method), f"{platform} {method}, at 40K"
    used = _FREE if method == "rekv" else _USED
    speed_up = price.ratio(case, longest, "frame_latency_s")
    add(f"speed-up, {where}", speed, speed_up, used)
    energy = price.ratio(case, longest, "frame_energy_j")
    add(f"energy ratio, {where}", efficiency, energy)
  for cores, printed in paper.CORE_AREA_M2.items():
    chip = platforms.named(f"vrex{cores}").platform
    total = float(area.blocks_area_m2(chip).total)
    add(f"area, mm2, {cores} cores", 1e6 * printed, 1e6 * total, _USED)
  return entries


def table(entries: Sequence[dict[str, Any]]) -> str:
  """paper | model | error, one line a figure."""
  header = ["AGX Orin: FlexGen; V-Rex8: ReSV", "paper", "model", "error", ""]
  lines = [
    [
      one["what"],
      f"{one['paper']:.4g}",
      _text(one["model"]),
      f"{100 * one['error']:+z.1f} %",
      one["used"],
    ]
    for one in entries
  ]
  return summary.aligned(header, lines)


class _Cases:
  """Rows that several figures share, priced once."""

  def __init__(self):
    self._model = presets.preset(paper.MODEL)
    self._rows: dict[tuple[str, str, int], dict[str, Any]] = {}

  def __call__(self, platform: str, method: str, tokens: int) -> dict[str, Any]:
    key = (platform, method, tokens)
    if key not in self._rows:
      machine = platforms.named(platform).platform
      point = hardware_rows.published(
        self._model,
        retrieval.method(method),
        cache_tokens=tokens,
        batch=1,
        kv_value_bytes=2.0,
        frame_tokens=paper.FRAME_TOKENS,
        engine=machine.engine is not None,
      )
      self._rows[key] = hardware_rows.row(machine, point)
    return self._rows[key]

  def ratio(self, case: tuple[str, str], tokens: int, field: str) -> Any:
    """AGX+FlexGen over a case; a pair of them for energies."""
    base = self("agx_orin", "flexgen", tokens)[field]
    mine = self(*case, tokens)[field]
    if isinstance(mine, list):
      # More energy on the link is less efficiency.
      return sorted(b / m for b, m in zip(base, mine, strict=True))
    return base / mine


def entry(what: str, printed: float, model: Any, used: str) -> dict[str, Any]:
  """One figure; a pair of the model is held against by its nearer end.

  Example:
    >>> entry("energy ratio", 5.0, [6.0, 7.0], "predicted")["error"]
    0.19999999999999996
  """
  low, high = model if isinstance(model, list) else (model, model)
  nearest = min(max(printed, low), high)
  return {
    "what": what,
    "paper": printed,
    "model": model,
    "error": nearest / printed - 1.0,
    "used": used,
  }


def _text(model: Any) -> str:
  if isinstance(model, list):
    return "-".join(f"{end:.4g}" for end in model)
  return f"{model:.4g}"
