"""Tables, CSV lines and fronts of rows made by hand."""

import pytest

from vrex_jax.study import compare_report

ROOMS = {
  "part": "qa",
  "disturb": "none",
  "policy": "x",
  "questions": 40,
  "reached": 0.11,
  "reached_held_out": 0.1,
  "retrieval_ratio": {"frame": 0.11, "question": 0.3, "answer": None},
  "retrieval_recall": {"question": {"best": [0.2, 0.7]},
                       "narration": {"best": []}},
  "kv_bytes": 1e6,
  "held_growth": 1.0,
  "triple": {"context_tokens": None, "frames_per_s": 50.0, "ttft_ms": None,
             "accuracy_ci": [0.4, 0.6]},
  **dict.fromkeys(("qa", "qa_old", "narration_old"), 0.5),
  **{f"{group}_ci": [0.4, 0.6] for group in ("qa", "qa_old", "narration_old")},
  "minus_full": {group: {"difference": -0.1}
                 for group in ("qa", "qa_old", "narration_old")},
}  # fmt: skip
FULL = {"method": "full", "variant": "", "share": None}
STEP = {
  "part": "step", "method": "quest", "variant": "all", "share": 0.05,
  "policy": "quest", "forced_ratio": 0.05, "retrieval_ratio": {"frame": 0.05},
  "cpu_ms": 40.0, "full_cpu_ms": 100.0, "full_over_own": 2.5, "ceiling": 4.0,
  "selection_cpu_ms": None,
}  # fmt: skip
CLIP = {
  "part": "clip", "method": "quest", "variant": "all", "share": 0.1,
  "policy": "quest", "run_tokens": None, "ttft_ms": 3.0, "ms_per_frame": 2.0,
  "kv_bytes": 8, "resident_bytes": 4, "fetched_bytes_per_frame": 2e3,
  "exposed_bytes_per_frame": 2e3,
  **{
    name: {"frame": 0.25, "question": 0.5, "answer": None}
    for name in ("retrieval_ratio", "kl", "top1_agreement")
  },
  **{
    name: {"frame": [0.25, None], "question": [0.5, 0.5], "answer": []}
    for name in ("attention_error_by_layer", "attention_error_alone_by_layer",
                 "retrieval_ratio_by_layer")
  },
}  # fmt: skip


def rooms(method, variant="all", share=0.1, **changes):
  case = {"method": method, "variant": variant, "share": share}
  return {**ROOMS, **case, **changes}


ROWS = [
  {**ROOMS, **FULL, "retrieval_ratio": dict.fromkeys(("frame", "question",
   "answer"), 1.0)},
  rooms("quest"),
  rooms("quest", share=0.2, qa_old=0.8),
  rooms("h2o", disturb="sink"),
  STEP,
  CLIP,
]  # fmt: skip


def test_the_table_shows_wanted_and_reached_and_every_part():
  text = compare_report.tables(ROWS)
  (line, *_) = [one for one in text.splitlines() if one.startswith("quest")]
  assert line.split()[:4] == ["quest", "all", "10.0", "11.0"]
  assert "no end" in line
  for header in ("decoder step", "policy on a clip"):
    assert header in text
  assert "sink" in next(one for one in text.splitlines() if "h2o" in one)


def test_the_page_s_table_has_the_same_cells():
  header, rule, *lines = compare_report.markdown(ROWS).splitlines()
  assert len(lines) == 4
  assert {line.count("|") for line in (header, rule, *lines)} == {11}
  assert lines[1].startswith("| quest | all | 10.0 | 11.0 |")


def test_a_part_that_was_not_run_has_no_table():
  assert compare_report.tables([STEP]).count("\n") == 1
  assert compare_report.tables([]) == ""


def test_lines_are_of_one_shape_and_keep_what_was_wanted():
  lines = compare_report.qa_lines(ROWS)
  assert len(lines) == 4
  assert len({tuple(line) for line in lines}) == 1
  assert (lines[1]["share"], lines[1]["reached"]) == (0.1, 0.11)
  assert [line["triple_ttft_ms"] for line in lines] == [None, 3.0, None, None]
  assert lines[1]["recall_question"] == 0.7
  assert lines[1]["recall_narration"] is None
  clip = compare_report.clip_lines(ROWS)
  assert [line["stage"] for line in clip] == ["frame", "question", "answer"]
  assert clip[0]["attention_error"] == 0.25
  assert clip[0]["retrieval_ratio_by_layer"] == "25.0 -"
  assert compare_report.step_lines(ROWS)[0]["retrieval_ratio"] == 0.05


def test_a_picture_of_the_fronts(tmp_path):
  pytest.importorskip("matplotlib")
  compare_report.save_plot(ROWS, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"
