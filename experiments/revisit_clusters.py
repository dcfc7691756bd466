r"""Do ReSV's clusters find a scene again when a film comes back to it?

  python experiments/revisit_clusters.py --video film.mp4 \
      --annotation film.json --out runs/revisits

The film is streamed once under `full` and recorded; then every --choices entry
clusters the recorded keys. Printed: how often the past of a joined cluster is
of the same scene, beside the same with shuffled scenes, and their quotient.

With random weights (no --checkpoint) keys carry content evenly in all rotary
pairs, and rotation by position drowns it: hashing after RoPE, as the paper
does, then finds nothing again, hashing before it does. See
docs/resv_on_real_models.md.

Hardware: any JAX device. Minutes: one or two with the small model, two cores.
"""

import pathlib
import time
from collections.abc import Sequence

import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import model_source
from vrex_jax import policy_syntax
from vrex_jax import record
from vrex_jax import replay
from vrex_jax import summary
from vrex_jax.errors import InputError
from vrex_jax.study import recordings
from vrex_jax.study import revisits

_VIDEO = flags.DEFINE_string("video", None, "Film that comes back to scenes.")
_ANNOTATION = flags.DEFINE_string(
  "annotation", None, "JSON with its segments: scene, start_s, end_s."
)
_CHOICES = flags.DEFINE_string(
  "choices",
  "resv | resv(key_centering=mean) | resv(hash_keys=raw)"
  " | resv(hash_keys=raw, key_centering=mean)",
  "ReSV policies to compare.",
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "Hugging Face directory or TOML of parts."
)
_PRESET = flags.DEFINE_string("preset", "tiny", "Shape of the random model.")
_FPS = flags.DEFINE_float("fps", 2.0, "Frames sampled per second of video.")
_MAX_FRAMES = flags.DEFINE_integer("max_frames", None, "Stop after this many.")
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of weights and shuffles.", 0, command.MAX_SEED
)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.")


def _row(policy, recording: replay.Recording, segments) -> dict:
  """One choice: its clusters, and what they found again."""
  played = replay.replay(policy, recording, measure=False)
  used = int(played.state.cache.cursor)
  slots = played.state.cache.slots
  frame = np.asarray(slots.frame)[0, :used]
  is_frame = np.asarray(slots.kind)[0, :used] == 1
  member = np.asarray(played.state.policy.table.member)[0][..., :used]
  found = revisits.same_scene_lift(
    member[..., is_frame],
    frame[is_frame] / _FPS.value,
    segments,
    seed=_SEED.value,
  )
  return {
    "policy": policy.name,
    "clusters": float(np.asarray(played.state.policy.table.num).mean()),
    "tokens": found.tokens,
    "same_scene": found.share,
    "shuffled": found.shuffled,
    "lift": found.lift,
    "same_scene_by_layer": found.per_layer,
  }


def _table(rows: Sequence[dict]) -> str:
  number = lambda value: f"{value:.3f}"
  return summary.aligned(
    ["policy", "clusters", "same scene", "shuffled", "lift"],
    [
      [
        row["policy"],
        f"{row['clusters']:.0f}",
        number(row["same_scene"]),
        number(row["shuffled"]),
        f"{row['lift']:.2f}x",
      ]
      for row in rows
    ],
  )


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  for name, value in (
    ("video", _VIDEO.value),
    ("annotation", _ANNOTATION.value),
  ):
    if not value:
      raise InputError(
        f"--{name} is missing; a film and its annotation are needed: see --help"
      )
  if _OUT.value is not None:
    record.check_folder(pathlib.Path(_OUT.value))
  policies = policy_syntax.parse_policies(_CHOICES.value)
  others = [one.name for one in policies if not one.name.startswith("resv(")]
  if others:
    raise InputError(
      f"--choices has {others[0]}, which has no clusters; only resv(…) can be"
      " compared here: leave it out"
    )
  segments = revisits.read_segments(_ANNOTATION.value)
  model = model_source.load_model(
    _CHECKPOINT.value,
    _PRESET.value,
    dtype="float32",
    seed=_SEED.value,
    report=lambda text: print(f"model  {text}"),
  )
  with tqdm.tqdm(desc="record", unit="frame", disable=None) as bar:
    recording = recordings.record_clip(
      model,
      _VIDEO.value,
      fps=_FPS.value,
      max_frames=_MAX_FRAMES.value,
      frames_done=bar.update,
    )
  rows = [
    _row(policy, recording, segments)
    for policy in tqdm.tqdm(policies, desc="replay", disable=None)
  ]
  print(_table(rows))
  if _OUT.value is not None:
    command.write_study(
      _OUT.value,
      rows,
      seed=_SEED.value,
      started=started,
    )


if __name__ == "__main__":
  command.run(main)
