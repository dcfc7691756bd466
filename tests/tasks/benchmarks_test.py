"""Readers of public benchmarks, on small files of the same form."""

import copy

import pytest

from tests.tasks import benchmark_files as files
from vrex_jax.errors import InputError
from vrex_jax.tasks import benchmark_coin
from vrex_jax.tasks import benchmark_items
from vrex_jax.tasks import benchmarks

INFINITE = float("inf")
PLACES = {
  "coin": ("coin.json", files.COIN),
  "rvs_ego": ("ego4d_oe.json", files.RVS),
  "streamingbench": ("questions_real.json", files.STREAMINGBENCH),
  "ovo": ("ovo_bench_new.json", files.OVO),
  "mlvu": ("json/1_plotQA.json", files.MLVU),
}


def read(folder, name, annotation=None):
  place, whole = PLACES[name]
  files.write_json(folder / place, whole if annotation is None else annotation)
  return benchmarks.read_benchmark(name, folder)


def asked(clips):
  return [
    (clip.video, item.time_s, item.group, item.answer, item.how)
    for clip in clips
    for item in clip.items
  ]


def test_coin_asks_five_tasks_of_the_test_split(tmp_path):
  clips = read(tmp_path, "coin")
  assert {clip.video for clip in clips} == {"a1"}
  assert all(clip.question_first for clip in clips)
  by_name = {clip.name.partition("/")[2]: clip for clip in clips}
  assert sorted(by_name) == [
    "next/0", "next/1", "procedure/0", "procedure/1", "step/0", "step/1",
    "step/2", "task/0", "taskprocedure/0", "taskprocedure/1",
  ]  # fmt: skip
  task = by_name["task/0"]
  assert (task.start_s, task.end_s) == (0.2, 5.0)
  assert task.items[0].answer == ("Make sandwich.",)
  assert task.items[0].labels == (
    "Make sandwich.",
    "Replace SIM card.".capitalize(),
  )
  step, following = by_name["step/1"], by_name["next/1"]
  assert (step.start_s, step.end_s) == (2.0, 3.0)
  assert (following.start_s, following.end_s) == (2.0, 3.0)
  assert step.items[0].answer == ("Spread the butter.",)
  assert following.items[0].answer == ("Crop and fold paper.",)
  assert "Take out the card." in step.items[0].labels
  both = by_name["procedure/0"].items[0]
  assert both.answer == ("Spread the butter.", "Crop and fold paper.")
  assert "2 steps" in both.text
  last = by_name["procedure/1"].items[0]
  assert last.text == by_name["next/1"].items[0].text
  assert "make sandwich" in by_name["taskprocedure/1"].items[0].text


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("PutOnHairExtensions", "put on hair extensions"),
    ("ReplaceSIMCard", "replace SIM card"),
    ("InstallTVStand", "install TV stand"),
    ("MakeRJ45Cable", "make RJ45 cable"),
  ],
)
def test_coin_s_classes_become_words(name, words):
  assert benchmark_coin._task(name) == words


def test_a_folder_s_prompts_replace_ours(tmp_path):
  (tmp_path / "prompts.toml").write_text('step = "What now?"')
  clips = read(tmp_path, "coin")
  steps = [clip.items[0] for clip in clips if clip.items[0].group == "step"]
  assert {item.text for item in steps} == {"What now?"}
  (tmp_path / "prompts.toml").write_text('stop = "What now?"')
  with pytest.raises(InputError, match="sets stop to 'What now\\?'"):
    read(tmp_path, "coin")


def test_prompts_that_cannot_be_filled_in_are_refused(tmp_path):
  path = tmp_path / "prompts.toml"
  path.write_text('procedure = "Which {count} steps of {tsk}?"')
  with pytest.raises(
    InputError, match=r"with \{tsk\}; .* is \{count\}: correct"
  ):
    read(tmp_path, "coin")
  path.write_text('step = "What of {task}?"')
  with pytest.raises(
    InputError, match=r"with \{task\}; .* is nothing: correct"
  ):
    read(tmp_path, "coin")
  path.unlink()
  path.mkdir()
  with pytest.raises(InputError, match=r"prompts\.toml cannot be read"):
    read(tmp_path, "coin")


def test_rvs_asks_at_the_end_time_in_order(tmp_path):
  clips = read(tmp_path, "rvs_ego")
  assert asked(clips) == [
    ("ego/v1.npy", 1.5, "open", ("a cup",), "open"),
    ("ego/v1.npy", 4.0, "open", ("a man",), "open"),
  ]


def test_streamingbench_asks_all_questions_of_a_video_on_one_stream(tmp_path):
  files.write_json(tmp_path / "questions_omni.json", files.STREAMINGBENCH[:1])
  clips = read(tmp_path, "streamingbench")
  video = "./videos/s1.mp4"
  assert asked(clips) == [
    (video, 1.0, "real/Counting", ("D",), "letter"),
    (video, 2.0, "real/Counting", ("B",), "letter"),
    (video, 2.0, "omni/Counting", ("B",), "letter"),
  ]
  assert len({clip.name for clip in clips}) == 2
  assert "A. one\nB. two\n" in clips[0].items[0].text


def test_ovo_s_twelve_tasks_are_in_three_categories(tmp_path):
  assert asked(read(tmp_path, "ovo")) == [
    ("ego/o1.mp4", 1.0, "forward/REC", ("0",), "digits"),
    ("ego/o1.mp4", 3.0, "forward/REC", ("12",), "digits"),
    ("ego/o1.mp4", 4.0, "backward/EPM", ("B",), "contains"),
    ("o2.mp4", 1.0, "forward/SSR", ("Yes",), "yes_no"),
    ("o2.mp4", 1.5, "forward/CRR", ("No",), "yes_no"),
  ]


def test_mlvu_reads_its_own_form_and_that_of_rekv(tmp_path):
  files.write_json(tmp_path / "qaego4d.json", files.REKV)
  assert asked(read(tmp_path, "mlvu")) == [
    ("1_plotQA/m1.mp4", None, "plotQA", ("B",), "letter"),
    ("q1.mp4", None, "qaego4d", ("C",), "letter"),
  ]


def test_eleven_options_have_letters(tmp_path):
  eleven = [str(number) for number in range(11)]
  changes = {
    "streamingbench": {"options": eleven, "answer": "K"},
    "ovo": {"options": eleven, "gt": 10},
    "mlvu": {"candidates": eleven, "answer": "10"},
  }
  for name, change in changes.items():
    annotation = copy.deepcopy(PLACES[name][1][:1])
    one = annotation[0]
    one = one["questions"][0] if name == "streamingbench" else one
    one.update(change)
    (clip,) = read(tmp_path / name, name, annotation)
    assert clip.items[0].answer == ("K",)
    assert "\nK. 10\n" in clip.items[0].text


def test_clips_of_one_name_are_told_apart_in_order(tmp_path):
  again = {**files.RVS[0], "video_path": "movie/v1.mp4"}
  other = {**files.RVS[0], "video_id": "v1 (2)"}
  clips = read(tmp_path / "rvs", "rvs_ego", [*files.RVS, again, other, again])
  assert [clip.name for clip in clips] == ["v1", "v1 (3)", "v1 (2)", "v1 (4)"]
  for name in ("a", "b"):
    files.write_json(tmp_path / "mlvu" / f"{name}.json", files.REKV)
  clips = benchmarks.read_benchmark("mlvu", tmp_path / "mlvu")
  assert [clip.name for clip in clips] == ["q1.mp4", "q1.mp4 (2)"]
  assert {clip.video for clip in clips} == {"q1.mp4"}


def spoiled(name, change):
  annotation = copy.deepcopy(PLACES[name][1])
  change(annotation)
  return annotation


def _put(*path, value):
  def change(annotation):
    for key in path[:-1]:
      annotation = annotation[key]
    annotation[path[-1]] = value

  return change


def _drop(*path):
  def change(annotation):
    for key in path[:-1]:
      annotation = annotation[key]
    del annotation[path[-1]]

  return change


SPOILED = {
  "no class": (
    "coin",
    _drop("database", "a1", "class"),
    "entry a1 has no field 'class'; it must be text",
  ),
  "segment": (
    "coin",
    _put("database", "a1", "annotation", 1, "segment", value=[3, 2]),
    r"a1.annotation\[1\], field 'segment' is \[3, 2\]; it must be \[start",
  ),
  "no test split": (
    "coin",
    _put("database", "a1", "subset", value="training"),
    "has no video whose subset is testing",
  ),
  "no database": ("coin", _put("database", value=[]), "field 'database' is"),
  "end_time": (
    "rvs_ego",
    _put(0, "conversations", 1, "end_time", value="late"),
    r"entry \[0\].conversations\[1\], field 'end_time' is 'late'",
  ),
  "negative": (
    "rvs_ego",
    _put(0, "conversations", 0, "end_time", value=-1),
    "field 'end_time' is -1; it must be a number from 0 on",
  ),
  "answer": (
    "streamingbench",
    _put(1, "questions", 0, "answer", value="E"),
    r"entry \[1\].questions\[0\], field 'answer' is 'E'; it must be the letter",
  ),
  "options": (
    "streamingbench",
    _put(0, "questions", 0, "options", value="A. one"),
    "field 'options' is 'A. one'; it must be a list of texts",
  ),
  "task": ("ovo", _put(0, "task", value="XYZ"), "'XYZ'; it must be one of EPM"),
  "gt": (
    "ovo",
    _put(0, "gt", value=2),
    "field 'gt' is 2; it must be the index",
  ),
  "candidates": (
    "mlvu",
    _put(0, "answer", value="green"),
    "'green'; it must be one of its candidates",
  ),
  "huge segment": (
    "coin",
    _put("database", "a1", "annotation", 0, "segment", value=[0, 10**400]),
    r"a1.annotation\[0\], field 'segment' is \[0, 1000",
  ),
  "endless segment": (
    "coin",
    _put("database", "a1", "annotation", 0, "segment", value=[0.2, INFINITE]),
    r"field 'segment' is \[0.2, inf\]; it must be \[start",
  ),
  "segment of booleans": (
    "coin",
    _put("database", "a1", "annotation", 0, "segment", value=[False, True]),
    r"field 'segment' is \[False, True\]; it must be \[start",
  ),
  "huge end": (
    "coin",
    _put("database", "a1", "end", value=10**400),
    "entry a1, field 'end' is 1000",
  ),
  "end before start": (
    "coin",
    _put("database", "a1", "end", value=0.1),
    "entry a1, field 'end' is 0.1; it must be at least its start, 0.2",
  ),
  "blank class": (
    "coin",
    _put("database", "b2", "class", value=" "),
    "entry b2, field 'class' is ' '; it must be text that is not blank",
  ),
  "blank label": (
    "coin",
    _put("database", "a1", "annotation", 2, "label", value=""),
    r"a1.annotation\[2\], field 'label' is ''; it must be text that",
  ),
  "too many options": (
    "streamingbench",
    _put(0, "questions", 0, "options", value=list(map(str, range(27)))),
    r"\[0\].questions\[0\], field 'options' is .* at most 26 texts",
  ),
  "too many of OVO": (
    "ovo",
    _put(0, "options", value=list(map(str, range(27)))),
    r"entry \[0\], field 'options' is .* at most 26 texts",
  ),
  "too many candidates": (
    "mlvu",
    _put(0, "candidates", value=[*map(str, range(26)), "blue"]),
    r"entry \[0\], field 'candidates' is .* at most 26 texts",
  ),
  "no object": (
    "ovo",
    _put(1, value=3),
    r"entry \[1\] is 3; it must be an object",
  ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_malformed_entry_is_named_with_file_and_field(tmp_path, case):
  name, change, said = SPOILED[case]
  with pytest.raises(InputError, match=said) as caught:
    read(tmp_path, name, spoiled(name, change))
  message = str(caught.value)
  assert PLACES[name][0].split("/")[-1] in message
  assert "\n" not in message


@pytest.mark.parametrize("name", PLACES)
def test_a_missing_or_partial_file_is_named(tmp_path, name):
  with pytest.raises(InputError, match="expected") as caught:
    benchmarks.read_benchmark(name, tmp_path)
  assert str(tmp_path) in str(caught.value)
  path = files.write_json(tmp_path / PLACES[name][0], PLACES[name][1])
  path.write_text(path.read_text()[:-20])
  with pytest.raises(InputError, match="is no JSON"):
    benchmarks.read_benchmark(name, tmp_path)


def test_a_file_that_is_nested_too_deeply_is_named(tmp_path):
  (tmp_path / "coin.json").write_text("[" * 200_000)
  with pytest.raises(InputError, match=r"coin\.json is nested too deeply"):
    benchmarks.read_benchmark("coin", tmp_path)


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path):
  with pytest.raises(InputError, match="coin, mlvu, ovo, rvs_ego"):
    benchmarks.read_benchmark("coins", tmp_path)


def test_videos_are_found_in_some_places_and_missing_ones_counted(tmp_path):
  clip = lambda name: benchmark_items.Clip(name, name, ())
  places = {
    "./videos/s1.mp4": "videos/s1.mp4",
    "ego/v1.npy": "videos/v1.mp4",
    "a1": "a1.mkv",
    "1_plotQA/m1.mp4": "video/1_plotQA/m1.mp4",
  }
  for place in places.values():
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
  found = benchmark_items.find_videos(tmp_path, list(map(clip, places)))
  assert {
    name: str(path.relative_to(tmp_path)) for name, path in found.items()
  } == places
  more = list(map(clip, [*places, "gone.mp4", "lost"]))
  with pytest.raises(InputError, match=r"2 of 6 videos .* gone.mp4, lost;"):
    benchmark_items.find_videos(tmp_path, more)


def test_a_name_that_no_file_can_have_is_missing(tmp_path):
  clips = [benchmark_items.Clip("x", "v" * 300, ()),
           benchmark_items.Clip("y", "..", ())]  # fmt: skip
  with pytest.raises(InputError, match=r"2 of 2 videos .*: \.\., v+\.\.\.;"):
    benchmark_items.find_videos(tmp_path, clips)


def test_a_file_name_that_two_videos_have_stands_for_neither(tmp_path):
  clips = benchmark_items.distinct(
    [benchmark_items.Clip(n, n, ()) for n in ("videos/a.mp4", "y/a.mp4")]
  )
  place = tmp_path / "videos" / "a.mp4"
  place.parent.mkdir()
  place.write_bytes(b"")
  find = lambda some: benchmark_items.find_videos(tmp_path, some)
  assert find(clips[:1]) == {"videos/a.mp4": place}
  for some in (clips, clips[1:]):
    with pytest.raises(InputError, match=r"video y/a.mp4 or videos/a.mp4 of"):
      find(some)
  (place.parent / "y").mkdir()
  (place.parent / "y" / "a.mp4").write_bytes(b"")
  assert len(set(find(clips).values())) == 2


def test_times_are_seconds_or_a_clock():
  entry = lambda value: benchmark_items.Entry(None, "x", {"t": value})
  assert entry(3).seconds("t") == 3.0
  assert entry("01:02:03").seconds("t") == 3723.0
  assert entry("02:03.5").seconds("t") == 123.5
  for wrong in ("1:2:3:4", "a", "-1:00", "nan", "1:inf", "1e999", "1" * 400,
                10**400, INFINITE, True, None):  # fmt: skip
    with pytest.raises(InputError, match="field 't' is"):
      entry(wrong).seconds("t")
