"""Flags that every script with a model of a video has."""

from absl import flags

__all__ = [
  "checkpoint",
  "fps",
  "lookahead",
  "max_frames",
  "preset",
  "recent_tokens",
]

# Flags belong to the script that asks for them: its --help and its settings.
flags.disclaim_key_flags()


def checkpoint() -> flags.FlagHolder[str | None]:
  """Defines --checkpoint."""
  return flags.DEFINE_string(
    "checkpoint",
    None,
    "Hugging Face directory, or a TOML of parts. Default: the small model that"
    " ships with the package.",
  )


def preset() -> flags.FlagHolder[str | None]:
  """Defines --preset."""
  return flags.DEFINE_string(
    "preset",
    None,
    "Random weights of this shape instead: tiny, onevision-0.5b, onevision-7b,"
    " llama3-8b.",
  )


def fps() -> flags.FlagHolder[float]:
  """Defines --fps."""
  return flags.DEFINE_float("fps", 2.0, "Frames sampled per second of video.")


def max_frames(default: int | None = None) -> flags.FlagHolder[int | None]:
  """Defines --max_frames."""
  return flags.DEFINE_integer("max_frames", default, "Stop after this many.")


def lookahead() -> flags.FlagHolder[int]:
  """Defines --lookahead."""
  return flags.DEFINE_integer(
    "lookahead",
    0,
    "1: select for a layer while the one before it runs.",
    lower_bound=0,
    upper_bound=1,
  )


def recent_tokens() -> flags.FlagHolder[int | None]:
  """Defines --recent_tokens."""
  return flags.DEFINE_integer(
    "recent_tokens",
    None,
    "Always attended; one frame by default.",
    lower_bound=0,
    upper_bound=2**30,
  )
