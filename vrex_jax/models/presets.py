"""Named shapes of video LLMs, for random weights.

Nothing here is read from a checkpoint (see `models.checkpoint` for that). The
released sizes are recalled from the models' public configurations, and their
parameter totals are tested; where a value was not confirmed in a source it
says so below.
"""

from collections.abc import Callable

from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib

__all__ = ["PRESETS", "preset"]


def preset(name: str) -> config_lib.ModelConfig:
  """The configuration of a named preset.

  Args:
    name: a key of PRESETS.

  Returns:
    The static configuration.

  Raises:
    InputError: no preset has this name.

  Example:
    >>> preset("onevision-0.5b").tokens_per_frame
    196
  """
  if name not in PRESETS:
    raise InputError(
      f"unknown preset {name!r}; it must be one of {', '.join(PRESETS)}: choose"
      " one of these"
    )
  return PRESETS[name]()


def _tiny() -> config_lib.ModelConfig:
  """About a million parameters, 16 tokens a frame, byte vocabulary."""
  return config_lib.ModelConfig(
    name="tiny",
    decoder=config_lib.DecoderConfig(
      vocab_size=512,
      hidden_size=128,
      intermediate_size=384,
      num_layers=4,
      num_heads=4,
      num_kv_heads=2,
      head_dim=32,
      qkv_bias=True,
      tie_embeddings=True,
    ),
    vision=config_lib.VisionConfig(
      hidden_size=64,
      intermediate_size=128,
      num_layers=2,
      num_heads=4,
      image_size=64,
      patch_size=8,
    ),
    connector=config_lib.ConnectorConfig(kind="onevision", pooled_grid=4),
    image=config_lib.ImageConfig(size=64),
  )


def _onevision(
  name: str, decoder: config_lib.DecoderConfig
) -> config_lib.ModelConfig:
  """LLaVA-OneVision around a Qwen2 decoder.

  The tower is SigLIP so400m/14-384 without its last layer and head, as the
  conversion script in transformers builds it.
  """
  return config_lib.ModelConfig(
    name=name,
    decoder=decoder,
    vision=config_lib.VisionConfig(
      hidden_size=1152,
      intermediate_size=4304,
      num_layers=26,
      num_heads=16,
      image_size=384,
      patch_size=14,
    ),
    connector=config_lib.ConnectorConfig(kind="onevision", pooled_grid=14),
    image=config_lib.ImageConfig(size=384),
  )


def _onevision_05b() -> config_lib.ModelConfig:
  """LLaVA-OneVision-Qwen2-0.5B.

  The vocabulary is recalled: Qwen2-0.5B's 151 936 and two image tokens, padded
  to a multiple of 64 as the conversion script does.
  """
  return _onevision(
    "onevision-0.5b",
    config_lib.DecoderConfig(
      vocab_size=152000,
      hidden_size=896,
      intermediate_size=4864,
      num_layers=24,
      num_heads=14,
      num_kv_heads=2,
      head_dim=64,
      qkv_bias=True,
      tie_embeddings=True,
      rope=config_lib.RopeConfig(theta=1e6),
    ),
  )


def _onevision_7b() -> config_lib.ModelConfig:
  """LLaVA-OneVision-Qwen2-7B.

  The vocabulary is recalled: Qwen2-7B's 152 064 and two image tokens, padded
  to a multiple of 64 as the conversion script does.
  """
  return _onevision(
    "onevision-7b",
    config_lib.DecoderConfig(
      vocab_size=152128,
      hidden_size=3584,
      intermediate_size=18944,
      num_layers=28,
      num_heads=28,
      num_kv_heads=4,
      head_dim=128,
      qkv_bias=True,
      rope=config_lib.RopeConfig(theta=1e6),
    ),
  )


def _llama3_8b() -> config_lib.ModelConfig:
  """The paper's model: VideoLLM-online with SigLIP-L/16-384 and Llama-3-8B.

  Its published code pools the tower's output after the final LayerNorm and
  puts the pooled head first, hence `post_norm` and `use_head`; a comma
  separates frames. The comma's id (11 in the Llama-3 tokenizer) and Llama-3's
  shapes are recalled.
  """
  return config_lib.ModelConfig(
    name="llama3-8b",
    decoder=config_lib.DecoderConfig(
      vocab_size=128256,
      hidden_size=4096,
      intermediate_size=14336,
      num_layers=32,
      num_heads=32,
      num_kv_heads=8,
      head_dim=128,
      rms_norm_eps=1e-5,
      max_position_embeddings=8192,
      rope=config_lib.RopeConfig(theta=500000.0),
    ),
    vision=config_lib.VisionConfig(
      hidden_size=1024,
      intermediate_size=4096,
      num_layers=24,
      num_heads=16,
      image_size=384,
      patch_size=16,
      use_head=True,
      feature="post_norm",
    ),
    connector=config_lib.ConnectorConfig(
      kind="videollm_online",
      pooled_grid=3,
      use_pooled_head=True,
      separator=11,
    ),
    image=config_lib.ImageConfig(size=384, resize="pad"),
    template="llama3",
  )


PRESETS: dict[str, Callable[[], config_lib.ModelConfig]] = {
  "tiny": _tiny,
  "onevision-0.5b": _onevision_05b,
  "onevision-7b": _onevision_7b,
  "llama3-8b": _llama3_8b,
}
"""Factories by name, as `--preset` spells it."""
