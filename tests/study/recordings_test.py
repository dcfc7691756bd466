"""A clip becomes a recording: frames stay, questions are taken back."""

import numpy as np
import pytest

from tests.parity import references
from vrex_jax import errors
from vrex_jax import questions
from vrex_jax import recording as recording_lib
from vrex_jax import session_plan
from vrex_jax.models import checkpoint
from vrex_jax.study import recordings
from vrex_jax.tasks import render

FRAMES, TOKENS = 5, 9


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  """A model and a film of five frames."""
  folder = tmp_path_factory.mktemp("recordings")
  random = np.random.default_rng(0)
  pictures = random.integers(0, 255, (FRAMES, 32, 48, 3), np.uint8)
  render.write_mp4(folder / "film.mp4", pictures, fps=2)
  model = checkpoint.load(references.copy("onevision_odd", folder))
  source = session_plan.find_source(str(folder / "film.mp4"), fps=2.0)
  return model, source


def test_frames_stay_and_a_question_is_taken_back(clip):
  model, source = clip
  recording = recordings.record_clip(
    model,
    source,
    questions=[questions.Question(1.0, "what?")],
    max_tokens=2,
  )
  chunks = recording_lib.chunks_of(recording)
  frames = [chunk for chunk in chunks if chunk.stage == "frame"]
  assert [chunk.last - chunk.first for chunk in frames] == [TOKENS] * FRAMES
  assert not any(chunk.undone for chunk in frames)
  asked = [chunk for chunk in chunks if chunk.stage in ("question", "answer")]
  assert {chunk.stage for chunk in asked} == {"question", "answer"}
  assert all(chunk.undone for chunk in asked)
  before = [chunk.stage for chunk in chunks[: chunks.index(asked[0])]]
  assert before.count("frame") == 3  # those at 0, 0.5 and 1 s
  decoder = model.config.decoder
  assert recording.key.shape[:2] == (decoder.num_layers, decoder.num_kv_heads)
  assert np.isfinite(recording.key).all()


def test_a_late_question_is_refused_before_the_work(clip, monkeypatch):
  monkeypatch.setattr(
    recordings.session, "stream_policy", lambda *given: pytest.fail("it ran")
  )
  model, source = clip
  with pytest.raises(errors.InputError, match="asked at 9 s"):
    recordings.record_clip(
      model, source, questions=[questions.Question(9.0, "what?")]
    )
