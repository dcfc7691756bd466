"""A decoder over an explicit list of past tokens: numpy, float64, one stream.

Nothing here is shared with the package: keys are kept unrotated with their
positions, attention is one softmax over the concatenation of everything that a
`choose` function names. It is the oracle for streams and policies.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np


@dataclasses.dataclass
class Part:
  """Past tokens one query head attends to; positions as stored if None."""

  slots: np.ndarray
  key_position: np.ndarray | None = None
  query_position: np.ndarray | None = None
  extra: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


Choose = Callable[[int, np.ndarray], list[list[Part]]]
"""(layer, unrotated queries [N, T, H]) -> parts of every query head."""


def rotate(x, position, frequencies):
  angle = np.asarray(position, np.float64)[:, None] * frequencies
  first, second = np.split(x, 2, axis=-1)
  return np.concatenate(
    [
      first * np.cos(angle) - second * np.sin(angle),
      second * np.cos(angle) + first * np.sin(angle),
    ],
    axis=-1,
  )


def softmax_rows(scores):
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  return weights / weights.sum(axis=-1, keepdims=True)


class Reference:
  """One stream; `extend` appends a chunk and returns its last hidden states."""

  def __init__(self, config, params):
    self.config = config
    self.params = jax.tree.map(
      lambda leaf: np.asarray(leaf, np.float64), params["decoder"]
    )
    half = np.arange(0, config.head_dim, 2) / config.head_dim
    self.frequencies = 1.0 / config.rope.theta**half
    empty = np.zeros((config.num_kv_heads, 0, config.head_dim))
    self.key = [empty] * config.num_layers  # unrotated [K, tokens, H]
    self.value = [empty] * config.num_layers
    self.position = np.zeros(0, int)
    self.weights = []  # of the last chunk: [L][N, T, tokens]

  def __len__(self):
    return len(self.position)

  def copy(self):
    other = Reference.__new__(Reference)
    other.__dict__.update(self.__dict__)
    other.key, other.value = list(self.key), list(self.value)
    return other

  def everything(self, layer, query):
    past = np.arange(len(self))
    return [[Part(past)]] * self.config.num_heads

  def embed(self, tokens):
    return self.params["embed_tokens"]["embedding"][np.asarray(tokens)]

  def logits(self, hidden):
    normal = self._norm(hidden, self.params["norm"])
    if self.config.tie_embeddings:
      return normal @ self.params["embed_tokens"]["embedding"].T
    return normal @ self.params["lm_head"]["kernel"]

  def tokens(self, tokens, choose: Choose | None = None):
    """Extends by text; logits after its last token."""
    return self.logits(self.extend(self.embed(tokens), choose))[-1]

  def extend(self, hidden, choose: Choose | None = None):
    """Extends by embedded tokens [T, D]; the last layer's output [T, D]."""
    choose = choose or self.everything
    hidden = np.asarray(hidden, np.float64)
    start = self.position[-1] + 1 if len(self) else 0
    own = start + np.arange(len(hidden))
    self.weights = []
    for layer in range(self.config.num_layers):
      hidden = self._layer(layer, hidden, own, choose)
    self.position = np.concatenate([self.position, own])
    return hidden

  def _norm(self, x, params):
    mean_square = np.mean(x**2, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + self.config.rms_norm_eps) * params["scale"]

  def project(self, layer, hidden, name, heads):
    """Unrotated heads [heads, T, H] of a layer's input."""
    params = self.params[f"layers_{layer}"]
    normal = self._norm(hidden, params["input_norm"])
    flat = normal @ params[name]["kernel"] + params[name].get("bias", 0.0)
    return flat.reshape(len(hidden), heads, -1).transpose(1, 0, 2)

  def _layer(self, layer, hidden, own, choose):
    config, params = self.config, self.params[f"layers_{layer}"]
    query = self.project(layer, hidden, "q_proj", config.num_heads)
    key = self.project(layer, hidden, "k_proj", config.num_kv_heads)
    value = self.project(layer, hidden, "v_proj", config.num_kv_heads)
    parts = choose(layer, query)
    out, weights = zip(
      *(
        self._head(layer, head, query[head], key, value, own, parts[head])
        for head in range(config.num_heads)
      ),
      strict=True,
    )
    self.weights.append(np.stack(weights))
    self.key[layer] = np.concatenate([self.key[layer], key], axis=1)
    self.value[layer] = np.concatenate([self.value[layer], value], axis=1)
    merged = np.stack(out).transpose(1, 0, 2).reshape(len(hidden), -1)
    hidden = hidden + merged @ params["o_proj"]["kernel"]
    normal = self._norm(hidden, params["post_norm"])
    gate = normal @ params["gate_proj"]["kernel"]
    up = normal @ params["up_proj"]["kernel"]
    gated = gate / (1.0 + np.exp(-gate)) * up
    return hidden + gated @ params["down_proj"]["kernel"]

  def _head(self, layer, head, query, key, value, own, parts):
    """Attention of one query head: out [T, H], weights [T, past + T]."""
    kv = head // (self.config.num_heads // self.config.num_kv_heads)
    length, past = len(own), len(self)
    turn = lambda x, position: rotate(x, position, self.frequencies)
    scores, values, where = [], [], []
    for part in parts:
      at = own if part.query_position is None else part.query_position
      asking = turn(query, at)
      moved = part.key_position
      moved = self.position[part.slots] if moved is None else moved
      asked = turn(self.key[layer][kv][part.slots], moved)
      scores.append(asking @ asked.T)
      values.append(self.value[layer][kv][part.slots])
      where.append(part.slots)
      if part.extra is not None:
        extra_key, extra_value, log_weight = part.extra
        width = self.config.head_dim**0.5
        scores.append(asking @ extra_key.T + log_weight * width)
        values.append(extra_value)
        where.append(np.full(len(extra_key), -1))
    inside = turn(query, own) @ turn(key[kv], own).T
    scores.append(np.where(np.tri(length, dtype=bool), inside, -np.inf))
    values.append(value[kv])
    where.append(past + np.arange(length))
    weights = softmax_rows(
      np.concatenate(scores, axis=1) / self.config.head_dim**0.5
    )
    slots = np.concatenate(where)
    spread = np.zeros((length, past + length))
    spread[:, slots[slots >= 0]] = weights[:, slots >= 0]
    return weights @ np.concatenate(values), spread
