"""RVS-Ego and RVS-Movie: open questions about hour-long streams.

Annotation: one JSON file, [{"video_id", "video_path", "conversations":
[{"question", "answer", "start_time", "end_time"}, …]}, …]. A question is asked
at `end_time`, on the one stream of its video. Answers are free text, which the
papers have a language model judge; here they are exported for that.

Source: VStream-QA (Zhang et al., arXiv 2406.08085) as ReKV (Di et al., arXiv
2503.00540) evaluates it.
"""

import pathlib

from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["parse", "read"]


def read(data: pathlib.Path) -> list[items_lib.Clip]:
  """A clip for each video.

  Args:
    data: holds one .json file; videos in it or in `videos`. Where the
      annotation names arrays (.npy), a video of the same name is taken.

  Raises:
    InputError: a file is missing or malformed.
  """
  path = items_lib.find_annotation(data, ["*.json"])
  return parse(items_lib.load_entries(path))


def parse(entries: list[items_lib.Entry]) -> list[items_lib.Clip]:
  """A clip for each entry.

  Args:
    entries: of the annotation.

  Raises:
    InputError: an entry is malformed.
  """
  return [
    items_lib.Clip(
      name=entry.name_text("video_id"),
      video=entry.name_text("video_path"),
      items=items_lib.in_order(
        map(_item, entry.entries("conversations")),
      ),
    )
    for entry in entries
  ]


def _item(asked: items_lib.Entry) -> items_lib.Item:
  return items_lib.Item(
    time_s=asked.seconds("end_time"),
    text=asked.text("question"),
    answer=(asked.text("answer"),),
    how="open",
    group="open",
    question=asked.text("question"),
  )
