"""Measured points come back from their file, and broken files say why."""

import numpy as np
import pytest

from vrex_jax.codesign import accuracy_points as points_lib
from vrex_jax.errors import InputError

SHAPE = (3, 2, 1)


def row(right, recall=0.5):
  """What `point` reads of a row of an evaluation: ten items a stream."""
  tally = {"right": list(right), "asked": [10.0] * len(right)}
  return {
    "tallies": {"qa": tally, "narration_old": tally},
    "retrieval_recall": {
      name: {"mean": [recall, recall]} for name in ("question", "narration")
    },
    "retrieval_ratio": {"frame": 0.3, "question": 0.2, "answer": 0.1},
  }


def point(right=(9.0, 8.0), full=(10.0, 10.0), **plain):
  given = {
    "disturb": "none",
    "prefill": 0,
    "frames": 64,
    "streams": 2,
    "hamming_threshold": 7,
  }
  line = points_lib.point(
    row(right),
    row(full),
    ratio=np.full(SHAPE, 0.25),
    **(given | plain),
  )
  return line | points_lib.columns(
    kept=np.full(SHAPE, 0.125),
    mass=np.linspace(0, 1, 6).reshape(SHAPE),
    size=np.full(SHAPE, 12.0),
  )


def test_a_drop_is_the_mean_over_items_and_its_error_that_of_streams():
  """3 of 20 wrong; streams deviate by 0.5 from 1.5; one more for luck."""
  line = point()
  assert line["qa_drop"] == pytest.approx(3 / 20)
  assert line["qa_error"] == pytest.approx(np.sqrt(2 * 0.5**2 + 1) / 20)


def test_other_items_are_refused():
  other = row((10.0, 10.0, 10.0))
  with pytest.raises(ValueError, match="different items"):
    points_lib.point(
      row((9.0, 8.0)),
      other,
      ratio=np.zeros(SHAPE),
      **dict.fromkeys(
        ("disturb", "prefill", "frames", "streams", "hamming_threshold"), 0
      ),
    )


def test_points_come_back_from_their_file(tmp_path):
  lines = [point(), point((10.0, 6.0), disturb="sink", prefill=1)]
  path = tmp_path / "points.csv"
  points_lib.save(lines, path, comments=["how", "they were made"])
  assert path.read_text().startswith("# how\n# they were made\n")
  found = points_lib.load(path)
  straight = points_lib.from_lines(lines)
  assert found.disturb.tolist() == ["none", "sink"]
  assert found.mass.shape == (2, *SHAPE)
  for one, other in zip(found[1:], straight[1:], strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(
  ("spoil", "reason"),
  [
    (lambda text: "", "holds no points"),
    (lambda text: text.split("\n")[0] + "\n", "holds no points"),
    (lambda text: text.replace("mass_answer_1_0", "m"), "mass_answer_1_0 is"),
    (lambda text: text.replace("ratio_", "r_"), "ratio_frame_0_0 is missing"),
    (lambda text: text.replace("0.25", "much"), "ratio holds what is no num"),
    (lambda text: text.replace("0.25", "nan"), "ratio holds what is not fin"),
    (lambda text: text.replace("0.0612372", "0"), "error is not above 0"),
    (lambda text: text.rsplit(",", 3)[0], "size holds what is not finite"),
  ],
)
def test_a_broken_file_is_one_sentence(tmp_path, spoil, reason):
  path = tmp_path / "points.csv"
  points_lib.save([point()], path)
  path.write_text(spoil(path.read_text()))
  with pytest.raises(InputError, match=reason):
    points_lib.load(path)


def test_a_missing_file_is_one_sentence(tmp_path):
  with pytest.raises(InputError, match="No such file"):
    points_lib.load(tmp_path / "none.csv")
