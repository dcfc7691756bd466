"""Static descriptions of the models: decoder, vision tower, connector.

All classes are static: frozen, hashed by value, usable as static arguments of
`jax.jit`. They hold shapes and constants of an architecture, never weights.
"""

import dataclasses

__all__ = [
  "ConnectorConfig",
  "DecoderConfig",
  "ImageConfig",
  "ModelConfig",
  "RopeConfig",
  "VisionConfig",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
  """Static. Rotary position embedding of one decoder.

  Attributes:
    theta: base of the geometric frequency series.
    scaling: "none", "linear" (positions divided by `factor`) or "llama3"
      (long wavelengths divided by `factor`, short ones kept, a linear ramp
      between).
    factor: scaling factor; 1 with "none".
    low_freq_factor: llama3 only, bound of the long wavelengths.
    high_freq_factor: llama3 only, bound of the short wavelengths.
    original_max_position_embeddings: llama3 only, context the frequencies were
      trained for.
  """

  theta: float = 10000.0
  scaling: str = "none"
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """Static. A Llama or Qwen2 decoder: they differ by these values only.

  Attributes:
    vocab_size: rows of the token embedding.
    hidden_size: D.
    intermediate_size: width of the gated feed-forward layer.
    num_layers: L.
    num_heads: N.
    num_kv_heads: K; N must be a multiple of K.
    head_dim: H.
    qkv_bias: biases on the q, k and v projections (Qwen2).
    tie_embeddings: the output head is the transposed token embedding.
    rms_norm_eps: epsilon of every RMSNorm.
    max_position_embeddings: positions the checkpoint was trained for.
    rope: rotary settings.
  """

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  qkv_bias: bool = False
  tie_embeddings: bool = False
  rms_norm_eps: float = 1e-6
  max_position_embeddings: int = 32768
  rope: RopeConfig = RopeConfig()

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads is {self.num_heads} and num_kv_heads"
        f" {self.num_kv_heads}; the first must be a multiple of the second:"
        " check the decoder's configuration"
      )
    if self.head_dim % 2:
      raise ValueError(
        f"head_dim is {self.head_dim}; rotary embeddings need an even head"
        " dimension: check the decoder's configuration"
      )

  @property
  def group_size(self) -> int:
    """G, query heads that share one KV head."""
    return self.num_heads // self.num_kv_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
  """Static. A SigLIP vision transformer.

  Attributes:
    hidden_size: width of the tower.
    intermediate_size: width of its feed-forward layer.
    num_layers: encoder layers.
    num_heads: attention heads.
    image_size: side of the square input in pixels.
    patch_size: side of one patch in pixels; `image_size // patch_size` patches
      a side.
    layer_norm_eps: epsilon of every LayerNorm.
    use_head: has the attention-pooling head (its output is the CLS token of
      the paper's model).
    feature: "last_hidden" (before the final LayerNorm: LLaVA-OneVision) or
      "post_norm" (after it: VideoLLM-Online).
  """

  hidden_size: int
  intermediate_size: int
  num_layers: int
  num_heads: int
  image_size: int
  patch_size: int
  layer_norm_eps: float = 1e-6
  use_head: bool = False
  feature: str = "last_hidden"

  @property
  def grid(self) -> int:
    """Patches along one side of the image."""
    return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
  """Static. From patch features to decoder tokens.

  Attributes:
    kind: "onevision" (two-layer projector, then bilinear pooling of the grid
      to ceil(grid / 2)) or "videollm_online" (pooled head output and an
      average-pooled grid, then a two-layer projector).
    pooled_grid: side of the pooled grid: ceil(grid / 2) for OneVision, 3 for
      the paper's model.
    use_pooled_head: put the pooled head output before the grid tokens.
    bias: biases in the projector.
    separator: a text token (an id) embedded before every frame but the first;
      None for no separator.
  """

  kind: str
  pooled_grid: int
  use_pooled_head: bool = False
  bias: bool = True
  separator: int | None = None

  @property
  def tokens_per_frame(self) -> int:
    """T of a frame without the separator token."""
    return self.pooled_grid**2 + int(self.use_pooled_head)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
  """Static. How a decoded picture becomes the tower's input.

  Attributes:
    size: side of the square the picture is resized to, in pixels.
    mean: per-channel mean subtracted after scaling to [0, 1].
    std: per-channel deviation divided by.
    resize: "stretch" (both sides to `size`) or "pad" (longer side to `size`,
      zeros around).
  """

  size: int
  mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
  std: tuple[float, float, float] = (0.5, 0.5, 0.5)
  resize: str = "stretch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Static. A whole video LLM.

  Attributes:
    name: shown in summaries and records.
    decoder: language model.
    vision: vision tower.
    connector: from the tower to the decoder.
    image: input preparation.
    template: name of the prompt template (`models.prompt.TEMPLATES`).
  """

  name: str
  decoder: DecoderConfig
  vision: VisionConfig
  connector: ConnectorConfig
  image: ImageConfig
  template: str = "qwen2"

  @property
  def tokens_per_frame(self) -> int:
    """T of a frame, separator included."""
    separator = int(self.connector.separator is not None)
    return self.connector.tokens_per_frame + separator
