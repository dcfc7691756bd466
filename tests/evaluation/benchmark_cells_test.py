"""Records of a benchmark on disk, without a stream."""

import pytest

from vrex_jax import errors
from vrex_jax.evaluation import benchmark_cells
from vrex_jax.evaluation import benchmark_run

ANSWER = dict.fromkeys(benchmark_run.ANSWER_FIELDS, 1.0)
RECORD = {
  **dict.fromkeys(benchmark_run.RECORD_FIELDS, 1),
  "policy": "full",
  "clip": "v1",
}


def write(folder, records):
  text = benchmark_cells.files([], records)[benchmark_cells.ANSWERS]
  (folder / benchmark_cells.ANSWERS).write_text(text, encoding="utf-8")


def test_answers_with_odd_line_ends_come_back(tmp_path):
  said = "one\u2028two\u2029three\x85four\x0bfive\nsix"
  records = [{**RECORD, "answers": [{**ANSWER, "said": said}]}] * 2
  write(tmp_path, records)
  assert benchmark_cells.records_left(str(tmp_path)) == records


@pytest.mark.parametrize(
  ("record", "said"),
  [
    ({"policy": "full", "clip": "v1"}, "line 2: no video, answers, frames"),
    ({**RECORD, "answers": [{"task": "open"}]}, "line 2, answers: no time_s"),
    ({**RECORD, "answers": 3}, "line 2: 'answers' is no list"),
    ([3], "line 2: no object"),
  ],
)
def test_a_record_that_lacks_a_field_is_refused(tmp_path, record, said):
  write(tmp_path, [{**RECORD, "answers": []}, record])
  with pytest.raises(errors.InputError, match=rf"cannot be read \({said}"):
    benchmark_cells.records_left(str(tmp_path))
