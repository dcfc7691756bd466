"""Mistakes in arguments that many policies share, and what a budget means."""

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from tests.baselines import bare
from vrex_jax import errors
from vrex_jax import policy_syntax
from vrex_jax.baselines import arguments
from vrex_jax.baselines import choosing


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("quest(budget=0)", "quest: budget is 0; .* from 16 to .*: try budget=16"),
    ("quest(budget=1.5)", "budget is 1.5; .* share of the past .*: try"),
    ("quest(budget=100)", "multiple of the page of 16 .*: try budget=112"),
    ("quest(budget=True)", "budget is True; .* whole number"),
    ("quest(page=3)", "page is 3; it must divide 512.*: try page=16"),
    ("quest(stages=prefill)", "stages is 'prefill'; .* try stages=all"),
    ("quest(heads=both)", "heads is 'both'; .* query, kv: try heads=query"),
    ("quest(dense_layers=-1)", "dense_layers is -1; .* try dense_layers=1"),
    ("quest(alpha=4)", "quest has no argument 'alpha'.*it takes budget, page"),
    ("random(redrawn=maybe)", "redrawn is 'maybe'.*False, True"),
    ("hash_topk(hash_bits=400)", "from 1 to 128: try hash_bits=32"),
    ("freekv(budget=1024)", "budget is 1024; .* from 1056 to .* budget=1056"),
    ("freekv(threshold=2)", "threshold is 2; .* from -1 to 1"),
    ("clusterkv(cluster_tokens=7)", "must divide the block of 320 tokens"),
    ("clusterkv(budget=16)", "budget is 16; .* from 17"),
    ("retroinfer(exact_share=5)", "exact_share is 5; .* from 0 to 1"),
    ("snapkv(kernel=4)", "kernel is 4; it must be odd.*try kernel=5"),
    ("infinipot_v(memory=9, target=10)", "at most memory, 9: try target=9"),
    ("infinipot_v(kernels=2)", "kernels is 2; it must be odd"),
    ("inf_mllm(age=steps)", "age is 'steps'; .* share, tokens"),
    ("livevlm(ratio=2)", "ratio is 2; it must be a number from 0 to 1"),
    ("livevlm(stages=answer)", r"stages is \('answer',\); .* try stages="),
    ("rekv(stages=('frame', 'answer'))", "an answer reads what its question"),
    ("rekv(frames=0)", "frames is 0; .* from 1 to .*: try frames=1"),
    ("h2o(heavy=-0.1)", "heavy is -0.1; .* share of the past above 0.0"),
  ],
)
def test_a_mistake_is_one_sentence(text, sentence):
  with pytest.raises(errors.InputError, match=sentence):
    policy_syntax.make_policy(text)


@pytest.mark.parametrize(
  ("text", "name"),
  [
    ("oracle_topk(budget=128)", "budget"),
    ("quest(budget=128)", "budget"),
    ("rekv(frames=128)", "frames"),
    ("livevlm(memory=128)", "memory"),
    ("infinipot_v(memory=128)", "memory"),
    ("infinipot_v(memory=128, target=9)", "memory"),
    ("inf_mllm(relevant_tokens=128)", "relevant_tokens"),
  ],
)
def test_more_than_the_cache_holds_is_refused_when_a_stream_begins(text, name):
  """And what is told to try instead does."""
  policy = policy_syntax.make_policy(text)
  sentence = f"{name} is 128; it must not exceed the 120 slots of the cache"
  with pytest.raises(errors.InputError, match=sentence) as told:
    bare.Bare(policy)
  fix = str(told.value).rpartition("try ")[2]
  bare.Bare(policy_syntax.make_policy(text.replace(f"{name}=128", fix)))


def test_a_target_is_mended_with_its_memory():
  policy = policy_syntax.make_policy("infinipot_v(memory=128, target=99)")
  with pytest.raises(errors.InputError, match=r"try memory=30, target=22$"):
    bare.Bare(policy)
  bare.Bare(policy_syntax.make_policy("infinipot_v(memory=30, target=22)"))


@pytest.mark.parametrize(
  ("text", "given"),
  [
    ("quest", "quest(budget=1024)"),
    ("freekv", "freekv(budget=2048)"),
    ("rekv", "rekv(frames=130)"),
    ("livevlm", "livevlm(memory=12288)"),
    ("infinipot_v", "infinipot_v(memory=6144)"),
    ("inf_mllm", "inf_mllm(relevant_tokens=1024)"),
  ],
)
def test_a_default_means_everything_where_the_same_number_given_does_not_fit(
  text, given
):
  bare.Bare(policy_syntax.make_policy(text))
  with pytest.raises(errors.InputError, match="must not exceed the 120 slots"):
    bare.Bare(policy_syntax.make_policy(given))


def test_a_default_is_cut_to_the_cache():
  policy = policy_syntax.make_policy("oracle_topk")
  state = bare.Bare(policy).state
  assert int(state["budget"].tokens) == 120
  assert policy.name == "oracle_topk"


@pytest.mark.parametrize(
  "text",
  [
    "quest",
    "quest(budget=1024)",
    "quest(budget=0.05, heads=kv, stages=all)",
    "quest(stages=('frame', 'answer'))",
    "random(budget=7, redrawn=True)",
    "freekv(budget=4096, threshold=0.9, stages=all)",
    "infinigenp(alpha=5.0)",
    "infinipot_v(memory=64, target=48, kernels=(3, 1))",
  ],
)
def test_a_name_is_the_text_that_makes_the_policy(text):
  assert policy_syntax.make_policy(text).name == text


@pytest.mark.parametrize(
  ("stages", "means"),
  [
    ("published", ("answer",)),
    ("all", ("frame", "question", "answer")),
    ("question", ("question",)),
  ],
)
def test_stages(stages, means):
  assert arguments.stages_of("x", stages, ("answer",)) == means


def test_a_budget_is_the_smaller_of_tokens_and_share():
  budget = arguments.Budget(jnp.int32(10), jnp.float32(0.25))
  of = [int(budget.of(jnp.int32(past))) for past in (0, 1, 8, 40, 41, 1000)]
  assert of == [0, 1, 2, 10, 10, 10]


@hypothesis.settings(max_examples=20)
@hypothesis.given(
  score=strategies.lists(
    strategies.sampled_from(
      [-np.inf, -3.0, -0.0, 0.0, 1e-37, 2.5, 7.0, np.inf]
    ),
    min_size=12,
    max_size=12,
  ),
  number=strategies.integers(0, 13),
)
def test_the_highest_are_those_of_a_stable_sort(score, number):
  score = np.array(score, np.float32)
  found = choosing.highest(jnp.asarray(score), jnp.int32(number))
  np.testing.assert_array_equal(found, bare.highest(score, number))
