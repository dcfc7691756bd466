"""Sessions of a tiny model: how they are run, and what they should answer."""

import jax
import jax.numpy as jnp
import numpy as np

from vrex_jax import resize
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import video
from vrex_jax.baselines import full as full_lib
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import video_llm

__all__ = [
  "BLOCK",
  "FPS",
  "FRAME",
  "FRAMES",
  "FULL",
  "MAX_TOKENS",
  "OPTIONS",
  "Told",
  "oracle",
  "pixels_of",
  "stream",
]

FRAMES, FRAME, FPS, BLOCK, MAX_TOKENS = 12, 16, 2.0, 4, 3
OPTIONS = session_plan.Options(
  block_frames=BLOCK, max_tokens=MAX_TOKENS, system="Be brief.", record=True
)
FULL = full_lib.full()


class Told:
  """A `Progress` that remembers, and may do something on the way."""

  def __init__(self, on_frames=lambda count: None):
    self.said, self.notes, self.compiling = [], [], []
    self._on_frames = on_frames

  def progress(self):
    return session.Progress(
      note=self.notes.append,
      begin=lambda: self.said.append("begin"),
      frames=self._frames,
      answer=lambda question, answer, tokens: self.said.append(
        (question, answer, tokens)
      ),
      compiling=self.compiling.append,
    )

  def _frames(self, count):
    self.said.append(count)
    self._on_frames(count)


def stream(
  model,
  video_path,
  policy=FULL,
  questions=(),
  *,
  told=None,
  source=None,
  options=OPTIONS,
  stopped=lambda: False,
):
  source = source or session_plan.find_source(video_path, fps=FPS)
  plan = session_plan.plan_stream(model, policy, source, questions, options)
  told = told or Told()
  return session.stream_policy(model, policy, plan, told.progress(), stopped)


def pixels_of(model, film):
  image = model.config.image
  pictures = [frame.pixels for frame in video.read_frames(film, fps=FPS)]
  height, width = pictures[0].shape[:2]
  resizer = resize.Resizer.create(height, width, image.size, image.resize)
  return np.stack([resizer(picture) for picture in pictures])


def oracle(model, pixels, plan):
  """(frames seen, question) -> answer, by passes over everything at once."""
  module = decoder_lib.Decoder(model.config.decoder)
  variables = {"params": model.params["decoder"]}
  embed = jax.jit(lambda ids: module.apply(variables, ids, method="embed"))
  hidden, valid = jax.jit(
    lambda frames: video_llm.embed_frame_tokens(
      model.config,
      model.params,
      frames,
      jnp.zeros(len(frames), bool),
      dtype=jnp.float32,
    )
  )(pixels)
  assert np.all(valid)
  # Attention is causal: what is padded behind changes nothing before it.
  decode = jax.jit(lambda rows: module.apply(variables, rows[None])[0])
  padded = np.zeros((plan.config.capacity, hidden.shape[-1]), np.float32)
  words = lambda ids: np.asarray(embed(np.array([ids + [0] * (64 - len(ids))])))
  text = lambda ids: words(ids)[0, : len(ids)]

  def answer(seen, question):
    asked = plan.text.questions[question]
    said = []
    for _ in range(MAX_TOKENS):
      frames = np.asarray(hidden[:seen]).reshape(-1, hidden.shape[-1])
      rows = [text(plan.text.prompt), frames, text(asked + said)]
      length = sum(map(len, rows))
      padded[:length] = np.concatenate(rows)
      said.append(int(np.argmax(decode(padded)[length - 1])))
    return said

  return answer
