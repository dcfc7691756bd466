"""StreamingBench: multiple choice at a time stamp of a stream.

Annotation: `questions_real.json` (the real-time subset) and
`questions_omni.json`, [{"video_path", "questions": [{"task_type", "question",
"time_stamp", "answer", "options"}, …]}, …]; those that are there are read. All
questions of a video are asked on one stream, each with everything up to its
time stamp. Sequential (`sqa`) and proactive questions need another protocol and
are not read; questions of the omni subset are asked without the sound.

Source: Lin et al., StreamingBench (arXiv 2411.03628).
"""

import pathlib
from collections.abc import Sequence

from vrex_jax.errors import InputError
from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["parse", "read"]

_SUBSETS = ("real", "omni")


def read(data: pathlib.Path) -> list[items_lib.Clip]:
  """A clip for each video of the subsets that are there.

  Args:
    data: holds questions_real.json, questions_omni.json or both, and `videos`.

  Raises:
    InputError: a file is missing or malformed.
  """
  files = {name: data / f"questions_{name}.json" for name in _SUBSETS}
  there = {name: path for name, path in files.items() if path.is_file()}
  if not there:
    names = " nor ".join(path.name for path in files.values())
    raise InputError(
      f"{data} has neither {names}; the annotation of StreamingBench is"
      " expected there: put one there, or name its folder with --data"
    )
  return [
    clip
    for name, path in there.items()
    for clip in parse(items_lib.load_entries(path), name)
  ]


def parse(
  entries: Sequence[items_lib.Entry], subset: str
) -> list[items_lib.Clip]:
  """A clip for each video, in order of first mention.

  Args:
    entries: of one annotation file.
    subset: "real" or "omni".

  Raises:
    InputError: an entry is malformed.
  """
  asked: dict[str, list[items_lib.Item]] = {}
  for entry in entries:
    items = asked.setdefault(entry.name_text("video_path"), [])
    items += [
      _item(question, subset) for question in entry.entries("questions")
    ]
  return [
    items_lib.Clip(
      name=f"{subset}/{video}",
      video=video,
      items=items_lib.in_order(items),
    )
    for video, items in asked.items()
  ]


def _item(question: items_lib.Entry, subset: str) -> items_lib.Item:
  options = question.options("options")
  answer = question.text("answer").strip().upper()
  if answer not in items_lib.LETTERS[: len(options)] or len(answer) != 1:
    raise question.wrong(
      "answer", answer, f"the letter of one of {len(options)} options"
    )
  return items_lib.Item(
    time_s=question.seconds("time_stamp"),
    text=items_lib.choice_text(question.text("question"), options),
    answer=(answer,),
    how="letter",
    group=f"{subset}/{question.text('task_type')}",
    question=question.text("question"),
  )
