"""The order of a step, against the events it stands for."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.hwmodel import pipeline

LAYERS = 5
PARTS = ("vision", "project", "predict", "attend", "feed", "fetch", "head")
finish = jax.jit(pipeline.finish_s, static_argnames="sharpness")
whole = st.integers(0, 12)
of_layers = st.lists(whole, min_size=LAYERS, max_size=LAYERS)


def events(spans):
  """Absolute times of all events, as the docstring of the module lists them."""
  done, free = spans["vision"], 0
  projected = predicted = 0
  for layer in range(LAYERS):
    earlier = predicted
    projected = done + spans["project"][layer]
    predicted = projected + spans["predict"][layer]
    begin = max(earlier, free) if layer else 0
    free = begin + spans["fetch"][layer]
    attends = max(projected, free)
    done = attends + spans["attend"][layer] + spans["feed"][layer]
  return done + spans["head"]


def as_durations(spans, dtype=float):
  return pipeline.Durations(*(jnp.asarray(spans[n], dtype) for n in PARTS))


SPANS = st.fixed_dictionaries(
  {
    "vision": whole,
    "project": of_layers,
    "predict": of_layers,
    "attend": of_layers,
    "feed": of_layers,
    "fetch": of_layers,
    "head": whole,
  }
)


@hypothesis.given(SPANS)
def test_it_is_what_the_events_give(spans):
  """Whole durations: exactly."""
  assert float(finish(as_durations(spans))) == events(spans)


@hypothesis.given(SPANS)
@hypothesis.settings(max_examples=20)
def test_a_smooth_one_is_no_less_than_the_busiest_and_no_more_than_all(spans):
  smooth = float(finish(as_durations(spans), sharpness=8.0))
  cores = spans["vision"] + spans["head"]
  cores += sum(map(sum, (spans["project"], spans["attend"], spans["feed"])))
  link, engine = sum(spans["fetch"]), sum(spans["predict"])
  assert max(cores, link) * (1 - 1e-5) <= smooth
  assert smooth <= (cores + link + engine) * (1 + 1e-5)


def test_a_smooth_one_tends_to_the_events():
  """Distinct durations; within 1e-9 at a sharpness of 2³⁰."""
  random = np.random.default_rng(1)
  with jax.enable_x64(True):
    for _ in range(5):
      spans = {
        name: random.uniform(1.0, 9.0, () if name in ("vision", "head") else 5)
        for name in PARTS
      }
      smooth = finish(as_durations(spans), sharpness=2.0**30)
      assert float(smooth) == pytest.approx(events(spans), rel=1e-9)


def steady(**seconds):
  """Extra time of one more layer, all layers alike."""
  spans = {
    name: seconds.get(name, 0.0)
    * (np.ones(()) if name in ("vision", "head") else np.ones(LAYERS))
    for name in PARTS
  }
  longer = {
    name: value if value.ndim == 0 else np.ones(LAYERS + 8) * value[0]
    for name, value in spans.items()
  }
  many, few = map(as_durations, (longer, spans))
  return (float(finish(many)) - float(finish(few))) / 8


@pytest.mark.parametrize(
  ("fetch", "predict", "period"),
  [
    (1.0, 0.0, 3.0),  # hidden
    (9.0, 0.0, 9.0),  # the link is always busy
    (2.5, 2.5, 4.0),  # prediction and fetch of two layers in turn
    (9.0, 2.0, 9.0),  # prediction hides behind the fetch
  ],
)
def test_a_layer_takes_the_longest_cycle(fetch, predict, period):
  """max(core, fetch, (core + predict + fetch) / 2), on average."""
  core = {"project": 1.0, "attend": 1.0, "feed": 1.0}
  assert max(3.0, fetch, (3.0 + predict + fetch) / 2) == period
  assert steady(fetch=fetch, predict=predict, **core) == pytest.approx(period)
