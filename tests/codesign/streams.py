"""A recording made by hand with two questions that are taken back."""

import numpy as np

from tests.study import recorded
from vrex_jax import recording as recording_lib

FRAMES = 6
FRAME, QUESTION, ANSWER = 1, 2, 3
# Kind and tokens of every event; both questions come after the third frame.
EVENTS = (
  *[(FRAME, recorded.CONTENTS)] * 3,
  *[(QUESTION, 5), (ANSWER, 1)] * 2,
  *[(FRAME, recorded.CONTENTS)] * 3,
)


def with_questions(*, layers=1, heads=4, kv_heads=2, width=8, seed=0):
  """Frames, and questions and answers of one token, each undone."""
  total = sum(tokens for _, tokens in EVENTS)
  frames = -(-total // recorded.CONTENTS)
  base = recorded.recording(
    layers=layers, heads=heads, kv_heads=kv_heads, width=width, frames=frames,
    seed=seed,
  )  # fmt: skip
  columns = {"position": [], "frame": [], "kind": [], "event": []}
  stored = shown = now = 0
  for event, (kind, tokens) in enumerate(EVENTS):
    if kind == QUESTION:
      now = stored
    begin = stored if kind == FRAME else now
    columns["position"] += range(begin, begin + tokens)
    now = begin + tokens
    if kind == FRAME:
      stored, shown = now, shown + 1
    columns["frame"] += [shown - 1] * tokens
    columns["kind"] += [kind] * tokens
    columns["event"] += [event] * tokens
  cut = {
    name: array[:, :, :total]
    for name, array in base._asdict().items()
    if array.ndim == 4
  }
  return recording_lib.Recording(
    **cut,
    position=np.array(columns["position"], np.int32),
    frame=np.array(columns["frame"], np.int32),
    kind=np.array(columns["kind"], np.int8),
    valid=np.ones(total, bool),
    event=np.array(columns["event"], np.int32),
    frequencies=base.frequencies,
  )
