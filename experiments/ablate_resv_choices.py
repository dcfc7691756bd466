r"""What each open choice of ReSV does, on a recorded stream.

  python experiments/ablate_resv_choices.py --video clip.mp4 --out runs/ablation
  python experiments/ablate_resv_choices.py --recording runs/a/record.npz
  python experiments/ablate_resv_choices.py --recording runs/a/record.npz \
      --disturb --out runs/disturbed

The stream is recorded once under `full`; every choice is then replayed on the
recorded queries, keys and values (vrex_jax/replay.py). A row is the base policy
with one thing changed: share of the past kept, by frames and by questions;
attention mass that is kept and error of the attention output, of frames;
clusters of a table; false joins in four parts of the stream; mean tokens of a
contiguous fetch of the last frame (in time order, ordered by cluster in written
blocks, by cluster); CPU milliseconds of choosing for it. With --disturb the
recording is changed as real checkpoints differ from random ones
(vrex_jax/study/disturb.py).

Without --out the tables are printed and nothing is kept. --out also gets a plot
of kept share against the number of query rows, and of false joins along the
stream. Ctrl-C finishes the row under way and keeps those that are done; the
same command with --resume goes on from there.

Hardware: any JAX device. Minutes: about half a minute a row with the small
model and 100 frames on two cores; 23 rows, 24 with --disturb.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import model_source
from vrex_jax import plotting
from vrex_jax import questions as questions_lib
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax import session_plan
from vrex_jax import summary
from vrex_jax.errors import InputError
from vrex_jax.study import choices
from vrex_jax.study import disturb
from vrex_jax.study import plots
from vrex_jax.study import recordings
from vrex_jax.study import resume
from vrex_jax.study import variations

_RECORDING = flags.DEFINE_string(
  "recording",
  None,
  "record.npz of a stream_video.py run with --record; instead of --video.",
)
_VIDEO = flags.DEFINE_string("video", None, "Video file or URL to record.")
_CHECKPOINT = model_flags.checkpoint()
_PRESET = model_flags.preset()
_FPS = model_flags.fps()
_MAX_FRAMES = model_flags.max_frames(100)
_QUESTION = flags.DEFINE_multi_string(
  "question",
  [],
  'Repeatable: "seconds: text". Default: one, in the middle of the stream.',
)
_BASE = flags.DEFINE_string(
  "base", "resv(table_capacity=4096)", "The policy that is varied."
)
_VARY = flags.DEFINE_list(
  "vary",
  [],
  f"Choices to vary, of: {', '.join(variations.VARIATIONS)}; with --disturb,"
  f" disturbances of: {', '.join(disturb.DISTURBANCES)}. All by default.",
)
_DISTURB = flags.DEFINE_bool(
  "disturb", False, "Disturb the recording instead, with and without repairs."
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over the rows that the same command left in --out."
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of random weights.", 0, command.MAX_SEED
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_ANSWER = "the row under way is finished first; Ctrl-C again drops all rows"
_ROW_COUNTS = [1, 4, 8, 16, 40, 128, 392, 1372]


def _check_flags() -> None:
  if _RECORDING.value is None and _VIDEO.value is None:
    raise InputError(
      "--video and --recording are both missing; a stream is needed: give one"
      " of them"
    )
  of_video = (_VIDEO, _CHECKPOINT, _PRESET, _FPS, _MAX_FRAMES, _QUESTION, _SEED)
  beside = [flag.name for flag in of_video if flag.present]
  if _RECORDING.value is not None and beside:
    raise InputError(
      f"--{beside[0]} is given beside --recording; a recording is of a video"
      " and a model already: give one of the two"
    )
  model_source.check_shape(_CHECKPOINT.value, _PRESET.value)
  pictures = [] if _DISTURB.value else ["plot.png"]
  command.check_out(
    _OUT.value, ["config.toml", "metrics.json", *pictures], resume=_RESUME.value
  )
  if _OUT.value is not None and pictures:
    plotting.check_installed()


def _recording() -> recording_lib.Recording:
  if _RECORDING.value is not None:
    return recording_lib.load(_RECORDING.value)
  questions = questions_lib.parse_questions(_QUESTION.value)
  source = session_plan.find_source(
    _VIDEO.value, fps=_FPS.value, max_frames=_MAX_FRAMES.value
  )
  if source.end_s is not None:
    questions_lib.check_times(questions, source.end_s)
    middle = questions_lib.Question(source.end_s / 2, "what is happening?")
    questions = questions or (middle,)
  model = model_source.load_model(
    _CHECKPOINT.value,
    _PRESET.value,
    dtype="float32",
    seed=_SEED.value,
    report=lambda text: print(f"model  {text}"),
  )
  return recordings.record_clip(model, source, questions=questions)


def _measure(
  cases: Sequence[variations.Case],
  measure: Callable[[variations.Case], Mapping[str, Any]],
  earlier: Mapping[tuple[str, str], dict[str, Any]],
  stopped: Callable[[], bool],
) -> list[dict[str, Any]]:
  """One row for every case; when stopped, of those that were done."""
  rows = []
  with tqdm.tqdm(cases, unit="row", disable=None) as bar:
    for case in bar:
      row = earlier.get((case.choice, case.change))
      if row is None:
        if stopped():
          break
        bar.set_description(_label(case.choice, case.change))
        named = {"choice": case.choice, "change": case.change}
        row = {**named, **measure(case)}
        jax.clear_caches()
      rows.append(row)
  return rows


def _vary(
  recording: recording_lib.Recording,
) -> Callable[[variations.Case], dict]:
  return lambda case: choices.choice_row(case.policy, recording, **case.driver)


def _disturb(
  recording: recording_lib.Recording,
) -> Callable[[variations.Case], dict]:
  """Also how far the full cache's attention moves, in float32."""
  outputs = functools.partial(disturb.full_outputs, layer=0, dtype=np.float32)
  plain = outputs(recording)

  @functools.lru_cache(maxsize=1)
  def disturbed(name: str) -> tuple[recording_lib.Recording, float]:
    other = disturb.DISTURBANCES[name](recording)
    moved = np.abs(outputs(other) - plain).max() / np.abs(plain).max()
    return other, float(moved)

  def measure(case: variations.Case) -> dict:
    other, moved = disturbed(case.choice)
    row = choices.choice_row(case.policy, other, true_keys=recording)
    return {"full_changes": moved, **row}

  return measure


def _label(choice: str, change: str) -> str:
  """The change alone says which choice it is, a disturbance does not."""
  if choice in disturb.DISTURBANCES:
    return f"{choice}, {change}" if change else choice
  return change or choice


def _percent(value: float | None) -> str:
  known = value is not None and np.isfinite(value)
  return f"{100 * value:.1f}" if known else "-"


def _number(value: float | None) -> str:
  return "-" if value is None or np.isnan(value) else f"{value:.1f}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
  header = ["", "kept %", "quest. %", "mass %", "error %", "clusters",
            "false joins %", "tokens a run", "ms"]  # fmt: skip
  lines = []
  for row in rows:
    lines.append(
      [
        _label(row["choice"], row["change"]),
        _percent(row["kept"].get("frame")),
        _percent(row["kept"].get("question")),
        _percent(row["mass"].get("frame")),
        _percent(row["error"].get("frame")),
        f"{row['clusters']:.0f}" + ("!" if row["table_full"] else ""),
        " ".join(map(_percent, row["false_joins"])),
        " ".join(map(_number, (row.get("run_tokens") or {}).values())),
        _number(row["ms_per_frame"]),
      ]
    )
    if _DISTURB.value:
      lines[-1].append(f"{row['full_changes']:.0e}")
  if _DISTURB.value:
    header.append("full moves")
  notes = []
  if any(row["table_full"] for row in rows):
    notes = ["! some tokens are in no cluster: raise table_capacity of --base"]
  return "\n".join([summary.aligned(header, lines), *notes])


def _kept_by_rows(
  base: variations.Case, recording: recording_lib.Recording
) -> dict[str, list]:
  played = replay.replay(base.policy, recording, measure=False)
  shares = choices.kept_by_rows(
    played,
    recording,
    ratio=float(base.policy.knobs["wicsum_ratio"]),
    row_counts=_ROW_COUNTS,
  )
  header = ["query rows", "union %", "vote(4) %", "pooled %"]
  columns = zip(*shares.values(), strict=True)
  lines = [
    [str(count), *map(_percent, line)]
    for count, line in zip(_ROW_COUNTS, columns, strict=True)
  ]
  print()
  print(summary.aligned(header, lines))
  return {"rows": _ROW_COUNTS, **shares}


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  if _DISTURB.value:
    cases = variations.repaired(_BASE.value, _VARY.value)
  else:
    cases = variations.cases(_BASE.value, _VARY.value)
  earlier = {}
  if _RESUME.value:
    left = resume.rows_left(_OUT.value, command.settings())
    earlier = {(row["choice"], row["change"]): row for row in left}
    print(f"taken over from {_OUT.value}: {len(earlier)} of {len(cases)} rows")
  recording = _recording()
  measure = (_disturb if _DISTURB.value else _vary)(recording)
  by_rows = None
  with interrupt.graceful(_ANSWER) as stopped:
    rows = _measure(cases, measure, earlier, stopped)
    interrupted = len(rows) < len(cases)
    print(_table(rows))
    if not interrupted and not _DISTURB.value:
      by_rows = _kept_by_rows(cases[0], recording)
  if interrupted:
    print(f"interrupted after {len(rows)} of {len(cases)} rows")
  named: dict[str, Any] = {"interrupted": interrupted}
  others = {}
  if by_rows is not None:
    named["kept_by_rows"] = by_rows
    others["plot.png"] = functools.partial(plots.save_choices, rows, by_rows)
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
