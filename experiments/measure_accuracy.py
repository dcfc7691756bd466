r"""How much accuracy do thresholds of ReSV cost, head by head?

  python experiments/measure_accuracy.py --out runs/accuracy

Settings of ReSV (Hamming threshold; WiCSum thresholds of frames and of
questions, drawn for layers and heads apart) run the model that ships on streams
of the rooms task, plain and with each --disturb, and are paired with `full` on
the same items; fit_accuracy.py fits answers.csv (docs/accuracy_model.md).

Settings rotate over the streams, so that what a fit leaves out was asked on
other streams as well.

Ctrl-C ends after the prefill under way; the same command with --resume goes on.

Hardware: any JAX device. Minutes: about 15 of one CPU core. Expect: answers
fall by up to 5 points, narration by up to 6.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import interrupt
from vrex_jax import policy_syntax
from vrex_jax import summary
from vrex_jax.codesign import accuracy_kept
from vrex_jax.codesign import accuracy_measuring as measuring
from vrex_jax.codesign import accuracy_points
from vrex_jax.codesign import accuracy_settings as settings_lib
from vrex_jax.errors import InputError
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.study import resume
from vrex_jax.tasks import rooms_episodes as episodes_lib

_FRAMES = flags.DEFINE_integer("frames", 512, "Length of streams.", 64)
_PREFILLS = flags.DEFINE_integer(
  "prefills", 20, "Settings of frames, undisturbed.", lower_bound=2
)
_DISTURBED = flags.DEFINE_integer(
  "disturbed", 2, "Settings of frames with each --disturb.", lower_bound=1
)
_TEXTS = flags.DEFINE_integer(
  "texts", 4, "Settings of questions asked on each.", lower_bound=1
)
_DISTURB = flags.DEFINE_list(
  "disturb", list(accuracy_kept.SIZES), "Some of these, or empty."
)
_HAMMING = flags.DEFINE_list(
  "hamming_thresholds", ["4", "7", "9", "11", "13"], "Taken in turn."
)
_BATCH = flags.DEFINE_integer("batch", 8, "Streams side by side.", 1)
_BATCHES = flags.DEFINE_integer("batches", 3, "Batches of each setting.", 1)
_POOL = flags.DEFINE_integer(
  "pool", 6, "Batches that settings rotate over.", lower_bound=1
)
_SMOKE = flags.DEFINE_bool("smoke", False, "Under a minute: a few settings.")
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over what the same command left in --out."
)
_SEED = flags.DEFINE_integer(
  "seed", 2, "Of settings and streams.", 0, command.MAX_SEED
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_SMOKE_SETTINGS: dict[str, Any] = {
  "frames": 64,
  "prefills": 2,
  "texts": 2,
  "disturb": [],
  "hamming_thresholds": ["7", "9"],
  "batch": 2,
  "batches": 1,
  "pool": 2,
}
_FILES = ("config.toml", "metrics.json", "answers.csv")
_ROOM = 3
"""Clusters that a table can hold for every frame of four tokens; fewer than two
are used at a Hamming threshold of 4."""
_ANSWER = "the prefill under way is finished first; Ctrl-C again drops it"
Rows = list[dict[str, Any]]
"""By `what`: "full" and "point"."""


def _check_flags() -> None:
  if _SMOKE.value:
    command.set_defaults(_SMOKE_SETTINGS)
  for name in _DISTURB.value:
    if name not in accuracy_kept.SIZES:
      raise InputError(
        f"--disturb is {name!r}; it must be some of"
        f" {', '.join(accuracy_kept.SIZES)}: correct it"
      )
  if _BATCHES.value > _POOL.value:
    raise InputError(
      f"--batches is {_BATCHES.value} and --pool {_POOL.value}; a setting is"
      " asked on some batches of the pool: raise --pool"
    )
  _hamming()
  command.check_out(_OUT.value, _FILES, resume=_RESUME.value)


def _hamming() -> list[int]:
  if _HAMMING.value and all(text.isdigit() for text in _HAMMING.value):
    return [int(text) for text in _HAMMING.value]
  raise InputError(
    f"--hamming_thresholds is {','.join(_HAMMING.value)!r}; it must be whole"
    " numbers apart by commas: try --hamming_thresholds=2,7"
  )


def _prefills(
  model: checkpoint_lib.Checkpoint, disturb: str
) -> list[settings_lib.Prefill]:
  decoder = model.config.decoder
  plain = disturb == "none"
  place = ["none", *accuracy_kept.SIZES].index(disturb)
  return settings_lib.design(
    _PREFILLS.value if plain else _DISTURBED.value,
    (decoder.num_layers, decoder.num_kv_heads),
    hamming_thresholds=_hamming(),
    texts=_TEXTS.value,
    seed=_SEED.value + place,
  )


def _streams(shape: episodes_lib.EpisodeConfig) -> list[list[Any]]:
  """The pool, batch by batch, drawn once."""
  size = _BATCH.value
  return [
    [
      measuring.drawn(episodes_lib.draw(shape, _SEED.value, batch * size + one))
      for one in range(size)
    ]
    for batch in range(_POOL.value)
  ]


def _full(
  model: checkpoint_lib.Checkpoint,
  options: streaming.StreamOptions,
  shape: episodes_lib.EpisodeConfig,
  pool: Sequence[Sequence[Any]],
  word_ids: Mapping[str, int],
) -> dict[str, Any]:
  """`full` on every stream of the pool."""
  group = streaming.compile_group(
    model, [policy_syntax.make_policy("full")], options, shape
  )
  outcomes = [
    streaming.run_batch(model, group, options, batch, place * options.batch)[0]
    for place, batch in enumerate(pool)
  ]
  row = cell.row(
    group.prefill, outcomes, frames=shape.frames, visible=shape.visible,
    word_ids=word_ids,
  )  # fmt: skip
  return {"tallies": row["tallies"]}


def _part(row: Mapping[str, Any], batches: Sequence[int]) -> dict[str, Any]:
  """Tallies of some batches of the pool."""
  size = _BATCH.value
  streams = [batch * size + one for batch in batches for one in range(size)]
  chosen = lambda values: [values[stream] for stream in streams]
  return {
    "tallies": {
      group: {name: chosen(values) for name, values in of.items()}
      for group, of in row["tallies"].items()
    }
  }


def _measure(
  disturb: str,
  model: checkpoint_lib.Checkpoint,
  word_ids: Mapping[str, int],
  pool: Sequence[Sequence[Any]],
  rows: Rows,
  write: Callable[[], None],
  stopped: Callable[[], bool],
  bar: tqdm.tqdm,
) -> None:
  """Adds the rows of one disturbance that are missing."""
  shape = episodes_lib.EpisodeConfig(frames=_FRAMES.value)
  options = streaming.StreamOptions(
    batch=_BATCH.value, disturb=accuracy_kept.disturbance(model, disturb)
  )
  own = lambda what: [
    row for row in rows if row["what"] == what and row["disturb"] == disturb
  ]
  add = lambda what, row: rows.append({"what": what, "disturb": disturb} | row)
  bar.set_description(f"{disturb}: full")
  if not own("full"):
    add("full", _full(model, options, shape, pool, word_ids))
    write()
  tunable = None
  done = {row["prefill"] for row in own("point")}
  for prefill in _prefills(model, disturb):
    bar.set_description(f"{disturb}: Th_hd {prefill.hamming_threshold}")
    bar.update(0)
    if stopped():
      return
    if prefill.number in done:
      continue
    if tunable is None:
      tunable = measuring.compile_tunable(
        model, options, shape, table_capacity=_ROOM * _FRAMES.value
      )
    batches = [
      (prefill.number * _BATCHES.value + one) % _POOL.value
      for one in range(_BATCHES.value)
    ]
    measured = measuring.evaluate(
      model,
      tunable,
      options,
      prefill,
      [pool[batch] for batch in batches],
      word_ids=word_ids,
      visible=shape.visible,
    )
    full = _part(own("full")[0], batches)
    for text, row in zip(prefill.text, measured, strict=True):
      line = accuracy_points.point(
        row,
        full,
        ratio=np.stack([prefill.frame, text, text]),
        disturb=disturb,
        prefill=prefill.number,
        frames=shape.frames,
        streams=len(batches) * _BATCH.value,
        hamming_threshold=prefill.hamming_threshold,
      )
      add("point", line | {"overflow": row["overflow"]})
    bar.update(1)
    write()


def _lines(rows: Rows) -> list[dict[str, Any]]:
  """Lines of the CSV."""
  extra = ("what", "overflow")
  return [
    {name: value for name, value in row.items() if name not in extra}
    for row in rows
    if row["what"] == "point"
  ]


def _write(rows: Rows, started: float, interrupted: bool) -> None:
  if _OUT.value is None:
    return
  command.write_study(
    _OUT.value,
    rows,
    seed=_SEED.value,
    started=started,
    named={"interrupted": interrupted},
    tables={"answers.csv": _lines(rows)},
    quiet=True,
  )


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
  """Drops of every setting, in percentage points, and shares read."""
  header = [
    "disturb", "prefill", "Th_hd", "read, frame", "question", "QA drop", "se",
    "narration", "se",
  ]  # fmt: skip
  percent = lambda value: f"{100 * value:.1f}"
  return summary.aligned(
    header,
    [
      [
        line["disturb"],
        str(line["prefill"]),
        str(line["hamming_threshold"]),
        *(percent(line[f"read_{stage}"]) for stage in ("frame", "question")),
        *(
          percent(line[f"{figure}_{name}"])
          for figure in accuracy_points.FIGURES
          for name in ("drop", "error")
        ),
      ]
      for line in lines
    ],
  )


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  rows: Rows = []
  if _RESUME.value:
    rows = resume.rows_left(_OUT.value, command.settings())
    print(f"taken over from {_OUT.value}: {len(_lines(rows))} points")
  model, ids = words.load_rooms_model(None)
  pool = _streams(episodes_lib.EpisodeConfig(frames=_FRAMES.value))
  names = ["none", *dict.fromkeys(_DISTURB.value)]
  total = _PREFILLS.value + (len(names) - 1) * _DISTURBED.value
  done = len({(row["disturb"], row["prefill"]) for row in _lines(rows)})
  with (
    interrupt.graceful(_ANSWER) as stopped,
    tqdm.tqdm(total=total, initial=done, unit="prefill", disable=None) as bar,
  ):
    for name in names:
      write = lambda: _write(rows, started, True)
      _measure(name, model, ids, pool, rows, write, stopped, bar)
    interrupted = stopped()
  lines = _lines(rows)
  if not lines:
    raise KeyboardInterrupt
  _write(rows, started, interrupted)
  print(_table(lines))
  if interrupted:
    print(f"interrupted; {len(lines)} points are done")
  elif _OUT.value is not None:
    print(f"written to {_OUT.value}: {', '.join(_FILES)}")


if __name__ == "__main__":
  command.run(main)
