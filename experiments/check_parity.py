"""Compares your checkpoint, here, with transformers on the same files.

  python experiments/check_parity.py --checkpoint DIR --frames 2
  python experiments/check_parity.py --checkpoint parts.toml --video clip.mp4

DIR is a LLaVA-OneVision, Llama or Qwen2 directory; a TOML names the parts of
the paper's model. Prints the largest difference of every stage: vision
features, tokens after the connector, logits of one shot, logits of a
frame-by-frame prefill, greedy answer. Exit code 0 when all agree, 1 when one
does not, 2 when the check could not be made.

A stage agrees within --tolerance times the larger of 1 and the reference's
largest value: 1e-4 in float32. Needs the extra `parity`; the two models are
held one after the other, in --dtype: a 0.5B model takes 4 GB and a minute on
CPU, 7B 30 GB in float32.
"""

import pathlib
import sys

import numpy as np
import torch_reference
from absl import flags

from vrex_jax import command
from vrex_jax import parity
from vrex_jax import resize
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.models import checkpoint
from vrex_jax.models import config as config_lib
from vrex_jax.models import json_fields
from vrex_jax.models import prompt
from vrex_jax.models import tokenizer

_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "directory, or TOML of parts", required=True
)
_FRAMES = flags.DEFINE_integer("frames", 2, "frames to compare on", 1)
_VIDEO = flags.DEFINE_string("video", None, "take frames here, not noise")
_FPS = flags.DEFINE_float("fps", 2.0, "samples per second of --video")
_QUESTION = flags.DEFINE_string(
  "question", "what is happening in the video?", "text after the frames"
)
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 8, "greedy answer", 1)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "weights and activations"
)
_TOLERANCE = flags.DEFINE_float(
  "tolerance", None, "1e-4 in float32, 0.05 in bfloat16 where not given"
)

_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}


def main(argv) -> None:
  del argv
  if not _QUESTION.value.strip():
    raise InputError(
      "--question is empty; it must hold text: leave it out to ask"
      f" {_QUESTION.default!r}"
    )
  torch_reference.import_reference()
  path = pathlib.Path(_CHECKPOINT.value)
  config, inputs, ours = _ours(path)
  reference = torch_reference.reference_values(
    path, inputs, config=config, dtype=_DTYPE.value
  )
  tolerance = _TOLERANCE.value
  if tolerance is None:
    tolerance = _TOLERANCES[_DTYPE.value]
  differences = parity.compare(
    ours, reference, tolerance=tolerance, relative=True
  )
  print(f"{'stage':8} {'largest difference':>18} {'largest value':>13}")
  for stage, largest, scale, agrees in differences:
    verdict = "agrees" if agrees else "DIFFERS"
    print(f"{stage:8} {largest:18.2e} {scale:13.3g}  {verdict}")
  sys.exit(0 if all(entry.agrees for entry in differences) else 1)


def _ours(
  path: pathlib.Path,
) -> tuple[
  config_lib.ModelConfig | None,
  parity.Inputs,
  parity.Values,
]:
  """Our values; the parameters are freed on return."""
  kind = None
  if path.is_dir():
    kind = json_fields.read_json(path / "config.json").get("model_type")
  if kind in ("llama", "qwen2"):
    text = checkpoint.load_decoder(path, dtype=_DTYPE.value)
    inputs = parity.Inputs(
      frames=None,
      prompt=[],
      question=_text_ids(path, text.config.vocab_size),
      new_tokens=_NEW_TOKENS.value,
    )
    return None, inputs, parity.our_values(text, inputs, dtype=_DTYPE.value)
  model = checkpoint.load(path, dtype=_DTYPE.value)
  inputs = parity.Inputs(
    frames=_frames(model.config.image),
    prompt=prompt.prompt_tokens(model.template, model.tokenizer),
    question=prompt.question_tokens(
      model.template, model.tokenizer, _QUESTION.value
    ),
    new_tokens=_NEW_TOKENS.value,
  )
  ours = parity.our_values(model, inputs, dtype=_DTYPE.value)
  return model.config, inputs, ours


def _text_ids(path: pathlib.Path, vocab_size: int) -> list[int]:
  """The question's ids; arbitrary ones where the directory has no tokenizer."""
  if (path / "tokenizer.json").is_file():
    return tokenizer.load_tokenizer(path).encode(_QUESTION.value)
  draws = np.random.default_rng(0).integers(0, vocab_size, 16)
  return [int(one) for one in draws]


def _frames(image: config_lib.ImageConfig) -> np.ndarray:
  """Frames of --video at the model's size, or noise."""
  if _VIDEO.value is None:
    shape = (_FRAMES.value, image.size, image.size, 3)
    draws = np.random.default_rng(0).integers(0, 256, shape)
    return draws.astype(np.uint8)
  frames = [
    resize.resize(frame.pixels, image.size, image.resize)
    for frame in video.read_frames(
      _VIDEO.value, fps=_FPS.value, max_frames=_FRAMES.value
    )
  ]
  if not frames:
    raise InputError(
      f"{_VIDEO.value} gave no frame at {_FPS.value} samples per second: raise"
      " --fps"
    )
  return np.stack(frames)


if __name__ == "__main__":
  command.run(main)
