"""The paper's own sizing as a design, where every search begins."""

import numpy as np

from vrex_jax.codesign import interfaces
from vrex_jax.codesign import space as space_lib
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms

__all__ = ["PAPER_RATIO", "fixed_fields", "of_platform", "of_sizes"]

PAPER_RATIO = 0.3
"""WiCSum threshold (V-Rex, Sec. VI.E)."""
REQUEST_BYTES = 16384.0
"""One request a cluster (V-Rex, Sec. V.C): 32 tokens of keys and values of a
head of 128 in bf16."""


def of_platform(
  name: str, *, layers: int, kv_heads: int, ratio: float = PAPER_RATIO
) -> space_lib.Design:
  """The sizing of a platform, with one threshold everywhere.

  Args:
    name: of a platform or its TOML file.
    layers: L of the model that ran.
    kv_heads: K of it.
    ratio: the threshold.

  Raises:
    InputError: the platform has no DRE or no unit figures.
  """
  return of_sizes(
    platforms.named(name).platform,
    layers=layers,
    kv_heads=kv_heads,
    ratio=ratio,
  )


def of_sizes(
  platform: params.Platform,
  *,
  layers: int,
  kv_heads: int,
  ratio: float = PAPER_RATIO,
) -> space_lib.Design:
  """See `of_platform`."""
  if platform.engine is None or platform.units is None:
    raise InputError(
      f"--platform {platform.name} has no retrieval engine or no figures by"
      " unit; only a chip with [engine] and [units] can be sized: try"
      " --platform vrex8"
    )
  compute, engine = platform.compute, platform.engine
  own = {
    name: getattr(part, name)
    for part in (compute, engine)
    for name in space_lib.FIELDS
    if name in part.__dataclass_fields__
  }
  return space_lib.Design(
    **own,
    ratio=np.full((3, layers, kv_heads), ratio),
    resident_tokens=np.zeros((layers, kv_heads)),
    dram_bytes_per_s=platform.dram.bandwidth_bytes_per_s,
    capacity_bytes=platform.dram.capacity_bytes,
    link_bytes_per_s=platform.link.bandwidth_bytes_per_s,
    request_bytes=REQUEST_BYTES,
    link_depth=platform.link.queue_depth,
  )


def fixed_fields(platform: params.Platform) -> tuple[str, ...]:
  """Bandwidths that no class of `interfaces` offers: they cannot be sized.

  Example:
    >>> fixed_fields(platforms.named("vrex48").platform)
    ('dram_bytes_per_s', 'link_bytes_per_s')
  """
  rates = {
    "dram": platform.dram.bandwidth_bytes_per_s,
    "link": platform.link.bandwidth_bytes_per_s,
  }
  return tuple(
    f"{kind}_bytes_per_s"
    for kind, rate in rates.items()
    if not interfaces.offers(kind, float(rate))
  )
