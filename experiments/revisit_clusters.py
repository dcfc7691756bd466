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

Without --out the table is printed and nothing is kept.

Hardware: any JAX device. Minutes: one or two with the small model, two cores.
Expect: lift 1 where clusters know nothing of scenes. With the small model, on a
film of 22 segments and 9 scenes, three seeds: about 1 for resv (whose default
table is full then: `!`), 2.5 to 4 with hash_keys=raw, 5 to 6.5 with
key_centering=mean beside it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import model_flags
from vrex_jax import model_source
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax import session_plan
from vrex_jax import summary
from vrex_jax.errors import InputError
from vrex_jax.study import recordings
from vrex_jax.study import revisits
from vrex_jax.study import variations

_VIDEO = flags.DEFINE_string(
  "video", None, "Video file or URL of a film that comes back to scenes."
)
_ANNOTATION = flags.DEFINE_string(
  "annotation", None, "JSON with its segments: scene, start_s, end_s."
)
_CHOICES = flags.DEFINE_string(
  "choices",
  "resv | resv(key_centering=mean) | resv(hash_keys=raw)"
  " | resv(hash_keys=raw, key_centering=mean)",
  "ReSV policies to compare, separated by |.",
)
_CHECKPOINT = model_flags.checkpoint()
_PRESET = model_flags.preset()
_FPS = model_flags.fps()
_MAX_FRAMES = model_flags.max_frames()
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of weights and shuffles.", 0, command.MAX_SEED
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)


def _check_flags() -> None:
  for flag in (_VIDEO, _ANNOTATION):
    if flag.value is None:
      raise InputError(
        f"--{flag.name} is missing; a film and its annotation are needed: see"
        " --help"
      )
  model_source.check_shape(_CHECKPOINT.value, _PRESET.value)
  command.check_out(_OUT.value, ["config.toml", "metrics.json"])


def _check_revisits(
  segments: Sequence[revisits.Segment], end_s: float | None
) -> None:
  """Refuses a stream in which nothing can be found again."""
  again_s = revisits.first_revisit_s(segments)
  if again_s == float("inf"):
    raise InputError(
      f"--annotation {_ANNOTATION.value} has no scene that comes back; one is"
      " needed to look for: give the same name to segments of one scene"
    )
  if end_s is not None and again_s >= end_s:
    raise InputError(
      f"--annotation {_ANNOTATION.value} has its first scene that comes back at"
      f" {again_s:g} s, but the stream ends at {end_s:g} s: raise --max_frames,"
      " or check that the annotation is of this film"
    )


def _row(
  policy: policy_lib.KVPolicy,
  recording: recording_lib.Recording,
  segments: list[revisits.Segment],
) -> dict[str, Any]:
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
  full = int(policy_lib.Overflow.TABLE_FULL)
  return {
    "policy": policy.name,
    "clusters": float(np.asarray(played.state.policy.table.num).mean()),
    "tokens": found.tokens,
    "same_scene": found.share,
    "shuffled": found.shuffled,
    "lift": found.lift,
    "same_scene_by_layer": found.per_layer,
    "table_full": bool(np.any(played.counts.overflow & full)),
  }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
  number = lambda value, form: "-" if np.isnan(value) else form % value
  names = [f"  {index}  {row['policy']}" for index, row in enumerate(rows, 1)]
  header = ["policy", "clusters", "same scene", "shuffled", "lift"]
  cells = [
    [
      str(index),
      f"{row['clusters']:.0f}" + ("!" if row["table_full"] else ""),
      number(row["same_scene"], "%.3f"),
      number(row["shuffled"], "%.3f"),
      number(row["lift"], "%.2fx"),
    ]
    for index, row in enumerate(rows, 1)
  ]
  notes = []
  if any(row["table_full"] for row in rows):
    notes = ["! some tokens are in no cluster: raise table_capacity"]
  return "\n".join([*names, "", summary.aligned(header, cells), *notes])


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  policies = policy_syntax.parse_policies(_CHOICES.value, "--choices")
  for policy in policies:
    variations.check_resv(policy, "--choices")
  segments = revisits.read_segments(_ANNOTATION.value)
  source = session_plan.find_source(
    _VIDEO.value, fps=_FPS.value, max_frames=_MAX_FRAMES.value
  )
  _check_revisits(segments, source.end_s)
  model = model_source.load_model(
    _CHECKPOINT.value,
    _PRESET.value,
    dtype="float32",
    seed=_SEED.value,
    report=lambda text: print(f"model  {text}"),
  )
  recording = recordings.record_clip(model, source)
  rows = []
  for policy in tqdm.tqdm(policies, desc="replay", unit="row", disable=None):
    rows.append(_row(policy, recording, segments))
    jax.clear_caches()
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
