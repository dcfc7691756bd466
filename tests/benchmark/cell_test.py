"""A whole cell: rows of every side, what is refused, what is chosen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmark import streams
from vrex_jax import bitmap
from vrex_jax import policy as policy_lib
from vrex_jax.baselines import full
from vrex_jax.benchmark import cell
from vrex_jax.benchmark import clip
from vrex_jax.benchmark import rows as rows_lib
from vrex_jax.benchmark import step
from vrex_jax.benchmark import timing
from vrex_jax.errors import InputError
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import rotary


def half_policy():
  """Every second slot."""

  def select(state, view, layer, queries, stage):
    even = view.slots.position % 2 == 0
    slots = bitmap.pack(jnp.broadcast_to(even[None], (2, len(even))))
    part = policy_lib.Part(slots=slots)
    counts = policy_lib.zero_counts((2,))
    return policy_lib.Selection(parts=(part,)), state, counts

  return full.full()._replace(name="half", select=select)


def setting(cache_tokens=100, **fields):
  _, params, frame = streams.everything(cache_tokens, **fields)
  plan = streams.plan(cache_tokens, **fields)
  return cell.Setting(
    plan, streams.model(), params, frame, cell.random_past(plan), 1
  )


def test_forced_rows_have_their_ratio_and_a_ceiling():
  found = cell.measure(
    setting(batch=2), [full.full(), half_policy()], ratios=(0.1, 0.6), rounds=1
  )
  assert [row["policy"] for row in found.rows] == ["full", "half", "half"]
  assert [row["forced_ratio"] for row in found.rows] == [None, 0.1, 0.6]
  for row, kept in zip(found.rows, (1.0, 0.1, 0.6), strict=True):
    assert tuple(row) == rows_lib.FIELDS
    assert row["retrieval_ratio"]["frame"] == pytest.approx(kept)
    assert row["cpu_ms"] > 0
    assert row["side"] == "ours"
  assert found.rows[0]["ceiling"] is None
  reference = found.rows[0]["cpu_ms"]
  for row in found.rows[1:]:
    expected = rows_lib.ceiling(
      reference, found.dense["cpu_ms"], row["forced_ratio"]
    )
    assert row["ceiling"] == pytest.approx(expected)
  assert [one["policy"] for one in found.programs] == ["full", "half"]
  assert all(one["state_bytes"] > 0 for one in found.programs)


def test_under_lookahead_layer_0_counts_for_the_ceiling_only():
  found = cell.measure(
    setting(lookahead=1), [full.full(), half_policy()], ratios=(0.1,), rounds=1
  )
  reference, row = found.rows
  assert row["retrieval_ratio"]["frame"] == pytest.approx(0.1)
  expected = rows_lib.ceiling(
    reference["cpu_ms"], found.dense["cpu_ms"], (1.0 + 0.1) / 2
  )
  assert row["ceiling"] == pytest.approx(expected)


def dense_step(chosen, keys, values):
  """The step written out: attention over past and chunk by one softmax."""
  config = chosen.model.decoder
  params = chosen.params["decoder"]
  hidden = chosen.frame
  past, length = keys.shape[3], hidden.shape[1]
  position = past + jnp.arange(length)
  angle = rotary.angles(
    position, rotary.inverse_frequencies(config.rope, config.head_dim)
  )[None, None]
  mask = np.tril(np.ones((length, past + length), bool), past)
  module = decoder_lib.DecoderLayer(config)
  for layer in range(config.num_layers):
    own = {"params": params[f"layers_{layer}"]}
    query, key, value = module.apply(own, hidden, method="project")
    key = jnp.concatenate([keys[layer], rotary.rotate(key, angle)], axis=2)
    value = jnp.concatenate([values[layer], value], axis=2)
    wide = lambda x: jnp.repeat(x, config.group_size, axis=1)
    scores = jnp.einsum(
      "bnth,bnsh->bnts", rotary.rotate(query, angle), wide(key)
    )
    scores = jnp.where(mask[None, None], scores / config.head_dim**0.5, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("bnts,bnsh->bnth", weights, wide(value))
    hidden = module.apply(own, hidden, out, method="finish")
  norm = decoder_lib.RMSNorm(config.rms_norm_eps)
  return np.asarray(norm.apply({"params": params["norm"]}, hidden))


def dense_contenders(chosen, factor):
  """Two forms of one side, of which the first wastes time."""

  def make(keys, values):
    hidden = factor * dense_step(chosen, keys, values)
    waste = lambda: sum(range(300_000))
    return [
      cell.Contender(
        "hf", timing.Runner(name, lambda: None, run), lambda: hidden
      )
      for name, run in (("hf/slow", waste), ("hf/fast", lambda: None))
    ]

  return make


def test_the_fastest_form_of_a_side_that_agrees_is_timed():
  """And our step agrees with one softmax over past and chunk."""
  chosen = setting(batch=2)
  found = cell.measure(
    chosen,
    [full.full()],
    contenders=dense_contenders(chosen, 1.0),
    rounds=1,
  )
  assert found.forms == {"hf": "hf/fast"}
  assert [row["side"] for row in found.rows] == ["ours", "hf"]
  assert found.rows[1]["retrieval_ratio"]["frame"] == 1.0


def test_a_side_that_computes_something_else_is_not_timed():
  chosen = setting()
  with pytest.raises(ValueError, match="hf/slow differs from our step by 9"):
    cell.measure(
      chosen,
      [full.full()],
      contenders=dense_contenders(chosen, 1.1),
      rounds=1,
    )


def test_full_must_come_first():
  with pytest.raises(ValueError, match="put full first"):
    cell.measure(setting(), [half_policy()], rounds=1)


def test_a_step_can_be_run_again_on_the_same_past():
  config, params, frame = streams.everything(100)
  state = streams.filled(config, full.full(), params, 100)
  program = step.compile_step(
    config, streams.model(), full.full(), params, state, frame
  )
  filled = step.FilledStep(program, params, state, frame)
  runner = filled.runner("again", filled.snapshot())
  results = []
  for _ in range(3):
    runner.reset()
    runner.run()
    results.append(np.asarray(filled.hidden))
    assert int(filled.event.counts.past_seen[0, 0, 0]) == 100
  np.testing.assert_array_equal(results[0], results[1])
  np.testing.assert_array_equal(results[0], results[2])


def test_a_clip_is_played_again_until_the_past_is_long_enough():
  chosen = setting(cache_tokens=40)
  width = streams.model().decoder.hidden_size
  tokens = jnp.asarray(
    np.random.default_rng(0).standard_normal((3, 4, width)), jnp.float32
  )
  past = clip.clip_past(chosen.plan, chosen.model, tokens, loop=True)
  found = cell.measure(
    dataclasses.replace(chosen, past=past),
    [full.full(), half_policy()],
    rounds=1,
  )
  reference, row = found.rows
  assert reference["cache_tokens"] == 40
  # What a policy chose itself has a ceiling, too.
  share = row["retrieval_ratio"]["frame"]
  assert 0.3 < share < 0.8
  assert row["ceiling"] == pytest.approx(
    rows_lib.ceiling(reference["cpu_ms"], found.dense["cpu_ms"], share)
  )
  with pytest.raises(InputError, match="only 3 frames of 4 tokens; 10 are"):
    clip.clip_past(chosen.plan, chosen.model, tokens, loop=False)
