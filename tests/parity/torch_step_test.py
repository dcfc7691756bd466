"""The sides of the benchmark compute what we compute, in every form.

`cell.measure` refuses to time a side that differs; so it is enough that each
form gets through.
"""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import torch_decoder_step
from vrex_jax.baselines import full
from vrex_jax.benchmark import cell
from vrex_jax.benchmark import plans
from vrex_jax.benchmark import step
from vrex_jax.models import video_llm

FORMS = {
  "hf": ["hf"],
  "torch_sdpa": [f"torch_sdpa/{form}" for form in ("split", "masked", "eager")],
}


@pytest.mark.parity
@pytest.mark.usefixtures("torch_and_transformers")
@pytest.mark.parametrize("side", FORMS)
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_form_agrees_with_our_step(side, qkv_bias, dtype):
  plan = plans.Plan(
    shape="smoke", cache_tokens=70, frame_tokens=5, batch=2, dtype=dtype
  )
  model = plans.model_config("smoke", 5)
  decoder = dataclasses.replace(model.decoder, qkv_bias=qkv_bias)
  model = dataclasses.replace(model, decoder=decoder)
  params = video_llm.random_parameters(model, jax.random.key(0), dtype=dtype)
  config = plans.stream_config(plan, decoder)
  frame = step.random_frame(config, model, with_vision=False, seed=0)
  setting = cell.Setting(
    plan, model, params, frame, cell.random_past(plan), threads=1
  )
  seen = []

  def contenders(keys, values):
    made = torch_decoder_step.contenders(
      side,
      decoder,
      params["decoder"],
      keys,
      values,
      np.asarray(frame),
      dtype=dtype,
      threads=1,
    )
    seen.extend(one.runner.name for one in made)
    return made

  found = cell.measure(setting, [full.full()], contenders=contenders, rounds=1)
  assert seen == FORMS[side]
  assert found.forms[side] in seen
