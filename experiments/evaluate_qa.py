r"""How many questions a video LLM answers when a policy chooses what it reads.

  python experiments/evaluate_qa.py --checkpoint DIR \
      --policy "full | resv | sliding_window" --frames 128,512,2048 \
      --visible 4 --questions 1000 --out runs/qa

Streams of the rooms task (vrex_jax/tasks) are drawn and prefilled frame by
frame; questions are asked on the way and at the end, each undone before the
next, and in frames that show an object the model says what it knows of its
shape.
Answers and narration are counted apart, old events apart from present ones;
intervals are of 95 %, by bootstrap over streams. `full` is always in the table.

Ctrl-C ends after the batch under way. Finished cells (a policy at a length) are
in --out as soon as they are done; the same command with --resume skips them.

Hardware: any JAX device. Minutes: about two a policy for 4000 questions on
streams of 512 frames, two cores.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import disturbing
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import plotting
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax.errors import InputError
from vrex_jax.evaluation import calibration
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import report
from vrex_jax.evaluation import sharing
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.study import resume
from vrex_jax.tasks import rooms_episodes as episodes_lib

_CHECKPOINT = model_flags.checkpoint()
_POLICY = flags.DEFINE_string(
  "policy", "full | resv | sliding_window", "KV-cache policies, apart by |."
)
_FRAMES = flags.DEFINE_list(
  "frames", ["128", "512"], "Lengths of streams, in frames."
)
_VISIBLE = flags.DEFINE_integer(
  "visible", 4, "Frames an object is seen for, at most.", lower_bound=1
)
_QUESTIONS = flags.DEFINE_integer(
  "questions", 1000, "Questions at each length, at least.", lower_bound=1
)
_KINDS = flags.DEFINE_list(
  "kinds",
  list(episodes_lib.EpisodeConfig().kinds),
  "Kinds of questions; by default those that the shipped model has learned.",
)
_BATCH = flags.DEFINE_integer(
  "batch", 8, "Most streams side by side.", lower_bound=1
)
_FILM = flags.DEFINE_bool(
  "film",
  False,
  "Write every stream as an mp4 and read its frames back from there.",
)
_LOOKAHEAD = model_flags.lookahead()
_RECENT_TOKENS = model_flags.recent_tokens()
_DISTURB = flags.DEFINE_enum(
  "disturb",
  "none",
  ["none", *disturbing.NAMES],
  "Make keys and queries as odd as those of real checkpoints.",
)
_DISTURB_SIZE = flags.DEFINE_float(
  "disturb_size",
  None,
  "Of the bias in lengths of a key (30); spread of log scales (1); score of the"
  " sink (8).",
  lower_bound=0.0,
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over the cells that the same command left in --out."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the streams.", 0, command.MAX_SEED)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_SIZES = {"key_bias": 30.0, "channel_scale": 1.0, "sink": 8.0}
_FILES = ("config.toml", "metrics.json", "accuracy.csv", "plot.png")
_ANSWER = "the batch under way is finished first; Ctrl-C again drops the cell"


def _lengths() -> list[int]:
  try:
    return [int(text) for text in _FRAMES.value]
  except ValueError:
    raise InputError(
      f"--frames is {','.join(_FRAMES.value)!r}; it must be whole numbers apart"
      " by commas: try --frames=128,512"
    ) from None


def _policies() -> list[policy_lib.KVPolicy]:
  """Those that were asked for, `full` first."""
  asked = policy_syntax.parse_policies(_POLICY.value)
  others = [policy for policy in asked if policy.name != "full"]
  return [policy_syntax.make_policy("full"), *others]


def _shapes() -> list[episodes_lib.EpisodeConfig]:
  return [
    episodes_lib.EpisodeConfig(
      frames=frames, visible=_VISIBLE.value, kinds=tuple(_KINDS.value)
    )
    for frames in _lengths()
  ]


def _check_flags() -> None:
  if _RESUME.value and _OUT.value is None:
    raise InputError(
      "--resume is given without --out; cells are taken over from that folder:"
      " add --out"
    )
  command.check_out(_OUT.value, _FILES)
  if _OUT.value is not None:
    plotting.check_installed()


def _disturbance(
  model: checkpoint_lib.Checkpoint,
) -> disturbing.Disturbance | None:
  name = _DISTURB.value
  if name == "none":
    return None
  size = _DISTURB_SIZE.value
  return disturbing.make(
    name,
    _SIZES[name] if size is None else size,
    calibration.sizes_of(model),
    model.config.decoder,
  )


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
  return row["policy"], row["frames"]


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  policies, shapes = _policies(), _shapes()
  rows: dict[tuple[str, int], dict[str, Any]] = {}
  if _RESUME.value:
    left = resume.rows_left(_OUT.value, command.settings())
    rows = {_key(row): row for row in left}
    print(f"taken over from {_OUT.value}: {len(rows)} cells")
  model, ids = words.load_rooms_model(_CHECKPOINT.value)
  cells = [(policy, shape) for shape in shapes for policy in policies]
  streams, batch = cell.number_of_streams(
    _QUESTIONS.value, shapes[0].questions, _BATCH.value
  )
  options = streaming.StreamOptions(
    batch=batch,
    lookahead=_LOOKAHEAD.value,
    recent_tokens=_RECENT_TOKENS.value,
    disturb=_disturbance(model),
  )
  waiting = _groups([c for c in cells if (c[0].name, c[1].frames) not in rows])
  total = sum(shape.frames * streams for _, shape in waiting)
  with (
    interrupt.graceful(_ANSWER) as stopped,
    tqdm.tqdm(total=total, unit="frame", disable=None) as bar,
  ):
    for group, shape in waiting:
      names = " | ".join(policy.name for policy in group)
      bar.set_description(f"{names}, {shape.frames} frames")
      new = cell.evaluate(
        model,
        group,
        options,
        shape,
        streams=streams,
        word_ids=ids,
        seed=_SEED.value,
        film=_FILM.value,
        told=bar.update,
        stopped=stopped,
      )
      if not new:
        break
      rows |= {_key(row): row for row in new}
      full = rows["full", shape.frames]
      for row in new:
        row["minus_full"] = cell.paired(row, full)
      if _OUT.value is not None:
        _write(cells, rows, started)
  done = _ordered(cells, rows)
  if done:
    print(report.table(done))
  if len(done) < len(cells):
    print(f"interrupted after {len(done)} of {len(cells)} cells")
  elif _OUT.value is not None:
    print(f"written to {_OUT.value}: {', '.join(_FILES)}")


def _groups(
  cells: Sequence[tuple[policy_lib.KVPolicy, episodes_lib.EpisodeConfig]],
) -> list[tuple[list[policy_lib.KVPolicy], episodes_lib.EpisodeConfig]]:
  """Cells in order; those of one length that prefill densely are one."""
  groups: list[
    tuple[list[policy_lib.KVPolicy], episodes_lib.EpisodeConfig]
  ] = []
  dense: dict[int, list[policy_lib.KVPolicy]] = {}
  for policy, shape in cells:
    shares = sharing.prefills_densely(policy)
    if shares and shape.frames in dense:
      dense[shape.frames].append(policy)
      continue
    groups.append(([policy], shape))
    if shares:
      dense[shape.frames] = groups[-1][0]
  return groups


def _ordered(
  cells: Sequence[tuple[policy_lib.KVPolicy, episodes_lib.EpisodeConfig]],
  rows: Mapping[tuple[str, int], dict[str, Any]],
) -> list[dict[str, Any]]:
  keys = [(policy.name, shape.frames) for policy, shape in cells]
  return [rows[key] for key in keys if key in rows]


def _write(
  cells: Sequence[tuple[policy_lib.KVPolicy, episodes_lib.EpisodeConfig]],
  rows: Mapping[tuple[str, int], dict[str, Any]],
  started: float,
) -> None:
  done = _ordered(cells, rows)
  command.write_study(
    _OUT.value,
    done,
    seed=_SEED.value,
    started=started,
    named={"interrupted": len(done) < len(cells)},
    tables={"accuracy.csv": report.flat_rows(done)},
    others={"plot.png": lambda path: report.save_plot(done, path)},
    quiet=True,
  )


if __name__ == "__main__":
  command.run(main)
