"""A clip as a recording: queries, keys and values of every chunk.

Under the policy `full`, so that what was attended does not colour what is
compared later.
"""

from collections.abc import Callable, Sequence

from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import replay
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import session_report
from vrex_jax.models import checkpoint as checkpoint_lib

__all__ = ["record_clip"]


def record_clip(
  model: checkpoint_lib.Checkpoint,
  path: str,
  *,
  fps: float,
  max_frames: int | None = None,
  questions: Sequence[questions_lib.Question] = (),
  max_tokens: int = 8,
  note: Callable[[str], None] = lambda text: None,
  frames_done: Callable[[int], None] = lambda count: None,
) -> replay.Recording:
  """Streams a clip through a model and keeps what attention saw.

  Args:
    model: configuration, weights, tokenizer, template.
    path: video file or URL with an end.
    fps: frames per second of video.
    max_frames: stop after this many.
    questions: asked and undone; each leaves a question and an answer in the
      recording.
    max_tokens: longest answer.
    note: told what happens.
    frames_done: told of every block of frames.

  Raises:
    InputError: see `session_plan.find_source` and `session.stream_policy`.
  """
  policy = policy_syntax.make_policy("full")
  source = session_plan.find_source(path, fps=fps, max_frames=max_frames)
  options = session_plan.Options(record=True, max_tokens=max_tokens)
  plan = session_plan.plan_stream(model, policy, source, questions, options)
  progress = session.Progress(
    note=note,
    begin=lambda: None,
    frames=frames_done,
    answer=lambda question, answer, tokens: None,
  )
  result = session.stream_policy(model, policy, plan, progress)
  arrays = session_report.record_arrays(model, result.records)
  return replay.from_arrays(arrays)
