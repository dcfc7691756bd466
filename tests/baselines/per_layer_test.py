"""Another policy in some layers: each in its own, at its own stages."""

import numpy as np
import pytest

from tests.baselines import bare
from vrex_jax import errors
from vrex_jax import policy_syntax


def sets_of(text, stage="frame", chunks=5, jit=True):
  bench = bare.Bare(policy_syntax.make_policy(text), jit=jit)
  found = [bench.frame_sets(stage) for _ in range(chunks)]
  return bench, found


def test_every_layer_follows_its_own_policy():
  left, right = "oracle_topk(budget=3)", "random(budget=5)"
  _, mixed = sets_of(f'{left} + per_layer(1, "{right}")')
  _, first = sets_of(left)
  _, second = sets_of(right)
  for both, one, other in zip(mixed, first, second, strict=True):
    np.testing.assert_array_equal(both, [one[0], other[1]])


def test_evictions_count_in_their_own_layer():
  left, right = "sliding_window(frames=2)", "h2o(heavy=2, recent=3, heads=kv)"
  mixed, _ = sets_of(f'{left} + per_layer((1,), "{right}")', jit=False)
  window, _ = sets_of(left, jit=False)
  heavy, _ = sets_of(right, jit=False)
  np.testing.assert_array_equal(
    mixed.valid, np.stack([window.valid[0], heavy.valid[1]])
  )
  policy = policy_syntax.make_policy(f'full + per_layer(0, "{right}")')
  assert policy.needs.evicts
  assert policy.needs.mass


def test_stages_are_those_of_each():
  policy = policy_syntax.make_policy(
    "quest(budget=16, dense_layers=0) + per_layer(0, 'oracle_topk(budget=4,"
    " heads=query, stages=question)')"
  )
  assert policy.needs.stages == ("question", "answer")
  bench = bare.Bare(policy)
  bench.chunk()
  (first, _), (second, _) = bench.chunk("question")
  assert first.parts[0].slots is not None
  assert second.parts[0].slots is None


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ('quest + per_layer(0, "random")', "differ in granularity .query, kv"),
    ('random + per_layer(0, "h2o(heads=kv)")', "differ in evicts"),
    ('full + per_layer(0, "flexgen")', "flexgen fixes .* full leaves .*: give"),
    ('flexgen + per_layer(0, "random")', "flexgen fixes .* random leaves"),
    ('random + per_layer((), "full")', "layers is .*one or several indices"),
    ('random + per_layer(-1, "full")', "layers is -1.*whole number"),
    ('random + per_layer(0, "ful")', "'ful' is not a known policy.*full"),
    ('random + per_layer(0, "full") + per_layer(1, "full")', "given once"),
    ("random + per_layer(0)", "arguments of per_layer do not fit"),
  ],
)
def test_a_mistake_is_one_sentence(text, sentence):
  with pytest.raises(errors.InputError, match=sentence):
    policy_syntax.make_policy(text)


def test_layers_beyond_the_model_are_refused_when_a_stream_begins():
  policy = policy_syntax.make_policy('random(budget=4) + per_layer(9, "full")')
  with pytest.raises(errors.InputError, match=r"layers has 9; .* 0 to 1"):
    bare.Bare(policy)


def test_its_name_is_the_text_that_makes_it():
  text = 'resv + per_layer((0, 1), "streaming_llm + keep_sink(2)")'
  with pytest.raises(errors.InputError, match="differ in evicts"):
    policy_syntax.make_policy(text)
  text = 'full + per_layer((0, 1), "quest(stages=all) + keep_sink(2)")'
  policy = policy_syntax.make_policy(text)
  assert policy.name == text
  assert policy_syntax.make_policy(policy.name).needs == policy.needs
