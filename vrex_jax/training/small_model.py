"""Shape and chat format of the small model that ships with the package."""

from vrex_jax.models import config as config_lib
from vrex_jax.models import prompt
from vrex_jax.tasks import rooms_pictures
from vrex_jax.tasks import rooms_words

__all__ = ["FRAMES", "TEMPLATE", "shape"]

FRAMES = 2304
"""Longest stream, in frames, whose positions were trained."""

TEMPLATE = prompt.PromptTemplate(
  name="rooms",
  begin="<start>",
  resume="<stop>",
  stop_tokens=("<stop>",),
)
"""A stream is <start> and frames; a question is its words and nothing else."""


def shape() -> config_lib.ModelConfig:
  """910 464 parameters, 4 tokens a frame: LLaVA-OneVision's layout.

  Example:
    >>> shape().tokens_per_frame
    4
  """
  return config_lib.ModelConfig(
    name="rooms",
    decoder=config_lib.DecoderConfig(
      vocab_size=rooms_words.VOCABULARY,
      hidden_size=128,
      intermediate_size=320,
      num_layers=4,
      num_heads=4,
      num_kv_heads=2,
      head_dim=32,
      qkv_bias=True,
      max_position_embeddings=4 * FRAMES + 16,
      rope=config_lib.RopeConfig(theta=1e4),
    ),
    vision=config_lib.VisionConfig(
      hidden_size=64,
      intermediate_size=256,
      num_layers=3,
      num_heads=4,
      image_size=rooms_pictures.SIZE,
      patch_size=12,
    ),
    connector=config_lib.ConnectorConfig(kind="onevision", pooled_grid=2),
    # Around the dark walls: at 0.5 and 0.5 their textures were not learned.
    image=config_lib.ImageConfig(
      size=rooms_pictures.SIZE, mean=(0.25,) * 3, std=(0.15,) * 3
    ),
    template="rooms",
  )
