"""The smallest stream of the benchmark, filled."""

import jax

from vrex_jax import stream_state
from vrex_jax.benchmark import filling
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import step
from vrex_jax.models import video_llm

FRAME_TOKENS = 4


def plan(cache_tokens, **fields):
  return plans.Plan(
    shape="smoke",
    cache_tokens=cache_tokens,
    frame_tokens=FRAME_TOKENS,
    **fields,
  )


def model():
  return plans.model_config("smoke", FRAME_TOKENS)


def config(cache_tokens, **fields):
  return plans.stream_config(plan(cache_tokens, **fields), model().decoder)


def spec(config_):
  return stream_state.spec_of(config_)


def parameters():
  return video_llm.random_parameters(model(), jax.random.key(0))


def everything(cache_tokens, **fields):
  """Configuration, parameters and a frame of hidden states."""
  config_ = config(cache_tokens, **fields)
  frame = step.random_frame(config_, model(), with_vision=False, seed=0)
  return config_, parameters(), frame


def filled(config_, policy, params, tokens):
  state = stream_state.init(config_, policy, params)
  return filling.fill(config_, policy, state, tokens, seed=0)
