"""What readers of public benchmarks give, and how they read annotations.

  annotation file ─► entries ─► clips: a part of a video with its questions

A reader is a pure function of the annotation; videos are looked up and opened
later (`find_videos`), so that parsing can be tested without any.
"""

import collections
import json
import math
import os
import pathlib
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vrex_jax.errors import InputError

__all__ = [
  "LETTERS",
  "Clip",
  "Entry",
  "Item",
  "choice_text",
  "distinct",
  "find_annotation",
  "find_videos",
  "in_order",
  "is_number",
  "load_entries",
  "load_json",
]

LETTERS = string.ascii_uppercase
"""Of the options of a multiple-choice question."""
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_LARGEST = 1e12
_NUMBER = f"a number from 0 on, at most {_LARGEST:g}"
_CLOCK = f'seconds or "HH:MM:SS", from 0 on, at most {_LARGEST:g} s'


class Item(NamedTuple):
  """Static. One question.

  Attributes:
    time_s: asked after the last frame at or before; None for the clip's end.
    text: the question as it is put to the model.
    answer: what is right: a label each, a letter, a number or words.
    how: answers are judged, see `evaluation.benchmark_scores.JUDGES`.
    group: task it counts for, "category/task" where a benchmark has categories.
    labels: to choose the nearest from; empty where there are none.
    question: as the annotation has it, for export.
  """

  time_s: float | None
  text: str
  answer: tuple[str, ...]
  how: str
  group: str
  labels: tuple[str, ...] = ()
  question: str = ""


class Clip(NamedTuple):
  """Static. A stream: part of a video with questions.

  Attributes:
    name: says which entry of the annotation it is.
    video: as the annotation names it.
    items: in order of time.
    start_s: first second that is streamed.
    end_s: last second; None for the video's end.
    question_first: its one question is put before the first frame.
    namesakes: other videos of the annotation with the same file name.
  """

  name: str
  video: str
  items: tuple[Item, ...]
  start_s: float = 0.0
  end_s: float | None = None
  question_first: bool = False
  namesakes: tuple[str, ...] = ()


class Entry(NamedTuple):
  """Static. An entry of an annotation, which knows where it is.

  Attributes:
    file: of the annotation.
    name: of the entry, such as "[3].questions[0]".
    values: its fields.
  """

  file: pathlib.Path
  name: str
  values: Any

  def text(self, field: str) -> str:
    """A field that holds text."""
    return self._of(field, str, "text")

  def name_text(self, field: str) -> str:
    """A field that holds text that is not blank."""
    value = self._of(field, str, "text")
    if not value.strip():
      raise self.wrong(field, value, "text that is not blank")
    return value

  def number(self, field: str) -> float:
    """A field that holds a number, see `is_number`."""
    value = self._of(field, (int, float), _NUMBER)
    if not is_number(value):
      raise self.wrong(field, value, _NUMBER)
    return float(value)

  def whole(self, field: str) -> int:
    """A field that holds a whole number from 0 on."""
    value = self.number(field)
    if value != int(value):
      raise self.wrong(field, value, "a whole number from 0 on")
    return int(value)

  def seconds(self, field: str) -> float:
    """A field that holds a time, in seconds or as "HH:MM:SS"."""
    value = self._of(field, (int, float, str), _CLOCK)
    if not isinstance(value, str):
      return self.number(field)
    try:
      parts = [float(part) for part in value.split(":")]
    except ValueError:
      parts = []
    total = sum(part * 60**place for place, part in enumerate(parts[::-1]))
    if not 1 <= len(parts) <= 3 or not all(map(is_number, [*parts, total])):
      raise self.wrong(field, value, _CLOCK)
    return total

  def texts(self, field: str) -> list[str]:
    """A field that holds a list of texts, at least one."""
    values = self._of(field, list, "a list of texts")
    if not values or not all(isinstance(one, str) for one in values):
      raise self.wrong(field, values, "a list of texts")
    return values

  def options(self, field: str) -> list[str]:
    """A field that holds a list of texts, at most one for each letter."""
    values = self.texts(field)
    if len(values) > len(LETTERS):
      raise self.wrong(field, values, f"at most {len(LETTERS)} texts")
    return values

  def entries(self, field: str) -> list["Entry"]:
    """A field that holds a list of objects."""
    values = self._of(field, list, "a list of objects")
    return [
      Entry(self.file, f"{self.name}.{field}[{index}]", value).checked()
      for index, value in enumerate(values)
    ]

  def checked(self) -> "Entry":
    """Itself, if it is an object."""
    if not isinstance(self.values, dict):
      raise InputError(
        f"{self.file}, entry {self.name} is {_short(self.values)}; it must be"
        " an object with fields: correct the file"
      )
    return self

  def wrong(self, field: str, value: Any, rule: str) -> InputError:
    """The mistake in a field, to be raised."""
    return InputError(
      f"{self.file}, entry {self.name}, field {field!r} is {_short(value)}; it"
      f" must be {rule}: correct the file"
    )

  def _of(self, field: str, kind: Any, rule: str) -> Any:
    if field not in self.values:
      raise InputError(
        f"{self.file}, entry {self.name} has no field {field!r}; it must be"
        f" {rule}: correct the file, or get it again"
      )
    value = self.values[field]
    if not isinstance(value, kind):
      raise self.wrong(field, value, rule)
    return value


def is_number(value: Any) -> bool:
  """Whether it is a number from 0 on that is not absurdly large.

  Example:
    >>> is_number(1.5), is_number(10**400), is_number(float("nan"))
    (True, False, False)
  """
  is_bool = isinstance(value, bool)
  return (
    isinstance(value, (int, float)) and not is_bool and (0 <= value <= _LARGEST)
  )


def _short(value: Any) -> str:
  try:
    text = repr(value)
  except RecursionError:
    return "nested too deeply"
  return text if len(text) <= 60 else f"{text[:57]}..."


def load_json(path: pathlib.Path) -> Any:
  """What a JSON file holds.

  Raises:
    InputError: it is missing, no JSON, or nested too deeply.
  """
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise InputError(
      f"{path} cannot be read ({error.strerror}); the benchmark's annotation is"
      " expected there: put it there, or name its folder with --data"
    ) from error
  except RecursionError:
    raise InputError(
      f"{path} is nested too deeply; the benchmark's annotation is expected:"
      " get it again"
    ) from None
  except ValueError as error:
    raise InputError(
      f"{path} is no JSON ({error}); it may have been cut off: get it again"
    ) from error


def load_entries(path: pathlib.Path) -> list[Entry]:
  """Entries of a file that holds a list of objects.

  Raises:
    InputError: it is missing, no JSON, or no such list.
  """
  values = load_json(path)
  if not isinstance(values, list) or not values:
    raise InputError(
      f"{path} holds {_short(values)}; a list of entries is expected: get the"
      " benchmark's annotation again"
    )
  return [
    Entry(path, f"[{index}]", value).checked()
    for index, value in enumerate(values)
  ]


def find_annotation(data: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
  """The annotation file of a benchmark's folder.

  Args:
    data: the folder.
    names: patterns, the first that matches one file wins.

  Raises:
    InputError: no such folder, no file, or more than one.
  """
  if not data.is_dir():
    raise InputError(
      f"--data is {str(data)!r}, which is no folder; the benchmark's files are"
      " expected in it: name the folder"
    )
  for name in names:
    found = sorted(path for path in data.glob(name) if path.is_file())
    if len(found) == 1:
      return found[0]
    if found:
      raise InputError(
        f"{data} holds {len(found)} files {name}:"
        f" {', '.join(path.name for path in found)}; one annotation is"
        " expected: move the others away"
      )
  raise InputError(
    f"{data} has no {' or '.join(names)}; the benchmark's annotation is"
    " expected there: put it there, or name its folder with --data"
  )


def find_videos(
  data: pathlib.Path, clips: Sequence[Clip]
) -> dict[str, pathlib.Path]:
  """Where the videos of all clips are.

  A name is looked up below the folder and below its `videos` or `video`, then
  there by its last part; another suffix will do.

  Args:
    data: the benchmark's folder.
    clips: name videos.

  Returns:
    Name -> path.

  Raises:
    InputError: some are missing (says how many and names the first), or one
      is there by its last part only, which another one has too.
  """
  names = sorted({clip.video for clip in clips})
  whole = {name: _first_video(data, _relative(name)) for name in names}
  last = {
    name: _first_video(data, pathlib.PurePosixPath(_relative(name).name))
    for name in names
    if whole[name] is None
  }
  for clip in _with_namesakes(clips):
    if last.get(clip.video) and clip.namesakes:
      raise InputError(
        f"{last[clip.video]} may be video {_clipped(clip.video)} or"
        f" {_clipped(clip.namesakes[0])} of the annotation, which share a file"
        f" name: put each into its own folder below {data}"
      )
  found = {**whole, **last}
  missing = [name for name, path in found.items() if path is None]
  if missing:
    listed = ", ".join(map(_clipped, missing[:10]))
    listed += ", ..." if len(missing) > 10 else ""
    raise InputError(
      f"{len(missing)} of {len(names)} videos that the annotation names are not"
      f" in {data} or its folder videos: {listed}; put them there, or evaluate"
      " a part with an annotation of those that are"
    )
  return {name: path for name, path in found.items() if path is not None}


def _relative(name: str) -> pathlib.PurePosixPath:
  parts = pathlib.PurePosixPath(name).parts
  return pathlib.PurePosixPath(*(part for part in parts if part != "/"))


def _first_video(
  data: pathlib.Path, relative: pathlib.PurePosixPath
) -> pathlib.Path | None:
  if relative.name in ("", ".."):
    return None
  for folder in (data, data / "videos", data / "video"):
    path = folder / relative
    stems = [path] if path.suffix else []
    stems += [path.with_suffix(suffix) for suffix in _SUFFIXES]
    for candidate in stems:
      # Not Path.is_file(), which raises for a name that is too long.
      if os.path.isfile(candidate) and candidate.suffix != ".npy":
        return candidate
  return None


def _clipped(name: str) -> str:
  return name if len(name) <= 60 else f"{name[:57]}..."


def distinct(clips: Sequence[Clip]) -> list[Clip]:
  """Clips with a name each, in order, and with their namesakes.

  The second of two that share a name has " (2)" behind it.

  Args:
    clips: of a reader.

  Example:
    >>> clips = [Clip("v1", "x/a.mp4", ()), Clip("v1", "y/a.mp4", ())]
    >>> [clip.name for clip in distinct(clips)]
    ['v1', 'v1 (2)']
  """
  taken = {clip.name for clip in clips}
  count: collections.Counter[str] = collections.Counter()
  named = []
  for clip in clips:
    name = clip.name
    count[name] += 1
    if count[name] > 1:
      while (name := f"{clip.name} ({count[clip.name]})") in taken:
        count[clip.name] += 1
      taken.add(name)
    named.append(clip._replace(name=name))
  return _with_namesakes(named)


def _with_namesakes(clips: Sequence[Clip]) -> list[Clip]:
  """Clips that know the other videos with their file name, less suffix."""
  sharing: dict[str, dict[pathlib.PurePosixPath, str]] = {}
  for clip in clips:
    for name in (clip.video, *clip.namesakes):
      relative = _relative(name)
      sharing.setdefault(relative.stem, {}).setdefault(relative, name)
  return [
    clip._replace(
      namesakes=tuple(
        name
        for relative, name in sharing[_relative(clip.video).stem].items()
        if relative != _relative(clip.video)
      )
    )
    for clip in clips
  ]


def in_order(items: Iterable[Item]) -> tuple[Item, ...]:
  """Items by time, those at a clip's end last."""
  return tuple(
    sorted(
      items, key=lambda item: math.inf if item.time_s is None else item.time_s
    )
  )


def choice_text(question: str, options: Sequence[str]) -> str:
  """A multiple-choice question as it is put to the model; our wording.

  Args:
    question: of the annotation.
    options: lettered in order, where they are not yet.

  Example:
    >>> print(choice_text("What is it?", ["a cat", "a dog"]))
    What is it?
    A. a cat
    B. a dog
    Answer with the letter of the right option only.
  """
  lettered = [
    option
    if option.lstrip().startswith((f"{letter}.", f"{letter})", f"({letter})"))
    else f"{letter}. {option}"
    for letter, option in zip(LETTERS, options, strict=False)
  ]
  return "\n".join(
    [question, *lettered, "Answer with the letter of the right option only."]
  )
