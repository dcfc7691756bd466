"""The decoder step in torch: what `benchmark_streaming.py --against` measures.

  hf          the model class of transformers, DynamicCache, sdpa
  torch_sdpa  written by hand: a preallocated cache written in place, query
              heads folded into rows of their KV head, fused projections

Both take the weights and the cached keys and values of the JAX side, so that
outputs can be compared before anything is timed. torch and transformers are
imported when a side is asked for, and not before.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vrex_jax.benchmark import cell
from vrex_jax.benchmark import timing
from vrex_jax.errors import InputError
from vrex_jax.models import config as config_lib
from vrex_jax.models import rotary
from vrex_jax.typing import Parameters

__all__ = ["SIDES", "check_installed", "contenders", "versions"]

_FORMS = ("split", "masked", "eager")


class _Step(NamedTuple):
  """One way to compute the decoder step.

  Attributes:
    name: of the side, with the attention form where there is a choice.
    reset: forgets the chunk of the last step; not timed.
    run: hidden f[B, T, D] -> hidden after the final norm, both torch.
  """

  name: str
  reset: Callable[[], None]
  run: Callable[[Any], Any]


def check_installed(sides: Sequence[str]) -> None:
  """Raises before any work when a side cannot be measured.

  Raises:
    InputError: an unknown side, or a package is missing.
  """
  for side in sides:
    if side not in SIDES:
      raise InputError(
        f"--against has {side!r}; it must be one of {', '.join(SIDES)}:"
        " choose from these"
      )
    _import(side)


def versions(sides: Sequence[str]) -> dict[str, str]:
  """Versions of the packages that sides use."""
  names = {name for side in sides for name in _packages(side)}
  return {name: importlib.import_module(name).__version__ for name in names}


def contenders(
  side: str,
  decoder: config_lib.DecoderConfig,
  params: Parameters,
  keys: np.ndarray,
  values: np.ndarray,
  hidden: np.ndarray,
  *,
  dtype: str,
  threads: int,
) -> list[cell.Contender]:
  """Every form of one side, around a filled cache.

  Args:
    side: a key of SIDES.
    decoder: shapes.
    params: the JAX decoder's parameters.
    keys: f[L, B, K, S, H], rotated, positions 0 … S - 1.
    values: f[L, B, K, S, H].
    hidden: f[B, T, D], input of every step.
    dtype: "float32" or "bfloat16".
    threads: torch's intra-op threads.
  """
  torch = _import(side)
  torch.set_num_threads(threads)
  wanted = getattr(torch, dtype)
  to_torch = lambda array: torch.tensor(
    np.asarray(array, np.float32), dtype=wanted
  )
  with torch.inference_mode():
    weights = jax.tree.map(to_torch, params)
    frame = to_torch(hidden)
    steps = SIDES[side](
      torch, decoder, weights, to_torch(keys), to_torch(values), frame.shape[1]
    )
  return [_contender(torch, side, step, frame) for step in steps]


def _packages(side: str) -> tuple[str, ...]:
  return ("torch", "transformers") if side == "hf" else ("torch",)


def _import(side: str) -> Any:
  names = _packages(side)
  try:
    for name in names:
      importlib.import_module(name)
  except ImportError as error:
    raise InputError(
      f"--against {side} needs {' and '.join(names)} ({error}): pip install"
      " -e '.[parity]', or leave --against out"
    ) from None
  return importlib.import_module("torch")


def _contender(
  torch: Any, side: str, step: _Step, frame: Any
) -> cell.Contender:
  last: list[Any] = [None]

  def run():
    with torch.inference_mode():
      last[0] = step.run(frame)

  return cell.Contender(
    side,
    timing.Runner(step.name, step.reset, run),
    lambda: last[0].float().numpy(),
  )


def _hf_steps(
  torch: Any,
  decoder: config_lib.DecoderConfig,
  weights: Any,
  keys: Any,
  values: Any,
  frame_tokens: int,
) -> list[_Step]:
  """The model without its head, as a user of transformers would run it."""
  del torch, frame_tokens
  transformers = importlib.import_module("transformers")
  transformers.logging.set_verbosity_error()
  model = _hf_model(transformers, decoder).eval().to(keys.dtype)
  _copy_weights(model, decoder, weights)
  past = [
    (keys[layer].contiguous(), values[layer].contiguous())
    for layer in range(decoder.num_layers)
  ]
  cache = transformers.DynamicCache(config=model.config)
  for layer, (key, value) in zip(cache.layers, past, strict=True):
    layer.lazy_initialization(key, value)

  def reset():
    # The step's `cat` made new tensors; the old ones are put back uncopied.
    for layer, (key, value) in zip(cache.layers, past, strict=True):
      layer.keys, layer.values = key, value

  # `cache` since transformers 5.24.
  known = inspect.signature(model.forward).parameters
  name = "cache" if "cache" in known else "past_key_values"

  def run(hidden):
    out = model(inputs_embeds=hidden, use_cache=True, **{name: cache})
    return out.last_hidden_state

  return [_Step("hf", reset, run)]


def _hf_model(transformers: Any, decoder: config_lib.DecoderConfig) -> Any:
  """An empty Qwen2Model or LlamaModel of the given shape."""
  settings = {
    "vocab_size": decoder.vocab_size,
    "hidden_size": decoder.hidden_size,
    "intermediate_size": decoder.intermediate_size,
    "num_hidden_layers": decoder.num_layers,
    "num_attention_heads": decoder.num_heads,
    "num_key_value_heads": decoder.num_kv_heads,
    "head_dim": decoder.head_dim,
    "rms_norm_eps": decoder.rms_norm_eps,
    "max_position_embeddings": decoder.max_position_embeddings,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": decoder.rope.theta,
    },
    "attn_implementation": "sdpa",
  }
  if decoder.qkv_bias:
    return transformers.Qwen2Model(transformers.Qwen2Config(**settings))
  return transformers.LlamaModel(transformers.LlamaConfig(**settings))


def _copy_weights(
  model: Any, decoder: config_lib.DecoderConfig, weights: Any
) -> None:
  """Fills every parameter of the model but the unused embedding."""
  model.norm.weight.data.copy_(weights["norm"]["scale"])
  for index, layer in enumerate(model.layers):
    ours = weights[f"layers_{index}"]
    layer.input_layernorm.weight.data.copy_(ours["input_norm"]["scale"])
    layer.post_attention_layernorm.weight.data.copy_(ours["post_norm"]["scale"])
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
      linear = getattr(layer.self_attn, name)
      linear.weight.data.copy_(ours[name]["kernel"].T)
      if linear.bias is not None:
        linear.bias.data.copy_(ours[name]["bias"])
    for name in ("gate_proj", "up_proj", "down_proj"):
      linear = getattr(layer.mlp, name)
      linear.weight.data.copy_(ours[name]["kernel"].T)


def _hand_written_steps(
  torch: Any,
  decoder: config_lib.DecoderConfig,
  weights: Any,
  keys: Any,
  values: Any,
  frame_tokens: int,
) -> list[_Step]:
  """One step for each attention form, over one shared cache."""
  functional = torch.nn.functional
  layers, batch, kv_heads, past, width = keys.shape
  group, heads = decoder.group_size, decoder.num_heads
  shape = (layers, batch, kv_heads, past + frame_tokens, width)
  key_cache, value_cache = keys.new_empty(shape), keys.new_empty(shape)
  key_cache[:, :, :, :past] = keys
  value_cache[:, :, :, :past] = values
  tables = _rotary_tables(torch, decoder, past, frame_tokens, keys.dtype)
  fused = [_fuse(torch, weights[f"layers_{layer}"]) for layer in range(layers)]
  norm_scale = weights["norm"]["scale"]
  attends = _attention_forms(torch, keys, frame_tokens, group)
  split_sizes = [heads * width, kv_heads * width, kv_heads * width]
  norm = lambda x, scale: functional.rms_norm(
    x, (decoder.hidden_size,), scale, decoder.rms_norm_eps
  )

  def layer_step(layer, hidden, attend):
    own = fused[layer]
    qkv = functional.linear(
      norm(hidden, own["input_scale"]), own["qkv"], own["qkv_bias"]
    )
    query, key, value = (
      part.view(batch, frame_tokens, -1, width).transpose(1, 2)
      for part in qkv.split(split_sizes, dim=-1)
    )
    here = key_cache[layer], value_cache[layer]
    here[0][:, :, past:] = _rotate(torch, key, tables)
    here[1][:, :, past:] = value
    query = _rotate(torch, query, tables)
    rows = query.reshape(batch, kv_heads, group * frame_tokens, width)
    out = attend(rows, *here).view(batch, heads, frame_tokens, width)
    out = out.transpose(1, 2).reshape(batch, frame_tokens, heads * width)
    hidden = hidden + functional.linear(out, own["o"])
    normal = norm(hidden, own["post_scale"])
    gate, up = functional.linear(normal, own["gate_up"]).chunk(2, dim=-1)
    return hidden + functional.linear(functional.silu(gate) * up, own["down"])

  def make(form):
    def run(hidden):
      for layer in range(layers):
        hidden = layer_step(layer, hidden, attends[form])
      return norm(hidden, norm_scale)

    # The chunk's slots are written again by every step: nothing to forget.
    return _Step(f"torch_sdpa/{form}", lambda: None, run)

  return [make(form) for form in _FORMS]


def _fuse(torch: Any, layer: Any) -> dict[str, Any]:
  """One layer's weights as [out, in], q/k/v and gate/up joined."""
  join = lambda names: torch.cat(
    [layer[name]["kernel"].T for name in names]
  ).contiguous()
  qkv = ("q_proj", "k_proj", "v_proj")
  has_bias = "bias" in layer["q_proj"]
  return {
    "input_scale": layer["input_norm"]["scale"],
    "post_scale": layer["post_norm"]["scale"],
    "qkv": join(qkv),
    "qkv_bias": torch.cat([layer[name]["bias"] for name in qkv])
    if has_bias
    else None,
    "o": join(("o_proj",)),
    "gate_up": join(("gate_proj", "up_proj")),
    "down": join(("down_proj",)),
  }


def _rotary_tables(
  torch: Any,
  decoder: config_lib.DecoderConfig,
  past: int,
  frame_tokens: int,
  dtype: Any,
) -> tuple[Any, Any]:
  """Cosines and sines of the chunk's positions, [T, H / 2] each."""
  frequency = torch.from_numpy(
    rotary.inverse_frequencies(decoder.rope, decoder.head_dim)
  )
  position = torch.arange(past, past + frame_tokens, dtype=torch.float32)
  angle = position[:, None] * frequency[None]
  return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(torch: Any, x: Any, tables: tuple[Any, Any]) -> Any:
  cosine, sine = tables
  first, second = x.chunk(2, dim=-1)
  return torch.cat(
    [first * cosine - second * sine, second * cosine + first * sine], dim=-1
  )


def _attention_forms(
  torch: Any, keys: Any, frame_tokens: int, group: int
) -> dict[str, Callable[[Any, Any, Any], Any]]:
  """rows [B, K, G T, H], key and value [B, K, S + T, H] -> [B, K, G T, H].

  split: SDPA over the past and over the chunk, merged by log-sum-exp; the
    past needs no mask.
  masked: one SDPA over both with an additive mask [G T, S + T].
  eager: two batched products and a softmax.
  """
  past, width = keys.shape[3:]
  functional = torch.nn.functional
  causal = torch.full((frame_tokens, frame_tokens), -torch.inf).triu(1)
  own_mask = causal.repeat(group, 1).to(keys.dtype)
  mask = torch.cat(
    [keys.new_zeros((len(own_mask), past)), own_mask], dim=1
  ).contiguous()
  flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

  def split(rows, key, value):
    if past == 0:
      return masked(rows, key, value)
    out, log = flash(rows, key[:, :, :past], value[:, :, :past])
    own, own_log = flash(
      rows, key[:, :, past:], value[:, :, past:], attn_mask=own_mask
    )
    share = torch.sigmoid(own_log - log)[..., None]
    return torch.lerp(out, own, share.to(out.dtype))

  def masked(rows, key, value):
    return functional.scaled_dot_product_attention(
      rows, key, value, attn_mask=mask
    )

  def eager(rows, key, value):
    scores = torch.matmul(rows * width**-0.5, key.transpose(-1, -2))
    scores[..., past:] += own_mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)

  return {"split": split, "masked": masked, "eager": eager}


SIDES: dict[str, Callable[..., list[_Step]]] = {
  "hf": _hf_steps,
  "torch_sdpa": _hand_written_steps,
}
"""Factories by name, as `--against` spells it."""
