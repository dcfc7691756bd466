"""A clip as a recording: queries, keys and values of every chunk.

Under the policy `full`, so that what was attended does not colour what is
compared later.
"""

from collections.abc import Sequence

import tqdm

from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import recording as recording_lib
from vrex_jax import session
from vrex_jax import session_plan
from vrex_jax import session_report
from vrex_jax.models import checkpoint as checkpoint_lib

__all__ = ["record_clip"]


def record_clip(
  model: checkpoint_lib.Checkpoint,
  source: session_plan.Source,
  *,
  questions: Sequence[questions_lib.Question] = (),
  max_tokens: int = 8,
) -> recording_lib.Recording:
  """Streams a clip through a model and keeps what attention saw.

  On a terminal a bar shows how far it is.

  Args:
    model: configuration, weights, tokenizer, template.
    source: the clip; must have an end.
    questions: asked and undone; each leaves a question and an answer in the
      recording.
    max_tokens: longest answer.

  Raises:
    InputError: see `session_plan.plan_stream` and `session.stream_policy`.
  """
  policy = policy_syntax.make_policy("full")
  options = session_plan.Options(record=True, max_tokens=max_tokens)
  plan = session_plan.plan_stream(model, policy, source, questions, options)
  with tqdm.tqdm(
    total=source.expected, desc="record", unit="frame", disable=None
  ) as bar:
    progress = session.Progress(
      note=tqdm.tqdm.write,
      begin=bar.reset,
      frames=bar.update,
      answer=lambda question, answer, tokens: None,
    )
    result = session.stream_policy(model, policy, plan, progress)
  arrays = session_report.record_arrays(model, result.records)
  return recording_lib.from_arrays(arrays)
