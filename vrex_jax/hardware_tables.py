"""Hardware rows as text a person reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from vrex_jax import summary
from vrex_jax.hwmodel import area
from vrex_jax.hwmodel import params

__all__ = [
  "breakdown_table",
  "chip_lines",
  "elasticity_table",
  "short_table",
  "table",
]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """One line a row: times, bounds, energy, roof."""
  header = ["platform, policy", "cached", "batch", "frames/s", "frame ms",
            "lower", "upper", "1st token ms", "token ms", "frame J",
            "Op/B", "of roof"]  # fmt: skip
  lines = [
    [
      f"{one['platform']} {one['policy']}",
      str(one["cache_tokens"]),
      str(one["batch"]),
      f"{one['frames_per_s']:.2f}",
      _ms(one["frame_latency_s"]),
      _ms(one["bound_lower_s"]),
      _ms(one["bound_upper_s"]),
      _ms(one["first_token_s"]),
      _ms(one["token_latency_s"]),
      _range(one["frame_energy_j"]),
      f"{one['roofline']['intensity']:.1f}",
      f"{100 * _of_roof(one['roofline']):.0f} %",
    ]
    for one in rows
  ]
  return summary.aligned(header, lines)


def short_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """One line a row: what a person who watched a stream asks next."""
  header = ["modelled: platform, policy", "frames/s", "frame ms",
            "1st token ms", "token ms", "frame J", "fetched MB"]  # fmt: skip
  lines = [
    [
      f"{one['platform']} {one['policy']}",
      f"{one['frames_per_s']:.1f}",
      _ms(one["frame_latency_s"]),
      _ms(one["first_token_s"]),
      _ms(one["token_latency_s"]),
      "-".join(f"{end:.2g}" for end in sorted(set(one["frame_energy_j"]))),
      f"{1e-6 * one['fetched_bytes']:.2f}",
    ]
    for one in rows
  ]
  return summary.aligned(header, lines)


def chip_lines(found: Sequence[params.Platform]) -> str:
  """Area and power of the platforms that are known by unit; "" without any."""
  lines = []
  for platform in found:
    if platform.units is None or platform.engine is None:
      continue
    size, power = area.blocks_area_m2(platform), area.blocks_power_w(platform)
    low, high = area.closure_w(platform)
    lines.append(
      f"{platform.name}: {1e6 * size.total:.2f} mm2, cores {power.total:.2f} W"
      f" at full load, DRE {100 * size.engine_share:.2f} % of area and"
      f" {100 * power.engine_share:.2f} % of power, system"
      f" {low:.0f}-{high:.0f} W"
    )
  return "\n".join(lines)


def breakdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Milliseconds of a frame by part: what is waited for, and what is hidden."""
  parts = list(rows[0]["exposed_s"])
  header = ["frame ms, exposed + hidden", "cached", *parts]
  lines = []
  for one in rows:
    cells = []
    for part in parts:
      exposed = one["exposed_s"][part]
      hidden = max(one["breakdown_s"][part] - exposed, 0.0)
      # Rounding may leave a trace of a difference that is nothing.
      seen = 1e3 * max(exposed, 0.0)
      cells.append(f"{_short(seen)} + {_short(1e3 * hidden)}")
    name = f"{one['platform']} {one['policy']}"
    lines.append([name, str(one["cache_tokens"]), *cells])
  return summary.aligned(header, lines)


def elasticity_table(rows: Sequence[Mapping[str, Any]], *, least: float) -> str:
  """The parameters that move frame latency, in percent by percent.

  Args:
    rows: hardware rows.
    least: smaller ones are left out.
  """
  lines = []
  for one in rows:
    ranked = sorted(one["elasticities"].items(), key=lambda item: -abs(item[1]))
    shown = [f"{name} {e:+.2f}" for name, e in ranked if abs(e) >= least]
    head = f"{one['platform']} {one['policy']}, {one['cache_tokens']} cached: "
    lines.append(head + (", ".join(shown) or "none"))
  return "\n".join(lines)


def _of_roof(roof: Mapping[str, float]) -> float:
  return roof["attained_flops_per_s"] / roof["roof_flops_per_s"]


def _ms(seconds: float | None) -> str:
  return "-" if seconds is None else _short(1e3 * seconds)


def _short(value: float) -> str:
  """Three digits at least, and no exponent."""
  return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _range(ends: Sequence[float]) -> str:
  low, high = ends
  if high - low < 5e-3 * high:
    return f"{low:.2f}"
  return f"{low:.2f}-{high:.2f}"
