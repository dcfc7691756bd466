"""OVO-Bench: what was, what is, and whether it can be told yet.

Annotation: `ovo_bench_new.json`, one list for all twelve tasks. Nine are
multiple choice at `realtime` ({"task", "video", "realtime", "question",
"options", "gt"}); three ask again and again (`test_info`): REC counts an
action, SSR and CRR answer yes or no. Judged as its public code does: the letter
is in the reply, the digits of the reply are the count, "Yes" or "No" is in it.
Each task's accuracy is a mean over questions, a category's over its tasks, the
total over the three categories.

Source: Li et al., OVO-Bench (arXiv 2501.05510).
"""

import pathlib
from collections.abc import Sequence

from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["CATEGORIES", "parse", "read"]

CATEGORIES = {
  "backward": ("EPM", "ASI", "HLD"),
  "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
  "forward": ("REC", "SSR", "CRR"),
}
_CATEGORY = {
  task: category for category, tasks in CATEGORIES.items() for task in tasks
}
_YES_OR_NO = "Answer with Yes or No only."


def read(data: pathlib.Path) -> list[items_lib.Clip]:
  """A clip for each video.

  Args:
    data: holds ovo_bench_new.json and the videos, in it or in `videos`.

  Raises:
    InputError: a file is missing or malformed.
  """
  path = items_lib.find_annotation(data, ["ovo_bench_new.json", "ovo*.json"])
  return parse(items_lib.load_entries(path))


def parse(entries: Sequence[items_lib.Entry]) -> list[items_lib.Clip]:
  """A clip for each video, in order of first mention.

  Args:
    entries: of the annotation.

  Raises:
    InputError: an entry is malformed.
  """
  asked: dict[str, list[items_lib.Item]] = {}
  for entry in entries:
    task = entry.text("task")
    if task not in _CATEGORY:
      raise entry.wrong("task", task, f"one of {', '.join(_CATEGORY)}")
    new = _repeated(entry, task) if "test_info" in entry.values else None
    items = asked.setdefault(entry.name_text("video"), [])
    items += [_choice(entry, task)] if new is None else new
  return [
    items_lib.Clip(
      name=video,
      video=video,
      items=items_lib.in_order(items),
    )
    for video, items in asked.items()
  ]


def _choice(entry: items_lib.Entry, task: str) -> items_lib.Item:
  options = entry.options("options")
  right = entry.whole("gt")
  if right >= len(options):
    raise entry.wrong(
      "gt", right, f"the index of one of {len(options)} options"
    )
  return items_lib.Item(
    time_s=entry.seconds("realtime"),
    text=items_lib.choice_text(entry.text("question"), options),
    answer=(items_lib.LETTERS[right],),
    how="contains",
    group=f"{_CATEGORY[task]}/{task}",
    question=entry.text("question"),
  )


def _repeated(entry: items_lib.Entry, task: str) -> list[items_lib.Item]:
  items = []
  for test in entry.entries("test_info"):
    if task == "REC":
      question = (
        f"How many times did someone {entry.text('activity')} so far, all"
        " people taken together?"
      )
      text, how = f"{question} Answer with a number only.", "digits"
      answer = str(test.whole("count"))
    else:
      if task == "SSR":
        question = (
          "Is the person in the video carrying out this step at this moment:"
          f" {test.text('step')}?"
        )
      else:
        question = (
          "Does the video so far, its latest frames above all, show enough to"
          f" answer this question: {entry.text('question')}"
        )
      text, how = f"{question} {_YES_OR_NO}", "yes_no"
      answer = ("No", "Yes")[min(test.whole("type"), 1)]
    items.append(
      items_lib.Item(
        time_s=test.seconds("realtime"),
        text=text,
        answer=(answer,),
        how=how,
        group=f"{_CATEGORY[task]}/{task}",
        question=question,
      )
    )
  return items
