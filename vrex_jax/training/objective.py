"""Loss of a batch: what a video LLM says after questions and frames."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vrex_jax.models import config as config_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import rotary
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_batches
from vrex_jax.typing import Array, Float, Parameters

__all__ = ["Outcome", "label_loss", "logits", "loss"]

_HIDDEN = -1e9


class Outcome(NamedTuple):
  """Dynamic. What came of a batch, summed over it.

  Attributes:
    loss: the batch's mean loss.
    right: right answers by kind.
    asked: answers by kind.
  """

  loss: Float  # f32 []
  right: Array  # i32 [kinds]
  asked: Array  # i32 [kinds]


def logits(
  config: config_lib.ModelConfig,
  params: Parameters,
  batch: rooms_batches.Batch,
) -> Float:
  """Logits of all rows of a batch: f32[B, S, vocabulary].

  A key counts as often as the frame it belongs to stands for,

    softmax(q · k / sqrt(H) + log(stands_for of k's frame)),

  except for the rows of that frame itself.

  Args:
    config: the model.
    params: its parameters.
    batch: as drawn.
  """
  decoder = config.decoder
  module = decoder_lib.Decoder(decoder)
  frequencies = rotary.inverse_frequencies(decoder.rope, decoder.head_dim)
  turn = rotary.turn_once(
    rotary.angles(jnp.asarray(batch.position), frequencies)
  )
  turn = rotary.Turn(*(part[:, None] for part in turn))
  bias = _bias(batch)[:, None, None]

  def attend(query, key, value):
    query, key = rotary.rotate_by(query, turn), rotary.rotate_by(key, turn)
    streams, _, rows, width = query.shape
    grouped = query.reshape(streams, key.shape[1], -1, rows, width)
    scores = jnp.einsum("bkgth,bksh->bkgts", grouped * width**-0.5, key)
    mixed = jnp.einsum(
      "bkgts,bksh->bkgth", jax.nn.softmax(scores + bias), value
    )
    return mixed.reshape(query.shape)

  def run(module_, hidden):
    for layer in module_.layers:
      hidden = layer(hidden, attend)
    return module_.head(hidden)

  hidden = _embed(config, params, batch)
  return module.apply({"params": params["decoder"]}, hidden, method=run)


def loss(
  config: config_lib.ModelConfig,
  params: Parameters,
  batch: rooms_batches.Batch,
) -> tuple[Float, Outcome]:
  """Weighted mean cross-entropy of a batch's targets.

    Σ weight · -log p(target) / Σ weight

  Args:
    config: the model.
    params: its parameters.
    batch: as drawn.

  Returns:
    f32[], and what was right.
  """
  out = logits(config, params, batch)
  target = jnp.maximum(batch.target, 0)
  log_p = jax.nn.log_softmax(out)
  missed = -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
  mean = jnp.sum(missed * batch.weight) / jnp.sum(batch.weight)
  kinds = len(rooms_batches.TARGET_KINDS)
  counted = jax.nn.one_hot(batch.kind, kinds, dtype=jnp.int32)
  right = (jnp.argmax(out, axis=-1) == batch.target)[..., None]
  return mean, Outcome(
    mean,
    jnp.sum(counted * right, axis=(0, 1)),
    jnp.sum(counted, axis=(0, 1)),
  )


def label_loss(
  config: config_lib.ModelConfig,
  params: Parameters,
  heads: Parameters,
  labels: rooms_batches.Labels,
) -> tuple[Float, Outcome]:
  """Cross-entropy of shape, colour and room read off each token of a frame.

  Every token is asked with the same read-out, so that each becomes a record of
  its own that holds all three: what is looked up together lies together.

  Args:
    config: the model.
    params: its parameters.
    heads: {"shape", "colour", "room"}: f[D, number of these].
    labels: as drawn.

  Returns:
    f32[], and how many of the three were right, by token.
  """
  tokens = video_llm.embed_frames(config, params, jnp.asarray(labels.pictures))
  missed, right = [], []
  for index, name in enumerate(("shape", "colour", "room")):
    out = tokens @ heads[name]
    truth = jnp.broadcast_to(labels.shown[:, None, index], out.shape[:2])
    log_p = jax.nn.log_softmax(out)
    picked = jnp.take_along_axis(log_p, truth[..., None], axis=-1)
    missed.append(-jnp.mean(picked))
    right.append(jnp.sum(jnp.argmax(out, axis=-1) == truth))
  mean = jnp.sum(jnp.stack(missed))
  asked = jnp.full(len(right), tokens.shape[0] * tokens.shape[1])
  return mean, Outcome(mean, jnp.stack(right), asked)


def _embed(config, params, batch) -> Float:
  """Words and pictures in one row: f32[B, S, D]."""
  streams = batch.pictures.shape[0]
  flat = batch.pictures.reshape(-1, *batch.pictures.shape[2:])
  tokens = video_llm.embed_frames(config, params, flat)
  tokens = tokens.reshape(streams, -1, tokens.shape[-1])
  table = params["decoder"]["embed_tokens"]["embedding"]
  words = jnp.take(table, batch.words, axis=0)
  return jax.lax.dynamic_update_slice(words, tokens, (0, 1, 0))


def _bias(batch: rooms_batches.Batch) -> Float:
  """What is added to the scores of row t and key s: f32[B, S, S]."""
  rows = jnp.arange(batch.words.shape[1])
  earlier = (rows[None, :] <= rows[:, None])[None]
  row_frame, key_frame = batch.frame[:, :, None], batch.frame[:, None, :]
  row_owner, key_owner = batch.owner[:, :, None], batch.owner[:, None, :]
  in_stream = (key_owner < 0) & (key_frame <= row_frame)
  seen = earlier & (in_stream | (key_owner == row_owner))
  count = jnp.take_along_axis(
    batch.stands_for, jnp.maximum(batch.frame, 0), axis=1
  )
  crowd = jnp.where((batch.owner < 0) & (batch.frame >= 0), jnp.log(count), 0.0)
  own = (row_frame == key_frame) & (row_owner == key_owner)
  return jnp.where(seen, jnp.where(own, 0.0, crowd[:, None, :]), _HIDDEN)
