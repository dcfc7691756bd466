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

FORMS = ["hf", "torch_sdpa/split", "torch_sdpa/masked", "torch_sdpa/eager"]


@pytest.mark.parity
@pytest.mark.usefixtures("torch_and_transformers")
@pytest.mark.parametrize(
  ("qkv_bias", "dtype"),
  [(True, "float32"), (False, "float32"), (True, "bfloat16")],
)
def test_every_form_agrees_with_our_step(qkv_bias, dtype):
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
    for side in torch_decoder_step.SIDES:
      seen.extend(
        torch_decoder_step.contenders(
          side,
          decoder,
          params["decoder"],
          keys,
          values,
          np.asarray(frame),
          dtype=dtype,
          threads=1,
        )
      )
    return seen

  found = cell.measure(setting, [full.full()], contenders=contenders, rounds=1)
  assert [one.runner.name for one in seen] == FORMS
  assert [row["side"] for row in found.rows] == ["ours", "hf", "torch_sdpa"]
