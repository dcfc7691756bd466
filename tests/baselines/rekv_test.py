"""ReKV against its formula: a window for frames, frames for a question."""

import numpy as np

from tests.baselines import bare
from vrex_jax import policy_syntax


def test_window_and_prompt_then_frames_of_the_question():
  frames, window, count = 2, 6, 6
  bench = bare.Bare(
    policy_syntax.make_policy(f"rekv(frames={frames}, window_tokens={window})")
  )
  bench.chunk("prompt", valid=3)
  slots = np.arange(bare.SLOTS)
  for _ in range(count):
    past = bench.cursor
    near, far = bench.chunk("frame")[0][0].parts
    expected = (slots >= past - window) & (slots < past)
    np.testing.assert_array_equal(
      bare.unpack(near.slots) & (slots < past), [expected] * bench.kv_heads
    )
    live = bare.unpack(far.slots) & (slots < past)
    left = (slots < 3) & ~expected
    np.testing.assert_array_equal(live, [left] * bench.kv_heads)
    rules = far.key_rule, far.query_rule
    assert rules == ("fixed", "fixed")
    assert (far.key_position, far.query_position) == (0, window - 1)
  begin = bench.cursor
  mean_key = (
    bench.raw[:, :, 3:begin]
    .reshape(bare.LAYERS, bench.kv_heads, count, 4, bare.WIDTH)
    .mean(axis=3)
  )
  asked = []
  for index, valid in enumerate((4, 2)):
    draw = lambda heads: bench.random.standard_normal(
      (bare.LAYERS, heads, 4, bare.WIDTH)
    ).astype("f4")
    inputs = draw(bench.heads), draw(bench.kv_heads), draw(bench.kv_heads)
    asked.append(inputs[0][:, :, :valid])
    past = bench.cursor
    found = bench.chunk(
      "question", valid=valid, first=index == 0, inputs=inputs
    )
    mean = np.concatenate(asked, axis=2).mean(axis=2)
    for layer, (selection, _) in enumerate(found):
      rows = np.repeat(mean_key[layer], bench.group, axis=0)
      score = np.einsum("nh,nfh->f", mean[layer], rows)
      chosen = np.nonzero(bare.highest(score, frames))[0]
      expected = (slots < 3) | ((slots >= begin) & (slots < past))
      expected |= np.isin((slots - 3) // 4, chosen) & (slots >= 3)
      (part,) = selection.parts
      assert (part.key_rule, part.query_rule) == ("rank", "rank")
      np.testing.assert_array_equal(
        bare.unpack(part.slots) & (slots < past),
        [expected & (slots < past)] * 2,
      )
  read = bare.unpack(part.slots)[0] & (slots < begin)
  answer = bench.chunk("answer", length=1)[-1][0].parts[0]
  np.testing.assert_array_equal(
    bare.unpack(answer.slots)[0] & (slots < begin), read
  )
