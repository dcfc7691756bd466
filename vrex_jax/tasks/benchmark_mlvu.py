"""MLVU and other multiple choice about whole videos.

Annotation, either of two forms, in the folder or in its folder `json`:

  MLVU   one file a task: [{"video", "question", "candidates", "answer",
         "question_type"}, …]; entries without candidates are open and left out
  ReKV   one file: [{"video_id", "video_path", "conversations": [{"question",
         "choices", "answer", "question_type"}, …]}, …], which also holds
         QaEgo4D, EgoSchema and CG-Bench

All questions of a video are asked at its end. M-Avg is the mean over tasks.

Source: Zhou et al., MLVU (arXiv 2406.04264); Di et al., ReKV (arXiv
2503.00540).
"""

import pathlib
from collections.abc import Sequence

from vrex_jax.errors import InputError
from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["parse", "read"]


def read(data: pathlib.Path) -> list[items_lib.Clip]:
  """A clip for each video.

  Args:
    data: holds .json files, itself or in `json`; videos in it, in `videos` or
      in `video`, where MLVU's lie in a folder by task.

  Raises:
    InputError: a file is missing or malformed.
  """
  files = sorted([*data.glob("*.json"), *data.glob("json/*.json")])
  if not files:
    raise InputError(
      f"{data} has no .json file, nor has its folder json; the annotation is"
      " expected there: put it there, or name its folder with --data"
    )
  return [
    clip for path in files for clip in parse(items_lib.load_entries(path))
  ]


def parse(entries: Sequence[items_lib.Entry]) -> list[items_lib.Clip]:
  """A clip for each video, in order of first mention.

  Args:
    entries: of one annotation file, of either form.

  Raises:
    InputError: an entry is malformed.
  """
  asked: dict[str, list[items_lib.Item]] = {}
  for entry in entries:
    if "conversations" in entry.values:
      items = asked.setdefault(entry.name_text("video_path"), [])
      items += [
        _item(question, "choices")
        for question in entry.entries("conversations")
      ]
    elif "candidates" in entry.values:
      video = f"{entry.file.stem}/{entry.name_text('video')}"
      asked.setdefault(video, []).append(_item(entry, "candidates"))
    elif "question" not in entry.values:
      raise entry.wrong("question", None, "text")
  return [
    items_lib.Clip(name=video, video=video, items=tuple(items))
    for video, items in asked.items()
  ]


def _item(entry: items_lib.Entry, field: str) -> items_lib.Item:
  options = entry.options(field)
  answer = entry.text("answer")
  if answer not in options:
    raise entry.wrong("answer", answer, f"one of its {field}")
  return items_lib.Item(
    time_s=None,
    text=items_lib.choice_text(entry.text("question"), options),
    answer=(items_lib.LETTERS[options.index(answer)],),
    how="letter",
    group=entry.text("question_type"),
    question=entry.text("question"),
  )
