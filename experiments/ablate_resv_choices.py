r"""What each open choice of ReSV does, on a recorded stream.

  python experiments/ablate_resv_choices.py --video clip.mp4 --out runs/ablation
  python experiments/ablate_resv_choices.py --recording runs/a/record.npz

The stream is recorded once under `full`; every choice is then replayed on the
recorded queries, keys and values (vrex_jax/replay.py). A row is the base policy
with one thing changed: kept share and attention mass by stage, error of the
attention output, clusters, false joins in four parts of the stream, time of
choosing. With --disturb the recording is changed as real checkpoints differ
from random ones (vrex_jax/study/disturb.py). --out also gets a plot of kept
share against the number of query rows, and of false joins along the stream.

Hardware: any JAX device. Minutes: about half a minute a row with the small
model and 100 frames on two cores.
"""

import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import model_source
from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import record
from vrex_jax import replay
from vrex_jax import summary
from vrex_jax.errors import InputError
from vrex_jax.study import choices
from vrex_jax.study import disturb
from vrex_jax.study import plots
from vrex_jax.study import recordings

_RECORDING = flags.DEFINE_string(
  "recording", None, "record.npz of a run; instead of --video."
)
_VIDEO = flags.DEFINE_string("video", None, "Video file to record.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "Hugging Face directory or TOML of parts."
)
_PRESET = flags.DEFINE_string("preset", "tiny", "Shape of the random model.")
_FPS = flags.DEFINE_float("fps", 2.0, "Frames sampled per second of video.")
_MAX_FRAMES = flags.DEFINE_integer("max_frames", 100, "Stop after this many.")
_QUESTION = flags.DEFINE_multi_string(
  "question", ["20: what is happening?"], 'Repeatable: "seconds: text".'
)
_BASE = flags.DEFINE_string(
  "base", "resv(table_capacity=4096)", "The policy that is varied."
)
_VARY = flags.DEFINE_list(
  "vary", [], "Names of choices, of those listed in VARIATIONS; all by default."
)
_DISTURB = flags.DEFINE_bool(
  "disturb", False, "Disturb the recording instead, with and without repairs."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights.", 0, command.MAX_SEED)
_OUT = flags.DEFINE_string("out", None, "Folder for the results.")

VARIATIONS: dict[str, list[str]] = {
  "table": ["table=layer"],
  "code": ["code=following"],
  "hash_bits": [
    "hash_bits=16, hamming_threshold=4",
    "hash_bits=64, hamming_threshold=14",
    "hash_bits=128, hamming_threshold=28",
  ],
  "hash_keys": ["hash_keys=raw"],
  "key_centering": [
    "key_centering=mean",
    "key_centering=mean, hash_keys=raw",
  ],
  "rows": ["rows=pooled", "rows=vote, votes=4"],
  "scores": ["scores=raw", "scores=shift_min", "scores=exp"],
  "form": ["form=buckets"],
  "min_join_cosine": ["min_join_cosine=0.5", "min_join_cosine=0.8"],
  "sink_tokens": ["sink_tokens=0"],
  "recent_tokens": ["recent_tokens=0"],
}
"""Choice -> changes of the base policy (recent_tokens: of the driver)."""

REPAIRS = [
  "",
  "key_centering=mean",
  "scores=shift_min",
  "key_centering=mean, scores=shift_min",
]
ROW_COUNTS = [1, 4, 8, 16, 40, 128, 392, 1372]


def _varied(base: str, change: str) -> str:
  """The base policy's text with arguments added or replaced."""
  name, _, inside = base.strip().rstrip(")").partition("(")
  given = dict(
    part.strip().split("=", 1)
    for part in [*inside.split(","), *change.split(",")]
    if part.strip()
  )
  given.pop("recent_tokens", None)
  return (
    f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"
  )


def _recording() -> replay.Recording:
  if _RECORDING.value is not None:
    return replay.load(_RECORDING.value)
  if not _VIDEO.value:
    raise InputError(
      "--video and --recording are both missing; a stream is needed: give one"
      " of them"
    )
  model = model_source.load_model(
    _CHECKPOINT.value,
    _PRESET.value,
    dtype="float32",
    seed=_SEED.value,
    report=lambda text: print(f"model  {text}"),
  )
  with tqdm.tqdm(desc="record", unit="frame", disable=None) as bar:
    return recordings.record_clip(
      model,
      _VIDEO.value,
      fps=_FPS.value,
      max_frames=_MAX_FRAMES.value,
      questions=questions_lib.parse_questions(_QUESTION.value),
      frames_done=bar.update,
    )


def _changes() -> list[tuple[str, str]]:
  """(name of the choice, what is changed), the base first."""
  unknown = [name for name in _VARY.value if name not in VARIATIONS]
  if unknown:
    raise InputError(
      f"--vary has {unknown[0]!r}; it must name choices of"
      f" {', '.join(VARIATIONS)}: correct it"
    )
  names = _VARY.value or list(VARIATIONS)
  return [("base", "")] + [
    (name, change) for name in names for change in VARIATIONS[name]
  ]


def _compare(recording: replay.Recording) -> list[dict]:
  """One row for every choice."""
  rows = []
  for name, change in tqdm.tqdm(_changes(), desc="choices", disable=None):
    policy = policy_syntax.make_policy(_varied(_BASE.value, change))
    recent = 0 if name == "recent_tokens" else None
    row = choices.choice_row(policy, recording, recent_tokens=recent)
    rows.append({"choice": name, "change": change or "-", **row})
    jax.clear_caches()
  return rows


def _disturbances(recording: replay.Recording) -> dict[str, replay.Recording]:
  return {
    "none": recording,
    "shift 3": disturb.shift_keys(recording, 3.0),
    "shift 30": disturb.shift_keys(recording, 30.0),
    "scale 0.5": disturb.scale_pairs(recording, 0.5),
    "scale 1.0": disturb.scale_pairs(recording, 1.0),
    "sink 8": disturb.add_sink(recording, 8.0),
  }


def _disturbed(recording: replay.Recording) -> list[dict]:
  """One row for every disturbance and repair."""
  rows = []
  plain = disturb.full_outputs(recording, 0, np.float32)
  cases = [
    (name, other, repair)
    for name, other in _disturbances(recording).items()
    for repair in REPAIRS
  ]
  for name, other, repair in tqdm.tqdm(cases, desc="disturb", disable=None):
    policy = policy_syntax.make_policy(_varied(_BASE.value, repair))
    row = choices.choice_row(policy, other)
    changed = disturb.full_outputs(other, 0, np.float32)
    rows.append(
      {
        "choice": name,
        "change": repair or "-",
        "full_changes": float(
          np.abs(changed - plain).max() / np.abs(plain).max()
        ),
        **row,
      }
    )
    jax.clear_caches()
  return rows


def _table(rows: Sequence[dict]) -> str:
  percent = lambda value: "-" if value is None else f"{100 * value:.1f}"
  header = ["choice", "change", "kept %", "quest. %", "mass %", "error %",
            "clusters", "false joins %", "ms"]  # fmt: skip
  lines = [
    [
      row["choice"],
      row["change"],
      percent(row["kept"].get("frame")),
      percent(row["kept"].get("question")),
      percent(row["mass"].get("frame")),
      percent(row["error"].get("frame")),
      f"{row['clusters']:.0f}" + ("!" if row["table_full"] else ""),
      " ".join(percent(share) for share in row["false_joins"]),
      f"{row['ms_per_frame']:.1f}",
    ]
    for row in rows
  ]
  return summary.aligned(header, lines)


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  if _OUT.value is not None:
    record.check_folder(pathlib.Path(_OUT.value))
  base = policy_syntax.make_policy(_varied(_BASE.value, ""))
  if not base.name.startswith("resv("):
    raise InputError(
      f"--base is {base.name}; the choices are those of resv: give resv(…)"
    )
  _changes()
  recording = _recording()
  rows = _disturbed(recording) if _DISTURB.value else _compare(recording)
  print(_table(rows))
  print("! the table was full for some tokens; kept, mass, error: frames")
  named = {}
  others = {}
  if not _DISTURB.value:
    played = replay.replay(base, recording, measure=False)
    by_rows = choices.kept_by_rows(
      played,
      recording,
      ratio=float(base.knobs["wicsum_ratio"]),
      row_counts=ROW_COUNTS,
    )
    named["kept_by_rows"] = {"rows": ROW_COUNTS, **by_rows}
    others["plot.png"] = lambda path: plots.save_choices(
      rows, named["kept_by_rows"], path
    )
    columns = ["rows", "union %", "vote(4) %", "pooled %"]
    print()
    print(
      summary.aligned(
        columns,
        [
          [
            str(count),
            *(f"{100 * by_rows[name][index]:.1f}" for name in by_rows),
          ]
          for index, count in enumerate(ROW_COUNTS)
        ],
      )
    )
  if _OUT.value is not None:
    command.write_study(
      _OUT.value,
      rows,
      seed=_SEED.value,
      started=started,
      named=named,
      others=others,
    )


if __name__ == "__main__":
  command.run(main)
