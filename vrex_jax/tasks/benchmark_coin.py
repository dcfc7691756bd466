"""COIN's five tasks as VideoLLM-Online runs them.

Annotation: `coin.json`, {"database": {video: {"class", "start", "end",
"subset", "annotation": [{"label", "segment": [start, end]}, …]}}}. The test
split is read.

  step           what is done in this segment
  next           what is done in the next one
  task           what the whole video is about
  procedure      the next steps, up to five, one a line
  taskprocedure  the same, the task being told

Labels are those of the data set as sentences ("Cut the bread."); the answer is
the label that is nearest to what was said, by Levenshtein distance. A question
precedes the frames of its segment. The wording of questions is ours unless a
file gives the published one: a model that was tuned on COIN expects that.

Source: Tang et al., COIN (arXiv 1903.02874); tasks: Chen et al.,
VideoLLM-online (arXiv 2406.11816), Sec. 4, and its public evaluation code.
"""

import pathlib
import re
import tomllib
from collections.abc import Mapping

from vrex_jax.errors import InputError
from vrex_jax.tasks import benchmark_items as items_lib

__all__ = ["PROMPTS", "TASKS", "load_prompts", "parse", "read"]

TASKS = ("step", "next", "task", "procedure", "taskprocedure")
_MOST_STEPS = 5
_BRIEF = "Answer in a few words."
_LISTED = "Answer with one numbered line for each."
PROMPTS: Mapping[str, str] = {
  "step": f"What is being done in this video? {_BRIEF}",
  "next": f"What will be done next after this video? {_BRIEF}",
  "task": f"What is this video as a whole about? {_BRIEF}",
  "procedure": (
    f"Which {{count}} steps will be done next after this video? {_LISTED}"
  ),
  "taskprocedure_next": (
    f"In order to {{task}}, what will be done next? {_BRIEF}"
  ),
  "taskprocedure": (
    f"In order to {{task}}, which {{count}} steps will be done next? {_LISTED}"
  ),
}
"""Questions; {task} and {count} are filled in."""
_ABBREVIATIONS = ("TV", "CD", "SIM", "NBA", "SSD", "RJ45")


def read(data: pathlib.Path) -> list[items_lib.Clip]:
  """Clips of all five tasks; a folder's prompts.toml replaces the wording.

  Args:
    data: holds coin.json, videos by their id in it or in `videos`.

  Raises:
    InputError: a file is missing or malformed.
  """
  path = items_lib.find_annotation(data, ["coin.json", "COIN.json"])
  prompts = load_prompts(data / "prompts.toml")
  return parse(items_lib.load_json(path), path, prompts)


def load_prompts(path: pathlib.Path) -> Mapping[str, str]:
  """Questions by task: `PROMPTS`, or those of a TOML file in their place.

  Args:
    path: of the file; need not be there.

  Raises:
    InputError: no file, broken TOML, an unknown name or placeholder, no text.
  """
  if not path.exists():
    return PROMPTS
  try:
    own = tomllib.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise InputError(
      f"{path} cannot be read ({error.strerror}); it must be a file of"
      " questions: move it away, or write one"
    ) from error
  except (ValueError, RecursionError) as error:
    raise InputError(
      f"{path} is not valid TOML ({error}): correct the file"
    ) from None
  for name, text in own.items():
    if name not in PROMPTS or not isinstance(text, str):
      raise InputError(
        f"{path} sets {name} to {text!r}; it must set texts named"
        f" {', '.join(PROMPTS)}: remove or rename it"
      )
    braces = r"{[^{}]*}"
    filled = re.findall(braces, PROMPTS[name])
    unknown = [one for one in re.findall(braces, text) if one not in filled]
    if unknown:
      raise InputError(
        f"{path} sets {name} to {text!r} with {unknown[0]}; what is filled in"
        f" there is {' and '.join(filled) or 'nothing'}: correct the text"
      )
  return {**PROMPTS, **own}


def parse(
  annotation: object,
  file: pathlib.Path,
  prompts: Mapping[str, str] = PROMPTS,
) -> list[items_lib.Clip]:
  """Clips of the test split.

  Args:
    annotation: what the file holds.
    file: for messages.
    prompts: questions by task.

  Raises:
    InputError: an entry is malformed, or there is no test split.
  """
  whole = items_lib.Entry(file, "(whole file)", annotation).checked()
  if not isinstance(whole.values.get("database"), dict):
    raise whole.wrong(
      "database", whole.values.get("database"), "an object of videos"
    )
  videos = [
    items_lib.Entry(file, name, values).checked()
    for name, values in whole.values["database"].items()
  ]
  steps = {video.name: _steps(video) for video in videos}
  labels = {
    "step": _categories(text for ones in steps.values() for text, *_ in ones),
    "task": _categories(_task(video.name_text("class")) for video in videos),
  }
  clips = [
    clip
    for video in videos
    if "test" in video.text("subset").lower()
    for clip in _clips(video, steps[video.name], labels, prompts)
  ]
  if not clips:
    raise InputError(
      f"{file} has no video whose subset is testing; the test split is"
      " evaluated: get the whole annotation"
    )
  return clips


def _steps(video: items_lib.Entry) -> list[tuple[str, float, float]]:
  steps = []
  for step in video.entries("annotation"):
    segment = step.values.get("segment")
    is_pair = isinstance(segment, list) and len(segment) == 2
    if not is_pair or not all(map(items_lib.is_number, segment)):
      raise step.wrong("segment", segment, "[start, end] in seconds from 0 on")
    if segment[0] > segment[1]:
      raise step.wrong("segment", segment, "[start, end], the end not before")
    label = _step(step.name_text("label"))
    steps.append((label, float(segment[0]), float(segment[1])))
  return steps


def _categories(texts) -> tuple[str, ...]:
  return tuple(sorted({_sentence(text) for text in texts}))


def _sentence(text: str) -> str:
  return text.capitalize() + "."


def _step(label: str) -> str:
  """Without the comma and brackets that two labels have in a step's name."""
  return {
    "process (crop, fold) paper": "crop and fold paper",
    "try to press gun head, spray residual old grease": (
      "try to press gun head to spray residual old grease"
    ),
  }.get(label, label)


def _task(name: str) -> str:
  """A class name as words.

  Example:
    >>> _task("PutOnHairExtensions"), _task("ReplaceSIMCard")
    ('put on hair extensions', 'replace SIM card')
  """
  words = re.findall(rf"{'|'.join(_ABBREVIATIONS)}|[A-Z][^A-Z]*|^[^A-Z]+", name)
  return " ".join(
    word if word in _ABBREVIATIONS else word.lower() for word in words
  )


def _clips(
  video: items_lib.Entry,
  steps: list[tuple[str, float, float]],
  labels: Mapping[str, tuple[str, ...]],
  prompts: Mapping[str, str],
) -> list[items_lib.Clip]:
  task = _task(video.text("class"))
  span = (video.number("start"), video.number("end"))
  if span[0] > span[1]:
    raise video.wrong("end", span[1], f"at least its start, {span[0]:g}")
  clips = [
    _clip(
      video, "task", 0, span, prompts["task"], [task], "label", labels["task"]
    )
  ]
  for index, (text, *segment) in enumerate(steps):
    following = [step for step, *_ in steps[index + 1 :][:_MOST_STEPS]]
    asked = [("step", prompts["step"], [text], "label")]
    if following:
      asked.append(("next", prompts["next"], following[:1], "label"))
      single = len(following) == 1
      for name in ("procedure", "taskprocedure"):
        alone = "next" if name == "procedure" else "taskprocedure_next"
        question = prompts[alone if single else name]
        question = question.replace("{task}", task)
        question = question.replace("{count}", str(len(following)))
        asked.append((name, question, following, "steps"))
    for name, question, answer, how in asked:
      bounds = (segment[0], segment[1])
      clips.append(
        _clip(video, name, index, bounds, question, answer, how, labels["step"])
      )
  return clips


def _clip(
  video: items_lib.Entry,
  task: str,
  index: int,
  span: tuple[float, float],
  question: str,
  answer: list[str],
  how: str,
  labels: tuple[str, ...],
) -> items_lib.Clip:
  item = items_lib.Item(
    time_s=None,
    text=question,
    answer=tuple(map(_sentence, answer)),
    how=how,
    group=task,
    labels=labels,
    question=question,
  )
  return items_lib.Clip(
    name=f"{video.name}/{task}/{index}",
    video=video.name,
    items=(item,),
    start_s=span[0],
    end_s=span[1],
    question_first=True,
  )
