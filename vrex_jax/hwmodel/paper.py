"""What the V-Rex paper prints and the model is held against.

Source: V-Rex (arXiv 2512.12284): Sec. VI.B and Fig. 13 (latency, speed, energy
at batch 1 on the edge), Fig. 16 (ablation at 40K), Tables I and III. Lengths
are taken as multiples of 1024 tokens.
"""

from vrex_jax.hwmodel import units

__all__ = [
  "ABLATION",
  "CACHE_TOKENS",
  "CORE_AREA_M2",
  "CORE_POWER_W",
  "FRAME_EFFICIENCY",
  "FRAME_LATENCY_S",
  "FRAME_SPEED_UP",
  "FRAME_TOKENS",
  "MODEL",
  "PREDICTION_SHARE",
  "QUESTION_TOKENS",
  "TEXT_EFFICIENCY",
  "TEXT_SPEED_UP",
  "TOKEN_LATENCY_S",
]

MODEL = "llama3-8b"
"""Preset of Llama-3-8B with SigLIP-L/16-384 (VideoLLM-Online)."""
FRAME_TOKENS = 10
"""Of one frame: not printed; 10 fit the growth of the cache in Fig. 4(a)."""
QUESTION_TOKENS = 25
"""Of the average COIN turn (Sec. III.A)."""

CACHE_TOKENS = (1024, 5120, 10240, 20480, 40960)
FRAME_LATENCY_S = tuple(units.MS * ms for ms in (121, 123, 198, 200, 254))
"""V-Rex8, batch 1, at CACHE_TOKENS."""
TOKEN_LATENCY_S = (89 * units.MS, 97 * units.MS)
"""Least and largest over CACHE_TOKENS; the paper prints no more."""
FRAME_SPEED_UP = (2.2, 7.3)
"""V-Rex8 over AGX Orin with FlexGen: range over CACHE_TOKENS."""
TEXT_SPEED_UP = (1.9, 15.1)
FRAME_EFFICIENCY = (5.5, 5.1, 5.0, 7.6, 10.2)
"""Energy of AGX Orin with FlexGen over that of V-Rex8, at CACHE_TOKENS."""
TEXT_EFFICIENCY = (4.3, 5.6, 10.6, 13.2, 18.5)

ABLATION = {
  ("agx_orin", "rekv"): (1.7, 1.9),
  ("agx_orin", "resv_software"): (2.8, 4.4),
  ("vrex8", "resv_kvpu"): (6.0, 9.2),
  ("vrex8", "resv"): (8.1, 10.2),
}
"""(platform, method) -> speed, energy efficiency over AGX+FlexGen at 40K."""
PREDICTION_SHARE = 0.48
"""Of AGX+ReSV's latency at 40K (Fig. 16)."""
CORE_AREA_M2 = {8: 15.12 * units.MM2, 48: 90.57 * units.MM2}
"""Cores -> area (Sec. VI.F)."""
CORE_POWER_W = 2.60943
"""One core, everything busy (Table III)."""
